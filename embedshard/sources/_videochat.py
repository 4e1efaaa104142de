"""What VideoChat2-IT and its kin share: rows `{"video" or "image": path, "QA": [{"i", "q", "a"}, ...]}`.

May import `sample`, `_captions`, `_media` and `_read`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.sample import Kind, LeftOut, Media, Sample, make_key, media_kind, split_name
from embedshard.sources._captions import answered, choice_fields, without_placeholders
from embedshard.sources._media import MediaIndex, files, frame_folders
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, seconds, with_id

__all__ = ["MediaFiles", "Named", "Turn", "dialogue", "named", "sample"]

NO_OPTION = "an answer that is none of the options"
NO_OPTIONS = "options that cannot be read, or a letter as answer without options"
NO_TIME = "start or end is no time"
UNSURE = "files of this name, of which none, or more than one, lies in a folder named after the sub-set"

_HEADER = re.compile(r"(?:^|(?<=[\s.?!]))(?:options|choices|candidates)\s*:", re.IGNORECASE)
_LINE_LETTER = re.compile(r"(?:^|\n)\s*(?:\((?=[A-Za-z]\)))?([A-Za-z])[.):]\s*")
_BRACKET_LETTER = re.compile(r"(?:^|[\s,;]+)\(([A-Za-z])\)\s*")
_LETTERED = re.compile(r"\([A-Za-z]\)|[A-H](?:[.)]+\s|[.)]*$)|[a-h]\)")
_SECOND_LETTER = re.compile(r"(?:^|[\s,;(])[Bb][.):]")
_ANY_LETTER = re.compile(r"(?:^|[\s,;]+)\(?([A-Za-z])[.):]\s*")
_ONE_LETTER = re.compile(r"\(?[A-H][.)]{0,2}|\(?[a-h]\)\.?")
_ONLY_LETTERS = re.compile(r"\W*[A-Za-z](?:\W+(?:and\W+)?[A-Za-z])*\W*")
_ASKS_LETTER = re.compile(r"\b(?:what|which)\b[^?.]*\b(?:letter|initial)", re.IGNORECASE)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PART = re.compile(r"[A-Za-z]*[_-]?\d{1,4}")
_NUMBER = re.compile(r"[\d_-]+")
_PLAIN = re.compile(r"[\W_]+")
_PACKED = re.compile(r"\.(?:tar|tgz|zip)\b.*")
_SPLIT_WORDS = frozenset(("split", "video", "videos", "image", "images", "gif", "gifs", "frames"))
_WEBVID = ("webvid", "webvid10m", "webvid2m")
_HOMES = {
    "clevrermc": ("clevrer",),
    "clevrerqa": ("clevrer",),
    "coco": ("cococaption",),
    "llava": ("cococaption", "coco"),
    "minigpt4": ("ccsbualign",),
    "paragraphcaptioning": ("imageparagraphcaptioning",),
    "sharegptvideo": ("train300k", "train600k", *_WEBVID),
    "ssv2": ("sthsthv2", "somethingsomethingv2", "20bnsomethingsomethingv2"),
    "textcaps": ("textcap",),
    "tgifframeqa": ("tgif",),
    "tgiftransitionqa": ("tgif",),
    "videochat": _WEBVID,
    "videochat1": _WEBVID,
    "videochat2": ("internvid",),
    "videochatgpt": ("anet", "activitynet"),
    "webvid": ("webvid2m", "webvid10m"),
    "webvidqa": ("webvid", "webvid2m", "webvid10m"),
    "youcook2": ("youcook",),
}
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
        place: The folders of the path, "" where it has none.
        folder: The last of them.
        stem: The name without the extension of a media file.
        id: What the clips of one video share: the stem, or the folder of the clips `split_0`, ...
    """

    modality: Kind
    extension: str
    place: str
    folder: str
    stem: str
    id: str


def named(row: Row) -> Named | None:
    """Read which media a row is of."""
    modality: Kind = "video" if "video" in row else "image"
    path = row.get(modality)
    if not isinstance(path, str):
        return None
    place, _, name = path.rstrip("/").rpartition("/")
    stem, dot, extension = name.rpartition(".") if media_kind(name) else (name, "", "")
    folder = place.rpartition("/")[2]
    media_id = folder if folder and stem.startswith("split_") and _PART.fullmatch(stem) else stem
    return Named(modality, dot + extension, place, folder, stem, media_id) if stem else None


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
    except ValueError:
        return LeftOut(raw_id, NO_OPTIONS)
    except LookupError:
        return LeftOut(raw_id, NO_OPTION)
    meta["conversations" if kind == "conversation" else "QA"] = row["QA"]
    return Sample(make_key(raw_id), "", Media(name.id, *found, start, end), caption, with_id(meta, raw_id))


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

        A part of a video, as `split_3`, is never found without its folder, nor a mere number without a folder that
        tells of what it is: the row's own, or one named after the sub-set. Of several files of one name one must be
        the one meant, by such a folder, its other folders, or its extension.
        """
        kind, is_number = name.modality, _NUMBER.fullmatch(name.stem) is not None
        found = self._index.all(f"{kind}:{name.folder}/{name.stem}") if name.folder else []
        is_sure = not is_number or (bool(found) and _tells(name))
        if not found and not _is_part(name, owner):
            found = self._index.all(f"{kind}:{name.stem}")
            if not found and kind == "video" and not name.extension:
                found, kind = self._frames.all(name.stem), "frames"
        if not found:
            return MISSING_MEDIA
        if len(found) > 1 or not is_sure:
            found = _meant(found, name, owner, is_sure)
        return (found[0], kind) if len(found) == 1 else UNSURE


def _is_part(name: Named, owner: str) -> bool:
    """Tell a part of a video, whose name says nothing without that of its folder."""
    is_part = name.modality == "video" and bool(name.folder) and _PART.fullmatch(name.stem) is not None
    return is_part and not (name.stem.isdecimal() and set(_place(name.folder).names).intersection(_homes(owner)))


def _meant(found: list[str], name: Named, owner: str, is_sure: bool) -> list[str]:
    """Pick the files that a row means; without one in a home of its sub-set, none unless the name `is_sure`."""
    places = {path: _place(path[: max(path.rfind("/"), path.rfind("#")) + 1]) for path in found}
    wanted = _place(name.place)
    trained = [path for path in found if places[path].split in ("", wanted.split or "train")]
    found = trained or (found if is_sure else [])
    for home in (*wanted.names[-1:], *_homes(owner)):
        if home and (at_home := [path for path in found if home in places[path].names]):
            found = at_home
            break
    else:
        found = found if is_sure else []
    if len(found) < 2:
        return found
    nearness = {path: _nearness(places[path].folders, wanted.folders) for path in found}
    found = [path for path in found if nearness[path] == max(nearness.values())]
    return [path for path in found if f"{name.stem}{name.extension}" in path] or found


class _Place(NamedTuple):
    """The folders, also archives, that a file lies in; their plain names; and the split that the last of them tells."""

    folders: tuple[str, ...]
    names: tuple[str, ...]
    split: str


@lru_cache(maxsize=1 << 12)
def _place(path: str) -> _Place:
    folders = tuple(_PACKED.sub("", folder.lower()) for folder in re.split("[/#]", path) if folder)
    names, split = [], ""
    for folder in folders:
        words = _PLAIN.sub(" ", folder).split()
        while words and ((told := split_name(words[-1].rstrip("0123456789")) or "") or _says_no_set(words[-1])):
            split = told or split
            words.pop()
        names.append("".join(words))
    return _Place(folders, tuple(names), split)


def _says_no_set(word: str) -> bool:
    return word in _SPLIT_WORDS or word.isdecimal()


def _nearness(folders: Sequence[str], wanted: Sequence[str]) -> tuple[int, bool]:
    """Count the last folders that two places have in common, and tell whether they are one."""
    pairs = enumerate(zip(reversed(folders), reversed(wanted), strict=False))
    alike = next((number for number, (left, right) in pairs if left != right), min(len(folders), len(wanted)))
    return alike, folders == wanted


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


def _tells(name: Named) -> bool:
    """Tell whether the folder that a row names says of what its files are; that of a video may be a number."""
    by_number = name.modality == "video" and _NUMBER.fullmatch(name.folder) is not None
    return by_number or any(_place(name.folder).names)


@lru_cache(maxsize=1 << 8)
def _homes(owner: str) -> tuple[str, ...]:
    """Give the plain names that the folder or the archive of a sub-set may have, the likeliest first."""
    plain = _PLAIN.sub("", owner.lower().removesuffix("_chinese"))
    return (plain, *_HOMES.get(plain, ())) if plain else ()


def _text(text: str) -> str:
    return without_placeholders(text) if "<" in text else text.strip()


def _tell(kind: str, turns: Sequence[Turn], meta: dict[str, Any]) -> str:
    """Give the caption of a row, and put what its turns tell into its metadata."""
    answers = [answer for _, answer in turns]
    if kind == "caption":
        meta["captions"] = answers
    if not any(answers):
        return ""
    told = [_asked(*turn) for turn in turns]
    if kind in ("caption", "conversation"):
        return " ".join(filter(None, (said for _, said, _ in told)))
    if len(told) == 1:
        meta.update(told[0][2])
        if kind == "classification":
            meta["label"] = meta.get("answer")
    return " ".join(answered(question, said) for question, said, _ in told)


def _asked(question: str, answer: str) -> tuple[str, str, dict[str, Any]]:
    """Give a question without its options, the answer without its letter, and the fields of both.

    Raises:
        LookupError: It has options, and the answer is none of them.
        ValueError: It seems to have options, which cannot be read.
    """
    question, answer = question.removeprefix("Question:").strip(), answer.removeprefix("Answer:").strip()
    is_lettered = _LETTERED.match(answer) is not None
    stem, options = _options(question, "" if is_lettered else answer)
    if not options:
        if is_lettered and _seems_chosen(question, answer):
            raise ValueError(f"no options of answer {answer!r}")
        return question, answer, {"question": question, "answer": answer}
    right = _chosen(answer, options)
    texts = [options[index] for index in right]
    fields = choice_fields(stem, options, right[0])
    if len(right) > 1:
        fields = {"question": stem, "options": options, "answers": texts}
    return stem, "; ".join(texts), fields


def _seems_chosen(question: str, answer: str) -> bool:
    """Tell an answer that is a letter though none was asked for, or that begins with one in brackets."""
    if _ONE_LETTER.fullmatch(answer) or _BRACKET_LETTER.fullmatch(answer):
        return not _ASKS_LETTER.search(question)
    return bool(question) and answer.startswith("(")


def _options(question: str, answer: str) -> tuple[str, list[str]]:
    """Split a question into itself and its options, which have letters: each on a line, or all on one.

    Options as `A. a dog B. a cat` that nothing announces must have the `answer` among them, "" for one by letter.

    Raises:
        ValueError: It announces options, which cannot be read.
    """
    header = _HEADER.search(question) if ":" in question else None
    stem, tail = (question[: header.start()].strip(), question[header.end() :]) if header else ("", question)
    for letter in (_LINE_LETTER, _BRACKET_LETTER, _ANY_LETTER) if _SECOND_LETTER.search(tail) else ():
        before, options = _lettered(letter, tail)
        is_told = header or letter is not _ANY_LETTER or not answer or _bare(answer) in map(_bare, options)
        if options and is_told and not (header and before):
            return stem or before, options
    if header:
        raise ValueError(f"no options in {tail!r}")
    return question, []


def _lettered(letter: re.Pattern[str], text: str) -> tuple[str, list[str]]:
    """Split a text at letters that run from A, at least to B; the last option ends with its line if all others do."""
    before, *parts = letter.split(text)
    options, letters = [part.strip() for part in parts[1::2]], "".join(parts[::2])
    count = len(options)
    if count < 2 or letters.upper() != _LETTERS[:count] or not (letters.isupper() or letters.islower()):
        return text, []
    if f"({_LETTERS[count : count + 1] or None})" in text.upper():
        return text, []
    if not any("\n" in option for option in options[:-1]):
        options[-1] = options[-1].partition("\n")[0].strip()
    return before.strip(), options


def _chosen(answer: str, options: Sequence[str]) -> list[int]:
    """Give which options an answer names, by letter and text, or by one of these."""
    texts = [_bare(option) for option in options]
    said = [texts.index(_bare(answer))] if _bare(answer) in texts else []
    if _ONLY_LETTERS.fullmatch(answer):
        letters = [_LETTERS.index(letter.upper()) for letter in re.findall(r"\b[A-Za-z]\b", answer)]
        if max(letters) < len(options) and said in ([], letters):
            return letters
        return _none(answer)
    for letter in (_LINE_LETTER, _BRACKET_LETTER) if not said else ():
        before, *parts = letter.split(answer)
        chosen = [_LETTERS.index(part.upper()) for part in parts[::2]]
        agree = all(not text or _bare(text) == texts[index] for index, text in zip(chosen, parts[1::2], strict=True))
        if chosen and agree and not before.strip():
            return chosen
    return said or _none(answer)


def _none(answer: str) -> list[int]:
    raise LookupError(f"no option {answer!r}")


def _bare(text: str) -> str:
    return text.strip(" .\n").casefold()
