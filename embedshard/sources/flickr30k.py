"""Flickr30k: 31014 pictures of people and animals, 5 captions each. May import `sample` and `_flickr`."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from embedshard.demo import Tree
from embedshard.sample import SPLITS, LeftOut, Sample
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import CaptionsOptions
from embedshard.sources._flickr import ImageIndex, Picture, by_picture, picture_samples, pictures, split_files
from embedshard.sources._read import find

__all__ = ["Flickr30k"]

_RESULTS = ("results.csv", "results_20130124.token", "captions.txt")
_RESULT = re.compile(r"([^|#]+)[|#]\s*\d+[|\s]\s*(.+)")


class Flickr30k(Source):
    """Flickr30k; the media id is the picture's file name without extension.

    Karpathy's split is the one that papers on retrieval report. That of Flickr30k Entities, which
    `splits/flickr30k-entities.yaml` gives with the lists of its authors, is another: use one or the other.
    """

    name = "flickr30k"
    title = "Flickr30k"
    homepage = "https://shannon.cs.illinois.edu/DenotationGraph/"
    license = "non-commercial research and education; pictures by the terms of Flickr"
    kind = "caption"
    modality = "image"
    published_media = {"karpathy": {"train": 29000, "val": 1014, "test": 1000}}
    splits = {"karpathy": SPLITS}
    options = CaptionsOptions
    expects = f"""
flickr30k_train.json         [{{"image": "flickr30k-images/1.jpg", "caption": "..."}}, ...], or lists of captions
flickr30k_val.json           (or dataset_flickr30k.json, which is Karpathy's own file; or, without a split,
flickr30k_test.json          {", ".join(_RESULTS)})
flickr30k-images/1.jpg       or any other folders
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the pictures in the order of their files."""
        assert isinstance(options, CaptionsOptions)
        found, index = self._pictures(root), ImageIndex(root)
        yield from index.problems
        yield from picture_samples(found, index, options.captions)

    def demo(self, tree: Tree) -> None:
        """Lay out Karpathy's split with a row a caption in train, a missing picture and blank captions."""
        folder = "flickr30k-images"
        captions = [("36979", "A group of friends talks ."), ("36979", "Friends meet ."), ("65567", "A boy swims .")]
        train = [{"image": f"{folder}/{name}.jpg", "caption": text, "image_id": 0} for name, text in captions]
        tree.json("flickr30k_train.json", [*train, {"image": f"{folder}/7.jpg", "caption": "It is gone ."}])
        tree.json("flickr30k_val.json", [{"image": f"{folder}/1018148011.jpg", "caption": ["People stand . ", "  "]}])
        test = [{"image": f"{folder}/1007129816.jpg", "caption": ["A man wears a hat .", "一个戴帽子的人。"]}]
        tree.json("flickr30k_test.json", [*test, {"image": f"{folder}/1009434119.jpg", "caption": ["", " "]}])
        for name in ("36979", "65567", "1018148011", "1007129816", "1009434119"):
            tree.image(f"{folder}/{name}.jpg", name)

    def _pictures(self, root: Path) -> Iterator[Picture | LeftOut]:
        if files := split_files(root, "flickr30k_{}.json"):
            return (picture for split, path in files.items() for picture in pictures(path, split))
        if own := find(root, "dataset_flickr30k.json"):
            return pictures(own)
        if results := find(root, *_RESULTS):
            return by_picture(_results(results), results.name)
        raise tree_error(self, root, "expected flickr30k_train.json or another of the files with captions")


def _results(path: Path) -> Iterator[list[str] | None]:
    """Yield file name and caption of each line below the header, None for a line without them.

    Lines are `1.jpg| 0| A dog .`, one of which lacks its second bar, or `1.jpg#0<TAB>A dog .`, or `1.jpg,0,"A dog ."`.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = (line for line in file if line.strip() and not line.startswith("image"))
        if path.suffix == ".txt":
            yield from (cells[:1] + cells[-1:] if len(cells) == 3 else None for cells in csv.reader(lines))
        else:
            found = (_RESULT.fullmatch(line.strip()) for line in lines)
            yield from ([match[1], match[2]] if match else None for match in found)
