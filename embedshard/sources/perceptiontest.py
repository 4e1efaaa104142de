"""Perception Test: questions with three options on staged videos. May import `sample` and the helpers of sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import answered, choice_fields, without_letters
from embedshard.sources._media import media_index
from embedshard.sources._parquet import missing_tables, table_set, table_split, tables
from embedshard.sources._read import MISSING_MEDIA, entries, find, frame_time, media_root, rows

__all__ = ["PerceptionTest"]

_NAMES = {"train": "train", "val": "valid", "test": "test"}
_UNREADABLE = "an entry without the video, question and options that it should have"
_NO_OPTION = "an answer_id that is the number of no option"
_NO_RATE = "a video to be cut at a frame, whose frame rate is told by no mc_question_*.json or all_*.json of the split"

Row = Mapping[str, Any]
Cut = tuple[Any, Any]

_WHOLE: Cut = (None, None)


class PerceptionTest(Source):
    """Perception Test; the media id is the video's, and a key is that and the question's id in it: `video_12_3`.

    Where a `cut_frame_mapping` says that a video shows the answer from some frame on, that is `cut_frame`, and the
    window ends there. The frame rate is that of `metadata`, or of another JSON file of the split, as the parquet
    files lack it; a row to be cut without one is left out. Test has no answers: there the question alone is the
    caption.
    """

    name = "perceptiontest"
    title = "Perception Test"
    homepage = "https://github.com/google-deepmind/perception_test"
    license = "CC BY 4.0"
    kind = "choice"
    modality = "video"
    published_samples = {"official": {"val": 19140}}
    splits = {"official": SPLITS}
    expects = """
mc_question_train.json, mc_question_valid.json, mc_question_test.json    at least one, here or in any folder:
    {"video_1": {"metadata": {"frame_rate", "num_frames", ...}, "mc_question": [{"id", "question", "options",
     "answer_id", "area", "reasoning", "tag"}, ...]}, ...}
all_train.json, all_valid.json, all_test.json          in place of the same split's above
train-, validation- or test-00000-of-00001.parquet     in place of both, or several to a split in one folder:
                                                       "video_name", "question_id", "question", "options", ...
cut_frame_mapping_train.json, cut_frame_mapping_valid.json    optional: {"video_1": frame, or -1}
videos/video_1.mp4                                     in any folders, or in videos_chunked_01.zip, ...
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the questions of each split in the order of its files."""
        files = [(split, path) for split in SPLITS for path in _files(root, split)]
        if not files:
            raise tree_error(self, root, "found no mc_question_*.json, all_*.json or train-*.parquet, ...")
        media = media_index(media_root(root), "video")
        cuts = {split: _cuts(media_root(root), _NAMES[split]) for split, _ in files}
        for split, path in files:
            for number, row in enumerate(rows(path) if path.suffix == ".parquet" else _json_rows(path)):
                if isinstance(row, str) or not _readable(row):
                    yield LeftOut(f"entry {number} of {path.name}", row if isinstance(row, str) else _UNREADABLE)
                else:
                    yield _sample(row, split, media, cuts[split].get(row["video_name"], _WHOLE))
        if root.is_dir():
            yield from missing_tables(path for _, path in files)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out train and test as JSON and val as parquet, a game that is cut, a missing video and a bad answer."""
        cups = {"video_id": "video_1", "split": "train", "frame_rate": 10.0, "num_frames": 20, "is_cup_game": 1}
        train = {
            "video_1": {"metadata": cups, "mc_question": [_question(0, 2), _question(1, 7)]},
            "video_2": {"metadata": {**cups, "video_id": "video_2"}, "mc_question": [_question(0, 0)]},
            "video_3": {"metadata": {"split": "train"}, "mc_question": []},
        }
        tree.json("mc_question_train.json", train)
        tree.json("cut_frame_mapping_train.json", {"video_1": 15, "video_2": -1, "video_3": -1})
        valid = {**_question(0, 1), "video_name": "video_4", "question_id": "0", "answer_id": "1"}
        tree.parquet("mc_question_val/validation-00000-of-00001.parquet", [valid])
        hidden = {name: value for name, value in _question(0, 0).items() if name != "answer_id"}
        tree.json("mc_question_test.json", {"video_5": {"metadata": {}, "mc_question": [hidden]}})
        for name in ("video_1.mp4", "video_4.mkv", "video_5.mp4"):
            tree.video(f"videos/{name}", name)


def _question(number: int, answer: int) -> dict[str, Any]:
    options = ["The left one.", "The middle one.", "The right one."]
    fields = {"id": number, "question": "Where is the hidden object at the end?", "options": options}
    return {**fields, "answer_id": answer, "area": "memory", "reasoning": "descriptive", "tag": ["containment"]}


def _files(root: Path, split: str) -> list[Path]:
    """Find the JSON file of a split, or else its tables.

    Raises:
        InputError: There are several sets of tables of the split.
    """
    if path := find(root, *(f"{kind}_{_NAMES[split]}.json" for kind in ("mc_question", "all"))):
        return [path]
    found = [path for path in tables(root, ".parquet") if table_split(path) == split]
    if len({table_set(path) for path in found}) > 1:
        raise InputError(
            f"{root}: expected one set of tables of {split}, found {' and '.join(str(path) for path in found[:3])}\n"
            "  Give the folder of this dataset alone as RAW, or take the others out"
        )
    return found


def _cuts(root: Path, ours: str) -> dict[str, Cut]:
    """Give the frame that each video of a split is cut at, and the frame rate where a JSON file of the split tells it.

    What is no frame is kept, as the answer may be seen in a video whose cut is not known.
    """
    mapping = find(root, f"cut_frame_mapping_{ours}.json")
    cuts = dict(entries(mapping, "object")) if mapping else {}
    cuts = {video: cut for video, cut in cuts.items() if not (isinstance(cut, int | float) and cut <= 0)}
    rates = _rates(root, ours) if cuts else {}
    return {video: (cut, rates.get(video)) for video, cut in cuts.items()}


def _rates(root: Path, ours: str) -> dict[str, Any]:
    """Give the frame rate of each video that a JSON file of the split tells."""
    rates: dict[str, Any] = {}
    for path in tables(root, ".json"):
        if path.name.startswith(("mc_question_", "all_")) and path.name.endswith(f"_{ours}.json"):
            for video, entry in entries(path, "object"):
                facts = entry.get("metadata") if isinstance(entry, dict) else None
                if isinstance(facts, dict) and facts.get("frame_rate"):
                    rates[video] = facts["frame_rate"]
    return rates


def _json_rows(path: Path) -> Iterator[Row | str]:
    """Yield the questions of DeepMind's file as the rows of a table."""
    for video, entry in entries(path, "object"):
        questions = entry.get("mc_question", []) if isinstance(entry, dict) else None
        for question in questions if isinstance(questions, list) else [None]:
            if isinstance(question, dict):
                yield {
                    "video_name": video,
                    "metadata": entry.get("metadata"),
                    "question_id": question.get("id"),
                    **question,
                }
            else:
                yield _UNREADABLE


def _readable(row: Row) -> bool:
    video, question, options = row.get("video_name"), row.get("question"), row.get("options")
    texts = [video, question, *options] if isinstance(options, list) and options else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts) or row.get("question_id") is None:
        return False
    return all(without_letters(row["options"]))


def _index(number: Any) -> int | None:
    """Give the number of the right option, None where it is hidden.

    Raises:
        ValueError: It is neither a whole number nor digits.
    """
    if number is None or number == "":
        return None
    if isinstance(number, bool) or not (isinstance(number, int) or (isinstance(number, str) and number.isdecimal())):
        raise ValueError(f"{number} is no option")
    return int(number)


def _sample(row: Row, split: str, media: Mapping[str, str], cut: Cut) -> Sample | LeftOut:
    video = row["video_name"]
    raw_id = f"{video}_{row['question_id']}"
    if video not in media:
        return LeftOut(raw_id, MISSING_MEDIA)
    try:
        fields = choice_fields(row["question"], without_letters(row["options"]), _index(row.get("answer_id")))
    except (IndexError, ValueError):
        return LeftOut(raw_id, _NO_OPTION)
    facts = row.get("metadata")
    facts = facts if isinstance(facts, dict) else {}
    frame, rate = cut[0], facts.get("frame_rate") or cut[1]
    found = Media(video, media[video], "video", duration=frame_time(facts.get("num_frames"), rate) or None)
    meta = {name: value for name, value in row.items() if name not in ("id", "answer_id")}
    if cut is not _WHOLE:
        end = frame_time(frame, rate)
        if end is None:
            return LeftOut(raw_id, _NO_RATE)
        found = found._replace(end=end)
        meta["cut_frame"] = frame
    return Sample(
        make_key(raw_id), split, found, answered(row["question"], fields["answer"]), {"id": raw_id, **meta, **fields}
    )
