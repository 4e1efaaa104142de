"""Kinetics-700: action clips of YouTube videos, cut and named by their time. May import `sample` and `_read`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key, media_kind, split_name
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._read import MISSING_MEDIA, media_index, rows, walk

__all__ = ["Kinetics700"]

_LABELS = "label_map_k700.txt"
_STEM = re.compile(r"(.+)_(\d{6})_(\d{6})", re.DOTALL)


class Kinetics700(Source):
    """Kinetics-700; the media id is the YouTube id, which all clips of a video share.

    The files are clips already, so `time_start` and `time_end` are metadata and no window. Memory holds the file
    names of one split.
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
train/LABEL/YOUTUBEID_000001_000011.mp4
validate/LABEL/...                   or val/; without a csv, the folders alone say it all
test/...                             without label folders a test clip has no caption
{_LABELS}                  optional: gives label_id
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of each split's csv, or its clips in natural order where there is no csv."""
        label_ids = _label_ids(root / _LABELS)
        found = False
        names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
        for split in SPLITS:
            tables = [root / name for name in names if name.endswith(".csv") and split_name(name[:-4]) == split]
            folders = [name for name in names if split_name(name) == split and (root / name).is_dir()]
            found = found or bool(tables or folders)
            if tables:
                clips = {stem: path for name in folders for stem, path in media_index(root, name).items()}
            for table in tables:
                for row in rows(table):
                    yield _from_row(row, clips, split, label_ids)
            for folder in folders if not tables else []:
                for path in _clip_paths(root, folder):
                    yield _from_path(path, split, label_ids)
        if not found:
            raise tree_error(self, root, "expected train.csv, validate.csv or test.csv, or folders of these names")

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


def _label_ids(path: Path) -> dict[str, int]:
    labels = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    return {label: number for number, label in enumerate(labels)}


def _clip_paths(root: Path, folder: str) -> Iterator[str]:
    for below, _, files in walk(root / folder):
        yield from (f"{folder}/{below}{name}" for name in files if media_kind(name))


def _from_row(
    row: Mapping[str, Any] | str, clips: Mapping[str, str], split: str, label_ids: Mapping[str, int]
) -> Sample | LeftOut:
    if isinstance(row, str):
        return LeftOut(f"a row of {split}", row)
    video = str(row.get("youtube_id") or "")
    try:
        start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
    except (KeyError, ValueError, OverflowError):
        return LeftOut(video, "time_start or time_end is no number")
    stem = f"{video}_{start:06d}_{end:06d}"
    if stem not in clips:
        return LeftOut(stem, MISSING_MEDIA)
    label = row.get("label") or _folder_label(clips[stem])
    return _sample((video, start, end), clips[stem], split, label, label_ids)


def _from_path(path: str, split: str, label_ids: Mapping[str, int]) -> Sample | LeftOut:
    match = _STEM.fullmatch(path.rpartition("/")[2].rpartition(".")[0])
    if not match:
        return LeftOut(path, "file name is not YOUTUBEID_SSSSSS_EEEEEE")
    clip = (match[1], int(match[2]), int(match[3]))
    return _sample(clip, path, split, _folder_label(path), label_ids)


def _folder_label(path: str) -> str:
    """Give the label of `split/label/file`, "" for a file that lies directly in its split."""
    folders = path.split("/")[1:-1]
    return folders[-1].replace("_", " ") if folders else ""


def _sample(
    clip: tuple[str, int, int], path: str, split: str, label: str, label_ids: Mapping[str, int]
) -> Sample | LeftOut:
    video, start, end = clip
    kind = media_kind(path)
    assert kind
    meta = {"videoID": video, "start_time": start, "end_time": end, "label": label}
    if label in label_ids:
        meta["label_id"] = label_ids[label]
    return Sample(make_key(f"{video}_{start:06d}_{end:06d}"), split, Media(video, path, kind), label, meta)
