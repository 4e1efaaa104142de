"""Find ids that repeat, among any number of them, in flat memory. Imports nothing of ours.

Each id is kept in a temporary file as 62 bits of its hash, a tag, and amounts that belong to it; equal hashes are
found by sorting one slice of the hash range at a time. Equal hashes are candidates: the caller looks at the ids
themselves. Hashes hold for one process only.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["DistinctIds", "id_hash"]

_Ids = npt.NDArray[np.uint64]
_Records = npt.NDArray[np.void]

_SLICE = 1 << 18
_BUFFER = 1 << 16
_BITS = 2**64 - 4


def id_hash(text: str) -> int:
    """Give the 62-bit hash by which `DistinctIds` knows an id in this process."""
    return (hash(text) & _BITS) >> 2


class DistinctIds:
    """Collects ids, each with a tag from 0 to 3 and `amounts` numbers, and tells which came twice or under two tags."""

    def __init__(self, amounts: int = 0) -> None:
        self._record = np.dtype([("id", np.uint64), ("amounts", np.float32, (amounts,))])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the object)
        self._pending: list[int] = []
        self._amounts: list[tuple[float, ...]] = []
        self.count = 0

    def add(self, text: str, tag: int = 0, amounts: tuple[float, ...] = ()) -> None:
        """Add one id."""
        self._pending.append(hash(text) & _BITS | tag)
        if amounts:
            self._amounts.append(amounts)
        self.count += 1
        if len(self._pending) == _BUFFER:
            self._flush()

    def repeated(self) -> set[int]:
        """Give the hashes of ids that were added more than once (at most one slice's worth of them)."""
        return self._collect(lambda ids: ids[1:][ids[1:] >> 2 == ids[:-1] >> 2] >> 2)

    def under_two_tags(self) -> set[int]:
        """Give the hashes of ids that were added under more than one tag (at most one slice's worth)."""
        return self._collect(lambda ids: ids[1:][(ids[1:] >> 2 == ids[:-1] >> 2) & (ids[1:] != ids[:-1])] >> 2)

    def totals(self) -> npt.NDArray[np.float64]:
        """Give how many ids there are under each tag, and the sums of the first amounts of each.

        Returns:
            (4, 1 + amounts), a row a tag.
        """
        totals = np.zeros((4, 1 + self._record["amounts"].shape[0]))
        for records in self._sorted_slices():
            ids = records["id"]
            firsts = records[np.concatenate([[True], ids[1:] != ids[:-1]])]
            tags = (firsts["id"] & np.uint64(3)).astype(np.intp)
            np.add.at(totals[:, 0], tags, 1)
            np.add.at(totals[:, 1:], tags, firsts["amounts"])
        return totals

    def _flush(self) -> None:
        records = np.empty(len(self._pending), self._record)
        records["id"] = self._pending
        if self._amounts:
            records["amounts"] = self._amounts
        records.tofile(self._file)
        self._pending.clear()
        self._amounts.clear()

    def _collect(self, select: Callable[[_Ids], _Ids]) -> set[int]:
        found: set[int] = set()
        for records in self._sorted_slices():
            found.update(int(value) for value in select(records["id"]))
            if len(found) >= _SLICE:
                break
        return found

    def _sorted_slices(self) -> Iterator[_Records]:
        """Yield the first two records of each id in order of the ids, in slices that never part equal hashes."""
        self._flush()
        slices = self.count // _SLICE + 1
        edges = [(2**64 * i // slices) >> 2 << 2 for i in range(slices)] + [2**64]
        for low, high in itertools.pairwise(edges):
            self._file.seek(0)
            parts = []
            while len(block := np.frombuffer(self._file.read(self._record.itemsize * _SLICE), self._record)):
                parts.append(_at_most_two(block[(block["id"] >= low) & (block["id"] <= high - 1)]))
            records = _at_most_two(np.concatenate([*parts, np.empty(0, self._record)]))
            if len(records):
                yield records


def _at_most_two(records: _Records) -> _Records:
    """Sort records by their ids and keep the first two of each, so that one id in every row costs no memory."""
    records = records[np.argsort(records["id"], kind="stable")]
    third = np.zeros(len(records), np.bool_)
    third[2:] = records["id"][2:] == records["id"][:-2]
    return records[~third]
