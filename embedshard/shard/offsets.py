"""Where the pieces of every sample of a tar lie: `ds_00000.idx` beside `ds_00000.tar`, or found by walking the tar.

May import `processed`, `tar`, `remote`, `errors`, and this room.

An idx is an npy file of one structured array, a record a sample in the tar's order, so `numpy.load(FILE)` reads it:

    key     bytes, as wide as the longest key of the tar
    json    offset and size of the content in the tar, in bytes; offset 0 for a piece that is not there
    npy     the same
    txt     the same
    frames  rows of the array
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedshard.processed import read_npy_header
from embedshard.remote import AnyPath, RemoteError, Url
from embedshard.shard.table import write_changed
from embedshard.tar import index_members, mapped, padded_size

__all__ = ["OffsetRow", "Offsets", "offsets_bytes", "offsets_path", "read_offsets", "walk_offsets", "write_offsets"]

Offsets: TypeAlias = npt.NDArray[np.void]
OffsetRow: TypeAlias = tuple[bytes, tuple[int, int], tuple[int, int], tuple[int, int], int]
"""key; offset and size of json, npy and txt; frames."""

_PIECES = {"json": 1, "npy": 2, "txt": 3, "cap": 3}
_ABSENT = (0, 0)
_HEAD = 4096


def offsets_path(tar: AnyPath) -> Any:
    """Give the path or URL of a tar's idx."""
    return tar.parent / (tar.name.removesuffix(".tar") + ".idx")


def read_offsets(tar: AnyPath) -> Offsets:
    """Read where the samples of a tar lie: from its idx if that is there and of this tar, else from its headers.

    Args:
        tar: A tar of triples, ours or not.

    Returns:
        A record a sample; see above for the fields.

    Raises:
        ValueError: The tar is damaged.
        OSError: It cannot be read.
    """
    try:
        offsets: Offsets = np.load(io.BytesIO(offsets_path(tar).read_bytes()), allow_pickle=False)
        if offsets.dtype == _dtype(offsets.dtype["key"].itemsize) and _end(offsets) == tar.stat().st_size:
            return offsets
    except RemoteError:
        raise
    except (FileNotFoundError, ValueError, KeyError, EOFError):
        pass
    if isinstance(tar, Url):
        return walk_offsets(tar.read_bytes())
    with mapped(tar) as data:
        return walk_offsets(data)


def walk_offsets(tar: Any) -> Offsets:
    """Find the samples of a tar by its headers; members side by side whose names agree up to the dot are one.

    Args:
        tar: The whole tar, as `embedshard.tar.index_members` takes it.

    Raises:
        ValueError: It is damaged.
    """
    rows: list[list[Any]] = []
    for name, offset, size, _ in index_members(tar):
        stem, _, piece = name.rpartition(".")
        if piece not in _PIECES or not stem:
            continue
        key = stem.encode()
        if not rows or rows[-1][0] != key:
            rows.append([key, _ABSENT, _ABSENT, _ABSENT, 0])
        rows[-1][_PIECES[piece]] = (offset, size)
        if piece == "npy":
            rows[-1][4] = _frames(bytes(tar[offset : offset + min(size, _HEAD)]))
    return _array(map(tuple, rows))


def write_offsets(tar: Path) -> bool:
    """Write the idx of a tar that has none, or one that does not fit; tells whether it wrote.

    Raises:
        ValueError: The tar is damaged.
    """
    with mapped(tar) as data:
        return write_changed(offsets_path(tar), offsets_bytes(walk_offsets(data).tolist()))


def offsets_bytes(rows: Iterable[OffsetRow]) -> bytes:
    """Give an idx."""
    file = io.BytesIO()
    np.save(file, _array(rows), allow_pickle=False)
    return file.getvalue()


def _array(rows: Iterable[Any]) -> Offsets:
    found = list(rows)
    return np.array(found, _dtype(max((len(row[0]) for row in found), default=1)))


def _dtype(width: int) -> np.dtype[np.void]:
    pieces = [(piece, "<u8", (2,)) for piece in ("json", "npy", "txt")]
    return np.dtype([("key", f"S{width}"), *pieces, ("frames", "<u8")])


def _end(offsets: Offsets) -> int:
    """Give the size that a tar has whose last piece ends where these say, as we write tars."""
    ends = [int(offsets[piece].sum(axis=1).max(initial=0)) for piece in ("json", "npy", "txt")]
    return padded_size(max(ends))


def _frames(head: bytes) -> int:
    try:
        shape = read_npy_header(head).shape
    except Exception:  # numpy raises many kinds over a damaged head
        return 0
    return shape[0] if shape else 0
