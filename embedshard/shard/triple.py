"""Is a triple fit to be packed: its head, caption and metadata, never its rows. May import `processed`, `tar`.

Loose triples are read again when they are packed, and compared with what was seen then. Of parts, which never change
once they are there, ranges of bytes are copied.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from embedshard.processed import Entry, NpyHeader, Place, read_npy_header
from embedshard.tar import BLOCK, MAX_MEMBER, member_blocks

__all__ = [
    "BadTripleError",
    "Reader",
    "Row",
    "Triple",
    "check_array",
    "inspect",
    "media_id",
    "plan_line",
    "read_caption",
    "read_head",
    "read_metadata",
    "triple_blocks",
    "triple_paths",
]

_HEAD = 4096
_OPEN = 64
_ABSENT = Place(0, -1, False)
_DTYPES = ("<f2", "<f4")


class BadTripleError(ValueError):
    """Why a triple cannot be packed; the same text for all triples of its kind."""


class Row(NamedTuple):
    """A good triple as the plan knows it.

    Attributes:
        key: Its key in the tars.
        stem: Its files' name without the ending.
        parts: Which files it has.
        npy_size: Size of the npy in bytes.
        frames: Rows of the array.
        digest: Hash of json, caption and the head of the npy, so that a change after the plan is noticed.
    """

    key: str
    stem: str
    parts: Sequence[str]
    npy_size: int
    frames: int
    digest: str


@dataclass(frozen=True)
class Triple:
    """What `inspect` saw of a good triple.

    Attributes:
        row: What is planned.
        embed_dim: Width of its array.
        dtype: Of its array.
        newest: When a file of it last changed, in nanoseconds.
        where: Where it lies, as `plan_line` takes it.
        media: Its media, if its metadata names it.
    """

    row: Row
    embed_dim: int
    dtype: str
    newest: int
    where: str
    media: str | None


class Reader:
    """Reads triples of one split, loose or in parts; the parts used last stay open. Close it, or use `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        for descriptor, _ in self._parts.values():
            os.close(descriptor)
        self._parts.clear()

    def read(self, entry: Entry, head: int = -1) -> tuple[dict[str, bytes], int, int]:
        """Read a triple.

        Args:
            entry: What there is of it.
            head: How much of its npy to read; all for -1.

        Returns:
            Its pieces by the endings they have in a tar, the size of its npy, and when the last of its files changed.

        Raises:
            OSError: A file cannot be read.
        """
        pieces, newest, npy_size = {}, 0, 0
        if entry.tar:
            for part, place in zip(entry.parts, entry.places, strict=True):
                npy_size = place.size if part == "npy" else npy_size
                limit = min(head, place.size) if part == "npy" and head >= 0 else place.size
                pieces["txt" if part == "cap" else part], newest = self.range(entry.tar, place.offset, limit)
            return pieces, npy_size, newest
        for part, path in triple_paths(self.folder, entry.key, entry.parts).items():
            pieces[part], size, changed = _read_file(path, head if part == "npy" else -1)
            newest = max(newest, changed)
            npy_size = size if part == "npy" else npy_size
        return pieces, npy_size, newest

    def range(self, tar: str, offset: int, size: int) -> tuple[bytes, int]:
        """Read a range of a part; gives it and when the part last changed.

        Raises:
            OSError: It cannot be read, or ends before the range does.
        """
        part = self._parts.pop(tar, None)
        if part is None:
            if len(self._parts) >= _OPEN:
                os.close(self._parts.pop(next(iter(self._parts)))[0])
            descriptor = os.open(self.folder / tar, os.O_RDONLY)
            part = descriptor, _changed(os.fstat(descriptor))
        self._parts[tar] = part
        return _read_whole(part[0], offset, size), part[1]


def inspect(reader: Reader, entry: Entry, key: str) -> Triple:
    """Look at a triple without reading the rows of its array.

    Args:
        reader: Of its split.
        entry: What there is of it.
        key: The key it is to have.

    Raises:
        BadTripleError: It cannot be packed.
    """
    if "npy" not in entry.parts:
        raise BadTripleError("no npy")
    if entry.caption_part is None:
        raise BadTripleError("no caption")
    if len(set(entry.parts)) < len(entry.parts):
        raise BadTripleError("a member is there twice")
    try:
        pieces, npy_size, newest = reader.read(entry, _HEAD)
    except OSError as error:
        raise BadTripleError(f"cannot be read: {error.strerror}") from error
    header = check_array(pieces["npy"], npy_size)
    read_caption(pieces["txt"])
    meta = read_metadata(pieces.setdefault("json", b"{}"))
    row = Row(key, entry.key, entry.parts, npy_size, header.shape[0], _digest(pieces))
    return Triple(row, header.shape[1], header.dtype.name, newest, _where(entry, key), media_id(meta))


def plan_line(row: Row, where: str) -> bytes:
    """Give the line by which `triple_blocks` finds a triple: as short as can be for one of a part."""
    return (f"{row.key},{where}" if where else json.dumps(row)).encode() + b"\n"


def triple_blocks(reader: Reader, line: bytes, newest: int) -> Iterable[bytes]:
    """Give the members of a triple as they lie in a tar, in the order json, npy, txt.

    Args:
        reader: Of its split.
        line: Its line of the plan.
        newest: When the last part of the plan changed.

    Raises:
        OSError: A file is gone.
        BadTripleError: A file is not what it was when the plan was made.
    """
    if line.startswith(b"["):
        row = Row(*json.loads(line))
        pieces, _, _ = reader.read(Entry(row.stem, tuple(row.parts)))
        pieces.setdefault("json", b"{}")
        if len(pieces["npy"]) != row.npy_size or _digest({**pieces, "npy": pieces["npy"][:_HEAD]}) != row.digest:
            raise BadTripleError(f"{row.stem} has changed")
        return [block for part in ("json", "npy", "txt") for block in member_blocks(f"{row.key}.{part}", pieces[part])]
    key, tar, as_it_is, *numbers = line[:-1].decode().split(",")
    ranges = list(map(int, numbers))
    if as_it_is == "1":
        first, after = ranges[0] - BLOCK, ranges[4] + ranges[5] + -ranges[5] % BLOCK
        block, changed = reader.range(tar, first, after - first)
        blocks: list[bytes] = [block]
    else:
        blocks, changed = [], 0
        for part, offset, size in zip(("json", "npy", "txt"), ranges[::2], ranges[1::2], strict=True):
            data, changed = reader.range(tar, offset, max(size, 0))
            blocks += member_blocks(f"{key}.{part}", data if size >= 0 else b"{}")
    if changed > newest:
        raise BadTripleError(f"{tar} has changed")
    return blocks


def triple_paths(folder: Path, stem: str, parts: Sequence[str]) -> dict[str, str]:
    """Give the files of a triple by the endings they have in a tar: `json`, `npy`, and `txt` also for a `.cap`."""
    return {"txt" if part == "cap" else part: f"{folder}/{stem}.{part}" for part in sorted(parts)}


def check_array(head: bytes, size: int) -> NpyHeader:
    """Check the head of an npy file against the seed format: (frame_count, embed_dim), float16 or float32.

    Args:
        head: The file, or at least its first 4096 bytes.
        size: Size of the whole file in bytes.

    Raises:
        BadTripleError: It is something else, or the file is cut off.
    """
    try:
        first_version = head[6:7] == b"\1"
        header = _header(head[: 10 + int.from_bytes(head[8:10], "little") if first_version else _HEAD])
    except Exception as error:  # numpy raises many kinds over a damaged head
        raise BadTripleError("npy has no readable head") from error
    if len(header.shape) != 2:
        raise BadTripleError(f"npy has {len(header.shape)} dimensions, expected 2")
    if 0 in header.shape:
        raise BadTripleError("npy has no rows")
    if header.dtype.str not in _DTYPES:
        raise BadTripleError(f"npy is {header.dtype.str}, expected float16 or float32")
    if size != header.file_size:
        raise BadTripleError("npy has another size than its head says")
    if size > MAX_MEMBER:
        raise BadTripleError("npy is over 8 GiB")
    return header


def read_head(path: str, place: Place | None = None) -> NpyHeader:
    """Read the head of an npy file, or of one that lies in a part, and check it.

    Raises:
        OSError: The file cannot be read.
        BadTripleError: It is no array of a triple.
    """
    if place:
        with open(path, "rb", buffering=0) as file:
            return check_array(os.pread(file.fileno(), min(_HEAD, place.size), place.offset), place.size)
    head, size, _ = _read_file(path, _HEAD)
    return check_array(head, size)


def read_caption(data: bytes) -> str:
    """Give the caption.

    Raises:
        BadTripleError: It is blank or not UTF-8.
    """
    try:
        caption = data.decode()
    except UnicodeDecodeError as error:
        raise BadTripleError("caption is not UTF-8") from error
    if not caption.strip():
        raise BadTripleError("caption is blank")
    return caption


def read_metadata(data: bytes) -> dict[str, Any]:
    """Give the metadata.

    Raises:
        BadTripleError: It is no JSON object.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:  # it may still be what Python calls JSON
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadTripleError("json cannot be read") from error
    if not isinstance(value, dict):
        raise BadTripleError("json is not an object")
    return value


def media_id(metadata: Mapping[str, Any]) -> str | None:
    """Give the id of a sample's media, None where its metadata names none."""
    media = metadata.get("media_id") or metadata.get("media")
    return media if isinstance(media, str) else json.dumps(media) if media else None


_header = lru_cache(1024)(read_npy_header)  # the heads of a dataset differ in frame_count only


def _digest(pieces: dict[str, bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in ("json", "npy", "txt"):
        digest.update(len(pieces[part]).to_bytes(8, "big") + pieces[part])
    return digest.hexdigest()


def _where(entry: Entry, key: str) -> str:
    """Give a part, whether the triple lies in it just as it would in a shard, and offset and size of each piece."""
    if not entry.tar:
        return ""
    found = dict(zip(("txt" if part == "cap" else part for part in entry.parts), entry.places, strict=True))
    places = [found.get(part, _ABSENT) for part in ("json", "npy", "txt")]
    follows = all(
        before.offset + before.size + -before.size % BLOCK + BLOCK == after.offset
        for before, after in itertools.pairwise(places)
    )
    as_it_is = follows and key == entry.key and "cap" not in entry.parts and all(place.plain for place in places)
    return ",".join([entry.tar, str(int(as_it_is)), *(f"{place.offset},{place.size}" for place in places)])


def _changed(stat: os.stat_result) -> int:
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


def _read_file(path: str, limit: int) -> tuple[bytes, int, int]:
    """Read a file, or its beginning; gives that, its size, and when it last changed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        stat = os.fstat(descriptor)
        wanted = stat.st_size if limit < 0 else min(limit, stat.st_size)
        return _read_whole(descriptor, 0, wanted), stat.st_size, _changed(stat)
    finally:
        os.close(descriptor)


def _read_whole(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while len(data) < size:  # one call reads 2 GiB at most
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise OSError(errno.EIO, "ends before its size says")
        data += more
    return data
