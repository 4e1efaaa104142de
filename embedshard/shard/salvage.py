"""Every sample that a tar still gives, however it is damaged. May import `processed`, `tar`, and this room.

Behind a damaged spot reading goes on at the next intact header, so that a flipped byte costs one sample, not the rest.
"""

from __future__ import annotations

import mmap
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embedshard.processed import NpyHeader
from embedshard.shard.triple import BadTripleError, check_array, read_caption, read_metadata
from embedshard.tar import read_members

__all__ = ["Found", "Piece", "Salvage", "check_sample"]

_MAGIC, _MAGIC_AT, _BLOCK = b"ustar", 257, 512
_PARTS = ("json", "npy", "txt", "cap")
_ALL = {"json", "npy", "txt"}
_NO_END = "the tar has no end mark"


class Piece(NamedTuple):
    """A member of a tar: its content, and where in the tar that begins."""

    data: bytes
    offset: int


class Found(NamedTuple):
    """A sample; `cut` tells that it lies beside damage and may lack a member."""

    key: str
    pieces: dict[str, Piece]
    cut: bool


@dataclass
class Salvage:
    """Reads a tar to its end, and tells what it met on the way.

    Attributes:
        path: The tar.
        damage: What is wrong with it, with the byte, for each damaged spot.
        foreign: Members that are no part of a sample, by their ending.
        unended: Whether there is no end mark though every member is whole, as where a writer was never closed.
    """

    path: Path
    damage: list[str] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)
    unended: bool = False

    def samples(self) -> Iterator[Found]:
        """Yield each run of members `<key>.json`, `.npy`, `.txt` (or `.cap`) of one key."""
        key, pieces, usual = "", dict[str, Piece](), _ALL
        cut = broken = False  # damage in or beside this sample, and since the last member
        for name, piece in self._members():
            stem, _, part = name.removeprefix("./").rpartition(".")
            if not name:
                cut = broken = True
            elif not stem or part not in _PARTS:
                self.foreign[f".{part}" if stem else name] += 1
            else:
                if stem != key or part in pieces:
                    if pieces:
                        yield Found(key, pieces, cut and not usual <= _named(pieces))
                        usual = usual if cut else _named(pieces)
                    key, pieces, cut = stem, {}, broken
                pieces[part], broken = piece, False
        if pieces:
            yield Found(key, pieces, (cut or self.unended) and not usual <= _named(pieces))

    def _members(self) -> Iterator[tuple[str, Piece]]:
        """Yield the members, and one without a name for each damaged spot.

        A member is held back until what follows it is intact: where it is not, and a header lies in the member, a piece
        of it was cut out.
        """
        end: int | None = 0
        with self.path.open("rb") as file:
            while end is not None:
                file.seek(end)
                begun, error, held = end, "", list[tuple[str, Piece]]()
                try:
                    for name, data in read_members(file):
                        yield from held
                        end = file.tell()
                        held = [(name, Piece(data, end - len(data) - -len(data) % _BLOCK))]
                    after = file.tell()
                except ValueError as found:
                    error, after = str(found), end + 1
                    inside = _next_header(self.path, held[0][1].offset + 1) if held else None
                    if inside is not None and inside < end:
                        held, after = [], inside
                yield from held
                here, end = end, _next_header(self.path, after)
                if end is None and (not error or error.startswith(_NO_END)):
                    self.unended = bool(error)
                else:
                    self.damage.append(error if error and not begun else f"no intact member at byte {here}")
                    yield "", Piece(b"", 0)


def check_sample(pieces: dict[str, bytes], embed_dim: int | None) -> NpyHeader:
    """Check a sample as `embedshard check` does.

    Args:
        pieces: `json`, `npy` and `txt`, as far as they are there.
        embed_dim: What the array must have; None where that is not known.

    Raises:
        BadTripleError: Something is wrong with it.
    """
    for part in ("npy", "txt", "json"):
        if part not in pieces:
            raise BadTripleError(f"no {part}")
    data = pieces["npy"]
    header = check_array(data, len(data))
    rows, width = header.shape
    if embed_dim not in (None, width):
        raise BadTripleError(f"embed_dim is {width}, expected {embed_dim}")
    if not np.isfinite(np.frombuffer(data[-rows * width * header.dtype.itemsize :], header.dtype)).all():
        raise BadTripleError("npy has values that are not finite")
    read_caption(pieces["txt"])
    times = read_metadata(pieces["json"]).get("frame_times")
    if isinstance(times, list) and len(times) != rows:
        raise BadTripleError("json has another number of frame_times than the npy has rows")
    return header


def _named(pieces: dict[str, Piece]) -> set[str]:
    return {"txt" if part == "cap" else part for part in pieces}


def _next_header(path: Path, start: int) -> int | None:
    """Give where the next intact header of a tar begins."""
    with path.open("rb") as file:
        if file.seek(0, 2) <= start:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            while (found := data.find(_MAGIC, start + _MAGIC_AT)) >= 0:
                start = found - _MAGIC_AT
                try:
                    tarfile.TarInfo.frombuf(data[start : start + _BLOCK], "utf-8", "surrogateescape")
                    return start
                except tarfile.HeaderError:
                    start += 1
    return None
