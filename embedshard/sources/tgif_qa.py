"""TGIF-QA: four tasks of questions on animated GIFs. May import `sample` and the helpers of sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import CaptionsOptions, answered, caption_samples, choice_fields
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, find

__all__ = ["TGIFQA", "TGIFQAOptions"]

_TEXTS = ("gif_name", "question", "answer", "vid_id", "key")
_CHOICES = ("a1", "a2", "a3", "a4", "a5")
_IDS = ("FRAMEQA", "TRANS", "ACTION", "COUNT")
_NOT_MENDED = ("id", "vid_id", "key")
_COLUMNS = {
    "frameqa": (*_TEXTS, "type", "description"),
    "transition": (*_TEXTS, *_CHOICES),
    "action": (*_TEXTS, *_CHOICES),
    "count": _TEXTS,
}
_TYPES = {"0": "object", "1": "number", "2": "color", "3": "location"}
_REPLACED = "FRAMEQA"
_CELLS = "a row with more or fewer cells than the header"
_BLANK = "a row with a blank cell that should have a text"
_NO_ID = f"a row without an id that begins with {', '.join(_IDS)} as vid_id or key"
_NO_NUMBER = "an answer that is no count, or no number of an option"

Row = Mapping[str, str]


@dataclass(frozen=True)
class TGIFQAOptions(CaptionsOptions):
    """Which task of TGIF-QA is read, and how."""

    task: str = option("frameqa", "which of the four tasks", tuple(_COLUMNS))
    as_: str = option(
        "qa", "a sample: a question and its answer, or (frameqa only) a GIF and its descriptions", ("qa", "caption")
    )


class TGIFQA(Source):
    """TGIF-QA; the media id is the `gif_name`, and a key is the question's `vid_id`, as `FRAMEQA1159`.

    What the authors call `key` is the number of the GIF, which all questions on it share. Where a file has the two
    the other way round, the question's id is found as well.

    The tasks are read one at a time, because a GIF that one trains on another may test on. The answer is a word in
    frameqa, a number in count, and the number of an option in transition and action. The authors once replaced `rep`
    by `FRAMEQA` in the texts of frameqa too (`fiFRAMEQAlace`); here it is `rep` again.
    """

    name = "tgif_qa"
    title = "TGIF-QA"
    homepage = "https://github.com/YunseokJANG/tgif-qa"
    license = "academic purposes only"
    kind = "open question, choice, caption"
    modality = "video"
    published_samples = {"official": {"train": 39392, "test": 13691}}
    splits = {"official": ("train", "test")}
    options = TGIFQAOptions
    expects = """
Train_frameqa_question.csv       and Test_frameqa_question.csv, or else Total_frameqa_question.csv, which has both and
                                 no split; here or in any folder, with tabs in spite of the name and no quoting:
                                 gif_name question answer type vid_id key description
Train_transition_question.csv    for --option task=transition, and so for action:
                                 gif_name question a1 a2 a3 a4 a5 answer vid_id key (answer 0 is a1)
Train_count_question.csv         for --option task=count: gif_name question answer vid_id key
gifs/tumblr_no73q2fm0_250.gif    or another container, in any folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the questions in the order of the files, or the GIFs in that of their first questions."""
        assert isinstance(options, TGIFQAOptions)
        task, as_captions = options.task, options.as_ == "caption"
        if as_captions and task != "frameqa":
            raise InputError(f"{self.name}: only task=frameqa has descriptions for --as caption, found task={task}")
        tables = _tables(root, task)
        if not tables:
            raise tree_error(self, root, f"found no Train_{task}_question.csv or Test_{task}_question.csv")
        media = media_index(root, "video")
        found = (row for split, path in tables.items() for row in _rows(path, split, task))
        yield from _gifs(found, media, options.captions) if as_captions else _questions(found, media, task)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out the files of the four tasks, quotes in cells, a GIF of two descriptions, and what is left out."""
        frameqa, choices = "gif_name question answer type vid_id key description", " ".join(_CHOICES)
        train = [
            ("tumblr_a1_250", 'who says "hi ?', "cat", "0", "FRAMEQA1", "7", 'the cat says "hi .'),
            ("tumblr_a1_250", "what is the color of the cat ?", "white", "2", "FRAMEQA2", "7", "a white cat sits ."),
            ("tumblr_gone_250", "who is gone ?", "man", "0", "FRAMEQA3", "8", "a man is gone ."),
            ("tumblr_a1_250", "what is near the fiFRAMEQAlace ?", " ", "0", "FRAMEQA5", "7", " "),
        ]
        _write(tree, "Train_frameqa", frameqa, train)
        test = [("tumblr_b2_r1_400", "how many dogs FRAMEQAeat it ?", "two", "1", "FRAMEQA4", "9", "two dogs run .")]
        _write(tree, "Test_frameqa", frameqa, test)
        _write(tree, "Total_frameqa", frameqa, train + test)
        question = ("tumblr_a1_250", "What does the cat do before sit ?", "wave", "sit", "jump", "nod", "blink")
        for task, name in (("transition", "TRANS"), ("action", "ACTION")):
            lines = [(*question, "4", f"{name}1", "7"), (*question, "5", f"{name}2", "7")]
            _write(tree, f"Train_{task}", f"gif_name question {choices} answer vid_id key", lines)
        count = [("tumblr_a1_250", "How many times does the cat nod ?", "10", "COUNT1", "7")]
        _write(tree, "Test_count", "gif_name question answer vid_id key", count)
        for name in ("tumblr_a1_250", "tumblr_b2_r1_400"):
            tree.gif(f"gifs/{name}.gif", name)


def _write(tree: Tree, name: str, header: str, lines: Iterable[tuple[str, ...]]) -> None:
    table = [tuple(header.split(" ")), *lines]
    tree.text(f"dataset/{name}_question.csv", "".join("\t".join(cells) + "\r\n" for cells in table))


def _tables(root: Path, task: str) -> dict[str, Path]:
    names = {"train": "Train", "test": "Test"}
    found = {split: find(root, f"{name}_{task}_question.csv") for split, name in names.items()}
    tables = {split: path for split, path in found.items() if path}
    total = find(root, f"Total_{task}_question.csv")
    return tables or ({"": total} if total else {})


def _rows(path: Path, split: str, task: str) -> Iterator[tuple[str, Row] | LeftOut]:
    """Yield the split and the cells of each row of a table with tabs, the question's id as `id`."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        header = file.readline().rstrip("\n").split("\t")
        if missing := [name for name in _COLUMNS[task] if name not in header]:
            raise InputError(f"{path}: expected the columns {', '.join(missing)}, with tabs, found {', '.join(header)}")
        for number, line in enumerate(file, 2):
            row = dict(zip(header, cells := line.rstrip("\n").split("\t")))  # noqa: B905  (lengths are compared below)
            if len(cells) != len(header):
                yield LeftOut(f"line {number} of {path.name}", _CELLS)
            elif not row["gif_name"].strip():
                yield LeftOut(f"line {number} of {path.name}", _BLANK)
            elif not (column := next((name for name in ("vid_id", "key") if row[name].startswith(_IDS)), "")):
                yield LeftOut(f"line {number} of {path.name}", _NO_ID)
            else:
                row["id"] = raw_id = row.pop(column)
                yield split, _mended(row) if line.count(_REPLACED) > raw_id.count(_REPLACED) else row


def _mended(row: Row) -> Row:
    return {name: text if name in _NOT_MENDED else text.replace(_REPLACED, "rep") for name, text in row.items()}


def _questions(
    found: Iterable[tuple[str, Row] | LeftOut], media: Mapping[str, str], task: str
) -> Iterator[Sample | LeftOut]:
    for item in found:
        if isinstance(item, LeftOut):
            yield item
            continue
        split, row = item
        raw_id, gif = row["id"], row["gif_name"]
        if not (row["question"].strip() and row["answer"].strip()):
            yield LeftOut(raw_id, _BLANK)
        elif not (path := media.get(gif)):
            yield LeftOut(raw_id, MISSING_MEDIA)
        elif (fields := _fields(row, task)) is None:
            yield LeftOut(raw_id, _NO_NUMBER)
        else:
            caption = answered(row["question"], str(fields["answer"]))
            yield Sample(make_key(raw_id), split, Media(gif, path, "video"), caption, fields)


def _fields(row: Row, task: str) -> dict[str, Any] | None:
    """Give the metadata of a question, None where its answer is not of its kind."""
    fields: dict[str, Any] = {name: text for name, text in row.items() if name not in _CHOICES}
    try:
        if task == "count":
            return {**fields, "answer": int(row["answer"])}
        if task != "frameqa":
            return fields | choice_fields(row["question"], [row[name] for name in _CHOICES], int(row["answer"]))
    except (IndexError, ValueError):
        return None
    number = row["type"]
    return {**fields, "type_name": _TYPES[number]} if number in _TYPES else fields


def _gifs(
    found: Iterable[tuple[str, Row] | LeftOut], media: Mapping[str, str], which: str
) -> Iterator[Sample | LeftOut]:
    """Yield a GIF, once in a split, with its different descriptions."""
    gifs: dict[tuple[str, str], dict[str, None]] = {}
    for item in found:
        if isinstance(item, LeftOut):
            yield item
        else:
            split, row = item
            gifs.setdefault((row["gif_name"], split), {})[row["description"].strip()] = None
    for (gif, split), texts in gifs.items():
        if path := media.get(gif):
            captions = list(filter(None, texts))
            yield from caption_samples(gif, split, Media(gif, path, "video"), captions, which, {"id": gif})
        else:
            yield LeftOut(gif, MISSING_MEDIA)
