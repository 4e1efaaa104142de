"""InternVid: clips of YouTube videos with a generated caption each. May import `sample` and the helpers of sources."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from embedshard.demo import Tree
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._media import MediaIndex, media_index
from embedshard.sources._read import MISSING_MEDIA, media_root, seconds

__all__ = ["InternVid"]

_NOT_OBJECT = "a line that is no JSON object"
_UNREADABLE = "a row without a YoutubeID and a Caption"
_NO_TIMES = "Start_timestamp or End_timestamp is no time"
_CLIPS = re.compile(r"(?:^|[/#])(?:videos|clips)(?:\.[^/#]+#|/)")


class InternVid(Source):
    """InternVid; the media id is the YouTube id, which all clips of a video share.

    The id of a sample is the YouTube id and the number of its line, as nothing says that the times are unique. The
    times are the window of the video. Where the video is not there but the clip, cut already, its file is read whole,
    and the times in the video are metadata only.
    """

    name = "internvid"
    title = "InternVid"
    homepage = "https://github.com/OpenGVLab/InternVideo/tree/main/Data/InternVid"
    license = "CC BY-NC-SA 4.0 (annotations)"
    kind = "caption"
    modality = "video"
    splits = {"given": ("train",)}
    expects = """
InternVid-10M-flt.jsonl    one InternVid*.jsonl, here or in any folder, or that file as RAW, and then the
                           videos are looked for in its own folder and below; its lines are
                           {"YoutubeID": "-aB3dE6gHi0", "Start_timestamp": "00:07:33.689",
                           "End_timestamp": "00:07:51.085", "Caption": "a dog runs", "Aesthetic_Score": 4.2, ...}
videos/-aB3dE6gHi0.mp4     a whole video, in any folders or archives
videos/12.mp4              or, where that is not there, the clip of line 12, cut already, below a folder, or in an
                           archive, of the name videos or clips; every line counts, also a blank one, from 0
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the clips in the order of the lines."""
        path = self._annotations(root)
        media = media_index(media_root(root), "video")
        yield from media.problems
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.isspace():
                    yield _clip(_row(line), number, media)

    def demo(self, tree: Tree) -> None:
        """Lay out windows of one video, a clip cut already, and lines that give no sample."""
        rows = [
            _demo_row("-aB3dE6gHi0", "00:00:00.200", "00:00:01.085", "a dog runs"),
            _demo_row("-aB3dE6gHi0", "00:00:01.085", "00:00:01.900", "两只狗在跑"),
            "",
            _demo_row("c_000000001", "01:07:33.689", "01:07:51.085", "this clip was cut before"),
            _demo_row("gone0000001", "00:00:01.000", "00:00:02.000", "this video is gone"),
            _demo_row("-aB3dE6gHi0", "00:00:01.900", "00:00:01.900", "no time at all"),
            "not JSON",
        ]
        tree.text("InternVid-10M-flt.jsonl", "\n".join(rows))
        tree.video("videos/-aB3dE6gHi0.mkv", "dogs")
        tree.video("videos/3.mp4", "cut", 1.0)

    def _annotations(self, root: Path) -> Path:
        if root.is_file():
            return root
        found = sorted(path for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}InternVid*.jsonl"))
        if len(found) != 1:
            names = ", ".join(str(path.relative_to(root)) for path in found)
            raise tree_error(self, root, f"found {names}; give one as RAW" if found else "found no InternVid*.jsonl")
        return found[0]


def _demo_row(video: str, start: str, end: str, caption: str) -> str:
    row = {"YoutubeID": video, "Start_timestamp": start, "End_timestamp": end, "Caption": caption}
    return json.dumps({**row, "Aesthetic_Score": 4.2, "UMT_Score": 0.47}, ensure_ascii=False)


def _row(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:  # what Python's reader takes beyond strict JSON: NaN, a byte order mark
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(line.decode("utf-8-sig", "surrogateescape"))
        return None


def _clip(row: Any, number: int, media: MediaIndex) -> Sample | LeftOut:
    """Give the sample of a row, which becomes its metadata."""
    if not isinstance(row, dict):
        return LeftOut(f"line {number}", _NOT_OBJECT)
    video, caption = row.pop("YoutubeID", None), row.pop("Caption", None)
    if not (isinstance(video, str) and isinstance(caption, str)):
        return LeftOut(f"line {number}", _UNREADABLE)
    raw_id = f"{video}_{number}"
    if path := media.get(video):
        start, end = _seconds(row.get("Start_timestamp")), _seconds(row.get("End_timestamp"))
        if start is None or end is None:
            return LeftOut(raw_id, _NO_TIMES)
        clip = Media(video, path, "video", start, end)
    elif path := _cut_clip(number, media):
        clip = Media(video, path, "video")
    else:
        return LeftOut(raw_id, MISSING_MEDIA)
    row["id"], row["youtube_id"] = raw_id, video
    return Sample(make_key(raw_id), "", clip, caption.strip(), row)


def _cut_clip(number: int, media: MediaIndex) -> str | None:
    """Give the file of a line's number, which may be another dataset's unless its folder tells what it is."""
    paths = filter(_CLIPS.search, media.all(str(number)))
    return min(paths, key=lambda path: path.count("/"), default=None)


def _seconds(time: Any) -> float | None:
    """Read the usual `HH:MM:SS.fff`, milliseconds included, or what `seconds` reads, which takes its time."""
    try:
        hours, minutes, rest = time.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(rest)
    except (AttributeError, ValueError):
        with contextlib.suppress(ValueError, TypeError):
            return seconds(time)
        return None
