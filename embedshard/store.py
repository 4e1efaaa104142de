"""Every write: whole files under a temporary name, renamed when complete; on a storage, uploaded when complete.

May import `errors` and `remote`. fsspec is imported where a storage is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from embedshard.errors import InputError
from embedshard.remote import AnyPath, Url

__all__ = [
    "Staging",
    "exclusive",
    "is_temporary",
    "json_text",
    "on_disk",
    "publish",
    "remove_temporary",
    "write_bytes",
    "write_json",
    "write_new",
]

_TEMPORARY = ".tmp-"
_MOMENT = 0.1  # seconds
_STAGED = 8 << 30
_COPY = 1 << 22


class Staging:
    """Room on the local disk for files on their way to a storage, shared by the threads of a process.

    Args:
        folder: Where they lie; None is the system's folder of temporary files.
        limit: Bytes: while as many are there, no other file is begun, so at most the files in hand come on top.
    """

    def __init__(self, folder: Path | None = None, limit: int = _STAGED) -> None:
        self._folder, self._limit = folder, limit
        self._files: set[IO[bytes]] = set()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def file(self) -> Iterator[IO[bytes]]:
        """Wait for room, and give a file that is removed when the block ends."""
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix="embedshard-", dir=self._folder) as file:
            with self._changed:
                self._changed.wait_for(lambda: self._used() < self._limit)
                self._files.add(file)
            try:
                yield file
            finally:
                with self._changed:
                    self._files.remove(file)
                    self._changed.notify_all()

    def _used(self) -> int:
        return sum(os.fstat(file.fileno()).st_size for file in self._files)


_STAGING = Staging()


@contextlib.contextmanager
def publish(
    path: AnyPath, *, sync: bool = True, shared: bool = False, staging: Staging = _STAGING
) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name only when the block ends well.

    The temporary name follows from the final one, so a run that takes up where a killed one stopped writes over
    what that left behind.

    Args:
        path: The final name; its folder is made if need be.
        sync: Flush to the disk before the rename, so that the file survives a power cut.
        shared: Whether other processes, of other machines too, may write the same file meanwhile.
        staging: Where a file for a storage lies until it is whole.

    Yields:
        A binary file open for writing.

    Raises:
        RemoteError: The storage does not take the file.
    """
    if isinstance(path, Url):
        with staging.file() as file:
            yield file
            file.flush()
            path.upload(Path(file.name), None if path.shows_only_whole_files else path.parent / _temporary(path.name))
        return
    token = f"{uuid.uuid4().hex}-" if shared else ""
    temporary = path.with_name(_temporary(token + path.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: AnyPath, data: bytes, *, sync: bool = False) -> None:
    """Write a whole file at once; it is there with all of `data` or not at all."""
    with publish(path, sync=sync) as file:
        file.write(data)


def write_new(path: AnyPath, data: bytes) -> None:
    """Write a whole file, unless there is one.

    Of several writers at once the first one's stays on s3://; elsewhere the last one's, unless they hold the folder.
    """
    if isinstance(path, Url) and path.creates:
        path.create(data)
    elif not path.exists():
        write_bytes(path, data, sync=True)


def write_json(path: AnyPath, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, whole and synced."""
    write_bytes(path, json_text(value), sync=True)


def json_text(value: Any) -> bytes:
    """Give `value` as indented UTF-8 JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).encode() + b"\n"


@contextlib.contextmanager
def on_disk(path: AnyPath, staging: Staging = _STAGING) -> Iterator[Path]:
    """Give a file itself, or where it lies on a storage a copy of it that is removed when the block ends."""
    if isinstance(path, Path):
        yield path
        return
    with staging.file() as file:
        with path.open("rb") as source:
            shutil.copyfileobj(source, file, _COPY)
        file.flush()
        yield Path(file.name)


def _temporary(name: str) -> str:
    return _TEMPORARY + name


def is_temporary(name: str) -> bool:
    """Tell whether a file name is one that `publish` uses before the rename."""
    return name.startswith(_TEMPORARY)


def remove_temporary(folder: AnyPath) -> int:
    """Remove what killed runs left half-written in `folder` itself; returns how many files.

    A storage keeps none that can be seen.
    """
    if isinstance(folder, Url) or not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        leftovers = [entry.path for entry in entries if is_temporary(entry.name) and not entry.is_dir()]
    for leftover in leftovers:
        os.unlink(leftover)
    return len(leftovers)


@contextlib.contextmanager
def exclusive(folder: AnyPath, patience: float = 0, shared: bool = False) -> Iterator[None]:
    """Hold `folder` for one writing process; the hold ends with the process, however it ends.

    A storage knows no such hold: there, what two processes write at once must be the same.

    Args:
        folder: It is made if need be.
        patience: Seconds to wait for another process.
        shared: Hold it together with others who do so too.

    Raises:
        InputError: Another process holds it.
    """
    if isinstance(folder, Url):
        yield
        return
    until = time.monotonic() + patience
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            while not _locked(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                if time.monotonic() >= until:
                    raise InputError(
                        f"another embedshard process is writing to {folder}; wait for it, or give another folder"
                    )
                time.sleep(_MOMENT)
            if _is_at(descriptor, folder):
                yield
                return
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, folder: Path) -> bool:
    """Tell whether what is held still is the folder; whoever held it before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except FileNotFoundError:
        return False


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
