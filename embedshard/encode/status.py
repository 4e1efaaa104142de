"""How far a run in parts is, from what stands in its folder: from any machine, whoever runs it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from embedshard.encode.units import Record, UnitFolder, open_plan
from embedshard.errors import InputError
from embedshard.processed import UNITS, read_info
from embedshard.remote import AnyPath

__all__ = ["Status", "status"]

_RECENT = 50  # units, by which the speed is measured


@dataclass(frozen=True)
class Status:
    """Counts of units and samples.

    Attributes:
        units: All.
        done: That are done.
        running: That someone is at, and who.
        abandoned: That someone was at who is gone; the next run does them anew.
        samples: All.
        encoded: That are in a part.
        failed: That failed.
        reasons: Why, with counts.
        frames: That were encoded.
        left: Seconds until the end at the speed of the last units; None where nobody is at it, or nothing is done.
    """

    units: int
    done: int
    running: dict[int, str]
    abandoned: int
    samples: int
    encoded: int
    failed: int
    reasons: dict[str, int]
    frames: int
    left: float | None


def status(processed: AnyPath) -> Status:
    """Look at a processed dataset in parts.

    Raises:
        InputError: It is none.
    """
    plan, info = open_plan(processed), read_info(processed)
    if plan is None or (info and not info.units):
        raise InputError(
            f"expected a dataset in parts with a plan in {processed / UNITS}, found none\n"
            "  One of loose triples is counted by: embedshard check"
        )
    folder = UnitFolder(processed)
    done = folder.done()
    claims = {unit: folder.owner_by_clock(unit) for unit in sorted(folder.claims() - done)}
    running = {unit: owner for unit, owner in claims.items() if owner}
    records = list(folder.read(sorted(done)))
    samples = plan.rows
    finished = sum(record.samples for record in records)
    reasons = Counter(failure.reason for record in records for failure in record.failures)
    return Status(
        len(plan.groups()), len(done), running, len(claims) - len(running), samples,
        sum(record.done for record in records), reasons.total(), dict(reasons.most_common()),
        sum(record.frames for record in records), _left(records, samples - finished) if running else None,
    )  # fmt: skip


def _left(records: list[Record], samples: int) -> float | None:
    """Give the seconds that samples take at the speed of the last units, all workers together."""
    recent = sorted(records, key=lambda record: record.began + record.seconds)[-_RECENT:]
    if not recent:
        return None
    since = min(record.began for record in recent)
    return samples * (time.time() - since) / max(1, sum(record.samples for record in recent))
