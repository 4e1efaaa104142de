"""Kinetics-700: action clips of YouTube videos, cut and named by their time. May import `sample` and `_read`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, VIDEO_EXTENSIONS, LeftOut, Media, Sample, make_key, split_name
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._labels import label_lines, split_folders, split_tables
from embedshard.sources._read import ANOTHER_MEDIA, MISSING_MEDIA, entries, rows, walk

__all__ = ["Kinetics700"]

_LABELS = "label_map_k700.txt"
_COLUMNS = (
    ("youtube_id", "time_start", "time_end", "label"),
    ("video-id", "start-time", "end-time", "label-name"),
)


class Kinetics700(Source):
    """Kinetics-700 and its edition of 2020; the media id is the YouTube id, which all clips of a video share.

    The files are clips already, so their times are metadata and no window: `start_time` and `end_time` are the six
    digits of the file name, as texts, and with `videoID` just what the json of CLIP-Kinetics700 has. A clip without
    a label in its table takes that of its folder. Memory holds the file names of one split.

    The published numbers are the clips that CLIP-Kinetics700 could still get. The csv files list more (34173 rows of
    validate and 67714 of test), of which nobody has all: rows without a clip are counted as left out.
    """

    name = "kinetics700"
    title = "Kinetics-700"
    homepage = "https://github.com/cvdfoundation/kinetics-dataset"
    license = "CC BY 4.0 (annotations)"
    kind = "classification"
    modality = "video"
    published_samples = {"official": {"train": 536489, "val": 33966, "test": 64532}}
    splits = {"official": SPLITS}
    expects = f"""
train.csv, validate.csv, test.csv    columns label,youtube_id,time_start,time_end,split (test may lack label)
                                     or train.json ...: {{YOUTUBEID: {{"annotations": {{"label", "segment"}}}}}}
train/LABEL/YOUTUBEID_000001_000011.mp4
validate/LABEL/...                   or val/; without a table, the folders alone say it all
test/...                             without label folders a test clip has no caption
{_LABELS}                  optional: gives label_id
Tables and split folders may lie in a folder each, as annotations/ and videos/
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of each split's table and its files that no row takes, or all files in the order of names."""
        tables, folders = split_tables(root, ".csv", ".json"), split_folders(root)
        if not tables and not folders:
            raise tree_error(self, root, "expected train.csv, validate.csv or test.csv, or folders of these names")
        label_ids = {label: number for number, label in enumerate(label_lines(root, _LABELS))}
        pools = [((split,), folders.get(split, [])) for split in SPLITS] if folders else [(SPLITS, [""])]
        for splits, below in pools:
            clips = _clips(root, below)
            own = {split: tables[split] for split in splits if split in tables}
            yield from _from_tables(own, clips, label_ids) if own else _from_folders(clips, splits[0], label_ids)

    def demo(self, tree: Tree) -> None:
        """Lay out three splits, a missing clip, and a test clip whose label nobody knows."""
        header = "label,youtube_id,time_start,time_end,split\n"
        tree.text(
            "train.csv",
            f"{header}air drumming,---QUuC4vJs,84,94,train\nmassaging person's head,a_000001_00,0,10,train\n"
            "air drumming,gone0000000,5,15,train\n",
        )
        tree.video("train/air drumming/---QUuC4vJs_000084_000094.mp4", "drums")
        tree.video("train/massaging_person's_head/a_000001_00_000000_000010.mkv", "head")
        tree.text("validate.csv", f'{header}"cutting, paper",--GkrdYZ9Tc,0,10,validate\n')
        tree.video("val/--GkrdYZ9Tc_000000_000010.mp4", "paper")
        tree.text(
            "test.csv", "youtube_id,time_start,time_end,split\n--0kKuQu4Gs,0,10,test\n---v8pgm1eQ,1000,1010,test\n"
        )
        tree.video("test/air drumming/--0kKuQu4Gs_000000_000010.mp4", "more drums")
        tree.video("test/---v8pgm1eQ_001000_001010.mp4", "no label")
        tree.text(_LABELS, "abseiling\nair drumming\nmassaging person's head\n")


def _clips(root: Path, folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the name without extension and the path of each video below these folders."""
    for folder in folders:
        for below, _, names in walk(root / folder, None):
            place = folder + below
            for name in names:
                dot = name.rfind(".")
                if name[dot:].lower() in VIDEO_EXTENSIONS:
                    yield name[:dot], place + name


def _from_tables(
    tables: Mapping[str, Path], clips: Iterable[tuple[str, str]], label_ids: Mapping[str, int]
) -> Iterator[Sample | LeftOut]:
    """Yield the rows of tables, then the clips that none of them names."""
    free: dict[str, str] = {}
    for stem, path in clips:
        if free.setdefault(stem, path) is not path:
            yield LeftOut(path, ANOTHER_MEDIA)
    for split, table in tables.items():
        yield from _from_table(table, free, split, label_ids)
    yield from (LeftOut(path, "named by no row") for path in free.values() if path)


def _from_table(
    table: Path, free: dict[str, str], split: str, label_ids: Mapping[str, int]
) -> Iterator[Sample | LeftOut]:
    """Yield the rows of a table, and blank the path of each clip that is taken."""
    columns: tuple[str, ...] = ()
    for row in _json_rows(table) if table.suffix == ".json" else rows(table):
        if isinstance(row, str):
            yield LeftOut(f"a row of {table.name}", row)
            continue
        video, start, end, label = columns = columns or _columns(table, row)
        try:
            stem = f"{row[video]}_{_six_digits(row[start])}_{_six_digits(row[end])}"
        except (ValueError, TypeError, OverflowError):
            yield LeftOut(row[video], "its times are no numbers")
            continue
        if path := free.get(stem, ""):
            free[stem] = ""
            yield _sample(stem, path, split, row.get(label) or _folder_label(path), label_ids)
        else:
            yield LeftOut(stem, "named by two rows" if stem in free else MISSING_MEDIA)


def _from_folders(
    clips: Iterable[tuple[str, str]], split: str, label_ids: Mapping[str, int]
) -> Iterator[Sample | LeftOut]:
    for stem, path in clips:
        if len(stem) > 14 and stem[-14] == stem[-7] == "_" and (stem[-13:-7] + stem[-6:]).isdecimal():
            yield _sample(stem, path, split, _folder_label(path), label_ids)
        else:
            yield LeftOut(path, "file name is not YOUTUBEID_SSSSSS_EEEEEE")


def _json_rows(table: Path) -> Iterator[Mapping[str, Any] | str]:
    for video, entry in entries(table, "object"):
        try:
            (start, end), label = entry["annotations"]["segment"], entry["annotations"].get("label")
        except (KeyError, TypeError, ValueError, AttributeError):
            yield "an entry without annotations that hold a segment"
        else:
            yield dict(zip(_COLUMNS[0], (video, start, end, str(label or "")), strict=True))


def _columns(table: Path, row: Mapping[str, Any]) -> tuple[str, ...]:
    for columns in _COLUMNS:
        if row.keys() >= set(columns[:3]):
            return columns
    raise InputError(f"{table}: expected the columns {', '.join(_COLUMNS[0])}, found {', '.join(row)}")


@functools.lru_cache(maxsize=1 << 14)
def _six_digits(time: Any) -> str:
    return f"{int(float(time)):06d}"


def _folder_label(path: str) -> str:
    """Give the label of `split/label/file`, "" for a file that lies directly in its split or in none."""
    *above, folder, _ = ("", *path.split("/"))
    return folder.replace("_", " ") if any(map(split_name, above)) else ""


def _sample(stem: str, path: str, split: str, label: str, label_ids: Mapping[str, int]) -> Sample:
    """Take a name apart from its end: `_` may begin, end and fill a YouTube id."""
    video = stem[:-14]
    meta: dict[str, Any] = {"videoID": video, "start_time": stem[-13:-7], "end_time": stem[-6:], "label": label}
    if label in label_ids:
        meta["label_id"] = label_ids[label]
    return Sample(make_key(stem), split, Media(video, path, "video"), label, meta)
