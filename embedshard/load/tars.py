"""The tars of a split: which they are, how many samples each has, and where these lie.

Imports numpy; of ours `errors`, `remote`, `shard.table` and this room.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError
from embedshard.load.cache import Cache, copy_blocks
from embedshard.load.decode import Buffer
from embedshard.load.layout import check_layout, read_layout
from embedshard.remote import RemoteError, Url
from embedshard.shard.table import INDEX, SIZES, read_splits

__all__ = ["OpenTar", "Raw", "Shards", "Tars", "check_count", "damage", "find_shards"]

_SMALL = 1 << 20  # bytes; a tar of fewer is read, not mapped, for a process may map only so many files


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

    @property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """The name of each tar, and its hash where `index.json` has it."""
        return tuple((tar.name, self.records.get(tar.name, {}).get("sha256", "")) for tar in self.tars)

    def counts(self) -> tuple[int, ...]:
        """Give the samples of each tar: by `index.json` or `sizes.json`, else by its headers."""
        sizes = {name: record["samples"] for name, record in self.records.items()}
        if any(tar.name not in sizes for tar in self.tars):
            sizes = {**_read_json(self.tars[0].parent / SIZES), **sizes}
        known = ((number, sizes.get(tar.name)) for number, tar in enumerate(self.tars))
        return tuple(count if isinstance(count, int) else len(OpenTar(self, number).keys) for number, count in known)


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

    Raises:
        InputError: It is damaged.
    """

    def __init__(self, shards: Shards, number: int) -> None:
        tar = shards.tars[number]
        self.name, self._number = str(tar), number
        with damage(self.name):
            self._data = _map(shards, number)
            self._layout = read_layout(tar if isinstance(tar, Path) and shards.cache is None else None, self._data)

    @property
    def keys(self) -> list[str]:
        """The keys of its samples."""
        return self._layout.keys

    def check(self, rows: npt.NDArray[Any]) -> None:
        """Check by the headers that samples lie where an idx says; InputError where they do not.

        Args:
            rows: Their numbers.
        """
        check_layout(self.name, self._data, self._layout, rows)

    def raw(self, row: int) -> Raw:
        """Give a sample, as views of the tar."""
        data, spans = self._data, self._layout.spans.items()
        parts = {part: data[starts[row] : stops[row]] for part, (starts, stops) in spans if starts[row]}
        return Raw(self.name, self._number, row, self._layout.keys[row], parts)


class Tars:
    """Open tars of a split: those used last, of about so many samples."""

    def __init__(self, shards: Shards, counts: tuple[int, ...], capacity: int) -> None:
        self._shards, self._counts, self._capacity = shards, counts, capacity
        self._open: OrderedDict[int, OpenTar] = OrderedDict()
        self._held = 0
        self._coming: dict[int, Future[OpenTar]] = {}
        self._fetcher = ThreadPoolExecutor(1, "tar")

    def __getitem__(self, number: int) -> OpenTar:
        """Give a tar, open."""
        if number not in self._open:
            coming = self._coming.pop(number, None)
            tar = coming.result() if coming else OpenTar(self._shards, number)
            check_count(tar.name, self._counts[number], len(tar.keys))
            self._open[number] = tar
            self._held += len(tar.keys)
            while len(self._open) > 2 and self._held - len(next(iter(self._open.values())).keys) > self._capacity:
                self._held -= len(self._open.popitem(last=False)[1].keys)
        self._open.move_to_end(number)
        return self._open[number]

    def fetch(self, tars: npt.NDArray[Any]) -> None:
        """Begin to fetch those of some tars that lie on a storage, while others are read.

        Args:
            tars: Their numbers.
        """
        for number in np.unique(tars).tolist():
            if isinstance(self._shards.tars[number], Url) and number not in {**self._open, **self._coming}:
                self._coming[number] = self._fetcher.submit(OpenTar, self._shards, number)

    def close(self) -> None:
        """Fetch nothing more."""
        self._fetcher.shutdown(wait=False, cancel_futures=True)

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


def _read_json(path: Path | Url) -> dict[str, Any]:
    """Read a table; an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except RemoteError:
        raise
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
