"""Caltech-101: pictures of single objects, a folder for each class. May import `sample` and `_read`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from embedshard.address import member_name
from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key, split_name
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._media import MediaIndex, media_index
from embedshard.sources._read import MISSING_MEDIA, entries, find

__all__ = ["Caltech101"]

_SPLIT = "split_zhou_Caltech101.json"
_PICTURES = "101_ObjectCategories"
_NO_CLASS = ("BACKGROUND_Google", "Faces_easy", _PICTURES, "")
_CLASS_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}


class Caltech101(Source):
    """Caltech-101 as split for CoOp: 100 classes; the media id is the path below `101_ObjectCategories`.

    Every picture there is counted: those of `BACKGROUND_Google` (no class) and `Faces_easy` (the pictures of `Faces`
    once more) are left out, and so is any that the split does not name. Without the split's file the folders are the
    classes, under the names that the file gives them; there is no `label_id` and no split then.
    """

    name = "caltech101"
    title = "Caltech-101"
    homepage = "https://data.caltech.edu/records/mzrjq-6wc02"
    license = "CC BY 4.0"
    kind = "classification"
    modality = "image"
    published_samples = {"official": {"train": 4128, "val": 1649, "test": 2465}}
    splits = {"official": SPLITS}
    expects = f"""
{_SPLIT}         {{"train": [["Faces/image_0274.jpg", 0, "face"], ...], "val": ..., "test": ...}},
                                    here or in any folder; without it there is no split
{_PICTURES}/Faces/image_0274.jpg    at any depth
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of the split's file in its order, then the pictures that it does not name."""
        inside = (media_index(root, "image", folders=1, inside=name) for name in (_PICTURES, "") if root.is_dir())
        pictures = next(filter(None, inside), MediaIndex([]))
        yield from pictures.problems
        if not pictures:
            raise tree_error(self, root, f"expected pictures in {_PICTURES}")
        split, named = find(root, _SPLIT), set()
        for row in _rows(split, pictures) if split else ():
            if isinstance(row, Sample):
                named.add(row.media.path)
            yield row
        for path in (path for path in pictures.values() if path not in named):
            folder, file = f"/{member_name(path)}".split("/")[-2:]
            if folder in _NO_CLASS:
                yield LeftOut(path, f"in no folder of a class, or in {_NO_CLASS[0]} or {_NO_CLASS[1]}")
            elif split:
                yield LeftOut(path, f"not in {_SPLIT}")
            else:
                yield _sample(f"{folder}/{file}", path, "", _CLASS_NAMES.get(folder, folder), {})

    def demo(self, tree: Tree) -> None:
        """Lay out the three splits, the two folders that are no classes, and pictures that only one side has."""
        split = {
            "train": [["Faces/image_0274.jpg", 0, "face"], ["crocodile_head/image_0001.jpg", 31, "crocodile_head"]],
            "val": [["Faces/image_0132.jpg", 0, "face"], ["Faces/image_0999.jpg", 0, "face"]],
            "test": [["Motorbikes/image_0001.jpg", 2, "motorbike"]],
        }
        tree.json(f"caltech-101/{_SPLIT}", split)
        files = ["Faces/image_0274", "crocodile_head/image_0001", "Faces/image_0132", "Motorbikes/image_0001"]
        for file in (*files, "BACKGROUND_Google/image_0001", "Faces_easy/image_0274", "Leopards/image_0001"):
            tree.image(f"caltech-101/{_PICTURES}/{file}.jpg", file)


def _rows(path: Path, pictures: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
    """Yield the rows of a split's file."""
    for name, listed in entries(path, "object"):
        if not isinstance(listed, list):
            raise InputError(f"{path}: expected a list of [path, label, class name] for {name}, found {listed!r:.60}")
        for number, row in enumerate(listed):
            match row:
                case [str(file), int(label_id), str(class_name)] if found := pictures.get(file.rpartition(".")[0]):
                    yield _sample(file, found, split_name(name) or name, class_name, {"label_id": label_id})
                case [str(file), int(), str()]:
                    yield LeftOut(file, MISSING_MEDIA)
                case _:
                    yield LeftOut(f"{name} {number}", "a row that is not [path, label, class name]")


def _sample(file: str, path: str, split: str, class_name: str, ids: Mapping[str, int]) -> Sample:
    label = class_name.replace("_", " ")
    meta = {"id": file, "label": label, **ids, "classname": class_name}
    return Sample(make_key(file), split, Media(file, path, "image"), label, meta)
