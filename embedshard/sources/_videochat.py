"""What VideoChat2-IT and its kin share: rows `{"video" or "image": path, "QA": [{"i", "q", "a"}, ...]}`.

May import `sample`, `_captions`, `_media` and `_read`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.sample import Kind, LeftOut, Media, Sample, make_key, media_kind, split_name
from embedshard.sources._captions import answered, choice_fields, without_placeholders
from embedshard.sources._media import MediaIndex, files, frame_folders
from embedshard.sources._read import MISSING_MEDIA, seconds, with_id

__all__ = ["UNREADABLE", "MediaFiles", "Named", "Turn", "dialogue", "named", "sample"]

UNREADABLE = "an entry without the fields that it should have"
NO_OPTION = "an answer that is none of the options"
NO_TIME = "start or end is no time"
UNSURE = "a picture named by a number alone, of which none lies in a folder named after its sub-set"

_OPTION = re.compile(r"(?:^|\n)\s*\(([A-Z])\)\s*")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PART = re.compile(r"[A-Za-z]*[_-]?\d{1,4}")
_NUMBER = re.compile(r"[\d_-]+")
_PLAIN = re.compile(r"[^a-z0-9]+")
_HOMES = {"minigpt4": "ccsbualign", "paragraphcaptioning": "imageparagraph", "textcaps": "textcap"}
_READ = frozenset(("video", "image", "QA", "start", "end"))

Row = Mapping[str, Any]


class Turn(NamedTuple):
    """A question, "" where there is none, and its answer."""

    question: str
    answer: str


class Named(NamedTuple):
    """The media of a row as its annotations name it.

    Attributes:
        modality: `video` or `image`.
        extension: Of a media file, "" for a folder of frames.
        folder: The last folder of the path, "" where it has none.
        stem: The name without the extension of a media file.
        source: What the clips of one video share: the path without extension, or the folder of clips `split_0`, ...
        is_number: Whether it is a picture whose name is a mere number, with no folder that tells of what.
    """

    modality: Kind
    extension: str
    folder: str
    stem: str
    source: str
    is_number: bool


def named(row: Row) -> Named | None:
    """Read which media a row is of."""
    modality: Kind = "video" if "video" in row else "image"
    path = row.get(modality)
    if not isinstance(path, str):
        return None
    place, _, name = path.rstrip("/").rpartition("/")
    stem, dot, extension = name.rpartition(".") if media_kind(name) else (name, "", "")
    folder = place.rpartition("/")[2]
    source = f"{place}/{stem}" if place else stem
    if place and stem.startswith("split_") and _PART.fullmatch(stem):
        source = place
    is_number = modality == "image" and _NUMBER.fullmatch(stem) is not None and not _tells(folder)
    return Named(modality, dot + extension, folder, stem, source, is_number) if stem else None


def dialogue(row: Row) -> list[Turn]:
    """Read the turns of a row, none where it has not the form that it should have."""
    try:
        return [Turn(_text(turn.get("q") or ""), _text(turn["a"])) for turn in row["QA"]]
    except (AttributeError, KeyError, TypeError):
        return []


def sample(raw_id: str, row: Row, kind: str, media: MediaFiles, owner: str) -> Sample | LeftOut:
    """Give the sample of a row.

    Args:
        raw_id: Unique over all rows.
        row: The row.
        kind: `caption` and `conversation` say the answers alone, all others say questions and answers.
        media: All media of the tree.
        owner: Name of the sub-set, which the folder of its media may have too.
    """
    name, turns = named(row), dialogue(row)
    if not (name and turns):
        return LeftOut(raw_id, UNREADABLE)
    found = media.find(name, owner)
    if isinstance(found, str):
        return LeftOut(raw_id, found)
    try:
        start, end = seconds(row.get("start")), seconds(row.get("end"))
    except (TypeError, ValueError):
        return LeftOut(raw_id, NO_TIME)
    meta = {field: value for field, value in row.items() if field not in _READ}
    try:
        caption = _tell(kind, turns, meta)
    except LookupError:
        return LeftOut(raw_id, NO_OPTION)
    meta["conversations" if kind == "conversation" else "QA"] = row["QA"]
    media_id = f"{owner}/{name.source}" if name.is_number else name.source
    return Sample(make_key(raw_id), "", Media(media_id, *found, start, end), caption, with_id(meta, raw_id))


class MediaFiles:
    """All media of a tree, found by the end of their paths."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._index = MediaIndex(_names(root))

    @cached_property
    def _frames(self) -> MediaIndex:
        return frame_folders(self._root)

    @property
    def problems(self) -> list[LeftOut]:
        """Archives and members that cannot be read, once all rows were looked up."""
        frames = self.__dict__.get("_frames")
        return list(dict.fromkeys([*self._index.problems, *(frames.problems if frames is not None else ())]))

    def find(self, name: Named, owner: str) -> tuple[str, Kind] | str:
        """Give path and kind of a media, or why there is none.

        Of several files of one name, one in a folder named after the sub-set goes first, then one with the same
        extension. A part of a video, as `split_3`, is never found without its folder, nor a picture that has only
        a number without a folder that tells whose it is.
        """
        found = self._index.all(f"{name.modality}:{name.folder}/{name.stem}") if name.folder else []
        if not found and not (name.modality == "video" and name.folder and _PART.fullmatch(name.stem)):
            found = self._index.all(f"{name.modality}:{name.stem}")
        if not found:
            folder = self._frames.get(name.stem) if name.modality == "video" and not name.extension else None
            return (folder, "frames") if folder else MISSING_MEDIA
        if len(found) > 1 or name.is_number:
            is_home = _homes(owner)
            homes = [path for path in found if any(map(is_home, re.split("[/#]", path)[:-1]))]
            if name.is_number and not homes:
                return UNSURE
            found = homes or [path for path in found if name.stem + name.extension in path] or found
        return found[0], name.modality


def _names(root: Path) -> Iterator[tuple[str, str] | LeftOut]:
    """Name every media by its stem, and by its folder and stem."""
    for path, address in files(root):
        if not isinstance(address, str):
            yield address
        elif kind := media_kind(path):
            place, _, name = path.rpartition("/")
            stem = name.rpartition(".")[0]
            yield f"{kind}:{stem}", address
            if folder := place.rpartition("/")[2]:
                yield f"{kind}:{folder}/{stem}", address


def _tells(folder: str) -> bool:
    return bool(folder) and not split_name(folder) and not folder.startswith("image")


def _homes(owner: str) -> Callable[[str], bool]:
    """Give the function that tells whether the name of a folder or an archive is one of a sub-set."""
    plain = _PLAIN.sub("", owner.lower().removesuffix("_chinese"))
    starts = (plain, _HOMES.get(plain, plain))
    return lambda folder: _PLAIN.sub("", folder.lower()).startswith(starts)


def _text(text: str) -> str:
    return without_placeholders(text) if "<" in text else text.strip()


def _tell(kind: str, turns: Sequence[Turn], meta: dict[str, Any]) -> str:
    """Give the caption of a row, and put what its turns tell into its metadata."""
    answers = [answer for _, answer in turns]
    if kind == "caption":
        meta["captions"] = answers
    if kind in ("caption", "conversation") or not any(answers):
        return " ".join(filter(None, answers))
    told = [_asked(*turn) for turn in turns]
    if len(told) == 1:
        meta.update(told[0][1])
        if kind == "classification":
            meta["label"] = meta.get("answer")
    return " ".join(caption for caption, _ in told)


def _asked(question: str, answer: str) -> tuple[str, dict[str, Any]]:
    """Give the caption and the fields of a question, which may have options, one a line: `(A) a dog`, `(B) a cat`.

    Raises:
        LookupError: It has options, and the answer is none of them.
    """
    question, answer = question.removeprefix("Question:").strip(), answer.removeprefix("Answer:").strip()
    stem, _, tail = question.partition("Options:")
    before, *parts = _OPTION.split(tail) if tail else ("",)
    options = [text.strip() for text in parts[1::2]]
    if before.strip() or len(options) < 2 or "".join(parts[::2]) != _LETTERS[: len(options)]:
        return answered(question, answer), {"question": question, "answer": answer}
    right = _chosen(answer, options)
    stem, texts = stem.strip(), [options[index] for index in right]
    fields = choice_fields(stem, options, right[0])
    if len(right) > 1:
        fields = {"question": stem, "options": options, "answers": texts}
    return answered(stem, "; ".join(texts)), fields


def _chosen(answer: str, options: Sequence[str]) -> list[int]:
    """Give which options an answer names, by letter and text, or by one of these."""
    texts = [_bare(option) for option in options]
    before, *parts = _OPTION.split(answer)
    if not parts:
        return [texts.index(_bare(answer))] if _bare(answer) in texts else _none(answer)
    chosen = [_LETTERS.index(letter) for letter in parts[::2]]
    agree = all(not said or _bare(said) == texts[index] for index, said in zip(chosen, parts[1::2], strict=True))
    return chosen if agree and not before.strip() else _none(answer)


def _none(answer: str) -> list[int]:
    raise LookupError(f"no option {answer!r}")


def _bare(text: str) -> str:
    return text.strip(" .\n").casefold()
