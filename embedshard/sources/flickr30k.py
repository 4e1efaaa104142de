"""Flickr30k: 31014 pictures of people and animals, 5 captions each. May import `sample` and `_flickr`."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from embedshard.demo import Tree
from embedshard.sample import SPLITS, LeftOut, Sample
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import CaptionsOptions
from embedshard.sources._flickr import (
    ImageIndex,
    Picture,
    by_picture,
    picture_samples,
    spelled,
    split_files,
    split_pictures,
)
from embedshard.sources._read import find_splits

__all__ = ["Flickr30k"]

_FILES = spelled("flickr30k_{}.json", "dataset_flickr30k.json")
_RESULTS = ("results.csv", "results_20130124.token", "captions.txt")
_NOT_KARPATHY = "not in Karpathy's files"
_RESULT = re.compile(r"([^|#]+)[|#]\s*\d+[|\s]\s*(.+)")


class Flickr30k(Source):
    """Flickr30k; the media id is the picture's file name without extension.

    Karpathy's split is the one that papers on retrieval report. That of Flickr30k Entities, which
    `splits/flickr30k-entities.yaml` gives with the lists of its authors, is another: use one or the other. It is of
    all 31783 pictures; those that Karpathy left out are read from `results.csv` or its like, and have a split by such a
    recipe only.
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
flickr30k_val.json           (or dataset_flickr30k.json, which is Karpathy's own file, in place of any; each at most
flickr30k_test.json          two folders deep)
{_RESULTS[0]}                  (or {" or ".join(_RESULTS[1:])}) beside them for the 769 other pictures, or
                             alone: pictures without a split
flickr30k-images/1.jpg       or any other folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the pictures in the order of their files."""
        assert isinstance(options, CaptionsOptions)
        found, index = self._pictures(root), ImageIndex(root)
        yield from index.problems
        yield from picture_samples(found, index, options.captions)

    def demo(self, tree: Tree) -> None:
        """Lay out Karpathy's split with a row a caption in train, a picture that only the results have, odd rows."""
        folder = "flickr30k-images"
        captions = [("36979", "A group of friends talks ."), ("36979", "Friends meet ."), ("65567", "A boy swims .")]
        train = [{"image": f"{folder}/{name}.jpg", "caption": text, "image_id": 0} for name, text in captions]
        tree.json("flickr30k_train.json", [*train, {"image": f"{folder}/7.jpg", "caption": "It is gone ."}])
        tree.json("flickr30k_val.json", [{"image": f"{folder}/1018148011.jpg", "caption": ["People stand . ", "  "]}])
        test = [{"image": f"{folder}/1007129816.jpg", "caption": ["A man wears a hat .", "一个戴帽子的人。"]}]
        tree.json("flickr30k_test.json", [*test, {"image": f"{folder}/1009434119.jpg", "caption": ["", " "]}])
        tree.text(
            "results.csv", "image_name| comment_number| comment\n36979.jpg| 0| Friends .\n134206.jpg| 0   A cat .\n"
        )
        for name in ("36979", "134206", "65567", "1018148011", "1007129816", "1009434119"):
            tree.image(f"{folder}/{name}.jpg", name)

    def _pictures(self, root: Path) -> Iterator[Picture | LeftOut]:
        files, results = split_files(root, _FILES), find_splits(root, {"all": _RESULTS}).get("all")
        if not files and not results:
            raise tree_error(self, root, "expected flickr30k_train.json or another of the files with captions")
        return _joined(files, results)


def _joined(files: Mapping[str, Path], results: Path | None) -> Iterator[Picture | LeftOut]:
    """Yield the pictures of the files of splits, then those that only the results have."""
    known = set()
    for picture in split_pictures(files):
        known.add(picture.id)
        yield picture
    if results:
        found = by_picture(_results(results), results.name, _NOT_KARPATHY if files else "")
        yield from (picture for picture in found if picture.id not in known)


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
