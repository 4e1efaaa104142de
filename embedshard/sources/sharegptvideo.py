"""ShareGPTVideo: captions and questions of 900k videos, given as frames. May import the helpers of sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree, image_bytes
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import turns
from embedshard.sources._media import frame_folders
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, find, rows, with_id

__all__ = ["ShareGPTVideo", "ShareGPTVideoOptions"]

_PRETRAIN = "video_caption_pretrain"
_FILES = {
    _PRETRAIN: "pretrain",
    "video_caption_300k": "sft",
    "video_240k_caption_15k": "sft",
    "chatgpt_qa_900k": "qa",
    "sft_dpo_17k": "dpo",
}
_ALL = "all"
_FRAME_RATE = 2.0


@dataclass(frozen=True)
class ShareGPTVideoOptions(Options):
    """Which file is read."""

    file: str = option(_PRETRAIN, "which .jsonl; all: each that is there, its name before every id", (*_FILES, _ALL))


class ShareGPTVideo(Source):
    """ShareGPTVideo; a key is the row's `id`, and the caption is all that is answered, or the answer that is `chosen`.

    The files overlap: the captions to fine-tune with are some of those to pretrain with, under the same ids. The
    media id is the `video`, without `-Scene-001` where it is a scene of a longer one. Frames are two a second.
    """

    name = "sharegptvideo"
    title = "ShareGPTVideo"
    homepage = "https://github.com/RifleZhang/LLaVA-Hound-DPO"
    license = "Apache 2.0"
    kind = "caption, conversation"
    modality = "video"
    splits = {"given": ("train",)}
    options = ShareGPTVideoOptions
    expects = f"""
video_instruction/train/        or any other folder:
    pretrain/{_PRETRAIN}.jsonl, sft/video_caption_300k.jsonl, sft/video_240k_caption_15k.jsonl,
    qa/chatgpt_qa_900k.jsonl    {{"id", "video", "conversations": [{{"from": "human" or "gpt", "value"}}, ...]}}
    dpo/sft_dpo_17k.jsonl       {{"id", "video", "prompt", "chosen", "rejected"}}
train_300k/VIDEO/c01_0001.jpeg  the frames of a video, in any folders, or where they are published:
train_600k/chunk_0.tar.gz       archives, which need not be unpacked
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of the file, or of one file after another, in their order."""
        assert isinstance(options, ShareGPTVideoOptions)
        names = _FILES if options.file == _ALL else (options.file,)
        places = {name: (f"{name}.jsonl", f"video_instruction/train/{_FILES[name]}/{name}.jsonl") for name in names}
        files = {name: path for name in names if (path := find(root, *places[name]))}
        if not files:
            raise tree_error(self, root, f"found no {' or '.join(f'{name}.jsonl' for name in names)}")
        media = frame_folders(root)
        for name, path in files.items():
            prefix = f"{name}_" if options.file == _ALL else ""
            for number, row in enumerate(rows(path)):
                found = row if isinstance(row, str) else _sample(row, prefix, media)
                yield LeftOut(f"row {number} of {path.name}", found) if isinstance(found, str) else found
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out three files, loose and archived frames, scenes of one video, and what is left out."""
        dog, rest = "v_-a_B3dE6gHi-Scene-001", "v_-a_B3dE6gHi-Scene-002"
        captions = {dog: "A dog runs.", rest: "It rests.", "1006512345": "Waves.\n", "-blank_7890": " ", "gone": "Who?"}
        _write(tree, _PRETRAIN, [_row(video, video, text) for video, text in captions.items()])
        _write(tree, "video_240k_caption_15k", [_row(dog, dog, "A dog runs."), _row(f"{dog}_1", dog, "A dog.", "No.")])
        judged = {"prompt": "<video>\nWhat runs?", "chosen": "A brown dog.", "rejected": "A cat."}
        _write(tree, "sft_dpo_17k", [{"id": f"{dog}_1", "video": dog, **judged}])
        tree.frames(f"train_300k/{dog}", dog, 11)
        tree.frames("train_300k/-blank_7890", "nothing to say")
        frames = {f"./{video}/c01_{n:04}.jpeg": video for video in (rest, "1006512345") for n in (1, 2, 3)}
        tree.tar("train_600k/chunk_0.tar", {name: image_bytes(video) for name, video in frames.items()})


def _row(raw_id: str, video: str, *answers: str) -> dict[str, Any]:
    talk = []
    for question, answer in zip(("<video>\nWhat is to be seen?", "Is it raining?"), answers, strict=False):
        talk += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": raw_id, "video": video, "conversations": talk}


def _write(tree: Tree, name: str, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    tree.text(f"video_instruction/train/{_FILES[name]}/{name}.jsonl", text)


def _sample(row: Mapping[str, Any], prefix: str, media: Mapping[str, str]) -> Sample | LeftOut | str:
    """Give the sample of a row, or why there is none."""
    raw_id, video = row.get("id"), row.get("video")
    try:
        answers = _answers(row)
    except (KeyError, ValueError):
        return UNREADABLE
    if not (isinstance(raw_id, str) and raw_id and isinstance(video, str)):
        return UNREADABLE
    raw_id = prefix + raw_id
    path = media.get(video)
    if not path:
        return LeftOut(raw_id, MISSING_MEDIA)
    one = Media(video.partition("-Scene-")[0], path, "frames")
    meta = {**with_id(row, raw_id), "frame_rate": _FRAME_RATE}
    return Sample(make_key(raw_id), "", one, " ".join(filter(None, answers)), meta)


def _answers(row: Mapping[str, Any]) -> list[str]:
    """Give all that is answered in a row; of two answers to compare, the one that is preferred."""
    if "chosen" not in row:
        return turns(row["conversations"])[1]
    chosen = row["chosen"]
    return turns([chosen if isinstance(chosen, dict) else {"from": "gpt", "value": chosen}])[1]
