"""NExT-QA: what happens in home videos, when, how and why. May import `sample` and the helpers of sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import answered, choice_fields
from embedshard.sources._media import media_index
from embedshard.sources._parquet import missing_tables, table_set, table_split, tables
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, entries, media_root, rows

__all__ = ["NExTQA", "NExTQAOptions"]

_COLUMNS = ("video", "question", "answer", "qid")
_NUMBERS = ("frame_count", "width", "height", "qid")
_OPTIONS = ("a0", "a1", "a2", "a3", "a4")
_NO_OPTION = "an answer that is none of the five options"


@dataclass(frozen=True)
class NExTQAOptions(Options):
    """Which of the two forms is read."""

    form: str = option("oe", "which questions: open-ended (oe), or with five options (mc)", ("oe", "mc"))


class NExTQA(Source):
    """NExT-QA; the media id is `video`, and a key is form, video and `qid`, which counts anew in each video and form.

    The open form is read by default, as it has more questions: 52044, the other has 47692. Tables of both forms have
    the same names and are told apart by the columns `a0` to `a4`.
    """

    name = "nextqa"
    title = "NExT-QA"
    homepage = "https://github.com/doc-doc/NExT-QA"
    license = "MIT (annotations)"
    kind = "open question, choice"
    modality = "video"
    published_samples = {"official": {"train": 37523, "val": 5343, "test": 9178}}
    published_media = {"official": {"train": 3870, "val": 570, "test": 1000}}
    splits = {"official": SPLITS}
    options = NExTQAOptions
    expects = """
train.csv, val.csv, test.csv            at least one, in any folder: video,frame_count,width,height,question,answer,
                                        qid,type, with a0,a1,a2,a3,a4 too for --option form=mc; or the hub's
                                        OE/train-00000-of-00001.parquet, MC/test-00000-of-00001.parquet, ...
NExTVideo/1164/3238737531.mp4           or videos/3238737531.mp4, NExTVideo.zip, or any other folders or archives
map_vid_vidorID.json                    optional: {"3238737531": "1164/3238737531"}, for files named as in VidOR
add_reference_answer_test.json          optional: {"3238737531": {"2": "a second right answer"}} for form=oe
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the questions of each split in the order of its tables: the first of the form, and those of its set."""
        assert isinstance(options, NExTQAOptions)
        found = tables(root, ".csv", ".parquet")
        sets: dict[str, Path] = {}
        for path in found:
            split = table_split(path)
            if split and split not in sets and _has_form(path, options.form):
                sets[split] = table_set(path)
        if not sets:
            raise tree_error(self, root, f"found no table of a split with the columns of form={options.form}")
        index = media_index(media_root(root), "video")
        vidor = _object(root, "map_vid_vidorID.json")
        second = _second_answers(root) if options.form == "oe" else {}
        media: dict[str, Media] = {}
        files = [(split, path) for split in SPLITS for path in found if table_set(path) == sets.get(split)]
        for split, path in files:
            for number, row in enumerate(rows(path)):
                video = "" if isinstance(row, str) else _text(row.get("video"))
                if not video or isinstance(row, str):
                    yield LeftOut(f"row {number} of {path.name}", row if isinstance(row, str) else UNREADABLE)
                    continue
                if video not in media:
                    named = _text(vidor.get(video)).rpartition("/")[2]
                    media[video] = Media(video, index.get(video) or index.get(named, ""), "video")
                answers = second.get(video, {}) if split == "test" else {}
                yield _sample(f"{options.form}_{video}", split, media[video], row, answers)
        if root.is_dir():
            yield from missing_tables(path for _, path in files)
        yield from index.problems

    def demo(self, tree: Tree) -> None:
        """Lay out both forms with equal `qid`s, two questions to a video, a file named as in VidOR, a missing one."""
        head = "video,frame_count,width,height,question,answer,qid,type"
        lines = {
            "train": (
                "3606518674,20,128,96,is the man good at playing it,yes,1,DB",
                "3606518674,20,128,96,why is he playing,none,2,CW",
                "2414793083,20,128,96,what did the baby do,hit the air,1,TC",
                "9999999999,20,128,96,who is gone,everyone,0,DO",
            ),
            "val": ("3233088823,20,128,96,how many cats are there,two,1,DC",),
            "test": ("4924794333,20,128,96,where is this,,4,DL",),
        }
        for split, texts in lines.items():
            tree.text(f"NExT-OE/dataset/nextqa/{split}.csv", "\n".join([head, *texts, ""]))
            choices = [line.split(",") for line in texts]
            with_options = [",".join([*cells[:5], "1", *cells[6:], "a cat,two,no,run,sit"]) for cells in choices]
            tree.text(f"NExT-QA/dataset/nextqa/{split}.csv", "\n".join([f"{head},a0,a1,a2,a3,a4", *with_options, ""]))
        tree.json("NExT-QA/dataset/nextqa/map_vid_vidorID.json", {"2414793083": "0093/24147"})
        tree.json("NExT-OE/dataset/nextqa/add_reference_answer_test.json", {"4924794333": {"4": "at home"}})
        for path in ("0001/3606518674.mp4", "0093/24147.mp4", "0002/3233088823.mkv", "4924794333.webm"):
            tree.video(f"NExTVideo/{path}", path)


def _has_form(path: Path, form: str) -> bool:
    first: Mapping[str, Any] = next((row for row in rows(path) if not isinstance(row, str)), {})
    return all(name in first for name in _COLUMNS) and ("a0" in first) == (form == "mc")


def _object(root: Path, name: str) -> dict[str, Any]:
    found = [path for path in tables(media_root(root), ".json") if path.name == name]
    return dict(entries(found[0], "object")) if found else {}


def _second_answers(root: Path) -> dict[str, Any]:
    name = "add_reference_answer_test.json"
    answers = _object(root, name)
    for video, found in answers.items():
        if not isinstance(found, dict):
            raise InputError(f'{name}: expected {{"qid": "answer"}} for video {video}, found {found!r:.40}')
    return answers


def _text(cell: Any) -> str:
    """Give a cell of a csv or parquet table as text; ids may be numbers in parquet."""
    return "" if cell is None else str(cell).strip()


def _sample(
    prefix: str, split: str, media: Media, row: Mapping[str, Any], second: Mapping[str, str]
) -> Sample | LeftOut:
    """Give the sample of a question; one without an answer, as where answers are hidden, is the caption alone."""
    qid, question, answer = (_text(row.get(name)) for name in ("qid", "question", "answer"))
    raw_id = f"{prefix}_{qid}"
    if not (qid and question):
        return LeftOut(raw_id, UNREADABLE)
    if not media.path:
        return LeftOut(raw_id, MISSING_MEDIA)
    meta = {name: value for name, value in row.items() if name not in _OPTIONS}
    meta |= {name: int(text) for name in _NUMBERS if (text := _text(row.get(name))).isdecimal()}
    meta |= {"id": raw_id, "video": media.id, "question": question, "answer": answer or None}
    if qid in second:
        meta["additional_ref_answer"] = second[qid]
    if "a0" in row:
        try:
            index = int(answer) if answer else None
            meta |= choice_fields(question, [_text(row[name]) for name in _OPTIONS], index)
        except (IndexError, KeyError, ValueError):
            return LeftOut(raw_id, _NO_OPTION)
    return Sample(make_key(raw_id), split, media, answered(question, meta["answer"]), meta)
