"""The units of a run that writes parts: how a manifest is cut into them, and which are done, claimed or still to do.

All of it lies in `<processed>/units`, so that any number of processes, on any machines and by any engine, may share a
run or go on with it:

    plan-<digest>.parquet   the manifest's samples, a row group a unit
    000000.json             the record of a unit that is done, written after its part
    000000.claim            who is at it; its time of change tells that they still are
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from embedshard.encode.work import by_media
from embedshard.errors import InputError
from embedshard.manifest import Manifest, open_manifest, writing_manifest
from embedshard.processed import UNITS, Failure, unit_record
from embedshard.sample import SPLITS, Sample
from embedshard.store import publish, remove_temporary

__all__ = ["BEAT", "Record", "Unit", "UnitFolder", "open_plan", "plan_units", "usual_size"]

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


def plan_units(manifest: Manifest, processed: Path, size: int) -> Manifest:
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
    return open_manifest(path)


def open_plan(processed: Path) -> Manifest | None:
    """Open the plan of a processed dataset, if it has one."""
    there = sorted((processed / UNITS).glob("plan-*.parquet"))
    return open_manifest(there[0]) if there else None


def _require_same(processed: Path, path: str, manifest: str, size: int) -> None:
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


class UnitFolder:
    """What stands in a processed dataset of its units.

    Args:
        processed: The dataset.
    """

    def __init__(self, processed: Path) -> None:
        self._folder = processed / UNITS

    def done(self) -> set[int]:
        """Give the units that have a record."""
        return {int(name[:-5]) for name in self._names() if name.endswith(".json") and name[:-5].isdigit()}

    def has(self, unit: int) -> bool:
        """Tell whether a unit is done."""
        return self._path(unit, "json").exists()

    def read(self, unit: int) -> Record:
        """Read the record of a unit that is done."""
        return Record(**unit_record(self._path(unit, "json")))

    def write(self, record: Record) -> None:
        """Write the record of a unit, and take the claim away."""
        data = json.dumps(asdict(record), ensure_ascii=False).encode()
        with publish(self._path(record.unit, "json"), shared=True) as file:
            file.write(data)
        self.release(record.unit)

    def claim(self, unit: int) -> None:
        """Say that this process is at a unit."""
        with publish(self._path(unit, "claim"), sync=False, shared=True) as file:
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())

    def beat(self, units: Iterable[int]) -> None:
        """Give a sign of life for claims."""
        for unit in units:
            with contextlib.suppress(OSError):
                os.utime(self._path(unit, "claim"))

    def release(self, unit: int) -> None:
        """Take a claim away."""
        self._path(unit, "claim").unlink(missing_ok=True)

    def claims(self) -> set[int]:
        """Give the units that have a claim, whether somebody is at them still or not."""
        return {int(name[:-6]) for name in self._names() if name.endswith(".claim")}

    def tidy(self) -> None:
        """Remove what killed processes left, once all units are done."""
        for folder in (self._folder, *(self._folder.parent / split for split in SPLITS)):
            remove_temporary(folder)
        for unit in self.claims():
            self.release(unit)

    def owner(self, unit: int) -> str:
        """Name who is at a unit; "" if nobody is, or is alive any more."""
        path = self._path(unit, "claim")
        try:
            claim, age = json.loads(path.read_bytes()), time.time() - path.stat().st_mtime
        except (OSError, ValueError):
            return ""
        if age > _STALE or (claim["host"] == socket.gethostname() and not _alive(claim["pid"])):
            return ""
        return f"process {claim['pid']} on {claim['host']}"

    def _names(self) -> list[str]:
        return sorted(os.listdir(self._folder)) if self._folder.is_dir() else []

    def _path(self, unit: int, ending: str) -> Path:
        return self._folder / f"{unit:06d}.{ending}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
