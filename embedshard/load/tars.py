"""The tars of a split: which they are, how many samples each has, and where these lie.

Imports numpy; of ours `errors`, `remote`, `tar`, `shard.table`, `shard.offsets` and this room.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError
from embedshard.load.cache import Cache, copy_blocks
from embedshard.load.decode import Buffer
from embedshard.remote import RemoteError, Url
from embedshard.shard.offsets import Offsets, offsets_path, read_offsets
from embedshard.shard.table import INDEX, SIZES, read_splits
from embedshard.tar import BLOCK, index_members

__all__ = ["OpenTar", "Raw", "Shards", "Tars", "check_count", "damage", "find_shards", "grouped"]

_PARTS = ("json", "npy", "txt")
_SMALL = 1 << 20  # bytes; a tar of fewer is read, not mapped, for a process may map only so many files
_HEADER = np.dtype([("name", "S100"), ("", "V24"), ("size", "S12")])

T = TypeVar("T")


class Raw(NamedTuple):
    """A sample as it lies in a tar: the tar and its number, the row in it, the key, the members by their endings."""

    tar: str
    number: int
    row: int
    key: str
    parts: Mapping[str, Buffer]


@dataclass(frozen=True)
class Shards:
    """The tars of a split.

    Attributes:
        tars: Where they lie, in the order of `splits.csv`.
        records: What `index.json` says of each, by name.
        cache: Where copies of them are kept.
    """

    tars: tuple[Path | Url, ...]
    records: Mapping[str, Any]
    cache: Cache | None

    def open(self, number: int) -> IO[bytes]:
        """Open a tar: its copy where there is a cache."""
        tar = self.tars[number]
        if self.cache:
            return self.cache.open(tar, self.records.get(tar.name, {}))
        return tar.open("rb")

    def counts(self) -> tuple[int, ...]:
        """Give the samples of each tar: by `index.json` or `sizes.json`, else by its headers."""
        sizes = {name: record["samples"] for name, record in self.records.items()}
        if any(tar.name not in sizes for tar in self.tars):
            sizes = {**_read_json(self.tars[0].parent / SIZES), **sizes}
        known = ((number, sizes.get(tar.name)) for number, tar in enumerate(self.tars))
        return tuple(count if isinstance(count, int) else len(OpenTar(self, number).samples) for number, count in known)


def find_shards(folder: Path | Url, split: str, cache: Cache | None) -> Shards:
    """Find the tars of a split.

    Raises:
        InputError: There is no such folder or split, or a tar is missing.
    """
    splits = read_splits(folder)
    if split not in splits:
        raise InputError(f"{folder} has no split {split!r}; load one of: {', '.join(splits) or '(it has none)'}")
    tars = [folder.absolute() / name for name in splits[split]]
    there = {path.name for path in folder.iterdir()}
    missing = [tar.name for tar in tars if tar.name not in there]
    if missing:
        raise InputError(
            f"{folder}: expected the {len(tars)} tars that splits.csv names for {split}, found "
            f"{len(tars) - len(missing)}; fetch or pack again: {', '.join(missing[:8])}"
        )
    rows = _read_json(folder / INDEX).get("tars", [])
    ours = isinstance(rows, list) and all(isinstance(row, dict) and {"name", "samples"} <= row.keys() for row in rows)
    return Shards(tuple(tars), {row["name"]: row for row in rows} if ours else {}, cache)


class OpenTar:
    """A tar in memory or mapped into it, and where its samples lie.

    Attributes:
        name: Its path or URL.
        samples: For each sample its key, and where in the tar its members lie, by their endings.

    Raises:
        InputError: It is damaged.
    """

    def __init__(self, shards: Shards, number: int) -> None:
        tar = shards.tars[number]
        self.name, self._number = str(tar), number
        with damage(self.name):
            self._data = _map(shards, number)
            self._offsets = _find_offsets(tar) if shards.cache is None else None
            if self._offsets is None:
                members = ((name, slice(at, at + size)) for name, at, size, _ in index_members(self._data))
                self.samples = list(grouped(members))
            else:
                self.samples = _slices(self._offsets)

    def check(self, rows: npt.NDArray[Any]) -> None:
        """Check by the headers that samples lie where an idx says.

        Args:
            rows: Numbers of the samples.

        Raises:
            InputError: They do not; the idx is of another tar.
        """
        if self._offsets is None:
            return
        offsets = self._offsets[rows]
        for part in _PARTS:
            there = offsets[offsets[part][:, 0] > 0]
            heads = np.ndarray(max(len(self._data) - _HEADER.itemsize, 0), _HEADER, self._data, strides=(1,))
            found = heads[there[part][:, 0].astype(np.int64) - BLOCK]
            digits = found["size"].copy().view(np.uint8).reshape(-1, 12)[:, :11].astype(np.int64) - ord("0")
            same = (digits @ 8 ** np.arange(10, -1, -1)) == there[part][:, 1].astype(np.int64)
            same &= found["name"] == np.char.add(there["key"], f".{part}".encode())
            if part == "txt":
                same |= found["name"] == np.char.add(there["key"], b".cap")
            if not same.all():
                key = there["key"][~same][0].decode()
                idx = offsets_path(Path(self.name))
                raise InputError(
                    f"{self.name}, key {key}: expected its {part} where {idx.name} says, found another member; the "
                    f"index is of another tar: rm {idx}"
                )

    def raw(self, row: int) -> Raw:
        """Give a sample, as views of the tar."""
        key, parts = self.samples[row]
        return Raw(self.name, self._number, row, key, {part: self._data[span] for part, span in parts.items()})


class Tars:
    """Open tars of a split: those used last, of about so many samples."""

    def __init__(self, shards: Shards, counts: tuple[int, ...], capacity: int) -> None:
        self._shards, self._counts, self._capacity = shards, counts, capacity
        self._open: OrderedDict[int, OpenTar] = OrderedDict()
        self._held = 0

    def __getitem__(self, number: int) -> OpenTar:
        """Give a tar, open."""
        if number not in self._open:
            tar = OpenTar(self._shards, number)
            check_count(tar.name, self._counts[number], len(tar.samples))
            self._open[number] = tar
            self._held += len(tar.samples)
            while len(self._open) > 2 and self._held - len(next(iter(self._open.values())).samples) > self._capacity:
                self._held -= len(self._open.popitem(last=False)[1].samples)
        self._open.move_to_end(number)
        return self._open[number]

    def read(self, tars: npt.NDArray[Any], rows: npt.NDArray[Any]) -> Iterator[Raw]:
        """Yield samples.

        Args:
            tars: Number of the tar of each.
            rows: Its number in the tar.
        """
        found = {number: self[number] for number in np.unique(tars).tolist()}
        for number, tar in found.items():
            tar.check(rows[tars == number])
        for number, row in zip(tars.tolist(), rows.tolist(), strict=True):
            yield found[number].raw(row)


def grouped(members: Iterable[tuple[str, T]]) -> Iterator[tuple[str, dict[str, T]]]:
    """Group members to samples as webdataset does: those side by side whose names agree up to the first dot.

    Args:
        members: Name of each, and anything.

    Yields:
        The key, and what belongs to each ending, in lower case.

    Raises:
        ValueError: A sample has two members of one ending.
    """
    named = ((*_split_name(name), value) for name, value in members)
    for key, group in groupby((member for member in named if member[0]), itemgetter(0)):
        parts: dict[str, T] = {}
        for _, field, value in group:
            if field.lower() in parts:
                raise ValueError(f"two members {key}.{field}")
            parts[field.lower()] = value
        yield key, parts


@contextlib.contextmanager
def damage(tar: str) -> Iterator[None]:
    """Turn what a damaged tar raises into an InputError."""
    try:
        yield
    except (InputError, RemoteError):
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{tar}: expected a whole tar of triples, found it damaged ({error}); fetch it again, or pack it again "
            "with: embedshard shard"
        ) from error


def check_count(tar: str, expected: int, found: int) -> None:
    """Compare the number of samples of a tar with that of the tables.

    Raises:
        InputError: They differ.
    """
    if expected != found:
        raise InputError(
            f"{tar}: expected {expected} samples, as index.json or sizes.json says, found "
            f"{found if found < expected else 'more'}; see: embedshard check"
        )


def _split_name(name: str) -> tuple[str, str]:
    """Split a name at the first dot after the last slash; the key is empty for a file that is no part of a sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, field = base.partition(".")
    return folder + slash + stem if stem and dot else "", field


def _read_json(path: Path | Url) -> dict[str, Any]:
    """Read a table; an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _map(shards: Shards, number: int) -> memoryview:
    """Map a tar; a remote one without a cache is copied to a file that has no name."""
    with contextlib.ExitStack() as stack:
        tar = shards.tars[number]
        if isinstance(tar, Url) and shards.cache is None:
            file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            copy_blocks(tar, file)
        else:
            file = stack.enter_context(shards.open(number))
        size = file.seek(0, 2)
        if size >= _SMALL:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        file.seek(0)
        return memoryview(file.read())


def _find_offsets(tar: Path | Url) -> Offsets | None:
    """Read the idx of a tar on a disk, if it has one."""
    return read_offsets(tar) if isinstance(tar, Path) and offsets_path(tar).is_file() else None


def _slices(offsets: Offsets) -> list[tuple[str, dict[str, slice]]]:
    keys = [key.decode() for key in offsets["key"].tolist()]
    starts = [offsets[part][:, 0].tolist() for part in _PARTS]
    stops = [offsets[part].sum(axis=1).tolist() for part in _PARTS]
    whole = all(map(all, starts))
    rows = zip(*(map(slice, *spans) for spans in zip(starts, stops, strict=True)), strict=True)
    found = [dict(zip(_PARTS, row, strict=True)) for row in rows]
    if not whole:
        found = [{part: span for part, span in row.items() if span.start} for row in found]
    return list(zip(keys, found, strict=True))
