"""Triples on disk: `<split>/<key>.npy`, `.txt`, `.json`. May import `sample` and `store`.

Layout of the "Processed dataset" of clip-video-encode's dataset README: a folder `train/ val/ test/` with, for
every key, an array (frame_count, embed_dim), a caption and metadata. A triple is whole once its npy is there.
"""

from __future__ import annotations

import heapq
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError
from embedshard.sample import SPLITS
from embedshard.store import is_temporary, write_bytes, write_json

__all__ = [
    "PARTS",
    "DatasetInfo",
    "Entry",
    "Failure",
    "FailureLog",
    "NpyHeader",
    "count_triples",
    "entries",
    "has_triple",
    "json_bytes",
    "move_triple",
    "npy_bytes",
    "read_failures",
    "read_info",
    "read_npy_header",
    "read_texts",
    "remove_triple",
    "require_processed",
    "require_same_setting",
    "write_failures",
    "write_info",
    "write_texts",
    "write_triple",
]

PARTS = ("json", "npy", "txt")
INFO, FAILED, UNITS = "dataset.json", "failed.jsonl", "units"
_RUN = 200_000


@dataclass(frozen=True)
class DatasetInfo:
    """`dataset.json` of a processed dataset.

    Attributes:
        encoder: The setting that made its arrays.
        source: The raw dataset.
        root: Where that lay when the folder was begun.
        manifest: SHA-256 of the last manifest whose samples all the triples are known to agree with.
        units: Of the plan by which it is encoded in parts; 0 for loose triples.
        plan: Digest of that plan.
    """

    encoder: Mapping[str, Any]
    source: Mapping[str, Any]
    root: str = ""
    manifest: str = ""
    units: int = 0
    plan: str = ""


@dataclass(frozen=True)
class Failure:
    """A line of `failed.jsonl`: why a sample has no triple."""

    key: str
    split: str
    media: str
    stage: str
    reason: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Entry:
    """The files of one key of a split: which of `json`, `npy`, `txt` (or `cap`) are there."""

    key: str
    parts: tuple[str, ...]

    @property
    def caption_part(self) -> str | None:
        """`txt`, else `cap` as the first CLIP-Kinetics700 shards name it, else None."""
        return next((part for part in ("txt", "cap") if part in self.parts), None)


@dataclass(frozen=True)
class NpyHeader:
    """What the head of an npy file says: shape, dtype, and the size in bytes that the whole file must have."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file_size: int


def write_triple(folder: Path, key: str, array: npt.NDArray[Any], caption: str, meta: Mapping[str, Any]) -> None:
    """Write a triple into a split's folder, the npy last.

    Args:
        folder: `<processed>/<split>`.
        key: The sample's key.
        array: (frame_count, embed_dim), float16 or float32.
        caption: Any text; stored as UTF-8 as it is.
        meta: Must survive JSON.
    """
    write_texts(folder, key, caption, meta)
    write_bytes(folder / f"{key}.npy", npy_bytes(array))


def write_texts(folder: Path, key: str, caption: str, meta: Mapping[str, Any]) -> None:
    """Write caption and metadata of a triple, new or in place of those that are there."""
    write_bytes(folder / f"{key}.json", json_bytes(meta))
    write_bytes(folder / f"{key}.txt", caption.encode())


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """Give the content of a triple's npy."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def json_bytes(meta: Mapping[str, Any]) -> bytes:
    """Give the content of a triple's json."""
    return json.dumps(meta, ensure_ascii=False, allow_nan=False).encode()


def read_texts(folder: Path, key: str) -> tuple[str, dict[str, Any]]:
    """Read caption and metadata of a triple; both empty where they cannot be read."""
    try:
        meta = json.loads((folder / f"{key}.json").read_bytes())
        return (folder / f"{key}.txt").read_bytes().decode(), meta if isinstance(meta, dict) else {}
    except (OSError, ValueError):
        return "", {}


def move_triple(folder: Path, key: str, target: Path) -> None:
    """Give a triple whose texts are in the target folder already its array too, and remove it from its own."""
    (folder / f"{key}.npy").replace(target / f"{key}.npy")
    remove_triple(folder, key)


def count_triples(folder: Path) -> int:
    """Count the arrays of all splits."""
    folders = [folder / split for split in SPLITS if (folder / split).is_dir()]
    count = 0
    for path in folders:
        with os.scandir(path) as files:
            count += sum(file.name.endswith(".npy") and not is_temporary(file.name) for file in files)
    return count


def has_triple(folder: Path, key: str) -> bool:
    """Tell whether a split's folder has the triple: whether its npy, which is written last, is there and not empty."""
    try:
        return os.stat(f"{folder}/{key}.npy").st_size > 0
    except OSError:
        return False


def remove_triple(folder: Path, key: str) -> None:
    """Remove what there is of a triple."""
    for part in reversed(PARTS):
        (folder / f"{key}.{part}").unlink(missing_ok=True)


def entries(folder: Path, order: Callable[[str], str] = str) -> Iterator[Entry]:
    """Yield what a split's folder holds, key by key, in flat memory however many files there are.

    Files that are no part of a triple, and half-written ones, are passed over; `check` reports them.

    Args:
        folder: `<processed>/<split>`; one that does not exist holds nothing.
        order: Gives the text that keys are sorted by; it must differ for different keys.

    Yields:
        One `Entry` a key, sorted by `order(key)`.
    """
    if not folder.is_dir():
        return
    for (_, key), names in groupby(_sorted_names(folder, order), key=lambda row: row[:2]):
        yield Entry(key, tuple(part for _, _, part in names))


def read_npy_header(head: bytes) -> NpyHeader:
    """Parse the head of an npy file (numpy.lib.format, versions 1 to 3).

    Args:
        head: The file, or at least its first 4096 bytes.

    Raises:
        ValueError: It is no npy file, or one of Python objects.
    """
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    return NpyHeader(shape, dtype, file.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)


def require_processed(folder: Path) -> None:
    """Check that `folder` is a processed dataset.

    Raises:
        InputError: It has none of the folders train, val, test.
    """
    if not any((folder / split).is_dir() for split in SPLITS):
        found = ", ".join(sorted(os.listdir(folder))[:8]) or "nothing" if folder.is_dir() else "no such folder"
        raise InputError(
            f"expected a processed dataset with train/, val/ or test/ in {folder}, found {found}\n"
            f"Make one with: embedshard encode samples.parquet {folder} --model ... --pretrained ..."
        )


def require_same_setting(folder: Path, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a folder was begun with the setting that is wanted, whatever the version of this package.

    Raises:
        InputError: It was not; lists what differs.
    """
    names = sorted({*wanted, *before} - {"version"})
    there, asked = ({name: setting.get(name) for name in names} for setting in (before, wanted))
    changed = [f"    {n}: {there[n]!r} there, {asked[n]!r} asked for" for n in names if there[n] != asked[n]]
    if changed:
        raise InputError(
            f"{folder} was encoded with another setting:\n" + "\n".join(changed) + "\n"
            "  Give another folder, or the options it was made with."
        )


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write `dataset.json`."""
    write_json(folder / INFO, asdict(info))


def read_info(folder: Path) -> DatasetInfo | None:
    """Read `dataset.json`; None where a folder has none, as those of other tools."""
    try:
        info = DatasetInfo(**json.loads((folder / INFO).read_bytes()))
        if not (isinstance(info.encoder, dict) and isinstance(info.source, dict)):
            raise TypeError("expected two objects, encoder and source")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder / INFO} is damaged ({error}); restore it, or encode into a new folder") from error
    return info


def read_failures(folder: Path) -> dict[str, Failure]:
    """Read `failed.jsonl`, the last line of a key counting; a line that a crash cut off is passed over.

    Of a dataset in parts, what the records of its units say counts.

    Raises:
        InputError: A line is JSON, but no failure.
    """
    failures: dict[str, Failure] = {}
    for record in sorted((folder / UNITS).glob("[0-9]*.json")):
        found = (Failure(**failure) for failure in json.loads(record.read_bytes())["failures"])
        failures.update((failure.key, failure) for failure in found)
    if (folder / UNITS).is_dir():
        return failures
    path = folder / FAILED
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            failure = Failure(**json.loads(line))
            failures[failure.key] = failure
        except ValueError:
            continue
        except TypeError as error:
            raise InputError(f"{path}, line {number} is damaged ({error}); mend it, or remove the line") from error
    return failures


def write_failures(folder: Path, failures: Iterable[Failure]) -> None:
    """Write `failed.jsonl` anew, sorted by key."""
    lines = [_line(failure) for failure in sorted(failures, key=lambda failure: failure.key)]
    write_bytes(folder / FAILED, b"".join(lines), sync=True)


class FailureLog:
    """Adds lines to `failed.jsonl` as samples fail, each on disk before the next sample; no file without a failure."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FAILED
        self._file: IO[bytes] | None = None

    def add(self, failure: Failure) -> None:
        """Add one line."""
        if self._file is None:
            self._file = self._path.open("ab")
            if self._file.tell():
                self._file.write(b"\n")  # a line that a crash cut off must not swallow this one
        self._file.write(_line(failure))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def _line(failure: Failure) -> bytes:
    return json.dumps(asdict(failure), ensure_ascii=False).encode() + b"\n"


def _sorted_names(folder: Path, order: Callable[[str], str]) -> Iterator[tuple[str, str, str]]:
    """Yield (order, key, part) sorted: runs of names are sorted in memory, spilled and merged."""
    with tempfile.TemporaryDirectory(prefix="embedshard-") as spill:
        runs: list[Iterable[tuple[str, str, str]]] = []
        run: list[tuple[str, str, str]] = []
        with os.scandir(folder) as files:
            for name in (file.name for file in files):
                key, _, part = name.rpartition(".")
                if key and part in ("json", "npy", "txt", "cap") and not is_temporary(name):
                    run.append((order(key), key, part))
                if len(run) == _RUN:
                    runs.append(_spilled(sorted(run), Path(spill) / str(len(runs))))
                    run = []
        yield from heapq.merge(*runs, sorted(run))


def _spilled(run: list[tuple[str, str, str]], path: Path) -> Iterator[tuple[str, str, str]]:
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(json.dumps(row) + "\n" for row in run)

    def rows() -> Iterator[tuple[str, str, str]]:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                order, key, part = json.loads(line)
                yield order, key, part

    return rows()
