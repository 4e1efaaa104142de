"""One dataset sharded by several hands: processes, shares, engines, a run that goes on with another's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from embedshard.engine import Worker, each
from embedshard.engine import ray as ray_engine
from embedshard.errors import InputError
from embedshard.shard import pack as pack_module
from embedshard.shard import scan as scan_module
from embedshard.shard.job import Share, Unit, read_state
from embedshard.shard.pack import ShardReport, shard
from embedshard.shard.plan import ShardOptions
from embedshard.shard.status import shard_status

from .conftest import to_parts
from .test_append import add, contents

OPTIONS = ShardOptions(maxcount=2)


def pack(processed: Path, output: Path, share: Share | None = None, options: ShardOptions = OPTIONS) -> ShardReport:
    return shard(processed, output, options, lambda samples: None, share=share)


@pytest.fixture
def whole(triples: Path, tmp_path: Path) -> dict[str, str]:
    """What one process makes of the triples."""
    pack(triples, tmp_path / "whole")
    return contents(tmp_path / "whole")


def test_shares_give_what_one_run_gives(triples: Path, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    reports = [pack(triples, out, Share(part=part, of=3)) for part in (2, 1, 3)]
    assert [report.missing for report in reports] == [3, 1, 0]
    assert (reports[-1].samples, reports[-1].reused) == (7, 3)
    assert contents(out) == whole


def test_shares_at_once_give_what_one_run_gives(triples: Path, whole: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "share.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom embedshard.shard.job import Share\n"
        "from embedshard.shard.pack import shard\nfrom embedshard.shard.plan import ShardOptions\n"
        "shard(*map(Path, sys.argv[1:3]), ShardOptions(maxcount=2), print, share=Share(part=int(sys.argv[3]), of=4))\n"
    )
    runs = [subprocess.Popen([sys.executable, script, triples, tmp_path / "out", str(part)]) for part in range(1, 5)]
    assert [run.wait(60) for run in runs] == [0, 0, 0, 0]
    assert contents(tmp_path / "out") == whole


def test_one_run_goes_on_with_a_share_without_planning_anew(
    triples: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    pack(triples, out, Share(part=1, of=2))
    with monkeypatch.context() as patch:
        patch.setattr(scan_module, "make_surveyor", None)
        assert pack(triples, out).reused == 2
    assert contents(out) == whole


def test_a_plan_of_other_triples_is_not_taken_up(triples: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(triples, out, Share(part=1, of=2))
    add(triples, "train", range(20, 21))
    with pytest.raises(InputError, match="of another run"):
        pack(triples, out)
    assert pack(triples, out, options=ShardOptions(maxcount=2, overwrite=True)).samples == 8


def test_what_is_refused_spoils_nothing_of_what_was_begun(triples: Path, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(triples, out, Share(part=1, of=2))
    shutil.copytree(triples, tmp_path / "other")
    shutil.copy(tmp_path / "other/train/k0.npy", tmp_path / "other/train/k1.npy")
    with pytest.raises(InputError, match="of another run"):
        pack(tmp_path / "other", out)
    assert pack(triples, out).reused == 2
    assert contents(out) == whole


def test_a_whole_run_waits_for_no_share_but_says_so(triples: Path, tmp_path: Path) -> None:
    out, began, go_on = tmp_path / "out", threading.Event(), threading.Event()

    def begin(stage: str, total: int | None) -> None:
        if stage == "packing":
            began.set()
            assert go_on.wait(30)

    share = Share(part=1, of=2)
    other = threading.Thread(target=shard, args=(triples, out, OPTIONS, lambda n: None, begin, share))
    other.start()
    assert began.wait(30)
    with pytest.raises(InputError, match="another embedshard process is writing"):
        pack(triples, out)
    go_on.set()
    other.join()
    assert pack(triples, out).samples == 7


def test_ray_gives_what_one_run_gives(triples: Path, whole: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install '.[dev]')")
    to_parts(triples)
    with ray_engine.connected(None):
        pack(triples, tmp_path / "out", Share(partial(ray_engine.run, options=ray_engine.RayOptions()), slots=2))
    assert contents(tmp_path / "out") == whole


def test_status_counts_what_is_packed(triples: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="found neither"):
        shard_status(out)
    pack(triples, out, Share(part=1, of=2))
    found = shard_status(out)
    assert (found.tars, found.packed, found.samples, found.done) == (4, 2, 7, 3)
    pack(triples, out)
    found = shard_status(out)
    assert (found.tars, found.packed, found.samples, found.done, found.left) == (4, 4, 7, 7, 0.0)


def test_a_tar_that_is_lost_meanwhile_is_packed_again(triples: Path, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(triples, out, Share(part=1, of=2))
    (out / "ds_00000.idx").unlink()
    (out / "ds_00002.tar").write_bytes(b"")
    assert pack(triples, out).reused == 0
    assert contents(out) == whole


def test_rows_that_are_cut_off_give_no_short_tar(triples: Path, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(triples, out, Share(part=1, of=2))
    (rows,) = (out / ".progress").glob("rows-*")
    rows.write_bytes(rows.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"expected 2 rows of ds_00003\.tar .* found 1\n  run the same command again"):
        pack(triples, out)
    assert pack(triples, out).samples == 7
    assert contents(out) == whole


def kills_itself(slot: int) -> Worker:
    def worker(units: Iterator[Unit]) -> Iterator[tuple[Unit, object]]:
        for unit in units:
            if unit.tar.name == "ds_00001.tar":
                os.kill(os.getpid(), signal.SIGKILL)
            yield from each(pack_module._pack_tar)(iter([unit]))

    return worker


def test_a_worker_that_dies_again_and_again_is_an_error_that_says_so(
    triples: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "_packer", kills_itself)
        with pytest.raises(InputError, match=r"died 3 times on it(?s:.*)fewer --workers"):
            pack(triples, tmp_path / "out", Share(slots=2))
    assert pack(triples, tmp_path / "out").samples == 7
    assert contents(tmp_path / "out") == whole


def test_records_of_another_plan_do_not_count(triples: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(triples, out, Share(part=1, of=2))
    record = out / ".progress/ds_00001.json"
    record.write_text(json.dumps(json.loads((out / ".progress/ds_00000.json").read_text()) | {"name": "ds_00001.tar"}))
    assert pack(triples, out, Share(part=2, of=2)).missing == 0
    assert read_state(out).records["ds_00001.tar"].plan != read_state(out).records["ds_00000.tar"].plan
