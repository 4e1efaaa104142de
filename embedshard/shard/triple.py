"""Is a triple fit to be packed: its head, caption and metadata, never its rows. May import `processed`, `errors`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.processed import Entry, NpyHeader, read_npy_header
from embedshard.tar import MAX_MEMBER

__all__ = [
    "BadTripleError",
    "Row",
    "Triple",
    "check_array",
    "inspect",
    "read_caption",
    "read_head",
    "read_metadata",
    "triple_bytes",
    "triple_paths",
]

_HEAD = 4096
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
    """What `inspect` saw of a good triple; `newest` is when a file of it last changed, in nanoseconds."""

    row: Row
    embed_dim: int
    dtype: str
    newest: int


def inspect(folder: Path, entry: Entry, key: str) -> Triple:
    """Look at a triple without reading the rows of its array.

    Args:
        folder: `<processed>/<split>`.
        entry: Which files it has.
        key: The key it is to have.

    Raises:
        BadTripleError: It cannot be packed.
    """
    if "npy" not in entry.parts:
        raise BadTripleError("no npy")
    if entry.caption_part is None:
        raise BadTripleError("no caption")
    pieces, newest, npy_size = {}, 0, 0
    try:
        for part, path in triple_paths(folder, entry.key, entry.parts).items():
            with open(path, "rb", buffering=0) as file:
                stat = os.fstat(file.fileno())
                pieces[part] = file.read(_HEAD if part == "npy" else -1)
            newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
            npy_size = stat.st_size if part == "npy" else npy_size
    except OSError as error:
        raise BadTripleError(f"cannot be read: {error.strerror}") from error
    header = check_array(pieces["npy"], npy_size)
    read_caption(pieces["txt"])
    read_metadata(pieces.setdefault("json", b"{}"))
    row = Row(key, entry.key, entry.parts, npy_size, header.shape[0], _digest(pieces))
    return Triple(row, header.shape[1], header.dtype.name, newest)


def triple_paths(folder: Path, stem: str, parts: Sequence[str]) -> dict[str, str]:
    """Give the files of a triple by the endings they have in a tar: `json`, `npy`, and `txt` also for a `.cap`."""
    return {"txt" if part == "cap" else part: f"{folder}/{stem}.{part}" for part in sorted(parts)}


def triple_bytes(folder: Path, row: Row) -> list[tuple[str, bytes]]:
    """Give the members of a triple, in the order json, npy, txt.

    Raises:
        OSError: A file is gone.
        BadTripleError: A file is not what it was when the plan was made.
    """
    pieces = {}
    for part, path in triple_paths(folder, row.stem, row.parts).items():
        with open(path, "rb", buffering=0) as file:
            pieces[part] = file.read()
    pieces.setdefault("json", b"{}")
    if len(pieces["npy"]) != row.npy_size or _digest({**pieces, "npy": pieces["npy"][:_HEAD]}) != row.digest:
        raise BadTripleError(f"{row.stem} has changed")
    return [(f"{row.key}.{part}", pieces[part]) for part in ("json", "npy", "txt")]


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


def read_head(path: str) -> NpyHeader:
    """Read the head of an npy file and check it.

    Raises:
        OSError: The file cannot be read.
        BadTripleError: It is no array of a triple.
    """
    with open(path, "rb", buffering=0) as file:
        return check_array(file.read(_HEAD), os.fstat(file.fileno()).st_size)


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
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadTripleError("json cannot be read") from error
    if not isinstance(value, dict):
        raise BadTripleError("json is not an object")
    return value


_header = lru_cache(1024)(read_npy_header)  # the heads of a dataset differ in frame_count only


def _digest(pieces: dict[str, bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in ("json", "npy", "txt"):
        digest.update(len(pieces[part]).to_bytes(8, "big") + pieces[part])
    return digest.hexdigest()
