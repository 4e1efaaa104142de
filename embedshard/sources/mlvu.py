"""MLVU: nine tasks on long videos, summaries by default. May import `sample`, `_read` and `_captions`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.sample import LeftOut, Media, Sample, make_key, media_kind
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import answered, choice_fields
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, find, rows, seconds_or_none

__all__ = ["MLVU", "MLVUOptions"]

_SUMMARY = "9_summary"
_TASKS = (
    *("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning"),
    *("8_sub_scene", _SUMMARY),
)


@dataclass(frozen=True)
class MLVUOptions(Options):
    """Which task of MLVU is read, and how."""

    task: str = option(_SUMMARY, "which of the nine tasks, by the name of its file", _TASKS)
    as_: str = option(
        "caption", f"of {_SUMMARY}: the summary, or question and summary; other tasks are always qa", ("caption", "qa")
    )


class MLVU(Source):
    """MLVU; the media id is the video's name without extension, and a key is that and a count: `AWA-4_0`, `AWA-4_1`.

    `AWA-4.mp4` has two summaries, so the 217 published are of 216 videos. There is no official split: all samples
    are train unless a recipe tells. Folders of two tasks may hold videos of one name, so a task's own goes first.
    """

    name = "mlvu"
    title = "MLVU"
    homepage = "https://github.com/JUNJIE99/MLVU"
    license = "CC BY-NC-SA 4.0"
    kind = "caption, choice, open question"
    modality = "video"
    published_samples = {"given": {"train": 217}}
    splits = {"given": ("train",)}
    options = MLVUOptions
    expects = f"""
json/{_SUMMARY}.json              or that of --option task=..., here or in any folder:
                                 [{{"video", "duration", "question", "answer", "question_type"}}, ...],
                                 "candidates" too in tasks 1 to 7, "scoring_points" in 8
video/{_SUMMARY}/217.mp4          or video/summary/217.mp4, or any other folders
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of the task in the order of its file."""
        assert isinstance(options, MLVUOptions)
        table = find(root, f"{options.task}.json")
        if not table:
            raise tree_error(self, root, f"found no {options.task}.json")
        videos = media_index(root, "video", folders=1)
        yield from videos.problems
        places = _places(videos, options.task)
        numbers: Counter[str] = Counter()
        for number, row in enumerate(rows(table)):
            if isinstance(row, str) or not _readable(row):
                yield LeftOut(f"entry {number} of {table.name}", row if isinstance(row, str) else UNREADABLE)
                continue
            name = row["video"].rpartition("/")[2]
            video = name.rpartition(".")[0] if media_kind(name) else name
            path = next((path for place in places if (path := videos.get(place + video))), "")
            yield _sample(f"{video}_{numbers[video]}", Media(video, path, "video"), row, options)
            numbers[video] += 1

    def demo(self, tree: Tree) -> None:
        """Lay out three tasks: a video with two summaries, two of one name, a missing one, one without a summary."""
        names = ("217.mp4", "AWA-4.mp4", "3.mp4", "gone.mp4", "AWA-4.mp4", "movie101_30.mp4")
        texts = ("A boat sails.", "A cat hides.", "", "Nobody knows.", "The cat sleeps.", "A clown walks.")
        ask = "Please summarize this video."
        summaries = [_row(name, "summary", ask, text) for name, text in zip(names, texts, strict=True)]
        tree.json(f"json/{_SUMMARY}.json", summaries)
        choice = {**_row("217.mp4", "plotQA", "What colour is the kite?", "Red"), "candidates": ["Blue", "Red"]}
        tree.json("json/1_plotQA.json", [choice, {**choice, "answer": "Green"}])
        scene = _row("3.mp4", "subPlot", "Please describe how the cat hides.", "It hides in a box.")
        tree.json("json/8_sub_scene.json", [{**scene, "scoring_points": ["It hides", "in a box"]}])
        for path in ("1_plotQA/217.mp4", f"{_SUMMARY}/217.mp4", f"{_SUMMARY}/AWA-4.mp4", "summary/movie101_30.mkv"):
            tree.video(f"video/{path}", path)
        tree.video("video/3.mp4", "no summary")


def _row(video: str, kind: str, question: str, answer: str) -> dict[str, Any]:
    return {"video": video, "duration": 2.0, "question": question, "answer": answer, "question_type": kind}


def _places(videos: Iterable[str], task: str) -> list[str]:
    """Give the folders that videos lie in, each with a closing `/`: the task's own, then those of no other task."""
    others = {name for other in _TASKS if other != task for name in (other, other[2:])}
    folders = dict.fromkeys(name.rpartition("/")[0] for name in videos)
    free = [f"{folder}/" if folder else "" for folder in folders if folder not in (*others, task, task[2:])]
    return [f"{task}/", f"{task[2:]}/", *free]


def _readable(row: Mapping[str, Any]) -> bool:
    texts, candidates = [row.get(name) for name in ("video", "question", "answer")], row.get("candidates", [])
    return isinstance(candidates, list) and all(isinstance(text, str) and text.strip() for text in texts + candidates)


def _sample(raw_id: str, media: Media, row: Mapping[str, Any], options: MLVUOptions) -> Sample | LeftOut:
    if not media.path:
        return LeftOut(raw_id, MISSING_MEDIA)
    answer = row["answer"].strip()
    meta = {name: value for name, value in row.items() if name not in ("duration", "candidates")}
    if "candidates" in row:
        candidates = [text.strip() for text in row["candidates"]]
        if answer not in candidates:
            return LeftOut(raw_id, "an answer that is none of the candidates")
        meta |= choice_fields(row["question"], candidates, candidates.index(answer))
    alone = (options.task, options.as_) == (_SUMMARY, "caption")
    caption = answer if alone else answered(row["question"], answer)
    return Sample(make_key(raw_id), "", media._replace(duration=seconds_or_none(row.get("duration"))), caption, meta)
