"""What clip-video-encode takes, lists, tables and tars of videos, as units of rows. May import `sources`, `sample`.

A unit is what becomes one tar of the webdataset output: 10000 rows of a table, or one tar of the input.
"""

from __future__ import annotations

import csv
import json
import math
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from embedshard.address import member_address
from embedshard.errors import InputError
from embedshard.processed import Failure
from embedshard.sample import Kind, make_key, media_kind
from embedshard.sources._archive import TarMember, read_tar, tar_coding
from embedshard.sources._read import MISSING_MEDIA, REMOTE_MEDIA, json_safe

__all__ = ["InputOptions", "Row", "Unit", "problem", "read_units"]

_UNIT = 10_000  # rows
_PATH, _ID, _CAPTION = "videoLoc", "videoID", "caption"
_NAME_BYTES = 90  # so that a tar's header holds it with its ending
_TABLE_DIGITS, _TAR_DIGITS = 9, 5

Source = str | Path | Sequence[str | Path]


class Row(NamedTuple):
    """A video as it is to come out.

    Attributes:
        name: Of its files, without the ending.
        media: Its absolute path, or its address in a tar.
        kind: How it is decoded.
        caption: "" where it has none.
        text: What its `.txt` holds; None for no such file.
        meta: What its `.json` holds; None for no such file.
        passed: Ending under which the media itself comes out too, "" for none.
    """

    name: str
    media: str
    kind: Kind
    caption: str
    text: str | None
    meta: dict[str, Any] | None
    passed: str = ""


class Unit(NamedTuple):
    """Rows that go into one tar, its name without the ending, and what can be no row."""

    name: str
    rows: list[Row]
    problems: list[Failure]


@dataclass(frozen=True)
class InputOptions:
    """How an input is read.

    Attributes:
        columns: Metadata columns of a table, in the order of the json.
        use_stem: Name files by the video's own name.
        in_tar: Whether names are those of members of a tar, where a dot would cut them.
        needs_caption: Whether captions are wanted although `columns` does not have them.
        passed: Which members of a tar come out again: `mp4`, `txt`, `json`.
        digits: Of the number in a tar's name; None for the usual ones.
        rank: Of the worker, from 0.
        ranks: Number of workers that share the input.
    """

    columns: tuple[str, ...] = ()
    use_stem: bool = False
    in_tar: bool = False
    needs_caption: bool = False
    passed: frozenset[str] = frozenset()
    digits: int | None = None
    rank: int = 0
    ranks: int = 1


class _Table(NamedTuple):
    columns: list[str]
    length: int
    rows: Iterable[Mapping[str, Any]]


def read_units(src: Source, input_format: str, options: InputOptions) -> Iterator[Unit]:
    """Read a rank's part of an input; a second call gives the same again.

    Raises:
        InputError: There is no such input, it is no table, or lacks a column.
    """
    return _tar_units(src, options) if input_format == "webdataset" else _table_units(src, options)


def problem(name: str, media: str, reason: str) -> Failure:
    """Make the record of what cannot be tried."""
    return Failure(name, "train", media, "read", reason, 1)


def _table_units(src: Source, options: InputOptions) -> Iterator[Unit]:
    table = _open_table(src, options)
    size = math.ceil(table.length / options.ranks)
    rows = islice(enumerate(table.rows), options.rank * size, (options.rank + 1) * size)
    for number in count(math.ceil(size / _UNIT) * options.rank):
        made = [_table_row(row, index, options) for index, row in islice(rows, _UNIT)]
        if not made:
            return
        yield _unit(f"{number:0{options.digits or _TABLE_DIGITS}d}", made)


def _unit(name: str, made: list[Row | Failure]) -> Unit:
    rows = [row for row in made if isinstance(row, Row)]
    return Unit(name, rows, [row for row in made if isinstance(row, Failure)])


def _open_table(src: Source, options: InputOptions) -> _Table:
    wanted = list(dict.fromkeys([_PATH, _ID, *options.columns, *[_CAPTION] * options.needs_caption]))
    if not isinstance(src, (str, Path)):
        table = _paths([str(path) for path in src])
    elif str(src).endswith(".txt"):
        table = _paths([_unquoted(line) for line in _read_text(Path(src)).splitlines() if line.strip()])
    elif str(src).endswith((".csv", ".parquet")):
        table = _read_csv(Path(src), wanted) if str(src).endswith(".csv") else _read_parquet(Path(src), wanted)
    else:
        table = _paths([str(src)])
    if missing := [name for name in wanted if name not in table.columns and name != _ID]:
        where = src if isinstance(src, (str, Path)) else "a list of paths"
        needed = " (videoLoc is where the video lies)" if _PATH in missing else ""
        raise InputError(
            f"{where}: expected the columns {', '.join(missing)}{needed}, found: {', '.join(table.columns)}\n"
            "  Give a csv or parquet table that has them, or leave them out of metadata_columns"
        )
    return table


def _paths(paths: list[str]) -> _Table:
    return _Table([_ID, _PATH], len(paths), ({_ID: str(n), _PATH: path} for n, path in enumerate(paths)))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a list of videos, one a line, in UTF-8: {error}") from error


def _unquoted(line: str) -> str:
    """Give a line as it is, or what its quotes hold where it is one quoted cell."""
    cells = next(csv.reader([line])) if line.startswith('"') else []
    return cells[0] if len(cells) == 1 else line


def _read_csv(path: Path, wanted: list[str]) -> _Table:
    """Read the wanted columns of a csv; types are told by all rows, as clip-video-encode has them in its json."""
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    try:
        with pa_csv.open_csv(path, parse_options=parse) as opened:
            columns = list(opened.schema.names)
        as_text = dict.fromkeys((_PATH, _ID, _CAPTION), pa.string())
        convert = pa_csv.ConvertOptions(
            include_columns=[name for name in wanted if name in columns], column_types=as_text
        )
        table = pa_csv.read_csv(path, parse_options=parse, convert_options=convert)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: expected a csv table with a header; mend it: {error}") from error
    return _Table(columns, table.num_rows, (row for batch in table.to_batches(_UNIT) for row in batch.to_pylist()))


def _read_parquet(path: Path, wanted: list[str]) -> _Table:
    try:
        with pq.ParquetFile(path) as file:
            columns, rows = list(file.schema_arrow.names), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: expected a parquet table: {error}") from error
    return _Table(columns, rows, _parquet_rows(path, [name for name in wanted if name in columns]))


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[Mapping[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=512, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def _table_row(row: Mapping[str, Any], number: int, options: InputOptions) -> Row | Failure:
    path = str(row[_PATH] or "")
    raw = str(number) if _ID not in row else "" if row[_ID] is None else str(row[_ID])
    raw = Path(path).stem if options.use_stem else raw
    if not path or not raw:
        return problem(f"row {number}", path, f"an empty {_ID if path else _PATH}")
    name = _file_name(raw, options)
    if "://" in path:
        return problem(name, path, REMOTE_MEDIA)
    caption = "" if row.get(_CAPTION) is None else str(row[_CAPTION])
    text = caption if _CAPTION in options.columns else None
    meta = {column: json_safe(row[column]) for column in options.columns if column != _CAPTION}
    return Row(name, os.path.abspath(path), media_kind(path) or "video", caption, text, meta)


def _file_name(raw: str, options: InputOptions) -> str:
    """Give the name of a video's files: its id, or the key made of it where that can name no file."""
    odd = "/" in raw or "\0" in raw or raw[0] == "." or len(os.fsencode(raw)) > _NAME_BYTES
    return make_key(raw) if odd or (options.in_tar and "." in raw) else raw


def _tar_units(src: Source, options: InputOptions) -> Iterator[Unit]:
    tars = _tars(src)
    size = math.ceil(len(tars) / options.ranks)
    for path in tars[options.rank * size : (options.rank + 1) * size]:
        number = path.name.partition(".")[0]
        name = f"{int(number):0{options.digits or _TAR_DIGITS}d}" if number.isdecimal() else number
        yield _unit(f"{name}_clip_embeddings", list(_tar_rows(path, options)))


def _tars(src: Source) -> list[Path]:
    from braceexpand import braceexpand

    patterns = [str(src)] if isinstance(src, (str, Path)) else [str(path) for path in src]
    if remote := next((pattern for pattern in patterns if "://" in pattern or pattern.startswith("pipe:")), None):
        raise InputError(f"{remote}: expected tars on a disk; copy them there first")
    try:
        tars = [Path(os.path.abspath(text)) for pattern in patterns for text in braceexpand(pattern)]
    except ValueError as error:
        raise InputError(f"{src}: expected a pattern like '00{{000..012}}.tar', found: {error}") from error
    if missing := [tar for tar in tars if not tar.is_file()]:
        raise InputError(f"expected the tars of {src}, {len(missing)} are not there, the first: {missing[0]}")
    return tars


def _tar_rows(path: Path, options: InputOptions) -> Iterator[Row | Failure]:
    """Yield the videos of a tar; their texts may lie anywhere in it."""
    samples: dict[str, list[TarMember]] = {}
    damage = ""
    try:
        for member in read_tar(path, (".txt", ".json")):
            samples.setdefault(member.name.rpartition(".")[0], []).append(member)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        damage = f"the tar is damaged or cut off from here on ({error})"
    for stem, members in samples.items():
        yield from _tar_row(path, stem, members, options)
    if damage:
        yield problem(path.name, str(path), damage)


def _tar_row(path: Path, stem: str, members: list[TarMember], options: InputOptions) -> Iterator[Row | Failure]:
    videos = [member for member in members if media_kind(member.name) == "video"]
    texts = {member.name.rpartition(".")[2]: member.content for member in members}
    name = _file_name(stem, options) if stem else path.name
    try:
        meta = json.loads(texts.get("json", b"{}"))
        text = texts["txt"].decode() if "txt" in texts else None
        if not isinstance(meta, dict):
            raise ValueError("expected an object")
    except ValueError as error:
        yield problem(name, str(path), f"a text that is not UTF-8, or a json that is no object: {error}")
        return
    if not videos or not stem:
        status = meta.get("status", "success")
        if videos or {"txt", "json"} & texts.keys():
            yield problem(name, str(path), f"status {status!r} in its json" if status != "success" else MISSING_MEDIA)
        return
    video, *others = videos
    address = member_address(str(path), video.name, video.offset, video.size, tar_coding(path))
    yield Row(
        name,
        address,
        "video",
        str(meta.get(_CAPTION) or "") if text is None else text,
        text if "txt" in options.passed else None,
        json_safe(meta) if "json" in options.passed else None,
        video.name.rpartition(".")[2] if "mp4" in options.passed else "",
    )
    yield from (problem(name, f"{path}#{other.name}", "another video of the same name is used") for other in others)
