"""VideoChat2-IT: instructions on 1.9 million videos and pictures, in some forty sub-sets. May import `sample`,
`_read` and `_videochat`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.demo import Tree, video_bytes
from embedshard.errors import InputError
from embedshard.sample import LeftOut, Sample
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._read import rows, walk
from embedshard.sources._videochat import MediaFiles, sample

__all__ = ["VideoChat2IT", "VideoChat2ITOptions"]

_KINDS = ("caption", "classification", "conversation", "reasoning", "vqa")
_MODALITIES = ("video", "image")
_ALL = "all"


@dataclass(frozen=True)
class VideoChat2ITOptions(Options):
    """Which part of VideoChat2-IT is read."""

    sub_set: str = option(_ALL, "which sub-sets, by a part of their path: `vqa/ego_qa`, `video`, `train_240k`, or all")


class VideoChat2IT(Source):
    """VideoChat2-IT; the media id is the name of the media, without extension, or the folder of cut clips.

    A key is the sub-set and the row's number in its file: `video_vqa_ego_qa_17`, `video_vqa_sharegptvideo_240k_17`.
    What the caption is follows from the folder: the answers of `caption` and `conversation`, question and answer of
    `classification`, `vqa` and `reasoning`. Every `train*.json` is read, so a `train_80k.json` beside the `train.json`
    that it was drawn from says its rows twice; `--option sub_set=...` tells which is meant.
    """

    name = "videochat2_it"
    title = "VideoChat2-IT"
    homepage = "https://huggingface.co/datasets/OpenGVLab/VideoChat2-IT"
    license = "MIT (annotations)"
    kind = "caption, classification, open question, choice, conversation"
    modality = "video, image"
    splits = {"given": ("train",)}
    options = VideoChat2ITOptions
    expects = """
video/vqa/ego_qa/train.json            any of {video,image}/{caption,classification,conversation,reasoning,vqa}/SET/,
image/caption/llava/train_100k.json    here or in any folder, with or without `video`:
                                       [{"video" or "image": path, "QA": [{"i", "q", "a"}, ...], "start", "end"}, ...]
webvid/000001_000050/1066674784.mp4    media in any folders or archives, found by the last folder and the name, or
egoqa_split_videos.zip                 by the name alone; folders of frames too; what has only a number for a name
m3it/okvqa/train/12.jpg                lies in a folder or archive named after its set, never in one of val or test
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of each sub-set in the order of its file."""
        assert isinstance(options, VideoChat2ITOptions)
        found = sorted(_sub_sets(root)) if root.is_dir() else []
        if not found:
            raise tree_error(self, root, "found no train*.json in a folder as video/vqa/ego_qa")
        wanted = options.sub_set.strip("/").removesuffix(".json")
        chosen = [part for part in found if wanted == _ALL or f"/{wanted}/" in f"/{part.name}/"]
        if not chosen:
            names = ", ".join(part.name for part in found)
            raise InputError(f"{self.name}: no sub-set {options.sub_set!r}; expected {_ALL}, or a part of: {names}")
        media = MediaFiles(root)
        for part in chosen:
            for number, row in enumerate(rows(part.path)):
                if isinstance(row, str):
                    yield LeftOut(f"entry {number} of {part.name}", row)
                else:
                    raw_id = f"{'video' if 'video' in row else 'image'}_{part.id}_{number}"
                    yield sample(raw_id, {"sub_set": part.name, **row}, part.kind, media, part.owner)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out all kinds, clips of one name, a GIF, frames, a window, a tar, and what is left out."""
        webvid, nextqa = "000001_000050/1066674784.mp4", "1164/3238737531.mp4"
        colour = "Question: Which colour is the dog?\nOptions:\n(A) brown\n(B) white\n"
        choice = _row(nextqa, (colour, "Answer: (B) white", "Watch the video and choose the best option."))
        push = _row("78687.webm", ("Options:\n(A) push\n(B) pull", "Answer: (A) push"))
        plant = {"image": "12.jpg", "QA": [{"q": "what is it?", "a": "tree"}]}
        told = {
            "video/caption/webvid/train": [_row(webvid, ("", "Two kites fly. ")), _row("gone/1.mp4", ("", "None."))],
            "video/conversation/videochat1/train": [_row(webvid, ("Who flies?", "A boy."), ("Where?", "There."))],
            "video/reasoning/next_qa/train": [{**choice, "start": 0.5, "end": 1.5}, _row(nextqa, (colour, "(C) red"))],
            "video/classification/ssv2/train": [push],
            "video/vqa/ego_qa/train": [_row(f"{name}/split_0.mp4", ("Where?", "Here.")) for name in ("d2-51", "a5-77")],
            "video/vqa/tgif_frame_qa/train": [_row("tumblr_a1b2.gif", ("what jumps ?", "cat"))],
            "video/vqa/sharegptvideo/train_240k": [_row("v_sgpt-0001", ("What turns?", "A wheel."))],
            "image/vqa/okvqa/train": [plant, {"image": "13.jpg"}],
        }
        for path, sub_set in told.items():
            tree.json(f"{path}.json", sub_set)
        tree.video(f"webvid/{webvid}", "kites")
        tree.video(f"nextqa/{nextqa}", "dog")
        tree.video("ssv2/78687.webm", "push", 1.0)
        tree.tar("egoqa_split_videos.tar", {"split_videos/d2-51/split_0.mp4": video_bytes("cup")})
        tree.gif("tgif/gifs/tumblr_a1b2.gif", "cat")
        tree.frames("train_300k/v_sgpt-0001", "wheel")
        tree.image("m3it/gqa/12.jpg", "another picture of this number")
        tree.image("m3it/okvqa/12.jpg", "tree")


class _SubSet(NamedTuple):
    name: str
    id: str
    kind: str
    owner: str
    path: Path


def _row(video: str, *turns: tuple[str, ...]) -> dict[str, Any]:
    return {"video": video, "QA": [dict(zip("qai", turn, strict=False)) for turn in turns]}


def _sub_sets(root: Path) -> Iterator[_SubSet]:
    """Find all lists of rows; what they are follows from the folders, also from those that `root` lies in."""
    top = Path(os.path.abspath(root)).parts
    for folder, _, names in walk(root, None):
        modality, kind, owner = ("", "", *top, *folder.split("/")[:-1])[-3:]
        stems = [name[:-5] for name in names if name.endswith(".json")] if kind in _KINDS else []
        for stem in stems:
            words = stem.split("_")
            if "train" in words:
                place = "/".join([*([modality] if modality in _MODALITIES else []), kind, owner, stem])
                part = "_".join([kind, owner, *(word for word in words if word != "train")])
                yield _SubSet(place, part, kind, owner, root / folder / f"{stem}.json")
