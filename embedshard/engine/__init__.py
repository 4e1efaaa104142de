"""Who runs units: a file per engine, each with a `run`. May import `errors`.

    run(units, make_worker, slots) -> iterator of (unit, outcome)

`units` are small picklable values, drawn one by one as they are wanted. `make_worker(slot)` is called where the units
will be worked on, in each of `slots` places; it gives a worker. A worker takes an iterator of units, from which it may
draw ahead so as never to wait, and yields each with its outcome; `each` makes one of a function of a unit. A unit that
goes wrong has an exception for its outcome; an InputError or OSError that a worker raises ends the run, and anything
else is its death. Whoever runs them: every unit comes back once, and one that was with a worker that died is given to
another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

__all__ = ["MakeWorker", "Worker", "WorkerDiedError", "each"]

Worker: TypeAlias = Callable[[Iterator[Any]], Iterable[tuple[Any, Any]]]
MakeWorker: TypeAlias = Callable[[int], Worker]


class WorkerDiedError(Exception):
    """The outcome of a unit that several workers died on."""


def each(function: Callable[[Any], Any]) -> Worker:
    """Make a worker that does one unit after the other."""

    def worker(units: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        for unit in units:
            try:
                yield unit, function(unit)
            except Exception as error:
                yield unit, error

    return worker
