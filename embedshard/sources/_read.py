"""Helpers that sources share: rows of a table, files of a tree, values that JSON can hold. May import `sample`."""

from __future__ import annotations

import csv
import datetime
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from embedshard.errors import InputError
from embedshard.sample import media_kind, split_name

__all__ = [
    "ANOTHER_MEDIA",
    "MISSING_MEDIA",
    "NO_CAPTION",
    "TABLE_EXTENSIONS",
    "json_safe",
    "media_index",
    "media_root",
    "natural",
    "path_split",
    "relative",
    "rows",
    "seconds",
    "walk",
    "with_id",
]

MISSING_MEDIA = "missing media"
NO_CAPTION = "no caption"
ANOTHER_MEDIA = "another media file of the same name is used"

Row = Mapping[str, Any]


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


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a tree in natural order, through links to folders as well; names that begin with a dot are passed over.

    Yields:
        The folder relative to `root` (with a closing `/`, "" for `root`), its folders and its files; folders that
        are removed from the list are not walked.
    """
    for path, folders, files in os.walk(root, followlinks=True, onerror=_fail):
        folders[:] = sorted((name for name in folders if not _skipped(path, name)), key=natural)
        folder = relative(path + os.sep, str(root))
        yield folder, folders, sorted((name for name in files if not name.startswith(".")), key=natural)


def _fail(error: OSError) -> NoReturn:
    raise error


def _skipped(path: str, name: str) -> bool:
    """Tell a hidden folder, and a link back to a folder above itself."""
    child = os.path.join(path, name)
    loops = os.path.islink(child) and f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(child)}/")
    return name.startswith(".") or loops


def media_index(root: Path, below: str = "") -> dict[str, str]:
    """Find all media files in a tree, about 200 bytes of memory each.

    Args:
        root: Where the paths start from.
        below: Folder of `root` to look in.

    Returns:
        For each file name without its extension, the path relative to `root` of the first file of that name.
    """
    index: dict[str, str] = {}
    for folder, _, files in walk(root / below):
        for name in files:
            if media_kind(name):
                path = f"{below}/{folder}{name}" if below else folder + name
                index.setdefault(os.path.splitext(name)[0], path)
    return index


def seconds(value: Any) -> float | None:
    """Read a time: seconds as a number or text, or `HH:MM:SS.fff`; None for an empty cell or NaN.

    Raises:
        ValueError: It is no finite time.
        TypeError: It is of a type that is no time.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str) and ":" in value:
        time = 0.0
        for part in value.split(":"):
            time = time * 60 + float(part)
    else:
        time = float(value)
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
    """Stream the rows of a csv, tsv, jsonl, json (a list, read whole) or parquet table.

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
    csv.field_size_limit(2**31 - 1)
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
                cells = next(reader, None)
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise InputError(f"{path}: the quote opened in the row of line {line} is never closed") from error
                yield "a row that is not valid CSV"
                continue
            if cells is None:
                return
            if len(cells) == len(header):
                yield dict(zip(header, cells, strict=True))
            elif cells:
                yield "a row with more or fewer cells than the header"


def _tsv_rows(path: Path) -> Iterator[Row | str]:
    return _csv_rows(path, "\t")


def _jsonl_rows(path: Path) -> Iterator[Row | str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for line in file:
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                yield row if isinstance(row, dict) else "a line that is no JSON object"


def _json_rows(path: Path) -> Iterator[Row | str]:
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; a file with one object a line is named .jsonl") from error
    if not isinstance(table, list):
        raise InputError(f"{path}: expected a list of objects, found {type(table).__name__}")
    for row in table:
        yield row if isinstance(row, dict) else "an entry that is no JSON object"


def _parquet_rows(path: Path) -> Iterator[Row | str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if "binary" not in str(field.type)]
            for batch in file.iter_batches(batch_size=4096, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a parquet file, or a damaged one: {error}") from error


_READERS: Mapping[str, Callable[[Path], Iterator[Row | str]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
    ".json": _json_rows,
}
TABLE_EXTENSIONS = tuple(_READERS)
