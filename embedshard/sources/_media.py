"""Which media a raw tree holds, loose or in archives, found by name. May import `sample`, `_read`, `_archive`."""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedshard.address import member_name
from embedshard.sample import LeftOut, media_kind
from embedshard.sources._archive import archives, is_archive, members, tar_folders
from embedshard.sources._read import walk

__all__ = ["MediaIndex", "files", "frame_folders", "media_index"]


_HASH = 2**64 - 1


class MediaIndex(Mapping[str, str]):
    """Paths or addresses by name, in 28 bytes of memory each; the texts are on disk.

    Of several media of one name a GIF and a `.ts` go last, the others by their depth, then in the order they came.

    Attributes:
        problems: Archives and members that cannot be read, which a source yields beside its rows.
    """

    def __init__(self, found: Iterable[tuple[str, str] | LeftOut]) -> None:
        """Take names and paths."""
        self.problems: list[LeftOut] = []
        hashes, starts = array("Q"), array("Q", [0])
        with tempfile.TemporaryFile() as file:
            for item in found:
                if isinstance(item, LeftOut):
                    self.problems.append(item)
                    continue
                text = "\0".join(item).encode("utf-8", "surrogateescape")
                file.write(text)
                hashes.append(hash(item[0]) & _HASH)
                starts.append(starts[-1] + len(text))
            file.flush()
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if hashes else b""
        unsorted = np.array(hashes, np.uint64)
        order = np.argsort(unsorted, kind="stable").astype(np.uint32)
        ordered = unsorted[order]
        bits = max(1, len(hashes).bit_length() - 1)
        self._shift = 64 - bits
        edges = np.searchsorted(ordered, np.arange(1 << bits, dtype=np.uint64) << np.uint64(self._shift))
        self._buckets = array("I", edges.astype(np.uint32).tobytes())
        self._buckets.append(len(hashes))
        self._hashes, self._order = array("Q", ordered.tobytes()), array("I", order.tobytes())
        self._starts = starts

    def __getitem__(self, name: str) -> str:
        path: str | None = self.get(name)
        if path is None:
            raise KeyError(name)
        return path

    def get(self, name: str, default: Any = None) -> Any:
        """Give the path of a name, `default` where there is none."""
        paths = self.all(name)
        if len(paths) > 1:
            return min(paths, key=_worth)
        return paths[0] if paths else default

    def all(self, name: str) -> list[str]:
        """Give all media of a name, in the order they came."""
        wanted = hash(name) & _HASH
        bucket = wanted >> self._shift
        paths = []
        for at in range(self._buckets[bucket], self._buckets[bucket + 1]):
            if self._hashes[at] == wanted:
                found, path = self._entry(self._order[at])
                if found == name:
                    paths.append(path)
        return paths

    def __iter__(self) -> Iterator[str]:
        entries = map(self._entry, range(len(self._hashes)))
        return (name for name, path in entries if self[name] == path)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _entry(self, number: int) -> tuple[str, str]:
        text = self._text[self._starts[number] : self._starts[number + 1]]
        name, _, path = text.decode("utf-8", "surrogateescape").partition("\0")
        return name, path


def _worth(path: str) -> tuple[bool, int]:
    return member_name(path).lower().endswith((".gif", ".ts")), path.count("/")


def media_index(
    root: Path, kind: Literal["video", "image"], below: str = "", folders: int = 0, inside: str = ""
) -> MediaIndex:
    """Find all videos or all pictures of a tree: files, and members of its tars and zips.

    Args:
        root: Where the paths start from.
        kind: Which; an animated GIF is a video.
        below: Folder of `root` to look in.
        folders: How many of the folders that a file lies in belong to its name, as in `Faces/image_0001`.
        inside: Name of a folder that media must lie in, at any depth.

    Returns:
        For each name without its extension, the path relative to `root`, or the address.
    """

    def named() -> Iterator[tuple[str, str] | LeftOut]:
        for path, address in files(root, below):
            if not isinstance(address, str):
                yield address
            elif media_kind(path) == kind and (not inside or f"/{inside}/" in f"/{path}"):
                *places, name = path.rsplit("/", folders + 1)
                stem = name.rpartition(".")[0]
                named_by = places[1:] if len(places) > folders else places
                yield "/".join([*named_by, stem]), address

    return MediaIndex(named())


def frame_folders(root: Path, below: str = "") -> MediaIndex:
    """Find all folders of pictures of a tree, and those in its tars, by their own names.

    Args:
        root: Where the paths start from.
        below: Folder of `root` to look in.
    """

    def named() -> Iterator[tuple[str, str] | LeftOut]:
        start = f"{below}/" if below else ""
        for folder, _, names in walk(root / below, None):
            place = f"{start}{folder}".rstrip("/")
            if place and any(media_kind(name) == "image" for name in names):
                yield place.rpartition("/")[2], place
            for name in names:
                if is_archive(name) and not name.lower().endswith(".zip"):
                    for found in tar_folders(root / below / folder / name, f"{start}{folder}{name}"):
                        yield found if isinstance(found, LeftOut) else (found[0].rpartition("/")[2], found[1])

    return MediaIndex(named())


def files(root: Path, below: str = "") -> Iterator[tuple[str, str | LeftOut]]:
    """Yield the path of every file and its address; or why there is none.

    The path of an archive's member is as if the archive were a folder.
    """
    start = f"{below}/" if below else ""
    packed: list[str] = []
    for folder, _, names in walk(root / below, None):
        for name in names:
            path = f"{start}{folder}{name}"
            if is_archive(name):
                packed.append(path)
            else:
                yield path, path
    for archive in archives(packed):
        for member in members(root / archive, archive):
            if isinstance(member, LeftOut):
                yield archive, member
            elif "/." not in (path := f"{archive}/{member[0]}"):
                yield path, member[1]
