"""Where a stream of batches stands: which rank and worker reads, which epoch it is, how much of it was given.

Imports torch at use; of ours `errors` and this room.

A DataLoader copies the dataset into its workers, by default anew for every epoch, so what they all must know lies in
memory that the copies share.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from embedshard.errors import InputError
from embedshard.load.order import Order, Part, batches_of

__all__ = ["Position", "Turn", "find_node"]

_MOST_WORKERS = 1024
_MAIN, _SET, _RESUMED, _GIVEN, _WORKERS = (_MOST_WORKERS + number for number in range(5))
_TAG = (1 << 32) - 1
_FRESH = "Begin the epoch anew, or load as you did when the state was saved"

T = TypeVar("T")


class Turn(NamedTuple):
    """An iteration of one worker: who of whom, the epoch, and how many of its batches it gives no more."""

    part: Part
    epoch: int
    skip: int


@dataclass(frozen=True)
class _State:
    """A position, as `state_dict` gives it.

    Attributes:
        epoch: The epoch.
        batches: Batches of it that were given: by the worker, or by all workers of a rank.
        worker: The worker; None for all.
        workers: So many share the rank's batches.
        world: So many ranks.
        order: Digest of what decides the order, and of the tars.
    """

    epoch: int
    batches: int
    worker: int | None
    workers: int
    world: int
    order: str


class Position:
    """What all copies of a dataset know, and what this one is at.

    Attributes:
        order: The order of the samples.
        turn: The iteration that was begun here last.
    """

    def __init__(self, order: Order, shards: Hashable, rank: int | None, world: int | None) -> None:
        import torch

        self.order = order
        self._digest = hashlib.blake2b(repr((order, shards)).encode(), digest_size=8).hexdigest()
        self._given_node, self._node = (rank, world), find_node(rank, world)
        self.turn: Turn | None = None
        self._given = 0
        self._resume: _State | None = None  # of this worker alone
        # A slot for each worker and for the main process: epochs that were begun << 32, and a tag of the DataLoader's
        # iteration, which all its workers have in common: an epoch that one of them begins is that of all of them,
        # also where another one never came to begin the epoch before. One number, so that it is written at once.
        self._shared = torch.zeros(_MOST_WORKERS + 5, dtype=torch.int64)
        self._shared.share_memory_()  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """Take the rank along, which a spawned worker cannot find."""
        return {**self.__dict__, "_node": self._find_node()}

    def rewind(self) -> None:
        """Say that an iteration is about to begin."""
        self.turn = None

    def begin(self) -> Turn:
        """Begin an iteration in this process."""
        state, (worker, workers, tag) = self._upcoming(), _worker()
        if workers > _MOST_WORKERS:
            raise InputError(f"expected at most {_MOST_WORKERS} DataLoader workers, found {workers}")
        if state.batches and state.workers != workers:
            raise InputError(
                f"expected {state.workers} workers, as when this state was saved, found {workers}\n{_FRESH}"
            )
        shared = self._shared.numpy()
        shared[_WORKERS] = workers if tag else 0
        shared[worker if tag else _MAIN] = (state.epoch + 1) << 32 | tag
        if state.worker is None:  # the worker whose turn it would be comes first, as a DataLoader begins with the first
            worker = (worker + state.batches) % workers
            skip = (state.batches - worker + workers - 1) // workers
        else:
            worker, skip = state.worker, state.batches
        self._resume, self._given = None, skip
        self.turn = Turn(Part(*self._find_node(), worker, workers), state.epoch, skip)
        return self.turn

    def current(self) -> Turn:
        """Give the iteration that was begun here last."""
        assert self.turn is not None
        return self.turn

    def batches(self) -> int:
        """Count the batches of an epoch of this rank; TypeError where it has no end."""
        if self.order.endless:
            raise TypeError("an epoch without epoch_length has no end")
        return batches_of(self.order, Part(*self._find_node()))

    def counted(self, batches: Iterable[T]) -> Iterator[T]:
        """Count what is given."""
        for batch in batches:
            self._given += 1
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one."""
        if epoch < 0:
            raise InputError(f"expected an epoch of at least 0, found {epoch}")
        self._resume, self.turn = None, None
        self._shared.zero_()
        self._shared[_MAIN], self._shared[_SET] = epoch << 32, epoch

    def state(self, batches: int | None) -> dict[str, Any]:
        """Give the position; see `embedshard.load.pipeline.Resumable.state_dict`."""
        shared = self._shared.numpy()
        workers, in_worker = int(shared[_WORKERS]), _worker()[2] > 0
        if batches is not None and not in_worker:
            epoch = max(int(shared[: _MAIN + 1].max() >> 32) - 1, int(shared[_SET]))
            state = replace(self._upcoming(), epoch=epoch, batches=batches, workers=max(workers, 1))
        elif workers and not in_worker and self._upcoming().batches == 0:
            raise InputError(
                "expected the number of batches that were taken from the DataLoader, whose workers read ahead, found "
                "none\nCount them: state_dict(batches=...), or use torchdata's StatefulDataLoader"
            )
        elif self.turn is None:
            state = self._upcoming()
        else:
            part, epoch, _ = self.turn
            state = _State(epoch, self._given, part.worker, part.workers, part.world, self._digest)
            state = state if in_worker else replace(state, worker=None)
        return dict(vars(state))

    def resume(self, values: Mapping[str, Any]) -> None:
        """Go on from a position that `state` gave."""
        try:
            state = _State(**values)
        except TypeError as error:
            raise InputError(f"expected what state_dict() of a loader gave, found {dict(values)}") from error
        for name, found in (("order", self._digest), ("world", self._find_node()[1])):
            expected = getattr(state, name)
            if expected != found:
                what = "ranks" if name == "world" else "shards, split, batch_size and options (as the order's digest)"
                raise InputError(
                    f"expected the {what} that this state was saved with, {expected}, found {found}\n{_FRESH}"
                )
        if _worker()[2]:
            self._resume, self.turn = state, None
            return
        if state.worker is not None:
            raise InputError("expected a state of all workers, found that of one; load it through StatefulDataLoader")
        if not self.order.endless and state.batches >= batches_of(self.order, Part(*self._find_node())):
            state = replace(state, epoch=state.epoch + 1, batches=0)
        self.set_epoch(state.epoch)
        self._shared[_RESUMED], self._shared[_GIVEN] = state.epoch, state.batches
        self._shared[_WORKERS] = state.workers if state.batches else 0

    def _upcoming(self) -> _State:
        """Tell from where an iteration would begin here."""
        if self._resume is not None:
            return self._resume
        worker, workers, tag = _worker()
        shared = self._shared.numpy().copy()
        tags, counts = shared[: _MAIN + 1] & _TAG, shared[: _MAIN + 1] >> 32
        if tag and tags[worker] != tag and (tags == tag).any():
            epoch = int(counts[tags == tag].max()) - 1
        else:
            epoch = int(counts[worker] if tag and tags[worker] == tag else counts.max())
        batches = int(shared[_GIVEN]) if shared[_RESUMED] == epoch else 0
        saved = int(shared[_WORKERS]) if batches else workers
        return _State(epoch, batches, None, saved, self._find_node()[1], self._digest)

    def _find_node(self) -> tuple[int, int]:
        """Give rank and world size of now; in a worker that cannot tell, those of the process that made it."""
        found = find_node(*self._given_node)
        return found if found[1] > 1 or not _worker()[2] else self._node


def find_node(rank: int | None = None, world: int | None = None) -> tuple[int, int]:
    """Give rank and world size: those given, else of `torch.distributed`, else of the environment, else 0 of 1."""
    from torch import distributed

    if rank is not None and world is not None:
        return rank, world
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    for name, worlds in (("RANK", ["WORLD_SIZE"]), ("SLURM_PROCID", ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"])):
        found = [name for name in worlds if name in os.environ]
        if name in os.environ and found:
            ranks = os.environ[name], os.environ[found[0]]
            if not all(map(str.isdecimal, ranks)) or int(ranks[0]) >= int(ranks[1]):
                raise InputError(f"expected {name} to be a number below {found[0]}, found {ranks[0]} and {ranks[1]}")
            return int(ranks[0]), int(ranks[1])
    return 0, 1


def _worker() -> tuple[int, int, int]:
    """Give number and count of DataLoader workers, and the tag of their iteration; 0, 1, 0 where this is none."""
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    if info is None:
        return 0, 1, 0
    return info.id, info.num_workers, (info.seed - info.id) & _TAG | 1
