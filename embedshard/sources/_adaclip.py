"""What the sources of AdaCLIP's video sets share: annotations and lists of ids. May import `sample` and `_read`.

AdaCLIP's annotations are a JSON file for each split, `{video: {"extension": "mp4", "sentences": [...]}}`, some with
`timestamps` (a pair of seconds for each sentence) and `duration`. The extension is that of AdaCLIP's own copy, or ""
where it had none, and is passed over: the media found here decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.errors import InputError
from embedshard.sample import LeftOut
from embedshard.sources._read import UNREADABLE, entries

__all__ = ["NOT_LISTED", "Clip", "clips", "listed_ids", "paragraph", "require"]

NOT_LISTED = "not in the lists of the split"

_LOOKED_AT = 100


class Clip(NamedTuple):
    """A video, its sentences without outer blanks ("" for what is no text), and its other fields."""

    id: str
    sentences: list[str]
    fields: Mapping[str, Any]


def clips(path: Path) -> Iterator[Clip | LeftOut]:
    """Stream the videos of annotations in AdaCLIP's form.

    Raises:
        InputError: The file holds no JSON object.
    """
    for video, entry in entries(path, "object"):
        if isinstance(entry, dict) and isinstance(sentences := entry.get("sentences"), list):
            texts = [sentence.strip() if isinstance(sentence, str) else "" for sentence in sentences]
            fields = {name: value for name, value in entry.items() if name not in ("extension", "sentences")}
            yield Clip(video, texts, fields)
        else:
            yield LeftOut(video, UNREADABLE)


def require(path: Path, expected: str, is_one: Callable[[Clip], bool]) -> None:
    """Check that annotations in AdaCLIP's form are a dataset's, since those of all datasets have the same names.

    Args:
        path: The file.
        expected: What its videos should be, in words.
        is_one: Whether a video is such a one.

    Raises:
        InputError: Not one of its first videos is.
    """
    first = [clip for clip in islice(clips(path), _LOOKED_AT) if isinstance(clip, Clip)]
    if first and not any(map(is_one, first)):
        id_, sentences, fields = first[0]
        found = ", ".join([f"sentences ({len(sentences)})", *fields])
        raise InputError(f"{path}: expected {expected}, found {id_} with {found}; it is another dataset's or split's")


def paragraph(sentences: Iterable[str]) -> str:
    """Join sentences by one blank as they are, as AdaCLIP does for the videos that it describes by a paragraph."""
    return " ".join(filter(None, sentences))


def listed_ids(path: Path) -> list[str]:
    """Read a list that has one id a line.

    Raises:
        InputError: The file is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected one id a line in UTF-8, found: {error}") from error
    return [line.strip() for line in lines if line.strip()]
