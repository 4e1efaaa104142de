"""Find ids that repeat, among any number of them, in flat memory. Imports nothing of ours.

Each id is kept as 8 bytes in a temporary file (62 bits of its BLAKE2b hash and a tag); equal hashes are found by
sorting one slice of the hash range at a time. Equal hashes are candidates: the caller looks at the ids themselves.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["DistinctIds", "id_hash"]

_Ids = npt.NDArray[np.uint64]

_SLICE = 1 << 20
_BUFFER = 1 << 16


def id_hash(text: str) -> int:
    """Give the 62-bit hash by which `DistinctIds` knows an id."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 2


class DistinctIds:
    """Collects ids, each with a tag from 0 to 3, and tells which came twice or under two tags."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the object)
        self._pending: list[int] = []
        self.count = 0

    def add(self, text: str, tag: int = 0) -> None:
        """Add one id."""
        self._pending.append(id_hash(text) << 2 | tag)
        self.count += 1
        if len(self._pending) == _BUFFER:
            self._flush()

    def repeated(self) -> set[int]:
        """Give the hashes of ids that were added more than once (at most one slice's worth of them)."""
        return self._collect(lambda ids: ids[1:][ids[1:] >> 2 == ids[:-1] >> 2] >> 2)

    def under_two_tags(self) -> set[int]:
        """Give the hashes of ids that were added under more than one tag (at most one slice's worth)."""
        return self._collect(lambda ids: ids[1:][(ids[1:] >> 2 == ids[:-1] >> 2) & (ids[1:] != ids[:-1])] >> 2)

    def _flush(self) -> None:
        np.array(self._pending, np.uint64).tofile(self._file)
        self._pending.clear()

    def _collect(self, select: Callable[[_Ids], _Ids]) -> set[int]:
        found: set[int] = set()
        for ids in self._sorted_slices():
            found.update(int(value) for value in select(ids))
            if len(found) >= _SLICE:
                break
        return found

    def _sorted_slices(self) -> Iterator[_Ids]:
        """Yield all ids in order, in slices that never part equal hashes."""
        self._flush()
        slices = self.count // _SLICE + 1
        edges = [(2**64 * i // slices) >> 2 << 2 for i in range(slices)] + [2**64]
        for low, high in itertools.pairwise(edges):
            self._file.seek(0)
            parts = []
            while len(block := np.frombuffer(self._file.read(8 * _SLICE), np.uint64)):
                parts.append(block[(block >= low) & (block <= high - 1)])
            if parts:
                yield np.sort(np.concatenate(parts))
