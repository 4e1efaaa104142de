"""Which samples a worker gives in an epoch, and in what order: pure arithmetic that every backend follows.

Imports numpy; of ours nothing. All random choices follow from (seed, epoch, rank, worker), so a position in an epoch
is a number of samples.

An epoch is one sequence: the tars one after another, in an order drawn for the epoch where samples are shuffled. Ranks
take near-equal runs of it, and the workers of a rank near-equal numbers of batches of its run, the first ones one more
where it does not come out even. Runs are cut by samples, not by tars: any number of workers shares any number of tars,
and batch j of a rank is always the worker's whose turn is j modulo the number of workers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PICK", "Order", "Part", "Run", "Uneven", "batches_of", "cut", "picks", "runs"]

Uneven = Literal["keep", "drop", "pad"]
PICK = np.dtype([("place", "<i8"), ("tar", "<i8"), ("row", "<i8")])
_TARS, _SAMPLES, _BATCHES, _DRAWS = range(4)  # what a generator is for
_DRAWN = 1024


class Part(NamedTuple):
    """Who of whom: rank of a world, worker of this rank's workers."""

    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1


class Run(NamedTuple):
    """Rows of a tar from `first` up to `last`; `place` is the number of the first one in the worker's reading order."""

    place: int
    tar: int
    first: int
    last: int


@dataclass(frozen=True)
class Order:
    """What decides the order beside part and epoch.

    Attributes:
        counts: Samples of each tar.
        batch: Samples a batch.
        bucket: Batches that are sorted by length together.
        shuffle: A sample comes at most about so many samples earlier or later than it is read; 0 keeps the tars' order.
        seed: Of every random choice.
        uneven: What is done about samples that do not divide by the ranks; see `embedshard.load`.
        partial: Whether a rank's last, short batch is given.
        resampled: Whether tars are drawn at random, again and again.
        length: Samples of all ranks in an epoch of drawn tars; None for one without an end.
    """

    counts: tuple[int, ...]
    batch: int = 1
    bucket: int = 1
    shuffle: int = 0
    seed: int = 0
    uneven: Uneven = "keep"
    partial: bool = True
    resampled: bool = False
    length: int | None = None

    @property
    def window(self) -> int:
        """Samples that batches are cut from together."""
        return self.batch * self.bucket

    @property
    def endless(self) -> bool:
        """Whether an epoch has no end."""
        return self.resampled and self.length is None

    def generator(self, use: int, epoch: int, *of: int) -> np.random.Generator:
        """Give a generator of its own for a use."""
        return np.random.default_rng([use, self.seed, epoch, *of])


def batches_of(order: Order, part: Part) -> int:
    """Count the batches of an epoch of a rank."""
    start, stop = _rank_run(order, part)
    return -(-(stop - start) // order.batch) if order.partial else (stop - start) // order.batch


def runs(order: Order, part: Part, epoch: int) -> Iterator[Run]:
    """Yield the runs that a worker reads, in reading order; none is empty."""
    start, stop = _worker_run(order, part)
    if order.resampled:
        yield from _drawn_runs(order, part, epoch, stop - start)
        return
    counts = np.array(order.counts, np.int64)
    tars = np.arange(len(counts))
    if order.shuffle:
        tars = order.generator(_TARS, epoch).permutation(len(counts))
    ends = np.cumsum(counts[tars])
    place = 0
    while start + place < stop:
        at = (start + place) % int(ends[-1])
        number = int(np.searchsorted(ends, at, "right"))
        tar = int(tars[number])
        first = at - int(ends[number] - counts[tar])
        last = min(int(counts[tar]), first + stop - start - place)
        yield Run(place, tar, first, last)
        place += last - first


def picks(order: Order, part: Part, epoch: int) -> Iterator[npt.NDArray[Any]]:
    """Yield a worker's samples in the order of giving, in arrays of `PICK`.

    Each sample waits for a random part of `shuffle` others to be read. So it is given before any sample that is read
    `shuffle` places later, and never more than `shuffle` of those that were read wait.
    """
    generator = order.generator(_SAMPLES, epoch, part.rank, part.worker, part.workers)
    held, dues = np.empty(0, PICK), np.empty(0)
    for run in runs(order, part, epoch):
        fresh = np.empty(run.last - run.first, PICK)
        end = run.place + len(fresh)
        fresh["place"], fresh["tar"] = np.arange(run.place, end), run.tar
        fresh["row"] = np.arange(run.first, run.last)
        held = np.concatenate([held, fresh])
        dues = np.concatenate([dues, fresh["place"] + order.shuffle * generator.random(len(fresh))])
        by_due = np.argsort(dues, kind="stable")
        held, dues = held[by_due], dues[by_due]
        ready = int(np.searchsorted(dues, end))
        yield held[:ready]
        held, dues = held[ready:], dues[ready:]
    yield held


def cut(order: Order, part: Part, epoch: int, window: int, lengths: list[int]) -> list[npt.NDArray[Any]]:
    """Cut a window into batches of samples of like length.

    Args:
        order: The order.
        part: The worker.
        epoch: The epoch.
        window: The window's number.
        lengths: Frames of its samples, in the order of giving.

    Returns:
        For each batch its samples' numbers in the window; a short batch is the last.
    """
    numbers = np.arange(len(lengths))
    if order.bucket > 1:
        numbers = np.argsort(lengths, kind="stable")
    batches = [numbers[start : start + order.batch] for start in range(0, len(numbers), order.batch)]
    if order.bucket == 1 or not order.shuffle:
        return batches
    full = len(lengths) // order.batch
    drawn = order.generator(_BATCHES, epoch, part.rank, part.worker, part.workers, window).permutation(full)
    return [batches[number] for number in drawn] + batches[full:]


def _rank_run(order: Order, part: Part) -> tuple[int, int]:
    total = order.length if order.resampled else sum(order.counts)
    if total is None:
        return 0, sys.maxsize
    each, more = divmod(total, part.world)
    if order.uneven == "keep":
        start = part.rank * each + min(part.rank, more)
        return start, start + each + (part.rank < more)
    each += order.uneven == "pad" and more > 0
    return part.rank * each, (part.rank + 1) * each


def _worker_run(order: Order, part: Part) -> tuple[int, int]:
    start, stop = _rank_run(order, part)
    if order.endless:
        return start, stop
    each, more = divmod(batches_of(order, part), part.workers)
    first = part.worker * each + min(part.worker, more)
    last = first + each + (part.worker < more)
    return start + first * order.batch, min(start + last * order.batch, stop)


def _drawn_runs(order: Order, part: Part, epoch: int, size: int) -> Iterator[Run]:
    """Draw whole tars, so every sample is as likely as any other; an epoch goes on where the one before it ended."""
    generator = order.generator(_DRAWS, epoch if order.endless else 0, part.rank, part.worker, part.workers)
    start = 0 if order.endless else epoch * size
    tars, position = np.flatnonzero(order.counts), 0
    while True:
        for tar in tars[generator.integers(len(tars), size=_DRAWN)].tolist():
            first = max(start - position, 0)
            last = min(order.counts[tar], start + size - position)
            if first >= last and position >= start:
                return
            if first < last:
                yield Run(position + first - start, tar, first, last)
            position += order.counts[tar]
