"""LLaVA-Video-178K: captions, open questions and choices on 178510 videos. May import `sample` and helpers of sources.

The file's name tells what its conversations are. The same videos come from several folders (`academic_v0_1` and
`nextqa` both have NExT-QA's), so a video is known by its name, and its file is the one that lies most like the row
says; names that are mere numbers, as Perception Test's `video_7`, are known with their folder.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.address import member_name
from embedshard.demo import Tree, video_bytes
from embedshard.sample import LeftOut, Media, Sample, make_key, media_kind
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import answered, choice_fields, without_placeholders
from embedshard.sources._media import MediaIndex, files
from embedshard.sources._read import MISSING_MEDIA, NO_CAPTION, natural, rows, walk

__all__ = ["LLaVAVideo", "LLaVAVideoOptions"]

_CAPTION, _OPEN, _CHOICE = "caption", "open_ended", "multi_choice"
_PARTS = {"_cap_": _CAPTION, "_oe_": _OPEN, "_mc_": _CHOICE}
_UNREADABLE = "an entry that is no video and conversation of questions and answers in turn"
_NO_ANSWER = "no answer"
_NO_OPTION = "options that are blank or not lettered A, B, C, ..., or an answer that is none of them"
_ANOTHER_VIDEO = "several videos of that name, none of which lies more like the row says than another"
_OPTION = re.compile(r"\n([A-Z])\.(?= |\n|$)")
_LETTER = re.compile(r"\(?([A-Z])(?:[.):]|$)")
_INSTRUCTION = re.compile(
    r"^[ \t]*(?:Answer the|Please (?:answer|provide|respond|state))\b.*\n?", re.IGNORECASE | re.MULTILINE
)
_NUMBERED = re.compile(r"(?:video|split|clip|scene|part)_?\d+")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class LLaVAVideoOptions(Options):
    """Which part of LLaVA-Video is read."""

    part: str = option(
        "all", "which of the card's parts, told by *_cap_*, *_oe_*, *_mc_* in a file's name", ("all", *_PARTS.values())
    )


class LLaVAVideo(Source):
    """LLaVA-Video-178K; the media id is the video's name, with its folder where that is `split_0`, `video_7`, ...

    A caption row is one sample. Of the other files each question with its answer is one, without the lines that say
    how to answer ("Answer the question using a single word."); its metadata has the whole conversation as given where
    it goes on or has such lines. A key is the file, the row's `id` (in the metadata as `row_id`) and a count.
    `llava_hound` is not read: it asks about frames of ShareGPTVideo.
    """

    name = "llava_video"
    title = "LLaVA-Video-178K"
    homepage = "https://llava-vl.github.io/blog/2024-09-30-llava-video/"
    license = "Apache 2.0, for academic research and education only"
    kind = "caption, open question, choice"
    modality = "video"
    splits = {"given": ("train",)}
    options = LLaVAVideoOptions
    expects = """
0_30_s_academic_v0_1/0_30_s_academic_v0_1_cap_processed.json      captions,
0_30_s_academic_v0_1/0_30_s_academic_oe_v0_1_qa_processed.json    open questions,
0_30_s_academic_v0_1/0_30_s_academic_mc_v0_1_qa_processed.json    choices: any such files in any folders,
    [{"id", "conversations": [{"from", "value"}, ...], "data_source", "video": "academic_source/Charades/Q04US.mp4"},
     ...]
0_30_s_academic_v0_1/academic_source/Charades/Q04US.mp4           in any folders, or in the archives
0_30_s_academic_v0_1/0_30_s_academic_v0_1_videos_1.tar.gz         as they are published
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of the files of the part, in the order of their paths."""
        assert isinstance(options, LLaVAVideoOptions)
        found = [(path, part) for path, part in _files(root) if options.part in ("all", part)]
        if not found:
            wanted = [mark for mark, part in _PARTS.items() if options.part in ("all", part)]
            raise tree_error(self, root, f"found no *{'*.json, no *'.join(wanted)}*.json")
        videos = _videos(root)
        for path, part in found:
            yield from _rows(root / path, part, videos)
        yield from videos.problems

    def demo(self, tree: Tree) -> None:
        """Lay out the parts of two folders, one with its videos in a tar, and rows that lack something."""
        subset, clip = "0_30_s_academic_v0_1", "academic_source/youcook2/101/zukEQgbWdsY/split_2.mp4"
        ask = "What is the color of the skillet?\nA. Black\nB. Silver"
        letter, full = "Please respond with only the letter of the correct answer.", "Please state the full option."
        choices = [
            _row(subset, clip, f"<image>\n{ask}\n{letter}", "A.", f"{ask}\n{full}", "A. Black."),
            _row(subset, clip, f"<image>\n{ask}\n{letter}", "C."),
        ]
        tree.json(f"{subset}/0_30_s_academic_mc_v0_1_qa_processed.json", choices)
        gone = _row(subset, "academic_source/Charades/GONE1.mp4", "<image>\nWhat is gone?", "The video.")
        tree.json(f"{subset}/0_30_s_academic_oe_v0_1_qa_processed.json", [gone, {**gone, "conversations": None}])
        captions = [_row(subset, clip, "<image>\nDescribe the video.", text) for text in ("Someone fries an egg.", "")]
        tree.json(f"{subset}/0_30_s_academic_v0_1_cap_processed.json", captions)
        tree.video(f"{subset}/{clip}", "skillet")
        walk_by = "NextQA/NExTVideo/1006/8968804598.mp4"
        open_row = _row("0_30_s_nextqa", walk_by, "why is the man walking\n<image>", "to train")
        tree.json("0_30_s_nextqa/0_30_s_nextqa_oe_qa_processed.json", [open_row])
        tree.tar("0_30_s_nextqa/0_30_s_nextqa_videos_1.tar", {walk_by: video_bytes("walk")})


def _row(source: str, video: str, *values: str) -> dict[str, Any]:
    conversation = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return {
        "id": "-".join(Path(video).with_suffix("").parts[2:]),
        "conversations": conversation,
        "data_source": source,
        "video": video,
    }


def _files(root: Path) -> list[tuple[str, str]]:
    """Find the files whose names tell a part, in natural order."""
    names = (folder + name for folder, _, names in walk(root, None) for name in names if name.endswith(".json"))
    marked = ((path, mark) for path in names for mark in _PARTS if mark in path.rpartition("/")[2])
    return [(path, _PARTS[mark]) for path, mark in sorted(marked, key=lambda found: natural(found[0]))]


def _videos(root: Path) -> MediaIndex:
    """Find all videos, each by its name alone and with its folder."""

    def named() -> Iterator[tuple[str, str] | LeftOut]:
        for path, address in files(root):
            if not isinstance(address, str):
                yield address
            elif media_kind(path) == "video":
                *folders, name = path.rsplit("/", 2)
                stem = name.rpartition(".")[0]
                yield stem, address
                if folders:
                    yield f"{folders[-1]}/{stem}", address

    return MediaIndex(named())


def _media(row: Mapping[str, Any], videos: MediaIndex) -> Media | LeftOut:
    """Give the video of a row, or why there is none.

    Raises:
        AttributeError: The row's path is no text.
        KeyError: It has no path.
    """
    source, video = row.get("data_source"), row["video"]
    wanted = f"{source}/{video.rpartition('.')[0] or video}".split("/")
    name, stem = "/".join(wanted[-2:]), wanted[-1]
    numbered = _NUMBERED.fullmatch(stem)
    media_id = name if numbered else stem
    found = videos.all(name)
    if not found and not (numbered and "/" in video):
        found = videos.all(stem)
    if len(found) > 1:
        places = [_place(address) for address in found]
        best = max(likeness := [_likeness(place, wanted) for place in places])
        if len({tuple(place) for place, like in zip(places, likeness, strict=True) if like == best}) > 1:
            return LeftOut(media_id, _ANOTHER_VIDEO)
        found = [address for address, like in zip(found, likeness, strict=True) if like == best]
        found.sort(key=lambda address: member_name(address).rpartition(".")[2] != video.rpartition(".")[2])
    return Media(media_id, found[0], "video") if found else LeftOut(media_id, MISSING_MEDIA)


def _place(address: str) -> list[str]:
    """Give the folders and the stem of a file, of an archive's member as if it were unpacked beside the archive."""
    name = member_name(address)
    if name != address:
        folder = address.rpartition("#")[0].rpartition("/")[0]
        name = f"{folder}/{name}".lstrip("/")
    return name.rpartition(".")[0].split("/")


def _likeness(place: list[str], wanted: list[str]) -> tuple[bool, int]:
    """Say whether a place is the wanted one, and how many of their last parts are the same."""
    pairs = zip(reversed(place), reversed(wanted), strict=False)
    return place == wanted, sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _rows(path: Path, part: str, videos: MediaIndex) -> Iterator[Sample | LeftOut]:
    file = path.stem.partition("_processed")[0].removesuffix("_qa")
    numbers: Counter[str] = Counter()
    for number, found in enumerate(rows(path)):
        row: Mapping[str, Any] = {} if isinstance(found, str) else found
        try:
            media = _media(row, videos)
            given = _pairs(row["conversations"])
        except (AttributeError, KeyError, TypeError, ValueError):
            yield LeftOut(f"entry {number} of {path.name}", found if isinstance(found, str) else _UNREADABLE)
            continue
        row_id = str(row.get("id") or media.id)
        if part == _CAPTION:
            pairs = [(given[0][0], " ".join(answer for _, answer in given))]
        else:
            pairs = [(_without_instructions(question), answer) for question, answer in given]
        short = len(given) == 1 and pairs == given
        meta = {field: row[field] for field in row if not (short and field == "conversations")} | {"row_id": row_id}
        for question, answer in pairs:
            raw_id = f"{file}_{row_id}_{numbers[row_id]}"
            numbers[row_id] += 1
            if isinstance(media, LeftOut):
                yield LeftOut(raw_id, media.reason)
            else:
                yield _sample(raw_id, media, part, question, answer, meta)


def _pairs(conversation: list[Any]) -> list[tuple[str, str]]:
    """Give each question and its answer.

    Raises:
        ValueError: There is none, or what is asked and what is answered do not take turns.
    """
    pairs = []
    for asked, said in zip(conversation[::2], conversation[1::2], strict=True):
        if (asked["from"], said["from"]) != ("human", "gpt"):
            raise ValueError("no turns")
        pairs.append((_text(asked["value"]), _text(said["value"])))
    if not pairs:
        raise ValueError("no conversation")
    return pairs


def _text(value: str) -> str:
    """Take off what stands for the video; a pattern is slow, and most texts have it at one place."""
    text = value.removeprefix("<image>\n").removesuffix("\n<image>")
    return without_placeholders(text) if "<" in text else text.strip()


def _without_instructions(question: str) -> str:
    """Take off the lines that say how to answer, unless there is nothing else."""
    return _INSTRUCTION.sub("", question).strip() or question


def _sample(
    raw_id: str, media: Media, part: str, question: str, answer: str, meta: Mapping[str, Any]
) -> Sample | LeftOut:
    if not answer:
        return LeftOut(raw_id, NO_CAPTION if part == _CAPTION else _NO_ANSWER)
    caption = answer
    fields: dict[str, Any] = {"question": question, "captions": [answer]}
    if part != _CAPTION:
        try:
            fields = _choice(question, answer) if part == _CHOICE else {"question": question, "answer": answer}
        except ValueError:
            return LeftOut(raw_id, _NO_OPTION)
        caption = answered(fields["question"], fields["answer"])
    return Sample(make_key(raw_id), "", media, caption, {**meta, **fields, "id": raw_id})


def _choice(text: str, answer: str) -> dict[str, Any]:
    """Give the metadata of a question with its options below it, a line each, before what is asked of the model.

    Raises:
        ValueError: There are no such options, or the answer is none of them.
    """
    question, *found = _OPTION.split(text)
    letters, options = "".join(found[::2]), found[1::2]
    if not options or not _LETTERS.startswith(letters):
        raise ValueError("no options")
    options = [option.strip() for option in [*options[:-1], options[-1].partition("\n")[0]]]
    if not all(options):
        raise ValueError("a blank option")
    letter = _LETTER.match(answer)
    index = letters.find(letter[1]) if letter else -1
    rest = _folded(answer[letter.end() :]) if letter else ""
    if index < 0 or (rest and rest != _folded(options[index])):
        index = [_folded(option) for option in options].index(_folded(answer))
    return choice_fields(question.strip().removesuffix("Options:").rstrip(), options, index)


def _folded(text: str) -> str:
    return " ".join(text.split()).rstrip(". ").casefold()
