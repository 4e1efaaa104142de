"""A csv, tsv, parquet or jsonl table of media paths and captions. May import `sample` and `_read`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from embedshard.address import is_url, place
from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, Kind, LeftOut, Media, Sample, make_key, media_kind, split_name
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._read import (
    MISSING_MEDIA,
    REMOTE_MEDIA,
    TABLE_EXTENSIONS,
    json_safe,
    media_root,
    natural,
    relative,
    rows,
    seconds,
    with_id,
)

__all__ = ["Table", "TableOptions"]

_PEEK = 1000
_NO_KIND = "neither a video nor a picture by its extension"

# For each column the names it is known by: the first word that a table has wins, the names within one word are
# equals, of which a table may have one only.
_NAMES = {
    "path": "path videoloc|video_path|image_path|media_path|filepath|file_path|filename|file_name|file"
    "|image|video|media url|video_url|image_url|contenturl",
    "caption": "caption text|title|sentence|description name|label",
    "split": "split subset",
    "id": "id key uid sample_id clip_id videoid video_id image_id",
    "start": "start start_time time_start begin begin_time clip_start start_timestamp",
    "end": "end end_time time_end clip_end end_timestamp",
}


@dataclass(frozen=True)
class TableOptions(Options):
    """How a table is read; a column that is not named is found by its usual names."""

    path_column: str = option("", "column of the media path")
    caption_column: str = option("", "column of the caption")
    split_column: str = option("", "column of the split")
    id_column: str = option("", "column of the sample's id; without one, the path and the window are the id")
    start_column: str = option("", "column of the window's start, in seconds or HH:MM:SS")
    end_column: str = option("", "column of the window's end")
    group_column: str = option("", "column of what must not lie in two splits (default: the media path)")
    media: str = option("", "folder or URL that relative paths start from (default: the table's own)")
    number_rows: bool = option(False, "append the row's number to every id, for several rows of one id")
    uncaptioned: bool = option(False, "take a table without a column of captions (with prepare --keep-uncaptioned)")


class Table(Source):
    """A table, or all tables of a folder (json and txt, which could be anything there, must be named themselves).

    The id of a sample is its id column, else its path and window. The media id is the path below the media
    folder, or another column chosen by `group_column`. A path to a folder is a folder of frames.
    """

    name = "table"
    title = "Table of media paths and captions"
    kind = "caption"
    modality = "video, image"
    splits = {"given": SPLITS}
    options = TableOptions
    expects = """
TABLE.csv (.tsv, .jsonl, .parquet, .json; .txt for paths alone), or a folder of such tables, with the columns
    path       media file, relative to the table (or --option media=DIR), or s3://...; also videoLoc, image ...
    caption    also text, title, sentence, description ...
    split      optional: train, val, test; without it a table called train.csv, val_1.csv, ... is of that split
    id         optional: also key, uid, videoID, video_id ...
    start,end  optional: the window, in seconds or HH:MM:SS
Any other column becomes metadata. Columns of other names: --option caption_column=NAME
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of all tables in their order."""
        assert isinstance(options, TableOptions)
        tables = [root]
        if root.is_dir():
            paths = sorted(root.iterdir(), key=lambda path: natural(path.name))
            wanted = set(TABLE_EXTENSIONS) - {".json", ".txt"}
            tables = [path for path in paths if path.suffix.lower() in wanted and not path.name.startswith(".")]
        if not tables or not tables[0].exists():
            raise tree_error(self, root, "expected a table")
        base = media_root(root)
        folder = options.media if is_url(options.media) else os.path.abspath(options.media or base)
        numbers = count()
        for path in tables:
            reader = _Reader(options, base=str(base), folder=folder, path=path)
            for row in reader.rows:
                number = next(numbers)
                yield LeftOut(f"row {number}", row) if isinstance(row, str) else reader.sample(row, number)

    def demo(self, tree: Tree) -> None:
        """Lay out a csv with every column, and a jsonl of other column names."""
        for name in ("-a.b.mp4", "猫/2.webm"):
            tree.video(f"videos/{name}", name)
        tree.image("p|1.png", "a picture")
        tree.frames("frames/1", "frames")
        tree.text(
            "clips.csv",
            "path,caption,split,id,start,end,fps\n"
            'videos/-a.b.mp4,"A dog, ""Rex"".\nHe runs.",train,-a.b|0,0,1,10\n'
            "videos/-a.b.mp4,那只狗停下来了。,train,-a.b|1,00:00:01.0,2.0,10\n"
            "videos/猫/2.webm,A cat 🐈,validation,c,,,nan\n"
            "frames/1,A folder of frames.,test,f,,,\n"
            "videos/gone.mp4,It is gone.,train,g,,,\n"
            "videos/猫/2.webm, ,train,blank,,,\n"
            "videos/猫/2.webm,The end is before the start.,val,w,2,1,\n"
            "https://example.org/v.mp4,Not downloaded.,train,u,,,\n"
            "videos/猫/2.webm,Held out.,holdout,h,,,\n",
        )
        tree.text("test.jsonl", '{"videoLoc": "p|1.png", "text": "A picture.", "videoID": "p|1", "score": NaN}\n')


class _Reader:
    """One table: its `rows`, and what makes a sample of each; columns are found in the first of them."""

    def __init__(self, options: TableOptions, base: str, folder: str, path: Path) -> None:
        self._base, self._folder = base, folder
        self._number_rows = options.number_rows
        stream = rows(path)
        head = list(islice(stream, _PEEK))
        self.rows = chain(head, stream)
        found = list(dict.fromkeys(name for row in head if not isinstance(row, str) for name in row))
        column = {name: _find(path, found, name, getattr(options, f"{name}_column")) for name in _NAMES}
        self._group = _find(path, found, "group", options.group_column)
        for name in ("path", "caption") if found else ():
            if not column[name] and not (name == "caption" and options.uncaptioned):
                raise _column_error(path, found, f"a column {name}", name)
        self._path, self._caption, self._split, self._id, self._start, self._end = column.values()
        self._used = {self._path, self._caption, self._split, self._start, self._end}
        word = re.match("[A-Za-z]*", path.stem)
        self._default_split = split_name(word[0]) or "" if word else ""
        self._last: tuple[str, str, str, Kind | str] = ("", "", "", "")

    def sample(self, row: Mapping[str, Any], number: int) -> Sample | LeftOut:
        """Make the sample of a row."""
        given = _text(row.get(self._path))
        window = row.get(self._start), row.get(self._end)
        raw_id = _text(row.get(self._id)) if self._id else "_".join(filter(None, map(_text, (given, *window))))
        if not given or not raw_id:
            return LeftOut(raw_id or f"row {number}", "an empty path or id")
        if self._number_rows:
            raw_id = f"{raw_id}_{number}"
        try:
            start, end = seconds(window[0]), seconds(window[1])
        except (TypeError, ValueError, OverflowError):
            return LeftOut(raw_id, "start or end is no time in seconds or HH:MM:SS")
        media_id, path, kind = self._locate(given)
        if kind not in ("video", "image", "frames"):
            return LeftOut(raw_id, kind)
        split = _text(row.get(self._split)) if self._split else self._default_split
        if self._split:
            split = split_name(split) or split or "(none)"
        group = _text(row.get(self._group)) if self._group else ""
        meta = {name: json_safe(value) for name, value in row.items() if name not in self._used}
        media = Media(group or media_id, path, kind, start, end)
        return Sample(make_key(raw_id), split, media, _text(row.get(self._caption)), with_id(meta, raw_id))

    def _locate(self, given: str) -> tuple[str, str, Kind | str]:
        """Give the media id, the manifest's path and the kind of media, or the reason why there is none.

        The id is the same for every spelling of a path, and wherever the media folder lies.
        """
        url = str(place(given, place(self._folder)))
        if is_url(url):
            return (url if is_url(given) else os.path.normpath(given)), url, _remote_kind(url)
        if given != self._last[0]:
            path = os.path.normpath(os.path.join(self._folder, given))
            below = relative(path, self._folder)
            media_id = os.path.normpath(given) if os.path.isabs(below) else below
            self._last = (given, media_id, relative(path, self._base), _kind(path))
        return self._last[1:]


def _remote_kind(url: str) -> Kind | str:
    """Give the kind by the extension alone: prepare asks no storage. What the web has must be downloaded."""
    if url.startswith(("http://", "https://")):
        return REMOTE_MEDIA
    return media_kind(url) or _NO_KIND


def _kind(path: str) -> Kind | str:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return MISSING_MEDIA
    if stat.S_ISDIR(mode):
        return "frames"
    return media_kind(path) or _NO_KIND


def _text(value: Any) -> str:
    """Give a cell as text; None and NaN are empty."""
    if isinstance(value, str):
        return value
    return "" if value is None or value != value else str(value)


def _find(path: Path, columns: list[str], name: str, wanted: str) -> str:
    """Give the column that the user wants, else the one with a usual name, else ""."""
    if wanted:
        if columns and wanted not in columns:
            raise _column_error(path, columns, f"the column {wanted!r}", name)
        return wanted
    lowered = [(column.strip().lower(), column) for column in columns]
    for names in _NAMES.get(name, "").split():
        found = [column for low, column in lowered if low in names.split("|")]
        if len(found) > 1:
            raise _column_error(path, columns, f"one column for {name}, not {' and '.join(found)}", name)
        if found:
            return found[0]
    return ""


def _column_error(path: Path, columns: list[str], expected: str, name: str) -> InputError:
    return InputError(
        f"{path}: expected {expected}, found the columns: {', '.join(map(repr, columns))}\n"
        f"  Say which one it is with: --option {name}_column=NAME"
    )
