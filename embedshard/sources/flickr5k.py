"""Flickr5k: pictures with captions in the form of Flickr30k, a small selection. May import `sample` and `_flickr`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from embedshard.demo import Tree
from embedshard.sample import SPLITS, LeftOut, Sample
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import CaptionsOptions
from embedshard.sources._flickr import ImageIndex, picture_samples, spelled, split_files, split_pictures

__all__ = ["Flickr5k"]

_FILES = spelled("flickr5k_{}.json", "flickr5k_{}.json.json")


class Flickr5k(Source):
    """Flickr5k; the media id is the picture's file name without extension."""

    name = "flickr5k"
    title = "Flickr5k"
    homepage = "https://www.kaggle.com/datasets/wangjilong/self-data"
    license = "not stated"
    kind = "caption"
    modality = "image"
    splits = {"official": SPLITS}
    options = CaptionsOptions
    expects = """
flickr5k_train.json          [{"image": "flickr5k-images/1.jpg", "caption": [...]}, ...], or a row for each caption;
flickr5k_val.json            may end in .json.json, and lie at most two folders deep
flickr5k_test.json
flickr5k-images/1.jpg        or any other folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the pictures of train, val and test in the order of their files."""
        assert isinstance(options, CaptionsOptions)
        files = split_files(root, _FILES)
        if not files:
            raise tree_error(self, root, "expected flickr5k_train.json, flickr5k_val.json or flickr5k_test.json")
        index = ImageIndex(root)
        yield from index.problems
        yield from picture_samples(split_pictures(files), index, options.captions)

    def demo(self, tree: Tree) -> None:
        """Lay out both spellings of the file names, a row a caption, a missing picture and blank captions."""
        folder = "flickr5k-images"
        captions = [("101", "A dog runs ."), ("102", "Two men talk ."), ("101", "A brown dog is running .")]
        train = [{"image": f"{folder}/{name}.jpg", "caption": text, "image_id": name} for name, text in captions]
        tree.json("flickr5k_train.json.json", train)
        tree.json(
            "flickr5k_val.json",
            [
                {"image": f"{folder}/201.jpg", "caption": ["A girl sings . ", "A child sings ."]},
                {"image": f"{folder}/202.jpg", "caption": ["The picture is gone ."]},
                {"image": f"{folder}/203.jpg", "caption": [" "]},
            ],
        )
        tree.json("flickr5k_test.json.json", [{"image": f"{folder}/301.jpg", "caption": ['A sign says " STOP " .']}])
        for name in ("101", "102", "201", "203", "301"):
            tree.image(f"{folder}/{name}.jpg", name)
