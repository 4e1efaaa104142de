from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from embedshard.engine.local import run


def make_worker() -> Callable[[int], int]:
    def worker(unit: int) -> int:
        if unit == 3:
            raise ValueError("three")
        if unit == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return unit * unit

    return worker


def sleeper() -> Callable[[str], None]:
    def worker(path: str) -> None:
        Path(path).write_text(str(os.getpid()))
        time.sleep(60)

    return worker


@pytest.mark.parametrize("slots", [1, 2])
def test_a_unit_that_raises_comes_back_as_its_error(slots: int) -> None:
    outcomes = dict(run(range(5), make_worker, slots))
    assert isinstance(outcomes[3], ValueError)
    assert {unit: outcome for unit, outcome in outcomes.items() if unit != 3} == {0: 0, 1: 1, 2: 4, 4: 16}


def test_a_unit_that_kills_its_process_takes_no_other_with_it() -> None:
    outcomes = dict(run(iter([0, 1, 5, 6, 7, 8, 9]), make_worker, 2))
    assert isinstance(outcomes.pop(5), BrokenProcessPool)
    assert outcomes == {unit: unit * unit for unit in (0, 1, 6, 7, 8, 9)}


def test_units_are_drawn_as_slots_become_free() -> None:
    drawn: list[int] = []
    outcomes = run((drawn.append(unit) or unit for unit in range(6, 100)), make_worker, 1)
    next(outcomes)
    assert drawn == [6]


def test_no_units() -> None:
    assert list(run([], make_worker, 2)) == []


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a", "b")]
    code = f"from test_local import run, sleeper\nif __name__ == '__main__': list(run({paths!r}, sleeper, 2))\n"
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}")
    parent = subprocess.Popen([sys.executable, script])
    wait_for(lambda: all(Path(path).exists() and Path(path).read_text() for path in paths))
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(alive(int(Path(path).read_text())) for path in paths))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
