"""CLEVRER: 300000 questions on 20000 videos of colliding objects. May import `sample`, `_read` and `_captions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from embedshard.demo import Tree
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import answered
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, entries, find

__all__ = ["CLEVRER"]

_NO_SCENE = "a scene without the fields that it should have"
_NO_QUESTION = "a question without the fields that it should have"
_NONE_RIGHT = "none of the above"
_FILES = {
    "train": ("train.json", "train-orig-small.json"),
    "val": ("validation.json", "valid-orig-small.json"),
    "test": ("test.json",),
}
_FIRST_SCENE = {"train": 0, "val": 10000}


class CLEVRER(Source):
    """CLEVRER; the media id is the video's name, and a key is that and the `question_id`.

    Every choice of a question is right or wrong by itself: `answers` and `answer_indices` list the right ones, and
    the caption has them joined by `; `, or "none of the above". The answers of test are not public: null.
    """

    name = "clevrer"
    title = "CLEVRER"
    homepage = "http://clevrer.csail.mit.edu"
    license = "CC0"
    kind = "choice, open question"
    modality = "video"
    published_media = {"official": {"train": 10000, "val": 5000, "test": 5000}}
    splits = {"official": SPLITS}
    expects = """
train.json, validation.json, test.json     at least one, here or in any folder:
                                           [{"scene_index", "video_filename", "questions": [
                                             {"question_id", "question", "question_type", "answer": "2"},
                                             {"question_id", "question", "question_type", "choices": [
                                               {"choice", "answer": "correct" or "wrong"}, ...]}, ...]}, ...]
or train-orig-small.json                   and valid-orig-small.json, a subset that CLEVRER-Humans publishes:
                                           {"<scene, counted from the first of the split>": {"questions"}, ...}
video_train/video_00000-01000/video_00000.mp4     or in any other folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the questions of each split in the order of its file."""
        files = {split: path for split in SPLITS if (path := find(root, *_FILES[split]))}
        if not files:
            raise tree_error(self, root, "found no train.json, validation.json or test.json")
        media = media_index(root, "video")
        for split, path in files.items():
            form: Literal["list", "object"] = "list" if path.name == _FILES[split][0] else "object"
            for number, (index, scene) in enumerate(entries(path, form)):
                try:
                    video, questions = _video(split, index, scene), list(scene["questions"])
                except (KeyError, TypeError, ValueError):
                    yield LeftOut(f"scene {number} of {path.name}", _NO_SCENE)
                else:
                    yield from _samples(split, Media(video, media.get(video, ""), "video"), questions)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out three splits: two, one, and no choice right, a missing video, a test without answers."""
        count = {"question_id": 0, "question": "How many cubes are moving?", "question_type": "descriptive"}
        cause = {"question_id": 1, "question": "What causes the collision?", "question_type": "explanatory"}
        options = ("the red cube", "the collision of two cubes", "the ball")
        both, one, none = (_choices(options, right) for right in ((0, 1), (2,), ()))
        first = [{**count, "program": ["events"], "answer": "2"}, {**cause, "choices": both}]
        tree.json("train.json", [_scene(0, first), _scene(1, [{**count, "answer": "0"}])])
        tree.json(
            "validation.json",
            [_scene(10000, [{**cause, "choices": none}, {**cause, "question_id": 2, "choices": one}])],
        )
        hidden = [{"choice_id": number, "choice": option} for number, option in enumerate(options)]
        tree.json("test.json", [_scene(15000, [count, {**cause, "choices": hidden}])])
        for folder in ("train/video_00000-01000/video_00000", "validation/video_10000-11000/video_10000"):
            tree.video(f"video_{folder}.mp4", folder)
        tree.video("video_test/video_15000-16000/video_15000.mp4", "hidden")


def _scene(index: int, questions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"scene_index": index, "video_filename": f"video_{index:05}.mp4", "questions": questions}


def _choices(options: tuple[str, ...], right: tuple[int, ...]) -> list[dict[str, Any]]:
    answers = ["correct" if number in right else "wrong" for number in range(len(options))]
    return [{"choice_id": n, "choice": options[n], "program": [], "answer": answer} for n, answer in enumerate(answers)]


def _video(split: str, index: str, scene: Mapping[str, Any]) -> str:
    """Give the name of a scene's video; `index` is "" where the scene tells it.

    Raises:
        KeyError, TypeError, ValueError: Neither tells it.
    """
    if index:
        return f"video_{_FIRST_SCENE[split] + int(index):05}"
    return PurePosixPath(scene["video_filename"]).stem


def _samples(split: str, video: Media, questions: list[Any]) -> Iterator[Sample | LeftOut]:
    for number, question in enumerate(questions):
        try:
            raw_id = f"{video.id}_{question['question_id']}"
            meta = _fields(question)
            caption = answered(meta["question"], meta["answer"])
        except (AttributeError, KeyError, TypeError, ValueError):
            yield LeftOut(f"question {number} of {video.id}", _NO_QUESTION)
            continue
        if video.path:
            yield Sample(make_key(raw_id), split, video, caption, {**meta, "id": raw_id})
        else:
            yield LeftOut(raw_id, MISSING_MEDIA)


def _fields(question: Mapping[str, Any]) -> dict[str, Any]:
    """Give the metadata of a question, choices as their texts.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: It is not a question as `CLEVRER.expects` shows it.
    """
    fields = {**question, "answer": _text(question.get("answer"))}
    if not fields["question"].strip():
        raise ValueError("a blank question")
    if "choices" not in fields:
        return fields
    choices = fields.pop("choices")
    options = [choice["choice"].strip() for choice in choices]
    verdicts = [choice.get("answer") for choice in choices]
    if not options:
        raise ValueError("no choices")
    if all(verdict in (None, "") for verdict in verdicts):
        return {**fields, "options": options, "answers": None, "answer_indices": None}
    if not all(verdict in ("correct", "wrong") for verdict in verdicts):
        raise ValueError("a choice that is neither correct nor wrong")
    indices = [index for index, verdict in enumerate(verdicts) if verdict == "correct"]
    answers = [options[index] for index in indices]
    right = {"answer": "; ".join(answers) or _NONE_RIGHT, "answers": answers, "answer_indices": indices}
    return {**fields, "options": options, **right}


def _text(answer: Any) -> str | None:
    """Give an answer as text; a count may be a number.

    Raises:
        TypeError: It is neither text nor a count.
    """
    if isinstance(answer, bool) or not isinstance(answer, str | int | None):
        raise TypeError("an answer that is neither text nor a count")
    return None if answer is None else str(answer)
