"""ActivityNet Captions: sentences on the events of YouTube videos. May import `sample` and the helpers of sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._adaclip import Clip, clips, paragraph, require
from embedshard.sources._media import MediaIndex, media_index
from embedshard.sources._read import MISSING_MEDIA, NO_CAPTION, find_splits, seconds_or_none

__all__ = ["ActivityNetCaptions", "ActivityNetCaptionsOptions"]

_NO_WINDOW = "a sentence without a start and an end"


@dataclass(frozen=True)
class ActivityNetCaptionsOptions(Options):
    """How ActivityNet Captions is read."""

    as_: str = option(
        "caption", "a sample: a video with its sentences joined, or a sentence with its window", ("caption", "segment")
    )
    val_2: bool = option(False, "read the second annotation of the val videos too; its ids end in _val_2")


class ActivityNetCaptions(Source):
    """ActivityNet Captions; the media id is `v_` and the YouTube id, which all events of a video share.

    `--as caption` is AdaCLIP's: the sentences of a video joined as they are. `--as segment` has a window for each
    sentence; windows overlap. There is no test split: the videos of `test_ids.json` have no sentences and are no
    rows. `--split retrieval` calls val test, as papers on retrieval do, which have no val.
    """

    name = "activitynet_captions"
    title = "ActivityNet Captions"
    homepage = "https://cs.stanford.edu/people/ranjaykrishna/densevid/"
    license = "not stated"
    kind = "caption"
    modality = "video"
    published_samples = {"official": {"train": 10009, "val": 4917}, "retrieval": {"train": 10009, "test": 4917}}
    published_media = published_samples
    splits = {"official": ("train", "val"), "retrieval": ("train", "test")}
    options = ActivityNetCaptionsOptions
    expects = """
train.json                 {"v_-aB3dE6gHi0": {"duration": 82.5, "timestamps": [[0.8, 19.9], ...],
                           "sentences": ["A woman dances.", ...]}, ...}; this and the others at most two folders deep
val_1.json                 or val.json, as in AdaCLIP's annotations
val_2.json                 for --option val_2=true
videos/v_-aB3dE6gHi0.mp4   or -aB3dE6gHi0.mkv, in any folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the videos in the order of the files, and their sentences in theirs."""
        assert isinstance(options, ActivityNetCaptionsOptions)
        files = self._files(root, options)
        media = media_index(root, "video")
        yield from media.problems
        for split, suffix, path in files:
            for clip in clips(path):
                raw_id = f"{clip.id}{suffix}"
                if isinstance(clip, LeftOut):
                    yield LeftOut(raw_id, clip.reason)
                elif not clip.sentences:
                    yield LeftOut(raw_id, NO_CAPTION)
                else:
                    of = _segments if options.as_ == "segment" else _whole
                    yield from of(clip, raw_id, split, _media(clip, media))

    def demo(self, tree: Tree) -> None:
        """Lay out both splits, a second annotation, overlapping windows that run too far, and a missing video."""
        dance = _entry(2.0, [[0, 1.2], [0.9, 2.01]], ["A woman dances.", "  She turns around and bows."])
        tree.json("captions/train.json", {"v_-aB3dE6gHi0": dance, "v_gone1234567": _entry(9.5, [[0, 9]], ["Gone."])})
        tree.video("videos/v_-aB3dE6gHi0.mkv", "dance")
        tree.json("captions/val_1.json", {"v_val_5678901": _entry(1.5, [[0, 1], [1, 1.5]], ["两只狗在跑。", " "])})
        tree.json("captions/val_2.json", {"v_val_5678901": _entry(1.5, [[0.2, 1.5]], ["Two dogs run"])})
        tree.video("videos/val_5678901.webm", "dogs", 1.5)
        tree.json("captions/test_ids.json", ["v_-test567890"])

    def _files(self, root: Path, options: ActivityNetCaptionsOptions) -> list[tuple[str, str, Path]]:
        """Give the annotations to read: their split, what the ids end in, and the file."""
        names = {"train": ["train.json"], "val": ["val_1.json", "val.json"]}
        found = find_splits(root, {**names, "val_2": ["val_2.json"]} if options.val_2 else names)
        if not found.keys() & names:
            raise tree_error(self, root, "found no train.json, val_1.json or val.json")
        if options.val_2 and "val_2" not in found:
            raise tree_error(self, root, "found no val_2.json")
        for path in found.values():
            require(path, "videos v_... with duration and timestamps", _is_one)
        held_out = "test" if options.split == "retrieval" else "val"
        ways = {"train": ("train", ""), "val": (held_out, ""), "val_2": (held_out, "_val_2")}
        return [(*ways[name], path) for name, path in found.items()]


def _entry(duration: float, timestamps: list[list[float]], sentences: list[str]) -> dict[str, Any]:
    return {"duration": duration, "timestamps": timestamps, "sentences": sentences}


def _is_one(clip: Clip) -> bool:
    return clip.id.startswith("v_") and {"duration", "timestamps"} <= clip.fields.keys()


def _media(clip: Clip, media: MediaIndex) -> Media | None:
    path = media.get(clip.id) or media.get(clip.id.removeprefix("v_"))
    return Media(clip.id, path, "video", duration=seconds_or_none(clip.fields.get("duration"))) if path else None


def _whole(clip: Clip, raw_id: str, split: str, media: Media | None) -> Iterator[Sample | LeftOut]:
    if media:
        meta = {"id": raw_id, "captions": clip.sentences, "timestamps": clip.fields.get("timestamps")}
        yield Sample(make_key(raw_id), split, media, paragraph(clip.sentences), meta)
    else:
        yield LeftOut(raw_id, MISSING_MEDIA)


def _segments(clip: Clip, raw_id: str, split: str, media: Media | None) -> Iterator[Sample | LeftOut]:
    times = clip.fields.get("timestamps")
    windows = times if isinstance(times, list) else []
    for number, sentence in enumerate(clip.sentences):
        segment = f"{raw_id}_{number}"
        start, end = _window(windows[number]) if number < len(windows) else (None, None)
        if media is None:
            yield LeftOut(segment, MISSING_MEDIA)
        elif start is None or end is None:
            yield LeftOut(segment, _NO_WINDOW)
        else:
            window = media._replace(start=start, end=end)
            yield Sample(make_key(segment), split, window, sentence, {"id": segment, "segment_index": number})


def _window(pair: Any) -> tuple[float | None, float | None]:
    start, end = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
    return seconds_or_none(start), seconds_or_none(end)
