"""MSR-VTT: 10000 clips of YouTube videos, 20 captions each. May import `sample` and `_read`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key, media_kind, split_name
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._read import MISSING_MEDIA, NO_CAPTION, media_index, rows

__all__ = ["MSRVTT", "MSRVTTOptions"]

_FULL = ("MSRVTT_data.json", "train_val_videodatainfo.json", "test_videodatainfo.json")
_TRAIN_LISTS = {"1k-A": "MSRVTT_train.9k.csv", "7k": "MSRVTT_train.7k.csv"}
_TEST_LIST = "MSRVTT_JSFUSION_test.csv"


@dataclass(frozen=True)
class MSRVTTOptions(Options):
    """How MSR-VTT is read."""

    captions: str = option(
        "first",
        "of a clip's captions: the first, a sample for each, or all joined as one paragraph",
        ("first", "each", "join"),
    )


@dataclass(frozen=True)
class _Clip:
    id: str
    split: str
    captions: list[str]
    meta: Mapping[str, Any]


class MSRVTT(Source):
    """MSR-VTT; the media id is the `video_id`, and all captions are in the metadata as `captions`.

    The files are clips already, so `start time` and `end time`, which count in the YouTube video, are metadata.
    The retrieval splits `1k-A` and `7k` test on the one sentence that JSFusion chose for each of 1000 clips and
    have no val: the list that their training code calls val is the test list.
    """

    name = "msrvtt"
    title = "MSR-VTT"
    homepage = "https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language/"
    license = "not stated"
    kind = "caption"
    modality = "video"
    published_media = {
        "official": {"train": 6513, "val": 497, "test": 2990},
        "1k-A": {"train": 9000, "test": 1000},
        "7k": {"train": 7010, "test": 1000},
    }
    splits = {"official": SPLITS, "1k-A": ("train", "test"), "7k": ("train", "test")}
    options = MSRVTTOptions
    expects = f"""
{_FULL[0]}             (or {_FULL[1]} and {_FULL[2]},
                             or AdaCLIP's train.json and val.json), here or in any folder
{_TRAIN_LISTS["1k-A"]}          for --split 1k-A ({_TRAIN_LISTS["7k"]} for 7k)
{_TEST_LIST}     for --split 1k-A and 7k
videos/all/video0.mp4        or any other folders
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the clips of the split in the order of its files, and their captions in theirs."""
        assert isinstance(options, MSRVTTOptions)
        media = media_index(root) if root.is_dir() else {}
        for clip in self._clips(root, options.split or "official"):
            if clip.id not in media:
                yield LeftOut(clip.id, MISSING_MEDIA)
            elif not any(caption.strip() for caption in clip.captions):
                yield LeftOut(clip.id, NO_CAPTION)
            else:
                yield from _samples(clip, media[clip.id], options.captions)

    def demo(self, tree: Tree) -> None:
        """Lay out all files of the three ways to split, a missing clip and a clip without captions."""
        splits = {"video0": "train", "video1": "train", "video2": "validate", "video3": "test", "video4": "train"}
        captions = {
            "video0": ["a man sings", "a man is singing a song."],
            "video1": ["两只狗在跑", "two dogs run!"],
            "video2": ['she says "hello"', ""],
            "video3": ["a boy plays grand theft auto 5"],
        }
        videos = [
            {"video_id": name, "id": number, "category": 9, "start time": 137.72, "end time": 149.44, "split": split}
            for number, (name, split) in enumerate({**splits, "video5": "test"}.items())
        ]
        texts = [(video, text) for video, many in captions.items() for text in many]
        sentences = [{"sen_id": n, "video_id": video, "caption": text} for n, (video, text) in enumerate(texts)]
        tree.json("annotation/MSRVTT_data.json", {"info": {}, "videos": videos, "sentences": sentences})
        for name in splits:
            tree.video(f"videos/all/{name}.mp4", name)
        tree.text(f"annotation/{_TRAIN_LISTS['1k-A']}", "video_id\nvideo0\nvideo1\nvideo2\nvideo4\nvideo5\n")
        tree.text(f"annotation/{_TRAIN_LISTS['7k']}", "video_id\nvideo0\nvideo1\nvideo4\n")
        tree.text(
            f"annotation/{_TEST_LIST}",
            "key,vid_key,video_id,sentence\nret0,msr3,video3,a boy plays a game\nret1,msr6,video6,a clip is gone\n",
        )

    def _clips(self, root: Path, split: str) -> Iterator[_Clip]:
        full = [path for name in _FULL if (path := _find(root, name))]
        adaclip = [path for name in SPLITS if (path := _find(root, f"{name}.json"))]
        lists = [_find(root, name) for name in (_TRAIN_LISTS.get(split, ""), _TEST_LIST) if name]
        if split == "official" and full:
            yield from _full_clips(full)
        elif split != "official" and all(lists):
            known = {clip.id: clip for clip in _full_clips(full)}
            train, test = (path for path in lists if path)
            for row in rows(train):
                yield _listed(train, row, "train", known)
            for row in rows(test):
                yield _listed(test, row, "test", known)
        elif adaclip:
            for path in adaclip:
                name = "test" if path.stem == "val" and split != "official" else path.stem
                yield from _adaclip_clips(path, name)
        else:
            raise tree_error(self, root, f"found neither the annotations of --split {split} nor AdaCLIP's")


def _find(root: Path, name: str) -> Path | None:
    """Give the first file of that name at most two folders deep."""
    return next((path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(depth + name))), None)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _full_clips(paths: list[Path]) -> Iterator[_Clip]:
    for path in paths:
        table = _object(path)
        captions: dict[str, list[str]] = {}
        try:
            for sentence in table["sentences"]:
                captions.setdefault(sentence["video_id"], []).append(str(sentence["caption"]))
            for video in table["videos"]:
                split = split_name(video["split"]) or video["split"]
                yield _Clip(video["video_id"], split, captions.get(video["video_id"], []), video)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: expected videos with video_id and split, and sentences with video_id and caption; "
                f"found an entry without: {error}"
            ) from error


def _listed(path: Path, row: Mapping[str, Any] | str, split: str, known: Mapping[str, _Clip]) -> _Clip:
    if isinstance(row, str) or "video_id" not in row:
        raise InputError(f"{path}: expected a column video_id in every row, found {row}")
    video = row["video_id"]
    clip = known.get(video, _Clip(video, split, [], {"video_id": video}))
    sentence = row.get("sentence")
    return _Clip(video, split, [sentence] if sentence else clip.captions, clip.meta)


def _adaclip_clips(path: Path, split: str) -> Iterator[_Clip]:
    for video, entry in _object(path).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("sentences"), list):
            raise InputError(f"{path}: expected sentences for {video}, as in AdaCLIP's annotations, found {entry}")
        window = {name: value for name, value in entry.items() if name != "sentences"}
        yield _Clip(video, split, [str(text) for text in entry["sentences"]], {"video_id": video, **window})


def _samples(clip: _Clip, path: str, captions: str) -> Iterator[Sample]:
    kind = media_kind(path)
    assert kind
    media = Media(clip.id, path, kind)
    meta = {**{name: value for name, value in clip.meta.items() if name != "split"}, "captions": clip.captions}
    if captions == "each":
        for number, caption in enumerate(clip.captions):
            yield Sample(make_key(f"{clip.id}_{number}"), clip.split, media, caption, meta)
    else:
        texts = [caption for caption in clip.captions if caption.strip()]
        caption = " ".join(map(_sentence, texts)) if captions == "join" else texts[0]
        yield Sample(make_key(clip.id), clip.split, media, caption, meta)


def _sentence(caption: str) -> str:
    """Close a caption with a full stop unless it has a closing mark."""
    text = caption.strip()
    return text if text.endswith((".", "!", "?", "。", "！", "？")) else f"{text}."
