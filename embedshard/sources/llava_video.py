"""LLaVA-Video-178K: captions, open questions and choices on 178510 videos. May import `sample` and helpers of sources.

The file's name tells what its conversations are. The same videos come from several folders (`academic_v0_1` and
`nextqa` both have NExT-QA's), so a video is known by its name, whatever folder or archive it lies in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree, video_bytes
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import answered, choice_fields, without_placeholders
from embedshard.sources._media import MediaIndex, media_index
from embedshard.sources._read import MISSING_MEDIA, NO_CAPTION, natural, rows, walk

__all__ = ["LLaVAVideo", "LLaVAVideoOptions"]

_CAPTION, _OPEN, _CHOICE = "caption", "open_ended", "multi_choice"
_PARTS = {"_cap_": _CAPTION, "_oe_": _OPEN, "_mc_": _CHOICE}
_UNREADABLE = "an entry that is no video and conversation of questions and answers in turn"
_NO_ANSWER = "no answer"
_NO_OPTION = "options that are not lettered A, B, C, ..., or an answer that is none of them"
_OPTION = re.compile(r"\n([A-Z])\.(?= |\n|$)")
_LETTER = re.compile(r"\(?([A-Z])(?:[.):]|$)")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class LLaVAVideoOptions(Options):
    """Which part of LLaVA-Video is read."""

    part: str = option(
        "all", "which of the card's parts, told by *_cap_*, *_oe_*, *_mc_* in a file's name", ("all", *_PARTS.values())
    )


class LLaVAVideo(Source):
    """LLaVA-Video-178K; the media id is the video's name, with its folder where that is `split_0`, `split_1`, ...

    A caption row is one sample. Of the other files each question with its answer is one, whose metadata has the
    whole conversation too where it goes on; a key is the file, the row's `id` (in the metadata as `row_id`) and a
    count. `llava_hound` is not read: it asks about frames of ShareGPTVideo.
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
        files = {path: part for path, part in _files(root) if options.part in ("all", part)}
        if not files:
            wanted = [mark for mark, part in _PARTS.items() if options.part in ("all", part)]
            raise tree_error(self, root, f"found no *{'*.json, no *'.join(wanted)}*.json")
        videos = _videos(root)
        for path, part in files.items():
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


def _name(path: str) -> str:
    """Give the name of a video from its path without extension; YouCook2's clips are `split_0`, ... in each folder."""
    folder, _, stem = path.rpartition("/")
    return f"{folder.rpartition('/')[2]}/{stem}" if stem.startswith("split_") else stem


def _videos(root: Path) -> MediaIndex:
    found = media_index(root, "video", folders=1)
    videos = MediaIndex((_name(path), address) for path, address in found.items())
    videos.problems = found.problems
    return videos


def _rows(path: Path, part: str, videos: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
    file = path.stem.partition("_processed")[0].removesuffix("_qa")
    numbers: Counter[str] = Counter()
    for number, found in enumerate(rows(path)):
        row: Mapping[str, Any] = {} if isinstance(found, str) else found
        try:
            name = _name(row["video"].rpartition(".")[0] or row["video"])
            pairs = _pairs(row["conversations"])
        except (AttributeError, KeyError, TypeError, ValueError):
            yield LeftOut(f"entry {number} of {path.name}", found if isinstance(found, str) else _UNREADABLE)
            continue
        media = Media(name, videos.get(name, ""), "video")
        row_id = str(row.get("id") or name)
        meta = {field: row[field] for field in row if field != "conversations" or len(pairs) > 1} | {"row_id": row_id}
        if part == _CAPTION:
            pairs = [(pairs[0][0], " ".join(answer for _, answer in pairs))]
        for question, answer in pairs:
            raw_id = f"{file}_{row_id}_{numbers[row_id]}"
            numbers[row_id] += 1
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


def _sample(
    raw_id: str, media: Media, part: str, question: str, answer: str, meta: Mapping[str, Any]
) -> Sample | LeftOut:
    if not media.path:
        return LeftOut(raw_id, MISSING_MEDIA)
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
    letter = _LETTER.match(answer)
    if letter and letter[1] in letters:
        index = letters.index(letter[1])
    else:
        index = [_folded(option) for option in options].index(_folded(answer))
    return choice_fields(question.strip().removesuffix("Options:").rstrip(), options, index)


def _folded(text: str) -> str:
    return text.rstrip(".").casefold()
