"""Samples of shards by number or key, in any order, without unpacking.

Imports numpy; of ours `errors`, `remote`, `tar`, `shard.offsets`, `shard.table` and this room's `decode`.

A tar's idx, or without one its headers, says where samples end. Of that 8 bytes a sample stay in memory once a sample
of the tar is asked for, and 12 more of every sample once a key is. Whose the bytes are only the names in the tar say,
which are read with them: a wrong idx gives an error, never another sample's caption.
"""

from __future__ import annotations

import difflib
import json
import operator
import os
import warnings
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain, islice, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError
from embedshard.load.decode import decode
from embedshard.remote import RemoteError, Url
from embedshard.shard.offsets import Offsets, offsets_path, read_offsets
from embedshard.shard.table import SIZES, read_splits
from embedshard.tar import BLOCK, index_members

__all__ = ["Item", "ShardDataset", "open_shards"]

Item: TypeAlias = SupportsIndex | str
"""The number or the key of a sample."""

T = TypeVar("T")

_PIECES = ("json", "npy", "txt", "cap")
_END_MARK = bytes(BLOCK)
_READ = 1 << 22  # bytes at which no further neighbour joins a read
_AT_ONCE = 16  # requests to a storage
_OPEN_FILES = 256
_FEW = 20_000  # keys, among which a similar one is looked for


def open_shards(folder: Path | Url) -> ShardDataset:
    """Open a folder of shards; see `embedshard.open`."""
    splits = read_splits(folder)
    there = {path.name for path in folder.iterdir()}
    missing = [name for names in splits.values() for name in names if name not in there]
    if missing:
        raise InputError(
            f"{folder}: expected the tars that splits.csv names, found {len(missing)} of them missing; fetch or pack "
            f"again: {', '.join(missing[:8])}"
        )
    return ShardDataset(_Tars(folder, there), splits)


class ShardDataset:
    """The samples of shards, numbered split by split, in each by tar and place; what `embedshard.open` gives.

    A sample is what `embedshard.load` yields, a dict of `key` (str), `embeddings` (array (frames, dim) of the stored
    dtype; a copy, which may be changed), `text` (str) and `meta` (dict).

    It is the dataset of a `torch.utils.data.DataLoader` with any sampler and number of workers, forked or spawned, and
    `embedshard.load.collate.collate` makes its batches. Whatever reads may raise InputError: a tar or its idx is
    damaged, or a sample lacks a piece.
    """

    def __init__(self, tars: _Tars, splits: Mapping[str, Sequence[str]]) -> None:
        self._tars, self._splits = tars, splits
        self._names = list(chain.from_iterable(splits.values()))
        self._starts = list(accumulate(tars.each(tars.count, self._names), initial=0))
        self._keys: _Keys | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_keys": None}

    def __repr__(self) -> str:
        counts = ", ".join(f"{split}: {sum(map(self._tars.count, names))}" for split, names in self._splits.items())
        return f"<ShardDataset {self._tars.folder} ({counts})>"

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, item: Item) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, item: slice | list[Any] | tuple[Item, ...] | range) -> list[dict[str, Any]]: ...
    def __getitem__(self, item: Any) -> Any:
        """Read the sample of a number (negative: from the end) or key, or those of a slice or list, as a list.

        Raises:
            IndexError: No sample has that number.
            KeyError: No sample has that key.
            InputError: Several samples have it.
        """
        if isinstance(item, slice):
            return self.__getitems__(range(len(self))[item])
        if isinstance(item, (list, tuple, range, np.ndarray)):
            return self.__getitems__(item)
        (sample,) = self._read(self._run(item))
        return self._verified(item, sample)

    def __getitems__(self, items: Iterable[Item]) -> list[dict[str, Any]]:
        """Read several samples: neighbours by one read, and of a storage many at once."""
        items = list(items)
        runs = [self._run(item) for item in items]
        self._tars.each(self._tars.table, dict.fromkeys(run.tar for run in runs))
        samples = chain.from_iterable(self._tars.each(self._read, self._joined(runs)))
        return [self._verified(item, sample) for item, sample in zip(items, samples, strict=True)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return chain.from_iterable(map(self._read, self._joined(map(self._run, range(len(self))))))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and any(self[number]["key"] == key for number in self._numbers(key))

    @property
    def splits(self) -> list[str]:
        """The names of its splits."""
        return list(self._splits)

    @property
    def frames(self) -> npt.NDArray[np.uint32]:
        """How many frames each sample has: an array (samples,), by the idx files."""
        tables = self._tars.each(self._tars.table, self._names)
        return np.concatenate([np.empty(0, np.uint32), *(table.frames for table in tables)])

    def split(self, name: str) -> ShardDataset:
        """Give the samples of one split, numbered from 0.

        Raises:
            InputError: There is no such split.
        """
        if name not in self._splits:
            raise InputError(f"{self} has no split {name!r}; take one of: {', '.join(self._splits) or '(it has none)'}")
        return ShardDataset(self._tars, {name: self._splits[name]})

    def keys(self) -> Iterator[str]:
        """Yield the keys in the order of the samples, by the idx files."""
        return (key.decode() for name in self._names for key in self._tars.offsets(name)["key"].tolist())

    def _run(self, item: Item) -> _Run:
        if isinstance(item, (bool, np.bool_)):
            raise TypeError(
                f"expected the number or the key of a sample, found {item}; of a mask: numpy.flatnonzero(mask)"
            )
        number = self._find(item) if isinstance(item, str) else operator.index(item)
        if not -len(self) <= number < len(self):
            raise IndexError(f"no sample {number} in {self}")
        number %= len(self)
        tar = bisect_right(self._starts, number) - 1
        first = number - self._starts[tar]
        return _Run(self._names[tar], first, first + 1)

    def _joined(self, runs: Iterable[_Run]) -> Iterator[_Run]:
        """Join samples that lie side by side."""
        last: _Run | None = None
        for run in runs:
            if last and run.tar == last.tar and run.first == last.end and self._size(last) < _READ:
                last = last._replace(end=run.end)
                continue
            if last:
                yield last
            last = run
        if last:
            yield last

    def _size(self, run: _Run) -> int:
        ends = self._tars.table(run.tar).ends
        return BLOCK * (int(ends[run.end]) - int(ends[run.first]))

    def _read(self, run: _Run) -> list[dict[str, Any]]:
        table = self._tars.table(run.tar)
        ends = [BLOCK * end for end in table.ends[run.first : run.end + 1].tolist()]
        places = zip(pairwise(ends), table.frames[run.first : run.end].tolist(), strict=True)
        try:
            data = self._tars.read(table.tar, ends[0], ends[-1])
            return [_sample(table.tar, data[a - ends[0] : b - ends[0]], frames) for (a, b), frames in places]
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(
                f"{table.tar}: expected whole samples where {offsets_path(table.tar).name} or its headers said, found: "
                f"{error}\n  remove that idx if the tar is another by now, and open the folder again; or: embedshard "
                f"check --repair {self._tars.folder}"
            ) from error

    def _find(self, key: str) -> int:
        numbers = self._numbers(key)
        if len(numbers) > 1:
            numbers = [number for number in numbers if self[number]["key"] == key]
        if not numbers:
            raise KeyError(self._unknown(key))
        if len(numbers) > 1:
            raise InputError(
                f"expected one sample of key {key!r} in {self}, found the numbers {', '.join(map(str, numbers[:8]))}"
                f"\n  take one by its number; embedshard check {self._tars.folder} lists such keys"
            )
        return numbers[0]

    def _numbers(self, key: str) -> list[int]:
        """Give the numbers of the samples whose keys have the hash of a key."""
        if self._keys is None:
            tars = self._tars.each(self._tars.key_hashes, self._names)
            self._keys = _sorted_keys(np.concatenate([np.empty(0, np.int64), *tars]))
        hashes, numbers = self._keys.hashes, self._keys.numbers
        wanted = np.int64(hash(key.encode()))
        first = int(hashes.searchsorted(wanted))
        same = takewhile(lambda place: hashes[place] == wanted, range(first, len(hashes)))
        return sorted(int(numbers[place]) for place in same)

    def _verified(self, item: Item, sample: dict[str, Any]) -> dict[str, Any]:
        if isinstance(item, str) and sample["key"] != item:
            raise KeyError(self._unknown(item))
        return sample

    def _unknown(self, key: str) -> str:
        keys = list(islice(self.keys(), _FEW))
        if len(self) <= _FEW and (close := difflib.get_close_matches(key, keys, 3)):
            return f"no sample of key {key!r} in {self}; close to it: {', '.join(close)}"
        return f"no sample of key {key!r} in {self}; its keys are like {', '.join(keys[:2]) or '(it is empty)'}"


class _Run(NamedTuple):
    """Samples `first` to `end` of a tar."""

    tar: str
    first: int
    end: int


class _Table(NamedTuple):
    """What is kept of a tar's offsets: the block where each sample ends, after a 0, and its frames."""

    tar: Path | Url
    ends: npt.NDArray[np.uint32]
    frames: npt.NDArray[np.uint32]


class _Keys(NamedTuple):
    """The sorted hashes of all keys, which hold in this process and its forks, and the number of the sample of each."""

    hashes: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.unsignedinteger[Any]]


class _Tars:
    """The tars of a folder, for all its splits: where their samples lie, and the files that are open."""

    def __init__(self, folder: Path | Url, there: set[str]) -> None:
        self.folder = folder
        self._there = there
        self._sizes = _read_sizes(folder) if SIZES in there else {}
        self._tables: dict[str, _Table] = {}
        self._files: dict[Path, _File] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def each(self, function: Callable[[Any], T], values: Iterable[Any]) -> list[T]:
        """Call a function with each value, on a storage many at once."""
        if not isinstance(self.folder, Url):
            return list(map(function, values))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(function, values))

    def count(self, name: str) -> int:
        """Give the number of samples of a tar."""
        return self._sizes[name] if name in self._sizes else len(self.table(name).frames)

    def offsets(self, name: str) -> Offsets:
        """Read where the samples of a tar lie."""
        tar: Path | Url = self.folder / name
        if isinstance(tar, Url) and offsets_path(tar).name not in self._there:
            warnings.warn(
                f"{self.folder}: tars without an idx beside them are read whole to find their samples; put the "
                "idx files there too (embedshard check --repair writes those of a folder on this machine)",
                stacklevel=2,
            )
        try:
            return read_offsets(tar)
        except RemoteError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(
                f"{tar}: expected a whole tar of triples, found it damaged ({error}); fetch it again, or: "
                f"embedshard check --repair {self.folder}"
            ) from error

    def key_hashes(self, name: str) -> npt.NDArray[np.int64]:
        """Give the hash of the key of each sample of a tar."""
        keys = self.offsets(name)["key"].tolist()
        return np.fromiter(map(hash, keys), np.int64, len(keys))

    def table(self, name: str) -> _Table:
        """Give where the samples of a tar end."""
        if name not in self._tables:
            table = _table(self.folder / name, self.offsets(name))
            said = self._sizes.get(name, len(table.frames))
            if said != len(table.frames):
                raise InputError(
                    f"{self.folder / name}: expected the {said} samples that {SIZES} says, found "
                    f"{len(table.frames)}; fetch both again, or: embedshard check --repair {self.folder}"
                )
            self._tables[name] = table
        return self._tables[name]

    def read(self, tar: Path | Url, begin: int, end: int) -> bytes:
        """Read bytes of a tar by one request."""
        if isinstance(tar, Url):
            return tar.read_range(begin, end)
        file = self._files.get(tar)
        if file is None:
            if len(self._files) >= _OPEN_FILES:
                self._files.clear()
            file = self._files[tar] = _File(tar)
        return file.read(begin, end)


class _File:
    """A local file that is read from any place by any thread or forked process; closed with its last use."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, begin: int, end: int) -> bytes:
        """Read bytes; ValueError where the file ends before."""
        pieces = []
        while begin < end and (piece := os.pread(self._descriptor, end - begin, begin)):
            pieces.append(piece)
            begin += len(piece)
        if begin < end:
            raise ValueError(f"the tar ends at byte {begin}")
        return b"".join(pieces)


def _sample(tar: Path | Url, data: bytes, frames: int) -> dict[str, Any]:
    """Decode the one sample whose members `data` holds; ValueError where it holds anything else."""
    parts: dict[str, bytes] = {}
    keys: set[str] = set()
    for name, offset, size, _ in index_members(data + _END_MARK):
        key, _, piece = name.rpartition(".")
        if key and piece in _PIECES:
            if keys - {key} or piece in parts:
                raise ValueError(f"{name} beside pieces of {', '.join(keys)}")
            keys.add(key)
            parts[piece] = data[offset : offset + size]
    if not parts:
        raise ValueError("no piece of a sample")
    sample = decode(str(tar), keys.pop(), parts)
    sample["embeddings"] = sample["embeddings"].copy()
    if len(sample["embeddings"]) != frames:
        raise ValueError(f"{sample['key']} with {len(sample['embeddings'])} frames, not {frames}")
    return sample


def _table(tar: Path | Url, offsets: Offsets) -> _Table:
    last = np.max([offsets[piece].sum(axis=1) for piece in ("json", "npy", "txt")], axis=0)
    ends = np.concatenate([[0], -(-last.astype(np.int64) // BLOCK)])
    if (np.diff(ends) <= 0).any():
        raise InputError(
            f"{tar}: expected {offsets_path(tar).name} to have the samples in the order of the tar, found another\n"
            "  remove that idx, and open the folder again"
        )
    return _Table(tar, ends.astype(np.uint32), offsets["frames"].astype(np.uint32))


def _sorted_keys(hashes: npt.NDArray[np.int64]) -> _Keys:
    order = np.argsort(hashes)
    return _Keys(hashes[order], order.astype(np.min_scalar_type(len(hashes))))


def _read_sizes(folder: Path | Url) -> dict[str, int]:
    sizes: Any = None
    try:
        sizes = json.loads((folder / SIZES).read_bytes())
    except ValueError as error:
        raise InputError(f"{folder / SIZES} is damaged ({error}); try: embedshard check --repair {folder}") from error
    if not isinstance(sizes, dict) or not all(isinstance(count, int) for count in sizes.values()):
        raise InputError(
            f"{folder / SIZES}: expected an object of tars and counts, found another; try: embedshard check --repair "
            f"{folder}"
        )
    return sizes
