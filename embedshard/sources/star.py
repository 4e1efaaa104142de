"""STAR: 60000 choices on windows of Charades videos. May import `sample`, `_read` and `_captions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import answered, choice_fields
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, find, rows, seconds

__all__ = ["STAR"]

_NO_CHOICE = "an answer that is none of the choices"
_NOT_KEPT = frozenset(("choices", "situations", "start", "end"))


class STAR(Source):
    """STAR; the key is the `question_id`, whose first part is kept as `question_type`, and the media id the video's.

    A sample is the window of its question in the Charades video. The `situations`, a graph for every frame, and the
    programs of the choices are not kept. The answers of test are not public: null. No video lies in two splits.
    """

    name = "star"
    title = "STAR"
    homepage = "http://star.csail.mit.edu"
    license = "see homepage"
    kind = "choice"
    modality = "video"
    published_samples = {"official": {"train": 45731, "val": 7098, "test": 7377}}
    splits = {"official": SPLITS}
    expects = """
STAR_train.json           [{"question_id": "Interaction_T1_0", "question", "video_id": "YSKX3", "start": 12.1,
                          "end": 18.0, "choices": [{"choice_id", "choice"}, ...], "answer": the text of a choice},
                          ...], here or in any folder
STAR_val.json             the same; STAR_test.json: without answer; at least one of the three
Charades_v1_480/YSKX3.mp4 or in any other folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the questions of each split in the order of its file."""
        files = {split: path for split in SPLITS if (path := find(root, f"STAR_{split}.json"))}
        if not files:
            raise tree_error(self, root, "found no STAR_train.json, STAR_val.json or STAR_test.json")
        media = media_index(root, "video")
        for split, path in files.items():
            for number, row in enumerate(rows(path)):
                entry = f"entry {number} of {path.name}"
                try:
                    yield LeftOut(entry, row) if isinstance(row, str) else _sample(split, row, media)
                except (AttributeError, KeyError, TypeError, ValueError):
                    yield LeftOut(entry, UNREADABLE)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out three splits: two windows of a video, a missing video, a strange answer, a test without answers."""
        took, ate = "Which object was taken by the person?", "Which object was eaten by the person?"
        right = {"answer": "The cup/glass/bottle.", "question_program": [], "situations": {"000012": {"bbox": []}}}
        train = [
            _question("Interaction_T1_0", took, "YSKX3", (0.3, 1.5), **right),
            _question("Sequence_T2_7", ate, "YSKX3", (1.0, 2.0), answer="The food."),
            _question("Prediction_T1_4", ate, "GONE1", (1.0, 2.0), answer="The food."),
            _question("Feasibility_T3_2", ate, "YSKX3", (0.0, 2.0), answer="A cloud."),
        ]
        tree.json("STAR_train.json", train)
        tree.json("STAR_val.json", [_question("Interaction_T1_1", took, "0TXYV", (0.0, 31.9), answer="The food.")])
        tree.json("STAR_test.json", [_question("Interaction_T1_2", took, "MIV2M", (0.5, 1.25))])
        for video in ("YSKX3", "0TXYV", "MIV2M"):
            tree.video(f"Charades_v1_480/{video}.mp4", video)


def _question(raw_id: str, question: str, video: str, window: tuple[float, float], **more: Any) -> dict[str, Any]:
    start, end = window
    choices = [{"choice_id": n, "choice": text} for n, text in enumerate(("The food.", "The cup/glass/bottle."))]
    ids = {"question_id": raw_id, "question": question, "video_id": video}
    return {**ids, "start": start, "end": end, "choices": choices, **more}


def _sample(split: str, row: Mapping[str, Any], media: Mapping[str, str]) -> Sample | LeftOut:
    """Give the sample of a question.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: It is not a question as `STAR.expects` shows it.
    """
    raw_id, video, question = row["question_id"].strip(), row["video_id"], row["question"].strip()
    options = [choice["choice"].strip() for choice in row["choices"]]
    start, end, answer = seconds(row["start"]), seconds(row["end"]), row.get("answer")
    if start is None or end is None or not (raw_id and question):
        raise ValueError("a field that is empty")
    if answer is not None and answer.strip() not in options:
        return LeftOut(raw_id, _NO_CHOICE)
    if not (path := media.get(video)):
        return LeftOut(raw_id, MISSING_MEDIA)
    meta = {name: value for name, value in row.items() if name not in _NOT_KEPT}
    meta |= choice_fields(question, options, None if answer is None else options.index(answer.strip()))
    meta["question_type"] = raw_id.partition("_")[0]
    return Sample(make_key(raw_id), split, Media(video, path, "video", start, end), answered(question, answer), meta)
