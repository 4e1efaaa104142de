"""The sample: its key, split, media, caption and metadata. Imports nothing of ours but `errors`.

A source yields `Sample` for every row that can be used and `LeftOut` for every row that cannot, so that the
counts always add up to the rows of the raw dataset.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from embedshard.address import member_name
from embedshard.errors import InputError

__all__ = [
    "IMAGE_EXTENSIONS",
    "SPLITS",
    "VIDEO_EXTENSIONS",
    "Kind",
    "LeftOut",
    "Media",
    "Sample",
    "is_key",
    "make_key",
    "media_kind",
    "raw_id",
    "split_name",
]

SPLITS = ("train", "val", "test")
VIDEO_EXTENSIONS = frozenset(
    ".mp4 .mkv .webm .avi .mov .m4v .mpg .mpeg .ts .flv .wmv .ogv .3gp .gif".split(),
)
IMAGE_EXTENSIONS = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff .jpe .jfif".split())

Kind = Literal["video", "image", "frames"]

_SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_KEY_BYTES = 80
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_OWN_KEY = re.compile(r"(?![xh]--)[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_UNSAFE_BYTE = re.compile(rb"[^A-Za-z0-9_]")
_ESCAPED_BYTE = re.compile(rb"-([0-9a-f]{2})")
_ESCAPED, _HASHED = "x--", "h--"
_NO_FIELDS: Mapping[str, Any] = {}


class Media(NamedTuple):
    """One video, picture, GIF or folder of frames, with an optional window.

    Attributes:
        id: The dataset's own id of the media; splits by ratio hash it, so all windows of a video share it.
        path: Path (relative to the raw root, or absolute), or an address as `address.member_address` makes.
        kind: How it is decoded.
        start: Start of the window in seconds, None for the beginning.
        end: End of the window in seconds (not included), None for the end of the media.
        duration: Length of the whole media in seconds where the annotations tell it, else None; `prepare` clamps
            the window to it. The manifest does not keep it: `encode` measures.
    """

    id: str
    path: str
    kind: Kind
    start: float | None = None
    end: float | None = None
    duration: float | None = None


class Sample(NamedTuple):
    """One row of the manifest. `split` is "" where the raw dataset has none; `meta` must survive JSON."""

    key: str
    split: str
    media: Media
    caption: str
    meta: Mapping[str, Any] = _NO_FIELDS


class LeftOut(NamedTuple):
    """A raw row that gives no sample, with a reason that is the same text for all rows of its kind."""

    id: str
    reason: str


def is_key(text: str) -> bool:
    """Tell whether `text` is a key: at most 80 letters, digits, `_` and `-` that do not begin with `-`."""
    return len(text) <= _KEY_BYTES and _PLAIN_KEY.fullmatch(text) is not None


def make_key(raw_id: str) -> str:
    """Make the key of a sample from the dataset's own id.

    An id of letters, digits, `_` and `-` that does not begin with `-` is its own key. Any other becomes `x--` and
    the id with every other byte of its UTF-8 form (and `-`) written as `-hh`, which can be read back, so two ids
    never share a key. Above 80 bytes, `h--`, the first letters and 128 bits of the id's SHA-256 stand for it.

    Args:
        raw_id: Any text that is unique in the dataset.

    Returns:
        A key of at most 80 letters, digits, `_` and `-` that does not begin with `-`.

    Raises:
        InputError: `raw_id` is empty.
    """
    if _OWN_KEY.fullmatch(raw_id):
        return raw_id
    if not raw_id:
        raise InputError("expected an id for every sample, found an empty one")
    raw = raw_id.encode("utf-8", "surrogatepass")
    escaped = _UNSAFE_BYTE.sub(lambda m: b"-%02x" % m[0][0], raw).decode("ascii")
    if len(_ESCAPED) + len(escaped) <= _KEY_BYTES:
        return _ESCAPED + escaped
    digest = hashlib.sha256(raw).hexdigest()[:32]
    return f"{_HASHED}{escaped[: _KEY_BYTES - len(_HASHED) - 1 - len(digest)]}-{digest}"


def raw_id(key: str) -> str | None:
    """Give the id that `make_key` made a key of; None for one that is too long to be read back."""
    if key.startswith(_HASHED):
        return None
    if not key.startswith(_ESCAPED):
        return key
    escaped = key[len(_ESCAPED) :].encode("ascii")
    return _ESCAPED_BYTE.sub(lambda m: bytes([int(m[1], 16)]), escaped).decode("utf-8", "surrogatepass")


def split_name(raw: str) -> str | None:
    """Give `train`, `val` or `test` for the usual spellings (`validation`, `dev`, ...), None for any other text."""
    return _SPLIT_ALIASES.get(raw.strip().lower())


def media_kind(path: str) -> Kind | None:
    """Tell `video` or `image` by the extension of a file or member, else None; an animated GIF is a video."""
    _, dot, extension = (member_name(path) if "#" in path else path).rpartition(".")
    extension = dot + extension.lower()
    if extension in VIDEO_EXTENSIONS:
        return "video"
    return "image" if extension in IMAGE_EXTENSIONS else None
