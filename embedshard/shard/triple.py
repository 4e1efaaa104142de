"""Is a triple fit to be packed: its head, caption and metadata, never its rows.

May import `processed`, `remote`, `tar`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from embedshard.processed import Entry, NpyHeader, Place, read_npy_header
from embedshard.remote import AnyPath, Url
from embedshard.tar import MAX_MEMBER

__all__ = [
    "HEAD",
    "BadTripleError",
    "Facts",
    "Reader",
    "changed_at",
    "check_array",
    "inspect",
    "media_id",
    "read_caption",
    "read_head",
    "read_metadata",
    "require_whole",
]

HEAD = 1024  # bytes of an npy that are looked at
_HEAD = 4096  # the most that the head of one can have
_OPEN = 64
_DTYPES = {"<f2": "float16", "<f4": "float32"}  # `dtype.name` takes ten times as long


class BadTripleError(ValueError):
    """Why a triple cannot be packed; the same text for all triples of its kind."""


class Facts(NamedTuple):
    """What `inspect` saw of a good triple.

    Attributes:
        frames: Rows of its array.
        embed_dim: Width of its array.
        dtype: Of its array.
        digest: Hash of json, caption and the head of the npy.
        media: Its media, if its metadata names it.
    """

    frames: int
    embed_dim: int
    dtype: str
    digest: str
    media: str | None


class Reader:
    """Reads triples of one split, loose or in parts; the parts used last stay open. Close it, or use `with`."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self._parts: dict[str, tuple[int, int]] = {}
        self._opened: int | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        for descriptor, _ in self._parts.values():
            os.close(descriptor)
        self._parts.clear()
        if self._opened is not None:
            os.close(self._opened)

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
        if not entry.tar:
            return self.read_loose(entry.key, entry.parts, head)
        pieces, newest, npy_size = {}, 0, 0
        for part, place in zip(entry.parts, entry.places, strict=True):
            npy_size = place.size if part == "npy" else npy_size
            limit = min(head, place.size) if part == "npy" and head >= 0 else place.size
            pieces["txt" if part == "cap" else part], newest = self.range(entry.tar, place.offset, limit)
        return pieces, npy_size, newest

    def read_loose(self, stem: str, parts: Sequence[str], head: int = -1) -> tuple[dict[str, bytes], int, int]:
        """Read a loose triple; see `read`.

        Args:
            stem: Its files' name without the ending.
            parts: The endings, sorted, so that a `.txt` counts where there is a `.cap` too.
            head: How much of its npy to read.
        """
        if self._opened is None:  # from there a file is found sooner than by its whole path
            self._opened = os.open(str(self.folder), os.O_RDONLY)
        pieces, newest, npy_size = {}, 0, 0
        for part in parts:
            data, size, changed = _read_file(f"{stem}.{part}", head if part == "npy" else -1, self._opened)
            pieces["txt" if part == "cap" else part] = data
            if changed > newest:
                newest = changed
            if part == "npy":
                npy_size = size
        return pieces, npy_size, newest

    def range(self, tar: str, offset: int, size: int) -> tuple[bytes, int]:
        """Read a range of a part; gives it and when the part last changed, 0 where it lies on a storage.

        Raises:
            OSError: It cannot be read, or ends before the range does.
        """
        if isinstance(self.folder, Url):
            return (self.folder / tar).read_range(offset, offset + size) if size else b"", 0
        part = self._parts.pop(tar, None)
        if part is None:
            if len(self._parts) >= _OPEN:
                os.close(self._parts.pop(next(iter(self._parts)))[0])
            descriptor = os.open(self.folder / tar, os.O_RDONLY)
            part = descriptor, changed_at(os.fstat(descriptor))
        self._parts[tar] = part
        return _read_whole(part[0], offset, size), part[1]


def require_whole(parts: Sequence[str]) -> None:
    """Check that what there is of a triple can be one.

    Raises:
        BadTripleError: Its npy or its caption is not there, or a member twice.
    """
    if "npy" not in parts:
        raise BadTripleError("no npy")
    if "txt" not in parts and "cap" not in parts:
        raise BadTripleError("no caption")
    if len(set(parts)) < len(parts):
        raise BadTripleError("a member is there twice")


def inspect(pieces: Mapping[str, bytes], npy_size: int) -> Facts:
    """Look at a triple without the rows of its array.

    Args:
        pieces: Its json, if it has one, its txt, and the first `HEAD` bytes of its npy or more.
        npy_size: Of the whole npy, in bytes.

    Raises:
        BadTripleError: It cannot be packed.
    """
    npy, caption, metadata = pieces["npy"][:HEAD], pieces["txt"], pieces.get("json", b"{}")
    header = check_array(npy, npy_size)
    read_caption(caption)
    media = media_id(read_metadata(metadata))
    sizes = f"{len(metadata)},{npy_size},{len(caption)},".encode()
    digest = hashlib.blake2b(b"".join((sizes, metadata, npy, caption)), digest_size=16).hexdigest()
    return Facts(header.shape[0], header.shape[1], _DTYPES[header.dtype.str], digest, media)


def check_array(head: bytes, size: int) -> NpyHeader:
    """Check the head of an npy file against the seed format: (frame_count, embed_dim), float16 or float32.

    Args:
        head: The file, or at least its head.
        size: Size of the whole file in bytes.

    Raises:
        BadTripleError: It is something else, or the file is cut off.
    """
    try:
        header = read_npy_header(head[:_HEAD])
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


def changed_at(stat: os.stat_result) -> int:
    """Give when a file last changed, in nanoseconds."""
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


def _read_file(path: str, limit: int, folder: int | None = None) -> tuple[bytes, int, int]:
    """Read a file, or its beginning; gives that, its size, and when it last changed."""
    descriptor = os.open(path, os.O_RDONLY, dir_fd=folder)
    try:
        stat = os.fstat(descriptor)
        size = stat.st_size
        wanted = size if limit < 0 else min(limit, size)
        data = os.pread(descriptor, wanted, 0)
        if len(data) < wanted:  # one call reads 2 GiB at most
            data = _read_whole(descriptor, 0, wanted)
        return data, size, changed_at(stat)
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
