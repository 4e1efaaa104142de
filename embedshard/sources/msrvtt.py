"""MSR-VTT: 10000 clips of YouTube videos, 20 captions each. May import `sample` and the helpers of sources."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, split_name
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._adaclip import NOT_LISTED, clips, listed_ids, require
from embedshard.sources._captions import CaptionsOptions, caption_samples
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, entries, find_splits, rows

__all__ = ["MSRVTT"]

_FILES = (
    ("MSRVTT_data.json",),
    ("train_val_videodatainfo.json", "test_videodatainfo.json"),
    ("MSR_VTT.json",),
)
_SENTENCES = "MSRVTT_JSFUSION_test.csv"
_ADACLIP = {split: (f"{split}.json",) for split in SPLITS}
_LISTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "official": {split: (f"{split}_list_full.txt",) for split in SPLITS},
    "1k-A": {
        "train": ("MSRVTT_train.9k.csv", "train_list_jsfusion.txt", "train.json"),
        "test": (_SENTENCES, "val.json"),
    },
    "7k": {"train": ("MSRVTT_train.7k.csv",), "test": (_SENTENCES, "val.json")},
}


class MSRVTT(Source):
    """MSR-VTT; the media id is the `video_id`, and all captions are in the metadata as `captions`.

    The files are clips already, so `start time` and `end time`, which count in the YouTube video, are metadata.
    The retrieval splits `1k-A` and `7k` test on the one sentence that JSFusion chose for each of 1000 clips (the
    others are `all_captions`) and have no val: the list that their training code calls val is the test list. That
    list alone, `val_list_jsfusion.txt`, is not enough, since it does not tell the sentences.
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
MSRVTT_data.json             or train_val_videodatainfo.json and test_videodatainfo.json, or MSR_VTT.json; these and
                             all lists at most two folders deep
train_list_full.txt          optional for --split official: with val_list_full.txt and test_list_full.txt, the split
MSRVTT_train.9k.csv          for --split 1k-A, or train_list_jsfusion.txt, or AdaCLIP's train.json
MSRVTT_train.7k.csv          for --split 7k
MSRVTT_JSFUSION_test.csv     for both, or AdaCLIP's val.json: the test clips, each with its one sentence, which
                             val_list_jsfusion.txt does not tell
train.json, val.json         AdaCLIP's, in place of MSRVTT_data.json; with a test.json too for --split official
videos/all/video0.mp4        or any other folders or archives
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
        lists = find_splits(root, _LISTS[way])
        files = self._annotations(root, whole=bool(lists))
        adaclip = {} if files else find_splits(root, _ADACLIP)
        if way == "official":
            if not files and len(adaclip) < len(SPLITS):
                forms = "neither MSRVTT_data.json nor AdaCLIP's train.json, val.json and test.json"
                raise tree_error(self, root, f"found {forms} for --split official")
            if files and not lists:
                return _annotated(files)
            lists = lists or adaclip
        captions = [path for path in adaclip.values() if path not in lists.values()]
        lacking = [names[0] for split, names in _LISTS[way].items() if split not in lists]
        if lacking and (files or captions or "test" not in lists):
            raise tree_error(self, root, f"found no {' and no '.join(lacking)} for --split {way}")
        return _listed(_annotated(files) if files else chain.from_iterable(map(_adaclip, captions)), lists)

    def _annotations(self, root: Path, whole: bool) -> list[Path]:
        """Give the files of the first form that is there; with `whole`, all of its files must be."""
        for names in _FILES:
            found = find_splits(root, {name: (name,) for name in names})
            if found and whole and len(found) < len(names):
                lacking = next(name for name in names if name not in found)
                raise tree_error(self, root, f"found {', '.join(found)} without {lacking}")
            if found:
                return list(found.values())
        return []


class _Clip(NamedTuple):
    id: str
    split: str
    captions: list[str]
    meta: Mapping[str, Any]


def _annotated(files: list[Path]) -> Iterator[_Clip | LeftOut]:
    """Yield the clips of the annotations, of either form, with the split that these give, "" where they give none."""
    seen: set[str] = set()
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
            video = row.get("video_id") if isinstance(row, dict) else None
            if not isinstance(video, str):
                yield LeftOut(f"video {number} of {path.name}", UNREADABLE)
                continue
            texts = captions.pop(video, [])
            if video in seen:
                yield LeftOut(f"video {number} of {path.name}", "a clip that is among the videos before")
            else:
                seen.add(video)
                split = str(row.get("split") or "")
                meta = {name: value for name, value in row.items() if name != "split"}
                yield _Clip(video, split_name(split) or split, texts, meta)
        for video in captions if videos is not None else ():
            yield LeftOut(str(video), "captions of a clip that is not among the videos")


def _listed(annotated: Iterable[_Clip | LeftOut], lists: Mapping[str, Path]) -> Iterator[_Clip | LeftOut]:
    """Yield the clips of the lists with the captions of the annotations, then the clips that are in no list."""
    known: dict[str, _Clip] = {}
    for clip in annotated:
        if isinstance(clip, LeftOut):
            yield clip
        else:
            known[clip.id] = clip
    listed: set[str] = set()
    for split, path in lists.items():
        for row in _list_rows(path, split):
            if isinstance(row, LeftOut):
                yield row
            else:
                listed.add(row.id)
                yield _merged(known.get(row.id), row)
    yield from (LeftOut(video, NOT_LISTED) for video in known if video not in listed)


def _merged(clip: _Clip | None, row: _Clip) -> _Clip:
    """Give the clip of a list with what the annotations say of it; the list's own captions go before theirs."""
    if clip is None:
        return row
    if not row.captions:
        return row._replace(captions=clip.captions, meta={**clip.meta, **row.meta})
    others = {"all_captions": clip.captions} if clip.captions != row.captions else {}
    return row._replace(meta={**clip.meta, **row.meta, **others})


def _list_rows(path: Path, split: str) -> Iterator[_Clip | LeftOut]:
    """Yield the clips of a list, without captions where it has none."""
    if path.suffix == ".txt":
        yield from (_Clip(video, split, [], {"video_id": video}) for video in listed_ids(path))
    elif path.suffix == ".json":
        yield from _adaclip(path, split)
    else:
        columns = ["video_id", "sentence"] if path.name == _SENTENCES else ["video_id"]
        for number, row in enumerate(rows(path)):
            if isinstance(row, str):
                yield LeftOut(f"row {number} of {path.name}", row)
            elif not row.keys() >= set(columns):
                raise InputError(f"{path}: expected the columns {', '.join(columns)}, found {', '.join(row)}")
            else:
                meta = {name: value for name, value in row.items() if name != "sentence"}
                captions = [row[column] for column in columns[1:]]
                yield _Clip(row["video_id"], split, captions, meta)


def _adaclip(path: Path, split: str = "") -> Iterator[_Clip | LeftOut]:
    """Yield the clips of AdaCLIP's annotations; a `val.json` that is a test list has one sentence for each."""
    limit = 1 if (split, path.name) == ("test", "val.json") else math.inf
    expected = "clips video0, ..." + ", each with JSFusion's one sentence" * (limit == 1)
    require(path, expected, lambda clip: clip.id.startswith("video") and len(clip.sentences) <= limit)
    for clip in clips(path):
        if isinstance(clip, LeftOut):
            yield clip
        else:
            yield _Clip(clip.id, split, clip.sentences or [""], {"video_id": clip.id, **clip.fields})
