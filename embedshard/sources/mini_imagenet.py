"""mini-ImageNet: 600 pictures of each of 100 classes, split by class. May import `sample` and `_read`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key, media_kind
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._labels import label_lines, split_folders, split_tables
from embedshard.sources._media import MediaIndex, media_index
from embedshard.sources._read import MISSING_MEDIA, rows, walk

__all__ = ["MiniImageNet"]

_NAMES = "classnames.txt"
_CLASS_COLUMNS = ("label", "class")


class MiniImageNet(Source):
    """mini-ImageNet; the media id is `WNID/FILE`, and `label_id` is the WordNet id.

    No class is in two splits, so a number within a split would mean another class in each. Where there are csv files
    they say what belongs to the dataset: pictures may be the whole ImageNet, and those that no row names are no rows.
    The published numbers are those of the csv files of Ravi and Larochelle.
    """

    name = "mini_imagenet"
    title = "mini-ImageNet"
    homepage = "https://github.com/twitter-research/meta-learning-lstm"
    license = "ImageNet terms (non-commercial research)"
    kind = "classification"
    modality = "image"
    published_samples = {"official": {"train": 38400, "val": 9600, "test": 12000}}
    splits = {"official": SPLITS}
    expects = f"""
train/n01532829/n0153282900000005.jpg    val/ and test/ alike, with any number of class folders
{_NAMES}                           optional: lines as `n01532829 house finch`; else the caption is the WordNet id
or, in place of these folders, train.csv, val.csv and test.csv, here or in a folder
                                         with columns filename,label (Ravi) or filename,class (Vinyals),
images/n0153282900000005.jpg             and the pictures in any folders
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of each split's csv, or its pictures in the order of names where there is no csv."""
        tables, folders = split_tables(root, ".csv"), split_folders(root)
        if not tables and not folders:
            raise tree_error(self, root, "expected folders train, val or test, or csv files of these names")
        if len({path.parent for path in tables.values()}) > 1:
            found = " and ".join(map(str, tables.values()))
            raise InputError(f"{root}: expected all csv files in one folder, for splits of one author; found {found}")
        lines = (line.split(None, 1) for line in label_lines(root, _NAMES))
        names = {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}
        pictures = media_index(root, "image") if tables else MediaIndex([])
        yield from pictures.problems
        for split in SPLITS:
            if split in tables:
                yield from _from_table(tables[split], pictures, split, names)
            else:
                for folder in folders.get(split, []):
                    yield from _from_folder(root, folder, split, names)

    def demo(self, tree: Tree) -> None:
        """Lay out folders for train and test, a csv with a missing picture for val, and a class without a name."""
        tree.text(_NAMES, "n01440764 tench\nn01532829 house finch\nn01855672 goose\n")
        tree.image("train/n01532829/n0153282900000005.jpg", "finch")
        tree.image("train/n01532829/n0153282900000212.jpg", "another finch")
        tree.image("train/n09999999/n0999999900000001.jpg", "a class without a name")
        tree.text("train/n01532829/wnids.txt", "n01532829\n")
        tree.text("val.csv", "filename,label\nn0185567200000003.jpg,n01855672\nn0185567200000219.jpg,n01855672\n")
        tree.image("images/n0185567200000003.jpg", "goose")
        tree.image("test/n01440764/n0144076400000001.jpg", "tench")


def _from_table(
    table: Path, pictures: Mapping[str, str], split: str, names: Mapping[str, str]
) -> Iterator[Sample | LeftOut]:
    for row in rows(table):
        if isinstance(row, str):
            yield LeftOut(f"a row of {table.name}", row)
            continue
        column = next((column for column in _CLASS_COLUMNS if column in row), "")
        if not column or "filename" not in row:
            raise InputError(f"{table}: expected columns filename,label or filename,class, found {','.join(row)}")
        file = row["filename"].rpartition("/")[2]
        if path := pictures.get(file.rpartition(".")[0], ""):
            yield _sample(f"{row[column]}/{file}", path, split, names)
        else:
            yield LeftOut(file, MISSING_MEDIA)


def _from_folder(root: Path, folder: str, split: str, names: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
    for below, _, files in walk(root / folder, None):
        for name in files:
            if media_kind(name) == "image":
                path = f"{folder}{below}{name}"
                wnid = below.rstrip("/").rpartition("/")[2]
                yield _sample(f"{wnid}/{name}", path, split, names) if wnid else LeftOut(path, "not in a class folder")


def _sample(raw_id: str, path: str, split: str, names: Mapping[str, str]) -> Sample:
    """Make a sample of `WNID/FILE`."""
    wnid = raw_id.partition("/")[0]
    label = names.get(wnid) or wnid
    meta = {"id": raw_id, "label": label, "label_id": wnid}
    return Sample(make_key(raw_id), split, Media(raw_id, path, "image"), label, meta)
