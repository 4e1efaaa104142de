"""ActivityNet-QA: 58000 open questions, ten to a video. May import `sample`, `_read` and `_captions`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path, PureWindowsPath
from typing import Any

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key, split_name
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import answered, without_placeholders
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, find, media_root, rows

__all__ = ["ActivityNetQA"]

_TYPES = ("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other")
_NO_ANSWER = "a question without an answer"
_NO_QUESTION = "an answer without a question, or its second answer"

Row = Mapping[str, Any]


class ActivityNetQA(Source):
    """ActivityNet-QA; the media id is ActivityNet's, `v_` and the `video_name`, and `type_name` the kind of question.

    Where the answers of test are hidden, the question alone is the caption. The list of conversations that
    fine-tuning takes has no ids, so there a question is numbered within its video.
    """

    name = "activitynet_qa"
    title = "ActivityNet-QA"
    homepage = "https://github.com/MILVLG/activitynet-qa"
    license = "MIT (annotations)"
    kind = "open question"
    modality = "video"
    published_samples = {"official": {"train": 32000, "val": 18000, "test": 8000}}
    published_media = {"official": {"train": 3200, "val": 1800, "test": 800}}
    splits = {"official": SPLITS}
    expects = """
train_q.json, val_q.json, test_q.json    at least one, here or in any folder:
                                         [{"video_name", "question", "question_id"}, ...]
train_a.json, val_a.json, test_a.json    [{"answer", "type", "question_id"}, ...]; test may lack its answers
videos/v_okC18bPTils.mp4                 or okC18bPTils.mkv, in any folders
or only activitynet_qa_*.json            [{"messages": [{"content", "role"}, ...], "videos": [path]}, ...]
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the questions of each split in the order of its file, then answers that belong to none."""
        files = {
            name: (path, find(root, f"{name}_a.json")) for name in SPLITS if (path := find(root, f"{name}_q.json"))
        }
        lists = [root] if root.is_file() else sorted(root.glob("activitynet_qa_*.json"))
        if not (files or lists):
            raise tree_error(self, root, "found no train_q.json, val_q.json or test_q.json")
        if unanswered := [name for name, (_, answers) in files.items() if not answers and name != "test"]:
            raise tree_error(self, root, f"found {unanswered[0]}_q.json but no {unanswered[0]}_a.json")
        media = media_index(media_root(root), "video")
        yield from media.problems
        for split, (questions, answers) in files.items():
            yield from _questions(questions, answers, split, media)
        for path in lists if not files else []:
            yield from _conversations(path, media)

    def demo(self, tree: Tree) -> None:
        """Lay out three splits, ids with `_` and `-`, a missing video, and what has no question or no answer."""
        tree.json("dataset/train_q.json", [_question("_b-3dE6gHi0", 3), _question("-aZ_45678-0", 1)])
        tree.json("dataset/train_a.json", [_answer("_b-3dE6gHi0", 3), _answer("-aZ_45678-0", 1, 7, "two")])
        tree.video("videos/v__b-3dE6gHi0.mp4", "juggler")
        tree.video("videos/-aZ_45678-0.mkv", "jugglers")
        tree.json("dataset/val_q.json", [_question("gone1234567", 2), _question("val12345678", 10)])
        tree.json(
            "dataset/val_a.json", [_answer("val12345678", 10), _answer("gone1234567", 2), _answer("noquestion0", 1)]
        )
        tree.video("videos/v_val12345678.webm", "rider")
        tree.json("dataset/test_q.json", [_question("test1234567", 1), _question("test1234567", 2)])
        tree.json("dataset/test_a.json", [_answer("test1234567", 2, 4, "red")])
        tree.video("videos/v_test1234567.mp4", "runner")


def _question(video: str, number: int) -> dict[str, Any]:
    return {"video_name": video, "question": "is the person outdoors", "question_id": f"v_{video}_{number}"}


def _answer(video: str, number: int, kind: int = 3, answer: str = "yes") -> dict[str, Any]:
    return {"answer": answer, "type": kind, "question_id": f"v_{video}_{number}"}


def _questions(
    questions: Path, answers: Path | None, split: str, media: Mapping[str, str]
) -> Iterator[Sample | LeftOut]:
    """Pair questions with answers; holds no more answers than lie between the places of a pair in the two files."""
    coming = _checked(answers, ("question_id", "answer")) if answers else iter(())
    waiting: dict[str, Row] = {}
    for question in _checked(questions, ("question_id", "question", "video_name")):
        if isinstance(question, LeftOut):
            yield question
            continue
        raw_id = question["question_id"]
        while raw_id not in waiting and (answer := next(coming, None)):
            if isinstance(answer, LeftOut):
                yield answer
            elif waiting.setdefault(answer["question_id"], answer) is not answer:
                yield LeftOut(answer["question_id"], _NO_QUESTION)
        if raw_id in waiting or split == "test":
            yield _sample(split, {**waiting.pop(raw_id, {}), **question}, media)
        else:
            yield LeftOut(raw_id, _NO_ANSWER)
    for rest in chain(waiting.values(), coming):
        yield rest if isinstance(rest, LeftOut) else LeftOut(rest["question_id"], _NO_QUESTION)


def _checked(path: Path, names: tuple[str, ...]) -> Iterator[Row | LeftOut]:
    """Yield the rows of a file in which all of `names` are texts that are not blank; a number is its text."""
    for number, row in enumerate(rows(path)):
        if isinstance(row, str):
            yield LeftOut(f"entry {number} of {path.name}", row)
            continue
        texts = {name: str(value) if isinstance(value := row.get(name), int | str) else "" for name in names}
        if all(map(str.strip, texts.values())):
            yield {**row, **texts}
        else:
            yield LeftOut(str(row.get("question_id") or f"entry {number} of {path.name}"), UNREADABLE)


def _conversations(path: Path, media: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
    """Yield the questions of a list for fine-tuning; its name tells the split."""
    split = next(filter(None, map(split_name, path.stem.split("_"))), "")
    numbers: Counter[str] = Counter()
    row: Any = None
    for number, row in enumerate(rows(path)):
        try:
            video = PureWindowsPath(row["videos"][0]).stem.removeprefix("v_")
            texts = {message["role"]: message["content"] for message in row["messages"]}
            question, answer = without_placeholders(texts["user"]), texts["assistant"].strip()
        except (AttributeError, IndexError, KeyError, TypeError):
            yield LeftOut(f"entry {number} of {path.name}", UNREADABLE)
            continue
        raw_id = f"{video}_{numbers[video]}"
        numbers[video] += 1
        yield _sample(split, {"id": raw_id, "video_name": video, "question": question, "answer": answer}, media)
    if row is None:
        raise InputError(f"{path}: expected questions, found [], which only registers a dataset; its data is elsewhere")


def _sample(split: str, fields: Row, media: Mapping[str, str]) -> Sample | LeftOut:
    raw_id, video = fields.get("question_id") or fields["id"], fields["video_name"]
    path = media.get(f"v_{video}") or media.get(video)
    if not path:
        return LeftOut(raw_id, MISSING_MEDIA)
    meta = {"answer": None, **fields}
    if isinstance(number := fields.get("type"), int) and 0 <= number < len(_TYPES):
        meta["type_name"] = _TYPES[number]
    caption = answered(meta["question"], meta["answer"])
    return Sample(make_key(raw_id), split, Media(f"v_{video}", path, "video"), caption, meta)
