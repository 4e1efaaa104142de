"""Flickr30k-CN: the pictures of Flickr30k with Chinese captions, as Chinese-CLIP has them.

May import `sample` and `_flickr`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

from embedshard.address import member_address
from embedshard.demo import Tree, image_bytes
from embedshard.sample import SPLITS, LeftOut, Sample
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import CaptionsOptions
from embedshard.sources._flickr import ImageIndex, Picture, picture_samples, pictures, spelled, split_files
from embedshard.sources._read import relative, rows

__all__ = ["FlickrCN"]

_FILES = spelled("{}_texts.jsonl", "flickr30k_cn_{}.json")
_TABLES = spelled("{}_imgs.tsv")
_NO_IMAGE = "a text without pictures"
_BAD_TEXT = "a row without text and image_ids"


class FlickrCN(Source):
    """Flickr30k-CN; the media id is the picture's id in Flickr30k, as a text.

    A text that names several pictures is a caption of each. The ids of the texts are in the metadata as `text_ids`,
    in the order of `captions`. Pictures that lie in `*_imgs.tsv` only are read where they lie.
    """

    name = "flickrcn"
    title = "Flickr30k-CN"
    homepage = "https://github.com/OFA-Sys/Chinese-CLIP"
    license = "not stated"
    kind = "caption"
    modality = "image"
    published_media = {"official": {"train": 29783, "val": 1000, "test": 1000}}
    splits = {"official": SPLITS}
    options = CaptionsOptions
    expects = """
train_texts.jsonl            {"text_id": 1, "text": "...", "image_ids": [1007129816]}
valid_texts.jsonl            or val_texts.jsonl
test_texts.jsonl             (or, in place of any, flickr30k_cn_train.json, ...: [{"image": "...", "caption": [...]},
                             ...]); each at most two folders deep
flickr30k-images/1007129816.jpg                 or any other folders or archives
train_imgs.tsv, valid_imgs.tsv, test_imgs.tsv   id<TAB>base64; where the pictures are no files
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the pictures of train, val and test in the order of their first texts."""
        assert isinstance(options, CaptionsOptions)
        files = split_files(root, _FILES)
        if not files:
            raise tree_error(self, root, "expected train_texts.jsonl, valid_texts.jsonl or test_texts.jsonl")
        index, tables = ImageIndex(root), split_files(root, _TABLES)
        yield from index.problems
        for split, path in files.items():
            found = list(_texts(path, split) if path.suffix == ".jsonl" else pictures(path, split))
            missing = {picture.id for picture in found if isinstance(picture, Picture) and not index.address(picture)}
            if missing and (table := tables.get(split)):
                for image, address in _addresses(table, relative(str(table), str(root))):
                    if image in missing:
                        index.setdefault(image, []).append((f"{image}.jpg", address))
            yield from picture_samples(found, index, options.captions)

    def demo(self, tree: Tree) -> None:
        """Lay out pictures as files and in a table, a text of two pictures, one of none, and a missing picture."""
        texts = {
            "train": [("两个男人在聊天。", [101, 102]), ("男人们站着", [101]), ("图片不见了", [7])],
            "valid": [("一只狗在跑", [201])],
            "test": [("女孩在唱歌 ", [301]), ("没有图片", []), ("一个小女孩", [301])],
        }
        for name, found in texts.items():
            lines = (
                json.dumps({"text_id": number, "text": text, "image_ids": images}, ensure_ascii=False)
                for number, (text, images) in enumerate(found)
            )
            tree.text(f"{name}_texts.jsonl", "".join(f"{line}\n" for line in lines))
        for image in (101, 102, 201):
            tree.image(f"flickr30k-images/{image}.jpg", str(image))
        tree.text("test_imgs.tsv", f"301\t{base64.b64encode(image_bytes('301')).decode()}\n")


def _texts(path: Path, split: str) -> Iterator[Picture | LeftOut]:
    found: dict[str, Picture] = {}
    for number, row in enumerate(rows(path), 1):
        row_id = f"{path.name}, row {number}"
        if isinstance(row, str):
            yield LeftOut(row_id, row)
            continue
        text, images = row.get("text"), row.get("image_ids")
        if not isinstance(text, str) or not isinstance(images, list):
            yield LeftOut(row_id, _BAD_TEXT)
            continue
        if not images:
            yield LeftOut(row_id, _NO_IMAGE)
        for image in map(str, images):
            picture = found.setdefault(image, Picture(image, image, split, [], {"text_ids": []}))
            picture.captions.append(text)
            picture.meta["text_ids"].append(row.get("text_id"))
    yield from found.values()


def _addresses(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield id and address of the pictures in a table of base64."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            image, _, data = line.rstrip(b"\r\n").partition(b"\t")
            text = image.decode("utf-8", "replace")
            yield text, member_address(name, f"{text}.jpg", offset + len(image) + 1, len(data), "base64")
            offset += len(line)
