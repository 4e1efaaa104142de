"""The units of a run that writes parts: how a manifest is cut into them, and which are done, claimed or still to do.

All of it lies in `<processed>/units`, on a disk or a storage, so that any number of processes, on any machines and by
any engine, may share a run or go on with it:

    plan-<digest>.parquet   the manifest's samples, a row group a unit
    000000.json             the record of a unit that is done, written after its part
    000000.claim            who is at it; that it changes tells that they still are
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from embedshard.encode.work import by_media
from embedshard.errors import InputError
from embedshard.manifest import Manifest, open_manifest, writing_manifest
from embedshard.processed import UNITS, Failure, read_records
from embedshard.remote import AnyPath, RemoteError
from embedshard.sample import SPLITS, Sample
from embedshard.store import exclusive, publish, remove_temporary

__all__ = ["BEAT", "Claim", "Record", "Unit", "UnitFolder", "alone", "open_plan", "plan_units", "usual_size"]

BEAT = 20.0  # seconds between signs of life
_STALE = 6 * BEAT
_FORMAT = 1
_LEAST, _MOST = 16, 1000  # samples of a unit
_UNITS = 64  # at least, of a manifest that is not tiny


class Unit(NamedTuple):
    """Some samples of one split, all that are of the same media: what is encoded by one process into one part."""

    number: int
    samples: int


@dataclass(frozen=True)
class Record:
    """What became of a unit: `samples` = `done` + the failures.

    Attributes:
        unit: Its number.
        split: Of its samples.
        samples: How many it has.
        done: That are in its part; there is none if that is 0.
        warned: Of these, how many have a warning in their json.
        media: That were decoded.
        frames: That were encoded.
        bytes: Size of the part.
        sha256: Of the part.
        began: When, in seconds since 1970.
        seconds: That it took.
        host: Where.
        failures: Why the others are not in it.
    """

    unit: int
    split: str
    samples: int
    done: int
    warned: int
    media: int
    frames: int
    bytes: int
    sha256: str
    began: float
    seconds: float
    host: str
    failures: list[Failure]


def usual_size(rows: int) -> int:
    """Give the number of samples of a unit: it follows from the manifest alone, not from who encodes."""
    return min(_MOST, max(_LEAST, rows // _UNITS))


def alone(processed: AnyPath, patience: float) -> AbstractContextManager[None]:
    """Hold a dataset on a disk while its plan or its setting is written.

    A storage cannot be held: there, whoever writes a plan writes the same one, and the setting of the first stays.
    """
    return exclusive(processed, patience) if isinstance(processed, Path) else contextlib.nullcontext()


def plan_units(manifest: Manifest, processed: AnyPath, size: int) -> Manifest:
    """Cut a manifest into units, or take up the plan that is there.

    Args:
        manifest: The samples.
        processed: Where they are to be encoded to.
        size: Samples of a unit, 0 for as many as the plan that is there has, else the usual number.

    Returns:
        The plan: the samples again, a row group a unit.

    Raises:
        InputError: The folder has the plan of another manifest or size, or the manifest is wrong.
    """
    digest, there = manifest.digest(), open_plan(processed)
    if there:
        _require_same(processed, str(there.path), digest, size)
        return there
    size = size or usual_size(manifest.rows)
    manifest.validate()
    path = processed / UNITS / f"plan-{size}-{_digest(digest, size)}.parquet"
    with writing_manifest(path, manifest.root.absolute(), manifest.source, manifest.rows + 1) as writer:
        for samples in _cut(manifest, size):
            for sample in samples:
                writer.add(sample)
            writer.flush()
    if len(_plans(processed)) > 1:  # another run began at the same moment, which only a storage lets happen
        path.unlink(missing_ok=True)
        raise InputError(f"another run has begun {processed} with another manifest; give another folder")
    return open_manifest(path)


def open_plan(processed: AnyPath) -> Manifest | None:
    """Open the plan of a processed dataset, if it has one.

    Raises:
        InputError: It has two.
    """
    there = _plans(processed)
    if len(there) > 1:
        raise InputError(
            f"expected one plan, found {' and '.join(there)} in {processed / UNITS}, of two runs that began at once "
            "with different manifests\n  Remove that of the manifest that is not to be encoded there"
        )
    return open_manifest(processed / UNITS / there[0]) if there else None


def _plans(processed: AnyPath) -> list[str]:
    return sorted(path.name for path in (processed / UNITS).glob("plan-*.parquet"))


def _require_same(processed: AnyPath, path: str, manifest: str, size: int) -> None:
    _, its_size, digest = Path(path).stem.split("-")
    if digest != _digest(manifest, int(its_size)):
        raise InputError(
            f"{processed} was begun with another manifest, and parts are not changed any more\n"
            "  Give the manifest it was begun with, or another folder; a new folder of the new samples alone can be "
            "added to shards by: embedshard shard --append"
        )
    if size not in (0, int(its_size)):
        raise InputError(f"{processed} was begun with --unit {its_size}, found --unit {size}; leave it out")


def _digest(manifest: str, size: int) -> str:
    return hashlib.sha256(f"{_FORMAT}/{manifest}/{size}".encode()).hexdigest()[:16]


def _cut(manifest: Manifest, size: int) -> Iterator[list[Sample]]:
    """Yield the samples of each unit: whole media, of one split, in the manifest's order."""
    open_units: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for group in by_media(manifest):
        for split in {sample.split: None for sample, _ in group}:
            unit = open_units[split]
            unit += [sample for sample, _ in group if sample.split == split]
            if len(unit) >= size:
                yield unit
                open_units[split] = []
    yield from filter(None, open_units.values())


@dataclass(frozen=True)
class Claim:
    """Who is at a unit.

    Attributes:
        host: Machine of the process.
        pid: Its number there.
        beat: The last sign of life, in seconds since 1970 by that machine's clock.
        tries: Workers that began the unit, this one too, since one was last done with it.
        at: The media that is worked on, where they are one at a time.
        died: How many workers died at a media, where they were one at a time.
    """

    host: str
    pid: int
    beat: float
    tries: int = 1
    at: str = ""
    died: dict[str, int] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """Name the process; "" if it was of this machine and is gone."""
        gone = self.host == socket.gethostname() and not _alive(self.pid)
        return "" if gone else f"process {self.pid} on {self.host}"

    def taken_over(self) -> Claim:
        """Give the claim of the next worker, where this one's is gone."""
        died = {**self.died, self.at: self.died.get(self.at, 0) + 1} if self.at else self.died
        return replace(_new_claim(), tries=self.tries + 1, died=died)


class UnitFolder:
    """What stands in a processed dataset of its units. Threads may share it.

    Args:
        processed: The dataset.
    """

    def __init__(self, processed: AnyPath) -> None:
        self._processed, self._folder = processed, processed / UNITS
        self._mine: dict[int, Claim] = {}
        self._claiming = threading.Lock()
        self._seen: dict[int, tuple[Claim, float]] = {}

    def done(self) -> set[int]:
        """Give the units that have a record."""
        return {int(name[:-5]) for name in self._names() if name.endswith(".json") and name[:-5].isdigit()}

    def find(self, unit: int) -> Record | None:
        """Read the record of a unit; None if it is not done."""
        try:
            return next(self.read([unit]))
        except FileNotFoundError:
            return None

    def read(self, units: Iterable[int]) -> Iterator[Record]:
        """Read the records of units that are done, in their order."""
        return (Record(**fields) for fields in read_records([self._path(unit, "json") for unit in units]))

    def write(self, record: Record) -> None:
        """Write the record of a unit, and take the claim away."""
        self._publish(self._path(record.unit, "json"), asdict(record), sync=True)
        self.release(record.unit)

    def claim(self, unit: int) -> Claim:
        """Say that this process is at a unit."""
        before = self._claim(unit)
        with self._claiming:
            return self._put(unit, before.taken_over() if before else _new_claim())

    def note(self, unit: int, media: str) -> None:
        """Say in the claim of a unit which media it is at, "" for none."""
        with self._claiming:
            self._put(unit, replace(self._mine[unit], at=media))

    def beat(self) -> None:
        """Give a sign of life for this process' claims."""
        for unit in list(self._mine):
            with contextlib.suppress(OSError), self._claiming:
                if unit in self._mine:
                    self._put(unit, replace(self._mine[unit], beat=time.time()))

    def release(self, unit: int) -> None:
        """Take a claim away."""
        with self._claiming:
            self._mine.pop(unit, None)
            self._path(unit, "claim").unlink(missing_ok=True)

    def release_mine(self) -> None:
        """Take this process' claims away."""
        for unit in list(self._mine):
            self.release(unit)

    def claims(self) -> set[int]:
        """Give the units that have a claim, whether somebody is at them still or not."""
        return {int(name[:-6]) for name in self._names() if name.endswith(".claim") and name[:-6].isdigit()}

    def tidy(self) -> None:
        """Remove what killed processes left, once all units are done."""
        if isinstance(self._processed, Path):  # a storage lists no half-written files
            for name in (UNITS, *SPLITS):
                remove_temporary(self._processed / name)
        for unit in self.claims():
            self.release(unit)

    def owner(self, unit: int) -> str:
        """Name who is at a unit; "" if nobody is, or is alive any more.

        Somebody is whose claim has changed while this object was watching, or did not watch for long yet. So no clock
        is compared with another, of machines or storages, which may differ by any amount; only time passed counts.
        """
        claim, now = self._claim(unit), time.monotonic()
        if claim is None:
            return ""
        if self._seen.get(unit, (None,))[0] != claim:
            self._seen[unit] = claim, now
        return "" if now - self._seen[unit][1] > _STALE else claim.owner

    def owner_by_clock(self, unit: int) -> str:
        """Name who is at a unit, as `owner`, but from one look, which is right if the machines' clocks are."""
        claim = self._claim(unit)
        return "" if claim is None or abs(time.time() - claim.beat) > _STALE else claim.owner

    def deaths(self, unit: int) -> int:
        """Count the workers that died at a media of a unit, where they were one at a time."""
        claim = self._claim(unit)
        return sum(claim.taken_over().died.values()) if claim else 0

    def _claim(self, unit: int) -> Claim | None:
        try:
            return Claim(**json.loads(self._path(unit, "claim").read_bytes()))
        except RemoteError:
            raise
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _put(self, unit: int, claim: Claim) -> Claim:
        self._mine[unit] = claim
        self._publish(self._path(unit, "claim"), asdict(claim))
        return claim

    def _publish(self, path: AnyPath, value: object, sync: bool = False) -> None:
        with publish(path, sync=sync, shared=True) as file:
            file.write(json.dumps(value, ensure_ascii=False).encode())

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir())
        except FileNotFoundError:
            return []

    def _path(self, unit: int, ending: str) -> AnyPath:
        return self._folder / f"{unit:06d}.{ending}"


def _new_claim() -> Claim:
    return Claim(socket.gethostname(), os.getpid(), time.time())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
