"""How far a run that writes shards is, from what stands in its folder: from any machine, whoever packs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedshard.errors import InputError
from embedshard.remote import AnyPath
from embedshard.shard.job import read_plan, read_state, record_path
from embedshard.shard.table import INDEX

__all__ = ["ShardStatus", "shard_status"]

_RECENT = 50  # tars, by which the speed is measured
_IDLE = 600.0  # seconds without a tar, after which nobody is taken to be at it


@dataclass(frozen=True)
class ShardStatus:
    """Counts of tars and samples.

    Attributes:
        tars: All.
        packed: That are done.
        samples: All.
        done: In the tars that are done.
        left: Seconds until the end at the speed of the last tars; None where that is unknown.
    """

    tars: int
    packed: int
    samples: int
    done: int
    left: float | None


def shard_status(output: AnyPath) -> ShardStatus:
    """Look at a folder of shards.

    Raises:
        InputError: There is neither a plan nor a finished table in it.
    """
    found = read_plan(output)
    records = read_state(output).records
    done = sum(record.samples for record in records.values())
    if found is None:
        if not (output / INDEX).exists():
            raise InputError(f"expected shards, or a run that writes them, in {output}, found neither")
        return ShardStatus(len(records), len(records), done, done, 0.0)
    units = found[0].units
    counts = [unit.tar.count for unit in units if unit.tar.name in records]
    total = sum(unit.tar.count for unit in units)
    paths = [record_path(output, name) for name in records]
    times = [path.stat().st_mtime for path in paths if isinstance(path, Path)]
    return ShardStatus(len(units), len(counts), total, sum(counts), _left(times, total - sum(counts), counts))


def _left(times: Sequence[float], samples: int, counts: Sequence[int]) -> float | None:
    """Give the seconds that samples take at the speed of the last tars, all workers together."""
    recent = sorted(times)[-_RECENT:]
    if len(recent) < 2 or time.time() - recent[-1] > _IDLE:
        return None
    each = sum(counts) / len(counts)
    return samples / each * (time.time() - recent[0]) / (len(recent) - 1)
