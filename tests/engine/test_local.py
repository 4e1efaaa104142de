from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from embedshard.engine import Worker, WorkerDiedError, each
from embedshard.engine.local import run
from embedshard.errors import InputError


def squares(slot: int) -> Worker:
    def square(unit: int) -> int:
        if unit == 3:
            raise ValueError("three")
        if unit == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return unit * unit

    return each(square)


def sleeper(slot: int) -> Worker:
    def sleep(path: str) -> None:
        Path(path).write_text(str(os.getpid()))
        time.sleep(60)

    return each(sleep)


def eager(slot: int) -> Worker:
    """Draws two units before it gives the first, in a thread as a pipeline does, and what is left at the end."""

    def worker(units: Iterator[int]) -> Iterator[tuple[int, str]]:
        drawn: list[int] = []
        thread = threading.Thread(target=lambda: drawn.extend(units))
        thread.start()
        thread.join()
        yield from ((unit, f"{slot} of {len(drawn)}") for unit in reversed(drawn))

    return worker


def dies_once(folder: Path, slot: int) -> Worker:
    """Its first process dies on the first unit, whichever that is."""

    def work(unit: int) -> int:
        try:
            (folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return unit
        os.kill(os.getpid(), signal.SIGKILL)
        return -1

    return each(work)


def dead(slot: int) -> Worker:
    os._exit(7)


def unwilling(slot: int) -> Worker:
    raise InputError("no model of that name")


def broken(slot: int) -> Worker:
    raise RuntimeError("no such device")


def asserts(slot: int) -> Worker:
    """Raises on unit 5, and would on all after it, as a device does that an assertion has left useless."""
    useless = False

    def worker(units: Iterator[int]) -> Iterator[tuple[int, int]]:
        nonlocal useless
        for unit in units:
            useless |= unit == 5
            if useless:
                raise RuntimeError("device-side assert triggered")
            yield unit, unit

    return worker


def full(folder: Path, slot: int) -> Worker:
    """Its first process dies on the first unit; the next ones find no room on the disk."""

    def worker(units: Iterator[int]) -> Iterator[tuple[int, int]]:
        for _ in units:
            try:
                (folder / "died").touch(exist_ok=False)
            except FileExistsError as error:
                raise OSError(errno.ENOSPC, "No space left on device") from error
            os.kill(os.getpid(), signal.SIGKILL)
        yield from ()

    return worker


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


def odd(slot: int) -> Worker:
    def work(unit: int) -> None:
        raise OddError(1, 2)

    return each(work)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_unit_that_raises_comes_back_as_its_error(slots: int) -> None:
    outcomes = dict(run(range(5), squares, slots))
    assert isinstance(outcomes[3], ValueError)
    assert {unit: outcome for unit, outcome in outcomes.items() if unit != 3} == {0: 0, 1: 1, 2: 4, 4: 16}


def test_an_error_that_no_process_can_send_is_told_in_words() -> None:
    assert [str(error) for _, error in run([1], odd, 2)] == ["OddError: 3"]


def test_a_unit_that_kills_its_process_takes_no_other_with_it() -> None:
    outcomes = dict(run(iter([0, 1, 5, 6, 7, 8, 9]), squares, 2))
    assert isinstance(outcomes.pop(5), WorkerDiedError)
    assert outcomes == {unit: unit * unit for unit in (0, 1, 6, 7, 8, 9)}


def poisoned(slot: int) -> Worker:
    """Draws all it can get before it starts, and dies if unit 5 is among it."""

    def worker(units: Iterator[int]) -> Iterator[tuple[int, int]]:
        drawn = list(units)
        if 5 in drawn:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from ((unit, unit) for unit in drawn)

    return worker


def test_units_that_were_with_a_deadly_one_are_not_blamed() -> None:
    outcomes = dict(run(range(12), poisoned, 2))
    assert isinstance(outcomes.pop(5), WorkerDiedError)
    assert outcomes == {unit: unit for unit in range(12) if unit != 5}


def test_a_unit_that_was_with_a_dead_worker_is_done_by_another(tmp_path: Path) -> None:
    assert sorted(run(range(10), partial(dies_once, tmp_path), 2)) == [(unit, unit) for unit in range(10)]
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_worker_may_draw_ahead(slots: int) -> None:
    outcomes = dict(run(range(20), eager, slots))
    assert sorted(outcomes) == list(range(20))
    assert len(set(outcomes.values())) <= slots


def test_units_are_drawn_as_slots_become_free() -> None:
    drawn: list[int] = []
    outcomes = run((drawn.append(unit) or unit for unit in range(6, 100)), squares, 1)
    next(outcomes)
    assert drawn == [6]


def test_no_units() -> None:
    assert list(run([], squares, 2)) == []


def test_workers_that_cannot_start_end_the_run() -> None:
    with pytest.raises(InputError, match="no model of that name"):
        list(run([1, 2], unwilling, 2))
    with pytest.raises(InputError, match="every worker process has died"):
        list(run([1, 2], dead, 2))


def test_what_a_worker_raises_is_its_death_and_told() -> None:
    outcomes = dict(run(range(8), asserts, 2))
    died = outcomes.pop(5)
    assert isinstance(died, WorkerDiedError)
    assert "died 3 times on it (RuntimeError: device-side assert triggered)" in str(died)
    assert outcomes == {unit: unit for unit in range(8) if unit != 5}
    with pytest.raises(InputError, match=r"every worker process has died \(the last one: RuntimeError: no such device"):
        list(run([1, 2], broken, 2))


def test_a_disk_that_is_full_is_no_death_even_after_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        list(run([1], partial(full, tmp_path), 2))


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a", "b")]
    code = f"from tests.engine.test_local import run, sleeper; list(run({paths!r}, sleeper, 2))"
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"])
    wait_for(lambda: all(Path(path).exists() and Path(path).read_text() for path in paths))
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(alive(int(Path(path).read_text())) for path in paths))


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
