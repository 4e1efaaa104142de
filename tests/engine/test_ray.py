"""A real Ray on this machine, an actor a slot."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from embedshard.engine import Worker, WorkerDiedError, each
from embedshard.engine.ray import RayOptions, connected, run
from embedshard.errors import InputError
from tests.engine.test_local import asserts, broken, dead, dies_once, eager, full, squares, unwilling

HALF = RayOptions(cpus=0.5)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path])))
        with connected(None) as resources:
            assert resources["CPU"] >= 1
            yield


def test_a_unit_that_raises_comes_back_as_its_error() -> None:
    outcomes = dict(run(range(5), squares, 2, HALF))
    assert isinstance(outcomes.pop(3), ValueError)
    assert outcomes == {0: 0, 1: 1, 2: 4, 4: 16}


def test_a_unit_that_kills_its_actor_takes_no_other_with_it() -> None:
    outcomes = dict(run(iter([0, 1, 5, 6, 7, 8, 9]), squares, 2, HALF))
    assert isinstance(outcomes.pop(5), WorkerDiedError)
    assert outcomes == {unit: unit * unit for unit in (0, 1, 6, 7, 8, 9)}


def test_a_unit_that_was_with_a_dead_actor_is_done_by_another(tmp_path: Path) -> None:
    assert sorted(run(range(10), partial(dies_once, tmp_path), 2, HALF)) == [(unit, unit) for unit in range(10)]
    assert (tmp_path / "died").exists()


def test_a_worker_may_draw_ahead() -> None:
    outcomes = dict(run(range(20), eager, 2, HALF))
    assert sorted(outcomes) == list(range(20))


def test_no_units() -> None:
    assert list(run([], squares, 1, HALF)) == []


def test_actors_that_cannot_start_end_the_run() -> None:
    with pytest.raises(InputError, match="no model of that name"):
        list(run([1, 2], unwilling, 1, HALF))
    with pytest.raises(InputError, match="every Ray actor has died"):
        list(run([1, 2], dead, 1, HALF))


def test_what_a_worker_raises_is_its_death_and_told() -> None:
    outcomes = dict(run(range(8), asserts, 2, HALF))
    died = outcomes.pop(5)
    assert isinstance(died, WorkerDiedError)
    assert "died 3 times on it (RuntimeError: device-side assert triggered)" in str(died)
    assert outcomes == {unit: unit for unit in range(8) if unit != 5}
    with pytest.raises(InputError, match=r"every Ray actor has died \(RuntimeError: no such device"):
        list(run([1, 2], broken, 1, HALF))


def test_a_disk_that_is_full_is_no_death_even_after_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        list(run([1], partial(full, tmp_path), 1, HALF))


def marks(folder: Path, slot: int) -> Worker:
    """Leaves a file a unit, that names its node."""

    def work(unit: int) -> str:
        import ray

        time.sleep(0.2)
        node = str(ray.get_runtime_context().get_node_id())
        (folder / f"{unit}-{node}").touch()
        return node

    return each(work)


@pytest.mark.soak
def test_a_lost_node_costs_only_the_units_it_had(tmp_path: Path) -> None:
    """Two nodes on this machine share a run; one is killed in the middle. In a process of its own: one cluster each."""
    done = subprocess.run(
        [sys.executable, "-c", "from tests.engine.test_ray import two_nodes; two_nodes()", str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 units on 2 nodes" in done.stdout


def two_nodes() -> None:
    from ray.cluster_utils import Cluster

    folder = Path(sys.argv[1])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    with connected(cluster.address) as resources:
        assert resources["CPU"] == 2
        outcomes = []
        for unit, node in run(range(40), partial(marks, folder), 2, RayOptions(cpus=1)):
            outcomes.append((unit, node))
            if len({node for _, node in outcomes}) == 2 and other:
                cluster.remove_node(other, allow_graceful=False)
                other = None
    assert sorted(unit for unit, _ in outcomes) == list(range(40))
    print(f"{len(outcomes)} units on {len({node for _, node in outcomes})} nodes")
    cluster.shutdown()
