"""YouCook2: cooking videos, a sentence for each step. May import `sample` and the helpers of sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import LeftOut, Media, Sample, make_key, split_name
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import joined
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, NO_CAPTION, UNREADABLE, entries, find, seconds, seconds_or_none

__all__ = ["YouCook2", "YouCook2Options"]

_NO_WINDOW = "a sentence without a start and an end"

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class YouCook2Options(Options):
    """How YouCook2 is read."""

    as_: str = option(
        "segment",
        "a sample: a sentence with its window, or a video with all its sentences joined",
        ("segment", "caption"),
    )


class YouCook2(Source):
    """YouCook2; the media id is the YouTube id, which all steps of a video share.

    There is no test split: the sentences of the test videos are not published, so the file that has only their
    windows is not read. Videos must be whole: a copy that is cut into its steps has no file of a YouTube id.
    """

    name = "youcook2"
    title = "YouCook2"
    homepage = "http://youcook2.eecs.umich.edu"
    license = "see homepage"
    kind = "segment, caption"
    modality = "video"
    published_samples = {"official": {"train": 10337, "val": 3492}}
    published_media = {"official": {"train": 1333, "val": 457}}
    splits = {"official": ("train", "val")}
    options = YouCook2Options
    expects = """
youcookii_annotations_trainval.json      here or in any folder: {"database": {"-aB3dE6gHi0": {"duration": 241.62,
                                         "subset": "training", "recipe_type": "113", "annotations":
                                         [{"segment": [90, 102], "id": 0, "sentence"}, ...], "video_url"}, ...}}
label_foodtype.csv                       optional, a line for each recipe type: 113,grilled cheese
raw_videos/training/113/-aB3dE6gHi0.mkv  or any other folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the videos in the order of the file, and their sentences in theirs."""
        assert isinstance(options, YouCook2Options)
        table = find(root, "youcookii_annotations_trainval.json")
        if not table:
            raise tree_error(self, root, "found no youcookii_annotations_trainval.json")
        recipes, media = _recipes(root), media_index(root, "video")
        of = _segments if options.as_ == "segment" else _whole
        for name, entry in _database(table).items():
            steps = entry.get("annotations") if isinstance(entry, dict) else None
            if isinstance(steps, list):
                video = Media(name, media.get(name, ""), "video", duration=seconds_or_none(entry.get("duration")))
                subset, meta = str(entry.get("subset")), _meta(entry, recipes)
                yield from of(video, split_name(subset) or subset, steps, meta)
            else:
                yield LeftOut(name, UNREADABLE)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out all three subsets, ids with `-` and `_`, windows that run too far, and what is left out."""
        toast = [_step(0, 0, 1, "toast the bread"), _step(1, 1, 9, "cut it in half"), _step(2, 1, 2, " ")]
        salad = [_step(0, 0, 1, "chop lettuce "), _step(1, 0, 2, "pour the dressing over the salad.")]
        entries = {
            "-aB3dE6gHi0": _entry("training", "113", toast),
            "goneE6gHi0_": _entry("training", "113", [_step(0, 3, 5, "this video is gone")]),
            "val_5678901": _entry("validation", "226", salad),
            "test5678901": _entry("testing", "226", [{"segment": [0, 1], "id": 0}]),
        }
        tree.json("annotations/youcookii_annotations_trainval.json", {"database": entries})
        tree.text("label_foodtype.csv", "113,grilled cheese\n226,fattoush\n")
        tree.video("raw_videos/training/113/-aB3dE6gHi0.mkv", "toast")
        tree.video("raw_videos/validation/226/val_5678901.mp4", "salad")
        tree.video("raw_videos/testing/226/test5678901.webm", "test")


def _step(number: int, start: int, end: int, sentence: str) -> dict[str, Any]:
    return {"segment": [start, end], "id": number, "sentence": sentence}


def _entry(subset: str, recipe_type: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"duration": 2.0, "subset": subset, "recipe_type": recipe_type, "annotations": steps}


def _database(path: Path) -> Mapping[str, Any]:
    table = dict(entries(path, "object"))
    if not isinstance(database := table.get("database"), dict):
        raise InputError(f"{path}: expected the videos under database, found the keys {', '.join(table)}")
    return database


def _recipes(root: Path) -> Mapping[str, str]:
    """Give the name of each recipe type, none where the list is missing."""
    path = find(root, "label_foodtype.csv")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path else []
    return {number.strip(): name.strip() for number, _, name in (line.partition(",") for line in lines)}


def _meta(entry: Fields, recipes: Mapping[str, str]) -> dict[str, Any]:
    meta = {name: entry[name] for name in ("recipe_type", "video_url") if name in entry}
    recipe = recipes.get(str(meta.get("recipe_type")))
    return {**meta, "recipe": recipe} if recipe else meta


def _segments(video: Media, split: str, steps: list[Any], meta: Fields) -> Iterator[Sample | LeftOut]:
    for number, step in enumerate(steps):
        raw_id = f"{video.id}_{number}"
        fields = step if isinstance(step, dict) else {}
        sentence, window = fields.get("sentence"), _window(fields.get("segment"))
        if not isinstance(sentence, str) or not sentence.strip():
            yield LeftOut(raw_id, NO_CAPTION)
        elif not video.path:
            yield LeftOut(raw_id, MISSING_MEDIA)
        elif not window:
            yield LeftOut(raw_id, _NO_WINDOW)
        else:
            media = video._replace(start=window[0], end=window[1])
            own = {"id": raw_id, "segment_index": number}
            yield Sample(make_key(raw_id), split, media, sentence.strip(), {**meta, **own})


def _window(segment: Any) -> tuple[float, float] | None:
    try:
        start, end = map(seconds, segment)
    except (TypeError, ValueError):
        return None
    return None if start is None or end is None else (start, end)


def _whole(video: Media, split: str, steps: list[Any], meta: Fields) -> Iterator[Sample | LeftOut]:
    told = [step for step in steps if isinstance(step, dict) and isinstance(step.get("sentence"), str)]
    captions = [step["sentence"].strip() for step in told]
    if not any(captions):
        yield LeftOut(video.id, NO_CAPTION)
    elif not video.path:
        yield LeftOut(video.id, MISSING_MEDIA)
    else:
        own = {"id": video.id, "captions": captions, "segments": [step.get("segment") for step in told]}
        yield Sample(make_key(video.id), split, video, joined(captions), {**meta, **own})
