"""InternVid-G: captioned segments of YouTube videos for grounding. May import `sample` and the helpers of sources."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key, split_name
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import CaptionsOptions, caption_samples
from embedshard.sources._media import MediaIndex, media_index
from embedshard.sources._read import MISSING_MEDIA, find, media_root, rows, seconds

__all__ = ["InternVidG"]

Row = Mapping[str, Any]

_PIPELINE = ("final_dataset.jsonl", "scenes-blip2-filtered-high_sims.jsonl", "scenes-blip2.jsonl")
_TAKEN = frozenset(("video", "video_fname", "start_sec", "end_sec", "duration", "caption", "captions"))
_UNREADABLE = "a row without a video, its times and a caption"


class InternVidG(Source):
    """InternVid-G; the media id is the YouTube id, the first 11 letters of `video`, which all segments share.

    The id of a sample is the YouTube id and the number of the segment among those of its video. In the negative
    span, from `neg_start_sec` to `neg_end_sec`, no other segment shows what the caption says.
    """

    name = "internvid_g"
    title = "InternVid-G"
    homepage = "https://github.com/yellow-binary-tree/HawkEye"
    license = "MIT (annotations)"
    kind = "segment"
    modality = "video"
    splits = {"official": ("train", "test")}
    options = CaptionsOptions
    expects = f"""
train.jsonl               {{"video": "-aB3dE6gHi0.mp4", "duration": 212.3, "start_sec": 12.1, "end_sec": 17.9,
                          "neg_start_sec": 0, "neg_end_sec": 61.0, "caption": "a dog runs", ...}}, a line a caption;
                          or train.json, a list of these
test.jsonl                optional, in the same form, as is val.jsonl
                          Or what the authors' pipeline writes, without a split; the first of these that is there:
                          {_PIPELINE[0]}, or lines {{"video_fname", "start_sec", "end_sec", "captions": [...]}} in
                          {", ".join(_PIPELINE[1:])}
                          Or any such file as RAW; videos are looked for in its own folder and below
videos/-aB3dE6gHi0.mp4    in any folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the segments in the order of the files."""
        assert isinstance(options, CaptionsOptions)
        tables = self._tables(root)
        media = media_index(media_root(root), "video")
        yield from media.problems
        numbers: Counter[str] = Counter()
        for split, path in tables.items():
            for line, row in enumerate(rows(path)):
                name = None if isinstance(row, str) else row.get("video") or row.get("video_fname")
                if isinstance(row, str) or not isinstance(name, str):
                    yield LeftOut(f"row {line} of {path.name}", row if isinstance(row, str) else _UNREADABLE)
                    continue
                video = name.rpartition("/")[2][:11]
                number, segment = numbers[video], _media(name, row, media)
                numbers[video] += 1
                if isinstance(segment, str):
                    yield LeftOut(f"{video}_{number}", segment)
                else:
                    yield from _samples(number, split, segment, row, options.captions)

    def demo(self, tree: Tree) -> None:
        """Lay out segments of two splits, a missing video, and one that ends before it starts."""
        train = [
            _demo_row("-aB3dE6gHi0.mp4", 0.2, 1.1, "a dog runs", 4),
            _demo_row("-aB3dE6gHi0.mp4", 0.2, 1.1, "a dog is running on the grass.", 4),
            _demo_row("-aB3dE6gHi0.mp4", 1.1, 2.3, "两只狗", None),
            _demo_row("gone0000001.mp4", 0.5, 1.5, "this video is gone", 1),
            _demo_row("-aB3dE6gHi0.mp4", 1.5, 0.5, "backwards", 1),
        ]
        tree.text("train.jsonl", "\n".join(train))
        tree.text("test.jsonl", _demo_row("c_000000001.webm", 0, 0.9, "a cat sleeps", 0))
        tree.video("videos/-aB3dE6gHi0.mp4", "dogs")
        tree.video("videos/c_000000001.mkv", "cat", 1.0)

    def _tables(self, root: Path) -> dict[str, Path]:
        if root.is_file():
            return {split_name(root.stem) or "": root}
        tables = {split: path for split in SPLITS if (path := find(root, f"{split}.jsonl", f"{split}.json"))}
        if not tables and (path := find(root, *_PIPELINE)):
            tables = {"": path}
        if not tables:
            raise tree_error(self, root, f"found no train.jsonl, and no {', '.join(_PIPELINE)}")
        return tables


def _demo_row(video: str, start: float, end: float, caption: str, scene: int | None) -> str:
    row = {"video": video, "duration": 2.0, "start_sec": start, "end_sec": end, "neg_start_sec": 0, "neg_end_sec": 2.0}
    return json.dumps({**row, "caption": caption, "start_scene": scene, "neg_start_scene": None}, ensure_ascii=False)


def _media(name: str, row: Row, media: MediaIndex) -> Media | str:
    """Give the segment of the video, or why there is none."""
    stem = name.rpartition("/")[2]
    path = media.get(stem.rpartition(".")[0]) or media.get(stem[:11])
    if path is None:
        return MISSING_MEDIA
    try:
        start, end, duration = map(seconds, (row["start_sec"], row["end_sec"], row.get("duration")))
    except (KeyError, TypeError, ValueError):
        start = end = duration = None
    if start is None or end is None:
        return _UNREADABLE
    return Media(stem[:11], path, "video", start, end, duration)


def _samples(number: int, split: str, media: Media, row: Row, which: str) -> Iterator[Sample | LeftOut]:
    raw_id, caption, captions = f"{media.id}_{number}", row.get("caption"), row.get("captions")
    fields = {name: value for name, value in row.items() if name not in _TAKEN}
    meta = {**fields, "id": raw_id, "youtube_id": media.id, "segment_index": number}
    if isinstance(captions, list):
        yield from caption_samples(raw_id, split, media, captions, which, meta)
    elif isinstance(caption, str):
        yield Sample(make_key(raw_id), split, media, caption.strip(), meta)
    else:
        yield LeftOut(raw_id, _UNREADABLE)
