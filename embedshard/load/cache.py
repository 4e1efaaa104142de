"""Copies of tars in a local folder, each there whole or not at all. May import `remote` and `errors` only."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from embedshard.errors import InputError
from embedshard.remote import Url

__all__ = ["Cache", "copy_blocks"]

_BLOCK = 1 << 24


@dataclass(frozen=True)
class Cache:
    """A folder of copies, which any number of processes may share.

    Attributes:
        folder: The folder.
        size: Bytes that it may hold; None for any number. The copies that were used longest ago go first.
    """

    folder: Path
    size: int | None = None

    def open(self, tar: Path | Url, record: Mapping[str, Any]) -> IO[bytes]:
        """Open the copy of a tar, which is made if it is not there.

        Its name is a hash of where the tar lies, of its size and of the hash that `index.json` has of it, so that a
        tar that was packed anew is copied anew.

        Args:
            tar: The tar.
            record: Its row of `index.json`, empty where there is none.

        Raises:
            InputError: What came is not what `index.json` says.
        """
        expected = record.get("bytes"), record.get("sha256")
        known = f"{tar} {expected if all(expected) else tar.stat().st_size}"
        path = self.folder / f"{hashlib.blake2b(known.encode(), digest_size=12).hexdigest()}.tar"
        while True:
            try:
                os.utime(path)
                return path.open("rb")
            except FileNotFoundError:  # also where another process made room in between
                self._make(tar, path, record)

    def _make(self, tar: Path | Url, path: Path, record: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
            try:
                size, digest = copy_blocks(tar, file)
                for name, found in (("bytes", size), ("sha256", digest)):
                    if record.get(name, found) != found:
                        raise InputError(
                            f"{tar}: expected {name} {record[name]}, as index.json says, found {found}; fetch or pack "
                            "it again"
                        )
                self._make_room(size)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    def _make_room(self, size: int) -> None:
        """Remove the copies that were used longest ago, until another one of `size` bytes fits."""
        if self.size is None:
            return
        with os.scandir(self.folder) as files:
            copies = sorted((file.stat().st_mtime, file.stat().st_size, file.path) for file in files if _is_copy(file))
        held = sum(size for _, size, _ in copies)
        for _, other, path in copies:
            if held + size <= self.size:
                return
            Path(path).unlink(missing_ok=True)
            held -= other


def _is_copy(file: os.DirEntry[str]) -> bool:
    try:
        return file.name.endswith(".tar") and file.stat().st_size >= 0
    except FileNotFoundError:  # another process removed it; stat keeps its answer otherwise
        return False


def copy_blocks(tar: Path | Url, file: IO[bytes]) -> tuple[int, str]:
    """Copy a tar in large blocks; gives its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    for block in _blocks(tar):
        file.write(block)
        digest.update(block)
        size += len(block)
    file.flush()
    return size, digest.hexdigest()


def _blocks(tar: Path | Url) -> Iterator[bytes]:
    if isinstance(tar, Url):
        size = tar.stat().st_size
        for start in range(0, size, _BLOCK):
            yield tar.read_range(start, min(start + _BLOCK, size))
        return
    with tar.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            yield block
