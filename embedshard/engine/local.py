"""Run units on this machine: in this process for one slot, else in a pool of processes. Imports nothing of ours."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

__all__ = ["run"]

Unit = TypeVar("Unit")
Outcome = TypeVar("Outcome")

_worker: list[Callable[[Any], Any]] = []  # the one worker of a pool's process, put there when the process starts


def run(
    units: Iterable[Unit], make_worker: Callable[[], Callable[[Unit], Outcome]], slots: int
) -> Iterator[tuple[Unit, Outcome | Exception]]:
    """Run every unit and yield each with its outcome as it is done.

    A unit that raises comes back with its error and one that takes its process down with a `BrokenProcessPool`;
    the others are unharmed. Worker processes end with this one, however it ends.

    Args:
        units: Small picklable values, drawn as slots become free.
        make_worker: Called once per process (picklable if `slots` > 1); gives what a unit is handed to.
        slots: How many units run at once.

    Yields:
        `(unit, outcome)`, in the order of `units` for one slot.
    """
    if slots <= 1:
        worker = make_worker()
        for unit in units:
            yield unit, _outcome(worker, unit)
        return
    queue = iter(units)
    while in_flight := (yield from _pooled(queue, make_worker, slots)):
        for unit in in_flight:  # one of them took its process down; alone, it takes no other with it
            with _pool(make_worker, 1) as pool:
                yield unit, _result(pool.submit(_call, unit))


def _pooled(queue: Iterator[Any], make_worker: Callable[[], Any], slots: int) -> Any:
    """Yield outcomes until the queue is empty or a process dies; returns the units that then were in flight."""
    pool = _pool(make_worker, slots)
    futures: dict[Future[Any], Any] = {}
    try:
        while True:
            futures.update((pool.submit(_call, unit), unit) for unit in islice(queue, 2 * slots - len(futures)))
            if not futures:
                return []
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                outcome = _result(future)
                if isinstance(outcome, BrokenProcessPool):
                    return list(futures.values())
                yield futures.pop(future), outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(make_worker: Callable[[], Any], slots: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(slots, multiprocessing.get_context("spawn"), _start, (make_worker,))


def _start(make_worker: Callable[[], Callable[[Any], Any]]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker[:] = [make_worker()]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(unit: Any) -> Any:
    return _worker[0](unit)


def _result(future: Future[Any]) -> Any:
    return _outcome(lambda _: future.result(), None)


def _outcome(worker: Callable[[Any], Any], unit: Any) -> Any:
    try:
        return worker(unit)
    except Exception as error:
        return error
