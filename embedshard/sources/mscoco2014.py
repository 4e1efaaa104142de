"""MS COCO Captions: 123287 pictures, 5 captions each or a few more. May import `sample` and `_flickr`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from embedshard.demo import Tree
from embedshard.sample import SPLITS, LeftOut, Sample
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import CaptionsOptions
from embedshard.sources._flickr import ImageIndex, Picture, picture_samples, split_files, split_pictures

__all__ = ["MSCOCO2014"]

_KARPATHY = "dataset_coco.json"
_TRAIN2014 = ("captions_train2014.json", "captions_train.json")
_FILES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "karpathy": {
        split: (f"coco_karpathy_{split}.json", _KARPATHY, *(_TRAIN2014 if split == "train" else ())) for split in SPLITS
    },
    "official": {"train": _TRAIN2014, "val": ("captions_val2014.json", "captions_val.json")},
    "official-2017": {split: (f"captions_{split}2017.json",) for split in ("train", "val")},
}


class MSCOCO2014(Source):
    """MS COCO Captions; the media id is COCO's number of the picture, which 2014 and 2017 share.

    Karpathy's val and test are pictures of val2014, and his train is train2014 and the rest of val2014. Where his
    train file is missing, COCO's captions of train2014 take its place. Masks of the same number are no pictures.
    """

    name = "mscoco2014"
    title = "MS COCO Captions"
    homepage = "https://cocodataset.org"
    license = "CC BY 4.0 (annotations); pictures by the terms of Flickr"
    kind = "caption"
    modality = "image"
    published_media = {
        "karpathy": {"train": 113287, "val": 5000, "test": 5000},
        "official": {"train": 82783, "val": 40504},
        "official-2017": {"train": 118287, "val": 5000},
    }
    splits = {way: tuple(files) for way, files in _FILES.items()}
    options = CaptionsOptions
    expects = f"""
coco_karpathy_train.json     for --split karpathy: [{{"image": "val2014/...jpg", "caption": "..."}}, ...], or lists of
coco_karpathy_val.json       captions; {_KARPATHY}, which is Karpathy's own file, in place of any;
coco_karpathy_test.json      captions_train2014.json (or captions_train.json) in place of train
captions_train2014.json      for --split official: COCO's own files (or captions_train.json, captions_val.json)
captions_val2014.json
captions_train2017.json      for --split official-2017
captions_val2017.json        (each at most two folders deep)
train2014/COCO_train2014_000000000009.jpg     or any other folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the pictures of the split in the order of its files."""
        assert isinstance(options, CaptionsOptions)
        way = options.split or "karpathy"
        files = _files(root, way)
        if not files:
            raise tree_error(self, root, f"found none of the files with captions of --split {way}")
        index = ImageIndex(root, _image_id)
        yield from index.problems
        found = _placed(split_pictures(files, _image_id), "2017" if way == "official-2017" else "2014")
        yield from picture_samples(found, index, options.captions)

    def demo(self, tree: Tree) -> None:
        """Lay out the files of all ways to split, a missing picture, and pictures without captions."""
        train, val, test, rest = "COCO_train2014_000000000009", *(f"COCO_val2014_{n:012d}" for n in (42, 391895, 73))
        captions = [(f"train2014/{train}", "A plate of food ."), (f"val2014/{rest}", "Two bikes."), (train, "Food. ")]
        tree.json("coco_karpathy_train.json", [{"image": f"{name}.jpg", "caption": text} for name, text in captions])
        tree.json("coco_karpathy_val.json", [{"image": f"val2014/{val}.jpg", "caption": ["A bed. ", "鞋子。"]}])
        gone = {"image": "val2014/COCO_val2014_000000000001.jpg", "caption": ["It is gone."]}
        tree.json("coco_karpathy_test.json", [{"image": f"val2014/{test}.jpg", "caption": ["A man rides. "]}, gone])
        for name, numbers in {"train2014": (9,), "val2014": (42, 391895, 73), "val2017": (42, 73)}.items():
            year = f"COCO_{name}_" * name.endswith("2014")
            images = [{"id": n, "license": 1, "file_name": f"{year}{n:012d}.jpg"} for n in numbers]
            texts = [{"image_id": n, "id": n + 1, "caption": f"This is {n}. "} for n in reversed(numbers) if n != 73]
            tree.json(f"annotations/captions_{name}.json", {"info": {}, "images": images, "annotations": texts})
        images = [{"id": 9, "license": 1, "file_name": "000000000009.jpg"}]
        texts = [{"image_id": 9, "id": 1, "caption": "A plate."}]
        tree.json("annotations/captions_train2017.json", {"images": images, "annotations": texts})
        tree.image(f"train2014/{train}.jpg", train)
        for name in (val, test, rest):
            tree.image(f"val2014/{name}.jpg", name)


def _files(root: Path, way: str) -> dict[str, Path]:
    """Give the file of each split; none of Karpathy's where all that is there are COCO's captions of train2014."""
    files = split_files(root, _FILES[way])
    only_train2014 = list(files) == ["train"] and files["train"].name in _TRAIN2014
    return {} if way == "karpathy" and only_train2014 else files


def _placed(found: Iterable[Picture | LeftOut], year: str) -> Iterator[Picture | LeftOut]:
    """Put pictures into the folder that COCO has them in, where the annotations name none."""
    for picture in found:
        if isinstance(picture, Picture) and "/" not in picture.image:
            picture = picture._replace(image=f"{picture.split}{year}/{picture.image}")
        yield picture


def _image_id(stem: str) -> str:
    """Give COCO's number of `COCO_val2014_000000391895` or `000000391895`, and any other name as it is."""
    digits = stem.rpartition("_")[2]
    return str(int(digits)) if len(digits) == 12 and digits.isdecimal() else stem
