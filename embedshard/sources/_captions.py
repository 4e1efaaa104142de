"""What becomes the caption of a sample, by kind of dataset. May import `sample` and `_read`.

The kinds, and what the caption (`.txt`) and the metadata of each hold:

    caption         the caption; where media have several, `--captions` tells which; `captions` has all
    classification  the label in words; `label`, `label_id`
    open question   question and answer; `question`, `answer` (None where it is hidden)
    choice          question and the text of the right option; `question`, `options`, `answer`, `answer_index`,
                    `answer_letter`
    conversation    the answers of all turns, joined by one blank; `conversations` as given
    segment         the sentence of the segment; `segment_index`, and the window is the media's
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, option
from embedshard.sources._read import NO_CAPTION

__all__ = [
    "CaptionsOptions",
    "answered",
    "caption_samples",
    "choice_fields",
    "closed",
    "joined",
    "turns",
    "without_letters",
    "without_placeholders",
]

_CLOSING = tuple(".!?…:。！？：")
_WIDE = {".": "。", "?": "？"}
_CHINESE = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_BRACKETS = "\"'”’»)]}」』）"
_LETTER = re.compile(r"\s*\(?\s*([A-Z])\s*[.):、]\s*", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\s*</?(?:image|video|audio|ImageHere|VideoHere)(?:_?\d+)?>\s*", re.IGNORECASE)


@dataclass(frozen=True)
class CaptionsOptions(Options):
    """The option of every source whose media have several captions."""

    captions: str = option(
        "first", "of a media's captions: the first, a sample for each, or all joined", ("first", "each", "join")
    )


def caption_samples(
    raw_id: str, split: str, media: Media, captions: Sequence[str], which: str, meta: Mapping[str, Any]
) -> Iterator[Sample | LeftOut]:
    """Yield the samples of media with several captions, which all know all captions.

    Args:
        raw_id: The dataset's id of the media, unique over all splits.
        split: The split.
        media: The media.
        captions: All of its captions; outer blanks are taken off, and what is no text counts as blank.
        which: A value of the option `captions`; `each` appends the caption's number to the id.
        meta: The other fields.
    """
    texts = [captions] if isinstance(captions, str) else captions
    captions = [caption.strip() if isinstance(caption, str) else "" for caption in texts]
    meta = {**meta, "captions": captions}
    if not any(captions):
        yield LeftOut(raw_id, NO_CAPTION)
    elif which == "each":
        for number, caption in enumerate(captions):
            yield Sample(make_key(f"{raw_id}_{number}"), split, media, caption, meta)
    else:
        caption = joined(captions) if which == "join" else next(filter(None, captions))
        yield Sample(make_key(raw_id), split, media, caption, meta)


def closed(text: str, mark: str = ".") -> str:
    """Take outer blanks off a text, and close it with a mark unless it has one, or one before a closing quote."""
    text = text.strip()
    if not text or text.rstrip(_BRACKETS).endswith(_CLOSING):
        return text
    return text + (_WIDE.get(mark, mark) if _CHINESE.match(text[-1]) else mark)


def joined(sentences: Iterable[str]) -> str:
    """Join sentences by one blank, each closed with a full stop unless it has a mark."""
    return " ".join(filter(None, map(closed, sentences)))


def answered(question: str, answer: str | None) -> str:
    """Give the caption of a question: itself, closed with a question mark, and its answer where there is one."""
    return f"{closed(question, '?')} {(answer or '').strip()}".strip()


def choice_fields(question: str, options: Sequence[str], answer_index: int | None) -> dict[str, Any]:
    """Give the metadata of a choice among options.

    Raises:
        IndexError: There is no such option.
    """
    if answer_index is None:
        answer = letter = None
    elif 0 <= answer_index < len(options):
        answer, letter = options[answer_index], chr(ord("A") + answer_index)
    else:
        raise IndexError(f"no option {answer_index} among {len(options)}")
    fields = {"question": question, "options": list(options), "answer": answer}
    return {**fields, "answer_index": answer_index, "answer_letter": letter}


def turns(conversation: Any) -> tuple[list[str], list[str]]:
    """Give what was asked and what was answered in a conversation, without what stands for the media.

    Args:
        conversation: A list of `{"from": "human" | "gpt", "value": text}` or `{"role": "user" | "assistant",
            "content": text}`.

    Raises:
        ValueError: It is no such list.
    """
    asked: list[str] = []
    answers: list[str] = []
    try:
        for turn in conversation:
            role, text = (turn["from"], turn["value"]) if "from" in turn else (turn["role"], turn["content"])
            places = {"human": asked, "user": asked, "gpt": answers, "assistant": answers}
            if role != "system":
                places[role].append(without_placeholders(text))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected turns with from and value, found one without {error}") from error
    return asked, answers


def without_letters(options: Sequence[str]) -> list[str]:
    """Take the letters off options, as in `A. a dog`, `(A) a dog`, `A) a dog`, where all begin with their own."""
    found = [_LETTER.match(option) for option in options]
    letters = "".join(match[1].upper() for match in found if match)
    if letters != "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]:
        return list(options)
    return [option[match.end() :] for option, match in zip(options, found, strict=True) if match]


def without_placeholders(text: str) -> str:
    """Take off what stands for the media in a conversation, as `<image>` and `<video>`."""
    if "<" not in text:
        return text.strip()
    return _PLACEHOLDER.sub(" ", text).strip()
