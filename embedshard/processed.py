"""Triples on disk: `<split>/<key>.npy`, `.txt`, `.json`. May import `sample`, `store`,
`remote` and `tar`.

Layout of the "Processed dataset" of clip-video-encode's dataset README: a folder `train/ val/ test/` with, for
every key, an array (frame_count, embed_dim), a caption and metadata. A triple is whole once its npy is there.
Beside such loose files, or instead of them, a split may have parts, `part-000000.tar` and so on: tars of triples.
"""

from __future__ import annotations

import heapq
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError
from embedshard.remote import AnyPath, read_each
from embedshard.sample import SPLITS
from embedshard.store import is_temporary, json_text, on_disk, write_bytes, write_json, write_new
from embedshard.tar import index_members, mapped

__all__ = [
    "PARTS",
    "Damaged",
    "DatasetInfo",
    "Entry",
    "Failure",
    "FailureLog",
    "NpyHeader",
    "Place",
    "arrays",
    "begin_dataset",
    "count_loose",
    "count_triples",
    "damaged_part",
    "encoded",
    "entries",
    "has_triple",
    "is_part",
    "json_bytes",
    "loose_entries",
    "move_triple",
    "npy_bytes",
    "part_entries",
    "part_name",
    "part_paths",
    "read_failures",
    "read_info",
    "read_npy_header",
    "read_records",
    "read_texts",
    "remove_triple",
    "require_processed",
    "require_same_setting",
    "sorted_rows",
    "unfinished",
    "unit_records",
    "write_failures",
    "write_info",
    "write_texts",
    "write_triple",
]

PARTS = ("json", "npy", "txt")
INFO, FAILED, UNITS = "dataset.json", "failed.jsonl", "units"
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)  # making one takes a third of the time
_RUN = 200_000
_MEMBERS = (*PARTS, "cap")
_PART_NAME = re.compile(r"part-\d{6,}\.tar")

Damaged = Callable[[AnyPath, str], None]
"""Called with a part that is damaged, and how."""


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


class Place(NamedTuple):
    """Where the content of a member lies in a part; `plain` is whether its header is as `embedshard.tar` writes it."""

    offset: int
    size: int
    plain: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """What there is of one key of a split: which of `json`, `npy`, `txt` (or `cap`).

    Attributes:
        key: The name without the ending.
        parts: The endings, sorted.
        tar: The part that they lie in; empty for loose files.
        places: Where in it, in the order of `parts`.
    """

    key: str
    parts: tuple[str, ...]
    tar: str = ""
    places: tuple[Place, ...] = ()

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
    """Give the content of a triple's npy (numpy.lib.format, version 1)."""
    return _npy_head(array.shape, array.dtype.str) + array.tobytes()


@lru_cache(1024)
def _npy_head(shape: tuple[int, ...], dtype: str) -> bytes:
    """Give the head of an npy file; those of a dataset differ in frame_count only."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def json_bytes(meta: Mapping[str, Any]) -> bytes:
    """Give the content of a triple's json."""
    return _JSON.encode(meta).encode()


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
    """Count the arrays of all splits, in both layouts."""
    return sum(1 for split in SPLITS for _ in arrays(folder / split))


def arrays(folder: AnyPath, damaged: Damaged | None = None) -> Iterator[tuple[str, str, Place | None]]:
    """Yield every array of a split's folder, in no order.

    Args:
        folder: `<processed>/<split>`; one that does not exist holds nothing.
        damaged: What to do about a damaged part, whose members before the damage are yielded.

    Yields:
        Its key, its file, and where in it the array lies, None for a loose one.

    Raises:
        InputError: A part is damaged, and `damaged` not given.
    """
    if not folder.is_dir():
        return
    for key, part in _loose_names(folder) if isinstance(folder, Path) else ():
        if part == "npy":
            yield key, f"{folder}/{key}.npy", None
    for path in part_paths(folder):
        for key, part, place in _part_members(path, damaged):
            if part == "npy":
                yield key, str(path), place


def encoded(folder: AnyPath, samples: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Tell which samples of a processed dataset have a triple, in either layout.

    Args:
        folder: The processed dataset.
        samples: Split and key of each.

    Raises:
        InputError: A part is damaged.
    """
    found = {(split, key) for split, key in samples if has_triple(folder / split, key)}
    for split in {split for split, _ in samples}:
        for path in part_paths(folder / split):
            names = ((split, key) for key, part, place in _part_members(path, None) if part == "npy" and place.size)
            found.update(name for name in names if name in samples)
    return found


def is_part(name: str) -> bool:
    """Tell whether a file of a split's folder is a part."""
    return _PART_NAME.fullmatch(name) is not None


def part_name(unit: int) -> str:
    """Name the part of a unit."""
    return f"part-{unit:06d}.tar"


def part_paths(folder: AnyPath) -> list[AnyPath]:
    """Give the parts of a split's folder, sorted."""
    return sorted((path for path in folder.glob("part-*.tar") if is_part(path.name)), key=lambda path: path.name)


def has_triple(folder: AnyPath, key: str) -> bool:
    """Tell whether a split's folder has the triple: whether its npy, which is written last, is there and not empty."""
    try:
        return os.stat(f"{folder}/{key}.npy").st_size > 0
    except OSError:
        return False


def remove_triple(folder: Path, key: str) -> None:
    """Remove what there is of a triple."""
    for part in reversed(PARTS):
        (folder / f"{key}.{part}").unlink(missing_ok=True)


def entries(folder: Path, order: Callable[[str], str] = str, damaged: Damaged | None = None) -> Iterator[Entry]:
    """Yield what a split's folder holds, key by key, in flat memory however many files and members there are.

    Files and members that are no part of a triple, and half-written ones, are passed over; `check` reports them.

    Args:
        folder: `<processed>/<split>`; one that does not exist holds nothing.
        order: Gives the text that keys are sorted by; it must differ for different keys.
        damaged: What to do about a damaged part, whose members before the damage are yielded.

    Yields:
        One `Entry` a key, sorted by `order(key)`; for a key that is there more than once one for each place, the
        loose files first.

    Raises:
        InputError: A part is damaged, and `damaged` not given.
    """
    if not folder.is_dir():
        return
    rows = sorted_rows(_names(folder, order, damaged))
    for (_, key, tar), group in groupby(rows, key=lambda row: row[:3]):
        members = [row[3:] for row in group]
        places = tuple(Place(*row[1:]) for row in members) if tar else ()
        yield Entry(key, tuple(row[0] for row in members), tar, places)


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


def require_processed(folder: AnyPath) -> None:
    """Check that `folder` is a processed dataset.

    Raises:
        InputError: It has none of the folders train, val, test, which a storage has only with something in them; nor
            is it one in parts of which every sample failed.
    """
    if not any((folder / split).is_dir() for split in SPLITS) and not (folder / UNITS).is_dir():
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
        found = "no such folder" if names is None else ", ".join(names[:8]) or "nothing"
        raise InputError(
            f"expected a processed dataset with train/, val/ or test/ in {folder}, found {found}\n"
            f"Make one with: embedshard encode samples.parquet {folder} --model ... --pretrained ..."
        )


def unit_records(folder: AnyPath) -> Iterator[dict[str, Any]]:
    """Yield the records of the units that are done, of a dataset in parts; see `read_records`."""
    return read_records(sorted((folder / UNITS).glob("[0-9]*.json"), key=lambda path: path.name))


def read_records(paths: Sequence[AnyPath]) -> Iterator[dict[str, Any]]:
    """Read the records of units, in their order: the fields of `encode.units.Record`.

    Raises:
        InputError: One is damaged.
    """
    for path, data in zip(paths, read_each(paths), strict=True):
        try:
            record = json.loads(data)
            yield {**record, "failures": [Failure(**failure) for failure in record["failures"]]}
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it to have the unit done anew") from error


def unfinished(folder: AnyPath) -> str:
    """Say how much a dataset in parts lacks; "" for one that lacks nothing, and for loose triples."""
    info = read_info(folder)
    units = info.units if info else len(list((folder / UNITS).glob("plan-*.parquet")))
    done = sum(1 for _ in (folder / UNITS).glob("[0-9]*.json"))
    return f"{done} of {units} units are encoded" if done < units else ""


def require_same_setting(folder: AnyPath, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
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


def write_info(folder: AnyPath, info: DatasetInfo) -> None:
    """Write `dataset.json`."""
    write_json(folder / INFO, asdict(info))


def begin_dataset(folder: AnyPath, info: DatasetInfo) -> DatasetInfo:
    """Write `dataset.json` unless there is one; gives what it says then."""
    write_new(folder / INFO, json_text(asdict(info)))
    return read_info(folder) or info


def read_info(folder: AnyPath) -> DatasetInfo | None:
    """Read `dataset.json`; None where a folder has none, as those of other tools."""
    try:
        data = (folder / INFO).read_bytes()
    except FileNotFoundError:
        return None
    try:
        info = DatasetInfo(**json.loads(data))
        if not (isinstance(info.encoder, dict) and isinstance(info.source, dict)):
            raise TypeError("expected two objects, encoder and source")
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder / INFO} is damaged ({error}); restore it, or encode into a new folder") from error
    return info


def read_failures(folder: AnyPath) -> dict[str, Failure]:
    """Read `failed.jsonl`, the last line of a key counting; a line that a crash cut off is passed over.

    Of a dataset in parts, what the records of its units say counts.

    Raises:
        InputError: A line is JSON, but no failure.
    """
    failures: dict[str, Failure] = {}
    for record in unit_records(folder):
        failures.update((failure.key, failure) for failure in record["failures"])
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


def write_failures(folder: AnyPath, failures: Iterable[Failure]) -> None:
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


def _names(folder: Path, order: Callable[[str], str], damaged: Damaged | None) -> Iterator[tuple[Any, ...]]:
    """Yield (order, key, part's name, ending, and for a member of a part its place)."""
    for key, part in _loose_names(folder):
        yield order(key), key, "", part
    for path in part_paths(folder):
        last, place_in_order = "", ""
        for key, part, place in _part_members(path, damaged):
            if key != last:
                last, place_in_order = key, order(key)
            yield place_in_order, key, path.name, part, *place


def _part_members(path: AnyPath, damaged: Damaged | None) -> Iterator[tuple[str, str, Place]]:
    """Yield key, ending and place of every member of a part that is one of a triple's."""
    name = ""
    try:
        with on_disk(path) as local, mapped(local) as tar:
            for name, offset, size, plain in index_members(tar):
                key, _, part = name.rpartition(".")
                if key and part in _MEMBERS:
                    yield key, part, Place(offset, size, plain)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        what = f"{error}, after {name}" if name else str(error)
        if damaged is None:
            raise damaged_part(path, what) from error
        damaged(path, what)


def damaged_part(path: AnyPath, what: object) -> InputError:
    """Give the error of a part that cannot be read to its end."""
    return InputError(f"{path} is damaged: {what}\n  remove it and run the same embedshard encode command again")


def part_entries(tar: Any, name: str) -> Iterator[Entry]:
    """Yield what a part holds, key by key.

    Args:
        tar: The whole part, as `embedshard.tar.index_members` takes it.
        name: Its name.

    Raises:
        ValueError: It is damaged.
    """
    found: dict[str, list[tuple[str, Place]]] = {}
    member = ""
    try:
        for member, offset, size, plain in index_members(tar):
            key, _, part = member.rpartition(".")
            if key and part in _MEMBERS:
                found.setdefault(key, []).append((part, Place(offset, size, plain)))
    except ValueError as error:
        raise ValueError(f"{error}, after {member}" if member else str(error)) from error
    for key, members in found.items():
        parts, places = zip(*sorted(members), strict=True)
        yield Entry(key, parts, name, places)


def count_loose(folder: Path) -> int:
    """Count the loose arrays of a split's folder by their names."""
    return sum(part == "npy" for _, part in _loose_names(folder)) if folder.is_dir() else 0


def loose_entries(folder: Path) -> Iterator[Entry]:
    """Yield the loose triples of a split's folder, or what there is of them, sorted by key, in flat memory."""
    rows = sorted_rows(_loose_names(folder))
    for key, group in groupby(rows, key=lambda row: row[0]):
        yield Entry(key, tuple(row[1] for row in group))


def _loose_names(folder: Path) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as files:
        for name in (file.name for file in files):
            key, _, part = name.rpartition(".")
            if key and part in _MEMBERS and not is_temporary(name):
                yield key, part


def sorted_rows(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Sort rows of texts and numbers in flat memory: runs are sorted in memory, spilled and merged."""
    with tempfile.TemporaryDirectory(prefix="embedshard-") as spill:
        runs: list[Iterable[tuple[Any, ...]]] = []
        run: list[tuple[Any, ...]] = []
        for row in rows:
            run.append(row)
            if len(run) == _RUN:
                runs.append(_spilled(sorted(run), Path(spill) / str(len(runs))))
                run = []
        yield from heapq.merge(*runs, sorted(run)) if runs else sorted(run)


def _spilled(run: list[tuple[Any, ...]], path: Path) -> Iterator[tuple[Any, ...]]:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in run)

    def rows() -> Iterator[tuple[Any, ...]]:
        with path.open() as file:
            yield from (tuple(json.loads(line)) for line in file)

    return rows()
