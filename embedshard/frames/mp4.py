"""The sample tables of an MP4 file, which tell when frames are shown without reading the media data.

ISO/IEC 14496-12: `stts` has the times of decoding, `ctts` the offsets from there to showing, `stss` the keyframes,
`elst` what part is to be shown. Imports nothing of ours.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["SampleTables", "read_sample_tables"]

_CONTAINERS = (b"mdia", b"minf", b"stbl", b"edts")
_FIRST = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


class SampleTables(NamedTuple):
    """The samples of one track in decoding order, times in units of the track's time scale.

    Attributes:
        dts: (samples,) times of decoding, from 0.
        pts: (samples,) times of showing on the same scale, before any edit.
        key: (samples,) which can be decoded without another.
        duration: (samples,) how long after each one the next is decoded.
        edits: How many parts of the track are to be shown one after the other; 0 where no list says.
    """

    dts: npt.NDArray[np.int64]
    pts: npt.NDArray[np.int64]
    key: npt.NDArray[np.bool_]
    duration: npt.NDArray[np.int64]
    edits: int


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


def read_sample_tables(file: BinaryIO) -> dict[int, SampleTables]:
    """Give the tables of every track by its id; none for a file that is no MP4, is fragmented or damaged.

    Args:
        file: Open for reading; is left at any position.
    """
    tables: dict[int, SampleTables] = {}
    try:
        size = file.seek(0, 2)
        file.seek(4)
        if file.read(4) not in _FIRST:
            return {}
        moov = next(box for box in _boxes(file, 0, size) if box.kind == b"moov")
        inside = list(_boxes(file, moov.start, moov.end))
        if any(box.kind == b"mvex" for box in inside):
            return {}
        for track in (box for box in inside if box.kind == b"trak"):
            boxes = dict(_leaves(file, track))
            tables[_track_id(file, boxes[b"tkhd"])] = _tables(file, boxes)
    except (OSError, ValueError, KeyError, IndexError, StopIteration, struct.error):
        return {}
    return tables


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            head = 16
        stop = start + size if size else end
        if stop < start + head or stop > end:
            raise ValueError(f"the box {kind!r} ends outside the one that holds it")
        yield _Box(kind, start + head, stop)
        start = stop


def _leaves(file: BinaryIO, box: _Box) -> Iterator[tuple[bytes, _Box]]:
    for inner in _boxes(file, box.start, box.end):
        if inner.kind in _CONTAINERS:
            yield from _leaves(file, inner)
        else:
            yield inner.kind, inner


def _track_id(file: BinaryIO, tkhd: _Box) -> int:
    file.seek(tkhd.start)
    head = file.read(24)
    (number,) = struct.unpack(">I", head[20:24] if head[0] == 1 else head[12:16])
    return int(number)


def _tables(file: BinaryIO, boxes: dict[bytes, _Box]) -> SampleTables:
    counts, steps = _table(file, boxes[b"stts"], 2).T
    duration = np.repeat(steps, counts)
    dts = np.cumsum(duration) - duration
    offset = np.zeros_like(dts)
    if b"ctts" in boxes:
        counts, offsets = _table(file, boxes[b"ctts"], 2).T
        given = np.repeat(offsets.astype(np.int32), counts)[: len(offset)]
        offset[: len(given)] = given
    key = np.ones(len(dts), np.bool_)
    if b"stss" in boxes:
        key[:] = False
        key[_table(file, boxes[b"stss"], 1)[:, 0] - 1] = True
    edits = _count(file, boxes[b"elst"]) if b"elst" in boxes else 0
    return SampleTables(dts, dts + offset, key, duration, edits)


def _count(file: BinaryIO, box: _Box) -> int:
    file.seek(box.start + 4)
    (count,) = struct.unpack(">I", file.read(4))
    return int(count)


def _table(file: BinaryIO, box: _Box, columns: int) -> npt.NDArray[np.int64]:
    """Read a table of 32-bit numbers, (rows, columns)."""
    size = 4 * columns * _count(file, box)
    if box.start + 8 + size > box.end:
        raise ValueError("the table is longer than its box")
    return np.frombuffer(file.read(size), ">u4").reshape(-1, columns).astype(np.int64)
