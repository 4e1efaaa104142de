"""Where the samples of a tar lie: by the idx beside it, else by its headers, which are read many at once.

Imports numpy; of ours `errors`, `tar` and `shard.offsets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import add, eq, itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError
from embedshard.shard.offsets import Offsets, offsets_path, read_offsets
from embedshard.tar import BLOCK, index_members

__all__ = ["PARTS", "Layout", "check_layout", "grouped", "read_layout"]

PARTS = ("json", "npy", "txt", "cap")
_AT_ONCE = 4096  # headers, 2 MiB
_CHECKSUM = slice(148, 156)
_TYPE, _PREFIX = 156, 345
_HEADER = np.dtype([("name", "S100"), ("", "V24"), ("size", "S12")])

T = TypeVar("T")
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """Where the samples of a tar lie.

    Attributes:
        keys: Their keys.
        spans: For each ending, where in the tar each sample's member begins and ends; 0 where there is none.
        offsets: The idx that says so; None where the headers do.
    """

    keys: list[str]
    spans: dict[str, tuple[list[int], list[int]]]
    offsets: Offsets | None = None


def read_layout(tar: Path | None, data: memoryview) -> Layout:
    """Find the samples of a tar.

    Args:
        tar: Its path, where an idx may lie beside it.
        data: The whole tar.

    Raises:
        ValueError: It is damaged.
    """
    if tar is not None and offsets_path(tar).is_file():
        offsets = read_offsets(tar)
        spans = {
            part: (offsets[part][:, 0].tolist(), offsets[part].sum(axis=1, dtype=np.int64).tolist())
            for part in PARTS[:3]
        }
        return Layout([key.decode() for key in offsets["key"].tolist()], spans, offsets)
    members = _plain_members(data)
    if members is None:
        members = [(name, offset, offset + size) for name, offset, size, _ in index_members(data)]
    return _our_layout(members) or _any_layout(members)


def _our_layout(members: list[tuple[str, int, int]]) -> Layout | None:
    """Lay out a tar as we write them, with json, npy and txt of every sample; None if it is another."""
    names = [name for name, _, _ in members]
    keys = [name.removesuffix(".json") for name in names[::3]]
    plain = all(key and "." not in key and "/" not in key for key in keys) and not any(map(eq, keys, keys[1:]))
    if not keys or not plain or names != [f"{key}.{part}" for key in keys for part in PARTS[:3]]:
        return None
    _, starts, stops = zip(*members, strict=True)
    return Layout(keys, {part: (list(starts[at::3]), list(stops[at::3])) for at, part in enumerate(PARTS[:3])})


def _any_layout(members: list[tuple[str, int, int]]) -> Layout:
    layout = Layout([], {part: ([], []) for part in PARTS})
    for key, parts in grouped((name, (start, stop)) for name, start, stop in members):
        layout.keys.append(key)
        for part, (starts, stops) in layout.spans.items():
            start, stop = parts.get(part, (0, 0))
            starts.append(start)
            stops.append(stop)
    return Layout(layout.keys, {part: spans for part, spans in layout.spans.items() if any(spans[0])})


def check_layout(tar: str, data: memoryview, layout: Layout, rows: npt.NDArray[Any]) -> None:
    """Check by the headers that samples lie where an idx says.

    Args:
        tar: Its path, for the error message.
        data: The whole tar.
        layout: What to check; nothing to do if headers have said it.
        rows: Numbers of the samples.

    Raises:
        InputError: They do not; the idx is of another tar.
    """
    if layout.offsets is None:
        return
    heads = np.ndarray(max(len(data) - _HEADER.itemsize, 0), _HEADER, data, strides=(1,))
    for part in PARTS[:3]:
        there = layout.offsets[rows]
        there = there[there[part][:, 0] > 0]
        found = heads[there[part][:, 0].astype(np.int64) - BLOCK]
        digits = found["size"].copy().view(np.uint8).reshape(-1, 12)[:, :11].astype(np.int64) - ord("0")
        same = digits @ 8 ** np.arange(10, -1, -1) == there[part][:, 1].astype(np.int64)
        named = found["name"] == np.char.add(there["key"], f".{part}".encode())
        if part == "txt":
            named |= found["name"] == np.char.add(there["key"], b".cap")
        if not (same & named).all():
            key, idx = there["key"][~(same & named)][0].decode(), offsets_path(Path(tar))
            raise InputError(
                f"{tar}, key {key}: expected its {part} where {idx.name} says, found another member; the idx is of "
                f"another tar: rm {idx}"
            )


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


def _split_name(name: str) -> tuple[str, str]:
    """Split a name at the first dot after the last slash; the key is empty for a file that is no part of a sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, field = base.partition(".")
    return folder + slash + stem if stem and dot else "", field


def _plain_members(data: memoryview) -> list[tuple[str, int, int]] | None:
    """Tell where every member begins and ends; None unless all are files with a plain header, intact to the end."""
    starts, sizes, at, end = [], [], 0, len(data)
    while at + BLOCK <= end:
        try:
            size = int(bytes(data[at + 124 : at + 135]), 8)
        except ValueError:  # the end mark
            break
        if size < 0:
            return None
        starts.append(at)
        sizes.append(size)
        at += BLOCK + size + -size % BLOCK
    if at + BLOCK > end or any(data[at : at + BLOCK]):
        return None
    names: list[bytes] = []
    blocks = np.frombuffer(data[:at], np.uint8).reshape(-1, BLOCK)
    for first in range(0, len(starts), _AT_ONCE):
        headers = blocks[np.array(starts[first : first + _AT_ONCE]) // BLOCK]
        if not _plain(headers):
            return None
        names += np.ascontiguousarray(headers[:, :100]).view("S100")[:, 0].tolist()
    if any(b"\0" in name for name in names):
        return None
    begins = [start + BLOCK for start in starts]
    return list(zip([name.decode("utf-8", "replace") for name in names], begins, map(add, begins, sizes), strict=True))


def _plain(headers: Bytes) -> bool:
    """Tell whether headers (count, 512) are intact, of files, and hold the whole name."""
    field = headers[:, _CHECKSUM]
    digits = field.astype(np.int64) - ord("0")
    leading = np.logical_and.accumulate((digits >= 0) & (digits < 8), axis=1)
    stated = np.zeros(len(headers), np.int64)
    for column in range(field.shape[1]):
        stated = np.where(leading[:, column], stated * 8 + digits[:, column], stated)
    sums = headers.sum(axis=1, dtype=np.int64) - field.sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    files = np.isin(headers[:, _TYPE], [0, ord("0")]) & (headers[:, _PREFIX] == 0)
    return bool((files & (sums == stated)).all())
