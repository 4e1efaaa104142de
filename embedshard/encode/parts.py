"""Encoding in units, each into a part, a tar of its triples, by any engine; any number of runs may share a dataset."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from embedshard.encode.clip import ModelOptions
from embedshard.encode.ledger import EncodeReport
from embedshard.encode.part_worker import Setup, all_failed, make_worker, profile_of
from embedshard.encode.pipeline import EncodeOptions
from embedshard.encode.profile import Profile, Sums
from embedshard.encode.run import Progress, media_root
from embedshard.encode.units import Record, Unit, UnitFolder, alone, plan_units
from embedshard.engine import MakeWorker, WorkerDiedError
from embedshard.errors import InputError
from embedshard.manifest import Manifest
from embedshard.processed import (
    FAILED,
    count_triples,
    read_failures,
    read_info,
    write_failures,
)
from embedshard.remote import AnyPath, Url
from embedshard.sample import SPLITS

__all__ = ["Engine", "Share", "encode_in_parts"]

Engine = Callable[[Iterable[Unit], MakeWorker], Iterable[tuple[Unit, Any]]]
"""`run` of an engine, its slots chosen."""

_POLL = 5.0
_MOST_DEATHS = 32  # on a unit, after which what is left of it fails


@dataclass(frozen=True)
class Share:
    """A run's share of the work: who does it, and which units.

    Attributes:
        engine: Runs the units.
        devices: One for each of its slots, such as `cuda:0`.
        part: The share does every `of`-th unit from this one on, which counts from 1.
        of: How many shares there are.
        size: Samples of a unit; 0 for the usual number.
    """

    engine: Engine
    devices: tuple[str, ...]
    part: int = 1
    of: int = 1
    size: int = 0


def encode_in_parts(
    manifest: Manifest,
    models: Mapping[AnyPath, ModelOptions],
    options: EncodeOptions,
    share: Share,
    progress: Progress = lambda reports, profile: None,
) -> tuple[list[EncodeReport], Profile]:
    """Encode every unit that is not done, and wait for those that other runs are at.

    Args:
        manifest: The samples.
        models: By the folder that each fills; their own `device` does not count.
        options: What to encode; `workers` are those of one slot.
        share: Who does it, and which units.
        progress: Called with the counts of every folder.

    Returns:
        The counts of every folder over the units of this share, whoever did them, and where this run's time went.

    Raises:
        InputError: The raw dataset is not there, the manifest is wrong, a folder was begun with another setting,
            manifest or layout, or no worker is left; what is done stays, and the next run goes on.
        OSError: The disk is full, or cannot be written; or the storage (RemoteError).
    """
    begun, root = time.monotonic(), media_root(manifest, options)
    if not root.is_dir():
        raise InputError(f"the raw dataset {root} is not there; where it has moved to is said by: --media-root DIR")
    for folder in models:
        _require_parts(folder)
    plans = [_planned(manifest, folder, share.size) for folder in models]
    setup = Setup(dict(models), share.devices, options, plans[0], manifest.digest(), root)
    profile = profile_of(options, len(share.devices))
    units = _units(plans[0], share)
    run = _Run(list(models), sum(unit.samples for unit in units), lambda reports: progress(reports, profile))
    units = run.lacking(units, options.retry_failed)
    while units:
        free = run.free(units)
        for unit, outcome in share.engine(run.still_free(free), partial(make_worker, setup)) if free else ():
            if isinstance(outcome, WorkerDiedError) and run.learns(unit):
                continue
            records, sums = outcome if not isinstance(outcome, Exception) else (all_failed(unit, outcome, setup), None)
            run.add(unit, records)
            profile.merge(sums or Sums({}))
        units = run.lacking(run.left(units))
        if units:
            time.sleep(_POLL)
    return run.finish(time.monotonic() - begun), profile


def _require_parts(processed: AnyPath) -> None:
    info = read_info(processed)
    if info is None and isinstance(processed, Url) and any((processed / split).is_dir() for split in SPLITS):
        raise InputError(
            f"{processed} holds files, but no dataset.json that says how they were made; give another folder"
        )
    loose = isinstance(processed, Path) and info is None and count_triples(processed)
    if loose or (info and not info.units):
        raise InputError(
            f"{processed} holds loose triples, which one process on one device goes on with: --layout loose "
            "--device cpu or cuda:0\n  For parts, or a share of a larger run, give another folder"
        )


def _planned(manifest: Manifest, processed: AnyPath, size: int) -> Manifest:
    with alone(processed, patience=600):
        return plan_units(manifest, processed, size)


def _units(plan: Manifest, share: Share) -> list[Unit]:
    units = [Unit(number, samples) for number, samples in enumerate(plan.groups())]
    return units[share.part - 1 :: share.of]


class _Run:
    """Counts that add up over the units of a run, whoever does them."""

    def __init__(
        self, processed: list[AnyPath], samples: int, progress: Callable[[Sequence[EncodeReport]], None]
    ) -> None:
        self._processed, self._folders = processed, [UnitFolder(folder) for folder in processed]
        self._reports = [EncodeReport(samples=samples) for _ in processed]
        self._progress = progress
        self._counted: set[int] = set()
        self._deaths: Counter[int] = Counter()

    def lacking(self, units: Iterable[Unit], retry_failed: bool = False) -> list[Unit]:
        """Give the units that are to be done; counts the others."""
        units = list(units)
        done = set[int].intersection(*(folder.done() for folder in self._folders))
        numbers = [unit.number for unit in units if unit.number in done]
        read = zip(*(folder.read(numbers) for folder in self._folders), strict=True)
        lacking = []
        for unit in units:
            records = next(read) if unit.number in done else ()
            if not records or (retry_failed and any(record.failures for record in records)):
                lacking.append(unit)
                continue
            self._counted.add(unit.number)
            for report, record in zip(self._reports, records, strict=True):
                report.done_before += record.done
                report.failed_before += len(record.failures)
        self._progress(self._reports)
        return lacking

    def left(self, units: Iterable[Unit]) -> list[Unit]:
        """Give those units that are not counted."""
        return [unit for unit in units if unit.number not in self._counted]

    def free(self, units: Iterable[Unit]) -> list[Unit]:
        """Give the units that no other run is at."""
        claimed = set[int].union(*(folder.claims() for folder in self._folders))
        return [unit for unit in units if unit.number not in claimed or not self._taken(unit)]

    def still_free(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Yield the units that nobody has begun by the time that they are drawn."""
        return (unit for unit in units if not self._taken(unit))

    def _taken(self, unit: Unit) -> bool:
        return any(folder.owner(unit.number) for folder in self._folders)

    def learns(self, unit: Unit) -> bool:
        """Tell whether the deaths on a unit have told more of who is deadly, so that it is worth another try."""
        before, deaths = self._deaths[unit.number], max(folder.deaths(unit.number) for folder in self._folders)
        self._deaths[unit.number] = deaths
        return before < deaths <= _MOST_DEATHS

    def add(self, unit: Unit, records: Iterable[tuple[Record | None, Record]]) -> None:
        """Count a unit that this run has done, by output with the record before, if that was there, and now."""
        self._counted.add(unit.number)
        for report, (before, now) in zip(self._reports, records, strict=True):
            done, warned, media, frames = (
                (before.done, before.warned, before.media, before.frames) if before else (0, 0, 0, 0)
            )
            report.done_before += done
            report.done += now.done - done
            report.failed += len(now.failures)
            report.warned += now.warned - warned
            report.media += now.media - media
            report.frames += now.frames - frames
        self._progress(self._reports)

    def finish(self, seconds: float) -> list[EncodeReport]:
        """Write `failed.jsonl`, and tidy up if all units are done."""
        for processed, folder, report in zip(self._processed, self._folders, self._reports, strict=True):
            failures = read_failures(processed)
            if failures or (processed / FAILED).exists():
                write_failures(processed, failures.values())
            report.reasons = dict(Counter(failure.reason for failure in failures.values()))
            info = read_info(processed)
            if info and len(folder.done()) == info.units:
                folder.tidy()
            report.seconds = seconds
        return self._reports
