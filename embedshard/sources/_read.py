"""Helpers that sources share: rows of a table, entries of JSON, files of a tree. May import `sample`."""

from __future__ import annotations

import csv
import datetime
import glob
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO

from embedshard.errors import InputError
from embedshard.sample import split_name

__all__ = [
    "ANOTHER_MEDIA",
    "MISSING_MEDIA",
    "NO_CAPTION",
    "REMOTE_MEDIA",
    "TABLE_EXTENSIONS",
    "UNREADABLE",
    "entries",
    "find",
    "find_splits",
    "frame_time",
    "json_safe",
    "media_root",
    "natural",
    "path_split",
    "relative",
    "rows",
    "seconds",
    "seconds_or_none",
    "walk",
    "with_id",
]

MISSING_MEDIA = "missing media"
NO_CAPTION = "no caption"
REMOTE_MEDIA = "remote media (download it first, for instance with video2dataset)"
UNREADABLE = "an entry without the fields that it should have"
ANOTHER_MEDIA = "another media file of the same name is used"

Row = Mapping[str, Any]

_BLANK = re.compile(r"[ \t\r\n]*")
_AFTER_VALUE = ",:]} \t\r\n"
_BLOCK = 1 << 20
_TOKEN = 16
_LONGEST_CELL = 1 << 24


def media_root(root: Path) -> Path:
    """Give the folder that media paths start from: `root` itself, or the folder of a `root` that is no folder."""
    return root if root.is_dir() else root.parent


def relative(path: str, root: str) -> str:
    """Give an absolute normal path as one relative to `root` with `/` where it lies below, else unchanged."""
    prefix = root if root.endswith(os.sep) else root + os.sep
    return path[len(prefix) :].replace(os.sep, "/") if path.startswith(prefix) else path


def natural(text: str) -> tuple[list[str | int], str]:
    """Sort key by which `clip2` comes before `clip10`."""
    parts = re.split("([0-9]+)", text)
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], text


def path_split(path: str) -> str:
    """Give the split that the first folder of `path` with a split's name stands for, "" where there is none."""
    return next(filter(None, map(split_name, path.split("/")[:-1])), "")


def walk(root: Path, order: Callable[[str], Any] | None = natural) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a tree in order, through links to folders as well; names that begin with a dot are passed over.

    Args:
        root: Its top.
        order: What names are sorted by, None for plain order, which is much faster.

    Yields:
        The folder relative to `root` (with a closing `/`, "" for `root`), its folders and its files; folders that
        are removed from the list are not walked.
    """
    for path, folders, files in os.walk(root, followlinks=True, onerror=_fail):
        folders[:] = sorted([name for name in folders if not _skipped(path, name)], key=order)
        folder = relative(path + os.sep, str(root))
        yield folder, folders, sorted([name for name in files if name[0] != "."], key=order)


def _fail(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: {error.strerror}") from error


def _skipped(path: str, name: str) -> bool:
    """Tell a hidden folder, and a link back to a folder above itself."""
    child = os.path.join(path, name)
    loops = os.path.islink(child) and f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(child)}/")
    return name.startswith(".") or loops


def find(root: Path, *names: str) -> Path | None:
    """Find a file that has one of these names, at most two folders deep.

    The first name goes first, and of several files of it the one that lies in `root` itself.

    Raises:
        InputError: Several folders have a file of that name, which may be other datasets' or another version.
    """
    return next((path for name in names if (path := _find_one(root, name))), None)


def _find_one(root: Path, name: str) -> Path | None:
    paths = _find_all(root, name)
    if len(paths) > 1 and paths[0].parent != root:
        raise InputError(
            f"{root}: expected one {name}, found {' and '.join(str(path) for path in paths[:3])}\n"
            "  Give the folder of this dataset alone as RAW, or take the others out"
        )
    return paths[0] if paths else None


def _find_all(root: Path, name: str) -> list[Path]:
    found = (path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(depth + glob.escape(name))))
    return [path for path in found if path.is_file() and "/." not in f"/{path.relative_to(root)}"]


def find_splits(root: Path, names: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Find the file of each split as `find` does; `names` are those that it may have."""
    return {split: path for split, spellings in names.items() if (path := find(root, *spellings))}


def seconds_or_none(value: Any) -> float | None:
    """Read a time as `seconds` does; None for what is no time."""
    try:
        return seconds(value)
    except (TypeError, ValueError):
        return None


def frame_time(frame: Any, rate: Any) -> float | None:
    """Give the seconds at which a frame begins, None where the frame or the rate is no number that can be one."""
    try:
        time = float(frame) / float(rate)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return time if 0 <= time < math.inf else None


def seconds(value: Any) -> float | None:
    """Read a time: seconds as a number or text, or `HH:MM:SS.fff`; None for an empty cell or NaN.

    Raises:
        ValueError: It is no finite time of at most hours, minutes and seconds.
        TypeError: It is of a type that is no time.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str) and ":" in value:
        parts = [float(part) for part in value.split(":")]
        if len(parts) > 3 or any(part < 0 for part in parts[1:]):
            raise ValueError(f"{value} is no time")
        time = sum(part * 60**place for place, part in enumerate(reversed(parts)))
    else:
        try:
            time = float(value)
        except OverflowError:
            time = math.inf
    if math.isinf(time):
        raise ValueError(f"{value} is no time")
    return None if math.isnan(time) else time


def json_safe(value: Any) -> Any:
    """Turn a cell of a table into what strict JSON can hold: NaN and infinities are None, dates are ISO text."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): json_safe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return str(value)


def with_id(meta: Mapping[str, Any], raw_id: str) -> dict[str, Any]:
    """Put the raw id into metadata as `id`; a field of that name that says another thing becomes `raw_id`."""
    other = {"raw_id": meta["id"]} if str(meta.get("id", raw_id)) != raw_id else {}
    return {**other, **meta, "id": raw_id}


def rows(path: Path) -> Iterator[Row | str]:
    """Stream the rows of a csv, tsv, jsonl, json (a list) or parquet table, or of a txt with one `path` a line.

    Columns of bytes in parquet are not read.

    Yields:
        A mapping from column to value; for a row that cannot be read, the reason as text.

    Raises:
        InputError: The file is not such a table.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: expected a table that ends in {', '.join(_READERS)}")
    return reader(path)


def _csv_rows(path: Path, delimiter: str = ",") -> Iterator[Row | str]:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise InputError(f"{path}, line 1: expected a header that is valid CSV, found: {error}") from error
        if twice := {name for name in header if header.count(name) > 1}:
            raise InputError(f"{path}, line 1: expected every column once, found {', '.join(sorted(twice))} twice")
        while True:
            line = reader.line_num + 1
            try:
                for cells in reader:
                    line = reader.line_num + 1
                    if len(cells) == len(header):
                        yield dict(zip(header, cells))  # noqa: B905  (they are of one length)
                    elif cells:
                        yield "a row with more or fewer cells than the header"
                return
            except csv.Error as error:
                if "unexpected end" in str(error) or "field limit" in str(error):
                    raise InputError(f"{path}: the quote opened in the row of line {line} is never closed") from error
                yield "a row that is not valid CSV"


def _tsv_rows(path: Path) -> Iterator[Row | str]:
    return _csv_rows(path, "\t")


def _jsonl_rows(path: Path) -> Iterator[Row | str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for line in file:
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                yield row if isinstance(row, dict) else "a line that is no JSON object"


def _txt_rows(path: Path) -> Iterator[Row | str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        yield from ({"path": line.rstrip("\n")} for line in file if line.strip())


def _json_rows(path: Path) -> Iterator[Row | str]:
    for _, row in entries(path, "list"):
        yield row if isinstance(row, dict) else "an entry that is no JSON object"


def entries(path: Path, kind: Literal["list", "object"]) -> Iterator[tuple[str, Any]]:
    """Stream the entries of the list or the object that a JSON file holds, one in memory at a time.

    Yields:
        The name ("" in a list) and the value of each entry.

    Raises:
        InputError: The file is not JSON, or holds something else.
    """
    opening, closing = "[]" if kind == "list" else "{}"
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        text = _Json(path, file)
        if (found := text.character("")) != opening:
            raise text.error(f"expected {opening} (a {kind}), found {found}")
        if (following := text.character("", skip=False)) == closing:
            text.character(closing)
        while following != closing:
            name = text.value() if opening == "{" else ""
            if opening == "{":
                text.character(":")
            yield name, text.value()
            following = text.character(f",{closing}")
        text.end()


class _Json:
    """Reads one JSON value after another from a file, holding little more than the value at hand."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._text, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()

    def character(self, expected: str, skip: bool = True) -> str:
        """Give the next character that is no blank, one of `expected` if that is not empty, and go past it."""
        character = self._text[self._at : self._at + 1]
        if not character or character in " \t\r\n":
            while (found := _BLANK.match(self._text, self._at)) is None or found.end() == len(self._text):
                if not self._more():
                    break
            self._at = found.end() if found else self._at
            character = self._text[self._at : self._at + 1]
        if not character or (expected and character not in expected):
            what = " or ".join(expected) or "a value"
            raise self.error(f"expected {what}, found {character or 'the end'}")
        self._at += skip
        return character

    def value(self) -> Any:
        """Give the next value and go past it."""
        self.character("", skip=False)
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise self.error("too many lists or objects in one another") from error
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _TOKEN
                if not (cut and self._more()):
                    raise self.error(error.msg) from error
            else:
                following = self._text[end : end + 1] or "none"
                if following in _AFTER_VALUE or not self._more():  # a number may go on
                    self._at = end
                    return value

    def end(self) -> None:
        """Raise InputError unless only blanks are left."""
        rest = self._text[self._at :] + self._file.read(_BLOCK)
        if rest.strip():
            raise self.error(f"expected its end, found {rest.strip()[:20]!r}")

    def _more(self) -> bool:
        """Read on, at least as much as is held, so that a large value costs linear time."""
        self._text = self._text[self._at :]
        self._at = 0
        read = self._file.read(max(_BLOCK, len(self._text)))
        self._text += read
        return bool(read)

    def error(self, what: str) -> InputError:
        """Give the error for a file that is something else."""
        return InputError(f"{self._path} is not the JSON that was expected: {what}; one object a line is .jsonl")


def _parquet_rows(path: Path) -> Iterator[Row | str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if "binary" not in str(field.type)]
            for batch in file.iter_batches(batch_size=512, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a parquet file, or a damaged one: {error}") from error


_READERS: Mapping[str, Callable[[Path], Iterator[Row | str]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
    ".json": _json_rows,
    ".txt": _txt_rows,
}
TABLE_EXTENSIONS = tuple(_READERS)
