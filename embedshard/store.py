"""Every write to disk: whole files under a temporary name, renamed when complete. May import `errors` only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from embedshard.errors import InputError

__all__ = ["exclusive", "is_temporary", "publish", "remove_temporary", "write_bytes", "write_json"]

_TEMPORARY = ".tmp-"
_MOMENT = 0.1  # seconds


@contextlib.contextmanager
def publish(path: Path, *, sync: bool = True, shared: bool = False) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name only when the block ends well.

    The temporary name follows from the final one, so a run that takes up where a killed one stopped writes over
    what that left behind.

    Args:
        path: The final name; its folder is made if need be.
        sync: Flush to the disk before the rename, so that the file survives a power cut.
        shared: Whether other processes, of other machines too, may write the same file meanwhile.

    Yields:
        A binary file open for writing.
    """
    token = f"{uuid.uuid4().hex}-" if shared else ""
    temporary = path.with_name(f"{_TEMPORARY}{token}{path.name}")
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


def write_bytes(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a whole file at once; it is there with all of `data` or not at all."""
    with publish(path, sync=sync) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, whole and synced."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    write_bytes(path, text.encode() + b"\n", sync=True)


def is_temporary(name: str) -> bool:
    """Tell whether a file name is one that `publish` uses before the rename."""
    return name.startswith(_TEMPORARY)


def remove_temporary(folder: Path) -> int:
    """Remove what killed runs left half-written in `folder` itself; returns how many files."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        leftovers = [entry.path for entry in entries if is_temporary(entry.name)]
    for leftover in leftovers:
        os.unlink(leftover)
    return len(leftovers)


@contextlib.contextmanager
def exclusive(folder: Path, patience: float = 0) -> Iterator[None]:
    """Hold `folder` for one writing process; the hold ends with the process, however it ends.

    Args:
        folder: It is made if need be.
        patience: Seconds to wait for another process.

    Raises:
        InputError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    until = time.monotonic() + patience
    try:
        while not _locked(descriptor):
            if time.monotonic() >= until:
                raise InputError(
                    f"another embedshard process is writing to {folder}; wait for it, or give another folder"
                )
            time.sleep(_MOMENT)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
