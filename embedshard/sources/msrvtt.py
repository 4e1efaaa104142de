"""MSR-VTT: 10000 clips of YouTube videos, 20 captions each. May import `sample` and the helpers of sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, split_name
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._adaclip import NOT_LISTED, UNREADABLE, clips, listed_ids
from embedshard.sources._captions import CaptionsOptions, caption_samples
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, entries, find, rows

__all__ = ["MSRVTT"]

_FILES = (
    ("MSRVTT_data.json",),
    ("train_val_videodatainfo.json", "test_videodatainfo.json"),
    ("MSR_VTT.json",),
)
_TEST = ("MSRVTT_JSFUSION_test.csv", "val_list_jsfusion.txt")
_LISTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "official": {split: (f"{split}_list_full.txt",) for split in SPLITS},
    "1k-A": {"train": ("MSRVTT_train.9k.csv", "train_list_jsfusion.txt"), "test": _TEST},
    "7k": {"train": ("MSRVTT_train.7k.csv",), "test": _TEST},
}

Lists = Mapping[str, "Path | None"]


class MSRVTT(Source):
    """MSR-VTT; the media id is the `video_id`, and all captions are in the metadata as `captions`.

    The files are clips already, so `start time` and `end time`, which count in the YouTube video, are metadata.
    The retrieval splits `1k-A` and `7k` test on the one sentence that JSFusion chose for each of 1000 clips (the
    others are `all_captions`) and have no val: the list that their training code calls val is the test list.
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
    options = CaptionsOptions
    expects = """
MSRVTT_data.json             or train_val_videodatainfo.json and test_videodatainfo.json, or MSR_VTT.json,
                             here or in any folder, as are all lists
train_list_full.txt          optional for --split official: with val_list_full.txt and test_list_full.txt, the split
MSRVTT_train.9k.csv          for --split 1k-A, or train_list_jsfusion.txt
MSRVTT_train.7k.csv          for --split 7k
MSRVTT_JSFUSION_test.csv     for both; or val_list_jsfusion.txt, which does not tell the test sentences
videos/all/video0.mp4        or any other folders or archives
In place of all files        AdaCLIP's train.json and val.json for 1k-A, and test.json too for official
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the clips of the split in the order of its files, and their captions in theirs."""
        assert isinstance(options, CaptionsOptions)
        found = self._clips(root, options.split or "official")
        media = media_index(root, "video")
        yield from media.problems
        for clip in found:
            if isinstance(clip, LeftOut):
                yield clip
            elif path := media.get(clip.id):
                video = Media(clip.id, path, "video")
                yield from caption_samples(clip.id, clip.split, video, clip.captions, options.captions, clip.meta)
            else:
                yield LeftOut(clip.id, MISSING_MEDIA)

    def demo(self, tree: Tree) -> None:
        """Lay out all files of the three ways to split, a missing clip and a clip without captions."""
        splits = {"video0": "train", "video1": "train", "video2": "validate", "video3": "test", "video4": "train"}
        captions = {
            "video0": ["a man sings", "a man is singing a song."],
            "video1": ["两只狗在跑", "two dogs run!"],
            "video2": ['she says "hello"', ""],
            "video3": ["a boy plays a racing game"],
        }
        videos = [
            {"video_id": name, "id": number, "category": 9, "start time": 12.5, "end time": 24.0, "split": split}
            for number, (name, split) in enumerate({**splits, "video5": "test"}.items())
        ]
        texts = [(video, text) for video, many in captions.items() for text in many]
        sentences = [{"sen_id": n, "video_id": video, "caption": text} for n, (video, text) in enumerate(texts)]
        tree.json("annotation/MSRVTT_data.json", {"info": {}, "videos": videos, "sentences": sentences})
        for name in splits:
            tree.video(f"videos/all/{name}.mp4", name)
        tree.text("annotation/MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo1\nvideo2\nvideo4\nvideo5\n")
        tree.text("annotation/MSRVTT_train.7k.csv", "video_id\nvideo0\nvideo1\nvideo4\n")
        tree.text(
            "annotation/MSRVTT_JSFUSION_test.csv",
            "key,vid_key,video_id,sentence\nret0,msr3,video3,a boy plays a game\nret1,msr6,video6,a clip is gone\n",
        )

    def _clips(self, root: Path, way: str) -> Iterator[_Clip | LeftOut]:
        found = ([path for name in names if (path := find(root, name))] for names in _FILES)
        files = next(filter(None, found), [])
        lists = {split: find(root, *names) for split, names in _LISTS[way].items()}
        if all(lists.values()) and (files or way != "official"):
            return _listed(files, lists)
        if files and way == "official":
            return _annotated(files)
        adaclip = {split: find(root, f"{split}.json") for split in SPLITS}
        if way == "official" and all(adaclip.values()):
            return _adaclip(adaclip)
        if way == "1k-A" and adaclip["val"] and not adaclip["test"]:
            return _adaclip({"train": adaclip["train"], "test": adaclip["val"]})
        raise tree_error(self, root, f"found neither the annotations of --split {way} nor AdaCLIP's")


class _Clip(NamedTuple):
    id: str
    split: str
    captions: list[str]
    meta: Mapping[str, Any]


def _annotated(files: list[Path]) -> Iterator[_Clip | LeftOut]:
    """Yield the clips of the annotations, of either form, with the split that these give, "" where they give none."""
    for path in files:
        table = dict(entries(path, "object"))
        sentences, videos = table.get("sentences", table.get("annotations")), table.get("videos")
        if not isinstance(sentences, list) or not isinstance(videos, list | None):
            raise InputError(f"{path}: expected lists of videos and sentences, found the keys {', '.join(table)}")
        captions: dict[str, list[str]] = {}
        for number, sentence in enumerate(sentences):
            try:
                video, caption = sentence.get("video_id") or sentence["image_id"], sentence["caption"]
                captions.setdefault(video, []).append(caption.strip())
            except (AttributeError, KeyError, TypeError):
                yield LeftOut(f"sentence {number} of {path.name}", UNREADABLE)
        for number, row in enumerate([{"video_id": video} for video in captions] if videos is None else videos):
            if isinstance(row, dict) and isinstance(video := row.get("video_id"), str):
                split = str(row.get("split") or "")
                meta = {name: value for name, value in row.items() if name != "split"}
                yield _Clip(video, split_name(split) or split, captions.pop(video, []), meta)
            else:
                yield LeftOut(f"video {number} of {path.name}", UNREADABLE)
        for video in captions if videos is not None else ():
            yield LeftOut(str(video), "captions of a clip that is not among the videos")


def _listed(files: list[Path], lists: Lists) -> Iterator[_Clip | LeftOut]:
    """Yield the clips of the lists with the captions of the annotations, then the clips that are in no list."""
    known: dict[str, _Clip] = {}
    for clip in _annotated(files):
        if isinstance(clip, LeftOut):
            yield clip
        else:
            known[clip.id] = clip
    listed: set[str] = set()
    for split, path in lists.items():
        for row in _list_rows(path) if path else ():
            if isinstance(row, str):
                yield LeftOut(f"a row of the {split} list", row)
                continue
            video = row["video_id"]
            listed.add(video)
            clip = known.get(video) or _Clip(video, "", [], {"video_id": video})
            if "sentence" in row:
                fields = {name: value for name, value in row.items() if name != "sentence"}
                meta = {**clip.meta, **fields, "all_captions": clip.captions}
                clip = clip._replace(captions=[row["sentence"]], meta=meta)
            yield clip._replace(split=split)
    yield from (LeftOut(video, NOT_LISTED) for video in known if video not in listed)


def _list_rows(path: Path) -> Iterator[Mapping[str, Any] | str]:
    if path.suffix == ".txt":
        yield from ({"video_id": video} for video in listed_ids(path))
        return
    for row in rows(path):
        if not isinstance(row, str) and "video_id" not in row:
            raise InputError(f"{path}: expected a column video_id, found {', '.join(row)}")
        yield row


def _adaclip(files: Lists) -> Iterator[_Clip | LeftOut]:
    for split, path in files.items():
        for clip in clips(path) if path else ():
            if isinstance(clip, LeftOut):
                yield clip
            else:
                yield _Clip(clip.id, split, clip.sentences, {"video_id": clip.id, **clip.fields})
