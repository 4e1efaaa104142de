"""MovieChat-1K: captions of and questions on long scenes of films. May import `sample` and the helpers of sources."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.demo import Tree
from embedshard.sample import LeftOut, Media, Sample, make_key, media_kind
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import answered, caption_samples
from embedshard.sources._media import MediaIndex, media_index
from embedshard.sources._read import MISSING_MEDIA, frame_time, path_split, walk

__all__ = ["MovieChat", "MovieChatOptions"]

_FOLDERS = {"jsons": "train", "annotations": "test", "gt": "test"}
_UNREADABLE = "a file that is no JSON object with the video's path in its info"
_NO_TEXT = "a question or an answer that is no text"
_NO_QUESTIONS = "no questions"
_NO_TIME = "a breakpoint without its frame, or a video without its frame rate"


@dataclass(frozen=True)
class MovieChatOptions(Options):
    """How MovieChat-1K is read."""

    as_: str = option(
        "caption",
        "a sample: a video and its caption, or a question on all of it or up to a breakpoint",
        ("caption", "qa"),
    )


class MovieChat(Source):
    """MovieChat-1K; the media id is the video's name without extension.

    `--as qa` has the global questions, on the whole video, and the breakpoint questions, whose window ends with the
    frame that `time` counts. The two repositories are the splits; where only one is there, no split is given.
    A video in one of them is never taken for a file of the other.
    """

    name = "moviechat"
    title = "MovieChat-1K"
    homepage = "https://github.com/rese1f/MovieChat"
    license = "see homepage"
    kind = "caption, open question"
    modality = "video"
    splits = {"given": ("train", "test")}
    options = MovieChatOptions
    expects = """
MovieChat-1K_train/jsons/AWA-1.json         either or both repositories, in any folders, or one itself:
MovieChat-1K-test/annotations/TFS-1.json    {"info": {"video_path": "TFS-1.mp4", "fps", "num_frame"}, "caption",
                                             "global": [{"question", "answer"}, ...],
                                             "breakpoint": [{"time": frame, "question", "answer"}, ...]}
MovieChat-1K-test/gt/gt/TFS-1.json          optional: the same with answers, goes before annotations
MovieChat-1K_train/raw_videos/AWA-1.mp4     or AWA-1.MP4, AWA-1.mkv, ..., in any folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield what each file says, in the order of the files."""
        assert isinstance(options, MovieChatOptions)
        files, owners = _files(root)
        if not files:
            raise tree_error(self, root, "found no *.json in a folder jsons, annotations or gt")
        both = len({split for split, _ in files}) > 1
        media = media_index(root, "video")
        for (split, _), path in files.items():
            entry = _read(path, split if both else "", partial(_video, media, owners, split))
            if entry is None:
                yield LeftOut(path.stem, _UNREADABLE)
            else:
                yield from (_questions if options.as_ == "qa" else _caption)(entry)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out both repositories: another ending, a missing video, no caption, answers apart, a bad breakpoint."""
        train, test = "MovieChat-1K_train", "MovieChat-1K-test"
        tree.json(f"{train}/jsons/AWA-2.json", _row("AWA-2.mp4", "A cat hides in a box."))
        tree.json(f"{train}/jsons/AWA-10.json", _row("AWA-10.mp4", " "))
        tree.json(f"{train}/jsons/179.json", _row("179.mp4", "This video is gone."))
        tree.video(f"{train}/raw_videos/AWA-2.mkv", "cat")
        tree.video(f"{train}/raw_videos/AWA-10.mp4", "dog")
        row = _row("TFS-1.mp4", "A ship sails.")
        tree.json(f"{test}/gt/gt/TFS-1.json", row)
        hidden = [{"question": asked["question"]} for asked in row["global"]]
        tree.json(f"{test}/annotations/TFS-1.json", {**row, "global": hidden})
        tree.video(f"{test}/videos/TFS-1.mp4", "ship")


def _row(video: str, caption: str) -> dict[str, Any]:
    return {
        "info": {"video_path": video, "fps": 10.0, "num_frame": 20},
        "caption": caption,
        "global": [{"question": "Is it day", "answer": "Yes."}],
        "breakpoint": [{"time": time, "question": "Who moves?", "answer": "A cat."} for time in (15, None)],
    }


class _Entry(NamedTuple):
    id: str
    split: str
    media: Media
    row: Mapping[str, Any]
    meta: Mapping[str, Any]


def _files(root: Path) -> tuple[dict[tuple[str, str], Path], dict[str, set[str]]]:
    """Find the annotations, in natural order; those with the answers go before those without.

    Returns:
        The files by split and name; for each repository (with a closing `/`, "" for `root`), the splits it has.
    """
    files: dict[tuple[str, str], Path] = {}
    owners: dict[str, set[str]] = {}
    for folder, _, names in walk(root):
        place = (root / folder).name
        split = path_split(folder.replace("-", "/").replace("_", "/")) or _FOLDERS.get(place, "")
        for name in names if place in _FOLDERS else ():
            if name.endswith(".json"):
                owners.setdefault(_repository(folder), set()).add(split)
                if place == "gt" or (split, name) not in files:
                    files[split, name] = root / folder / name
    return files, owners


def _repository(folder: str) -> str:
    parts = folder.split("/")[:-1]
    while parts and parts[-1] in _FOLDERS:
        parts.pop()
    return "".join(f"{part}/" for part in parts)


def _video(media: MediaIndex, owners: Mapping[str, set[str]], split: str, name: str) -> str:
    """Find a video by its stem, "" where only the repository of another split has one."""
    paths: list[str] = [media.get(name, ""), *media.all(name)]
    for path in paths:
        owner = max((folder for folder in owners if path.startswith(folder)), key=len, default=None)
        if owner is None or split in owners[owner]:
            return path
    return ""


def _read(path: Path, split: str, find_video: Callable[[str], str]) -> _Entry | None:
    try:
        row = json.loads(path.read_text("utf-8-sig"))
        info = row["info"]
        name = info["video_path"].rpartition("/")[2]
        fps, frames = info.get("fps"), info.get("num_frame")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    video = name.rpartition(".")[0] if media_kind(name) else name
    found = Media(video, find_video(video), "video", duration=frame_time(frames, fps) or None)
    return _Entry(path.stem, split, found, row, {"id": path.stem, "info": info})


def _caption(entry: _Entry) -> Iterator[Sample | LeftOut]:
    if not entry.media.path:
        yield LeftOut(entry.id, MISSING_MEDIA)
    else:
        captions = [entry.row.get("caption", "")]
        yield from caption_samples(entry.id, entry.split, entry.media, captions, "first", entry.meta)


def _questions(entry: _Entry) -> Iterator[Sample | LeftOut]:
    lists = {mode: asked for mode in ("global", "breakpoint") if isinstance(asked := entry.row.get(mode), list)}
    if not any(lists.values()):
        yield LeftOut(entry.id, _NO_QUESTIONS)
    for mode, asked in lists.items():
        for number, item in enumerate(asked):
            yield _question(entry, mode, f"{entry.id}_{mode}_{number}", item if isinstance(item, dict) else {})


def _question(entry: _Entry, mode: str, raw_id: str, item: Mapping[str, Any]) -> Sample | LeftOut:
    question, answer, media = item.get("question"), item.get("answer"), entry.media
    if not (isinstance(question, str) and question.strip() and isinstance(answer, str | int | float | None)):
        return LeftOut(raw_id, _NO_TEXT)
    if not media.path:
        return LeftOut(raw_id, MISSING_MEDIA)
    if mode == "breakpoint":
        end = frame_time(item.get("time"), entry.meta["info"].get("fps"))
        if end is None:
            return LeftOut(raw_id, _NO_TIME)
        media = media._replace(start=0.0, end=end)
    answer = None if answer is None else str(answer).strip() or None
    meta = {**entry.meta, **item, "id": raw_id, "mode": mode, "answer": answer}
    return Sample(make_key(raw_id), entry.split, media, answered(question, answer), meta)
