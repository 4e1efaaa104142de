"""Captioned pictures in the forms that COCO and the Flickr datasets share.

May import `sample`, `_read`, `_media` and `_captions`. The forms, all of JSON:

    [{"image": "folder/1.jpg", "caption": ["...", ...] or "..."}, ...]      BLIP and ALBEF: a row is a picture, or one
    [{"image_name": "1.jpg", "captions": [...], "split": "val"}, ...]       of its captions
    [["folder/1.jpg", "..."], ...]
    {"images": [{"filename", "filepath", "split", "sentences": [{"raw"}]}]}                 Karpathy
    {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}             COCO

All captions of a file are in memory, so that those of a picture come together whatever the order of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, media_kind, split_name
from embedshard.sources._captions import caption_samples
from embedshard.sources._media import files
from embedshard.sources._read import MISSING_MEDIA, entries, find_splits, json_safe, with_id

__all__ = [
    "BAD_ROW",
    "ImageIndex",
    "Picture",
    "by_picture",
    "picture_samples",
    "pictures",
    "spelled",
    "split_files",
    "split_pictures",
]

BAD_ROW = "a row without the name of a picture, or without captions that are text"

_PHOTO = frozenset(("jpg", "jpeg", "jpe", "jfif", "webp"))
_MASKS = ("panoptic", "pixelmap", "stuffthingmap")
_OF_ALL_SPLITS = "dataset_"
_STUB_BYTES = 16
_UNLISTED = "captions of a picture that the file does not list"
_IMAGE = ("image", "image_name", "file_name", "filename")
_CAPTIONS = ("caption", "captions", "sentences")
_NO_META = {"split", *_CAPTIONS}

Identify = Callable[[str], str]


class Picture(NamedTuple):
    """A picture with all its captions.

    Attributes:
        id: The media id.
        image: Its file as the annotations name it.
        split: The split, "" where there is none.
        captions: All captions in the order of the file.
        meta: The other fields of its first row.
    """

    id: str
    image: str
    split: str
    captions: list[str]
    meta: Mapping[str, Any]


class ImageIndex(dict[str, list[tuple[str, str]]]):
    """The paths and addresses of all pictures of a tree by media id, masks and copies of the same name among them.

    Attributes:
        problems: Archives that cannot be read, which a source yields beside its rows.
    """

    def __init__(self, root: Path, identify: Identify = str) -> None:
        """Take the raw dataset, and what gives the media id of a file name without folder and extension."""
        super().__init__()
        self.problems: list[LeftOut] = []
        for path, address in files(root):
            if not isinstance(address, str):
                self.problems.append(address)
            elif media_kind(path) == "image":
                stem = path[path.rfind("/") + 1 : path.rfind(".")]
                self.setdefault(identify(stem), []).append((path, address))

    def address(self, picture: Picture) -> str | None:
        """Give the address of a picture's file, None where there is none.

        A mask is no picture: the file is in a format of photos where the annotations name one, and in the format
        that they name where they name another. The path that they name goes first, then the name of the file, then
        the shortest path.
        """
        found = [found for found in self.get(picture.id, ()) if _is_picture(picture.image, found[0])]
        if len(found) > 1:
            ends = (f"/{picture.image}", "/" + picture.image.rpartition("/")[2])
            found.sort(key=lambda item: (*(not f"/{item[0]}".endswith(end) for end in ends), len(item[0])))
        return found[0][1] if found else None


def _is_picture(image: str, path: str) -> bool:
    """Tell whether the file at `path` can be the picture that the annotations call `image`, and no mask of it."""
    extension, named = path.rpartition(".")[2].lower(), image.rpartition(".")[2].lower()
    if extension == named or (extension in _PHOTO and named in _PHOTO):
        return True
    return media_kind(image) != "image" and not any(word in path for word in _MASKS)


def spelled(*patterns: str) -> dict[str, list[str]]:
    """Give the names that the file of each split may have, of patterns as `flickr5k_{}.json`; val may be valid."""
    spellings = {"train": ["train"], "val": ["val", "valid"], "test": ["test"]}
    return {
        split: list(dict.fromkeys(pattern.format(spelling) for pattern in patterns for spelling in spellings[split]))
        for split in SPLITS
    }


def split_files(root: Path, names: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Find the file of each split, at most two folders deep.

    Args:
        root: The raw dataset.
        names: For each split the names that its file may have; the first one whose file is not just `[]` is taken.

    Raises:
        InputError: All files of a split are just `[]`, or several folders have one of that name.
    """
    found: dict[str, Path] = {}
    for split, spellings in names.items():
        stubs: list[Path] = []
        for name in spellings:
            path = find_splits(root, {split: [name]}).get(split)
            if path and not _is_stub(path):
                found[split] = path
                break
            stubs += [path] if path else []
        if stubs and split not in found:
            raise InputError(
                f"{stubs[0]}: expected rows, found [], which only says that there is such a split; put the file that "
                f"has them in its place (one of {', '.join(spellings)}), or remove it to go without {split}"
            )
    return found


def _is_stub(path: Path) -> bool:
    return path.stat().st_size < _STUB_BYTES and b"".join(path.read_bytes().split()) == b"[]"


def split_pictures(found: Mapping[str, Path], identify: Identify = str) -> Iterator[Picture | LeftOut]:
    """Read the file of each split; of Karpathy's own file (`dataset_*.json`) those splits that have no other.

    Args:
        found: The files.
        identify: Gives the media id of a file name without folder and extension.
    """
    for path, split in {path: split for split, path in found.items()}.items():
        whole = path.name.startswith(_OF_ALL_SPLITS)
        for picture in pictures(path, "" if whole else split, identify):
            if not whole or isinstance(picture, LeftOut) or found.get(picture.split, path) == path:
                yield picture


def pictures(path: Path, split: str = "", identify: Identify = str) -> Iterator[Picture | LeftOut]:
    """Read a JSON file of any of the forms, picture after picture in the order of their first rows.

    Args:
        path: The file.
        split: The split of the pictures that name none themselves.
        identify: Gives the media id of a file name without folder and extension.

    Raises:
        InputError: The file is none of the forms.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        is_object = file.read(1000).lstrip().startswith("{")
    if is_object:
        return _container(path, split, identify)
    return by_picture((row for _, row in entries(path, "list")), path.name, split, identify)


def by_picture(
    rows: Iterable[Any], name: str, split: str = "", identify: Identify = str
) -> Iterator[Picture | LeftOut]:
    """Bring the rows of each picture together; `name` is the file that the bad ones are in."""
    found: dict[tuple[str, str], Picture] = {}
    captions: dict[tuple[str, str], list[str]] = {}
    for number, row in enumerate(rows, 1):
        if (fields := _fields(row)) is None:
            yield LeftOut(f"{name}, row {number}", BAD_ROW)
            continue
        image, own, texts = fields
        if known := captions.get((image, own)):
            known += texts
        else:
            picture = _picture(row, fields, split, identify)
            if (first := found.setdefault((picture.id, picture.split), picture)) is not picture:
                first.captions.extend(texts)
            captions[image, own] = first.captions
    yield from found.values()


def picture_samples(found: Iterable[Picture | LeftOut], index: ImageIndex, which: str) -> Iterator[Sample | LeftOut]:
    """Yield the samples of pictures, `which` being the value of the option `captions`."""
    for picture in found:
        if isinstance(picture, LeftOut):
            yield picture
        elif address := index.address(picture):
            media = Media(picture.id, address, "image")
            meta = with_id(json_safe(picture.meta), picture.id)
            yield from caption_samples(picture.id, picture.split, media, picture.captions, which, meta)
        else:
            yield LeftOut(picture.id, MISSING_MEDIA)


def _container(path: Path, split: str, identify: Identify) -> Iterator[Picture | LeftOut]:
    images, annotations = _content(path)
    captions: dict[str, list[str]] = {}
    for number, annotation in enumerate(annotations, 1):
        match annotation:
            case (image_id, str(caption)):
                captions.setdefault(str(image_id), []).append(caption)
            case _:
                yield LeftOut(f"{path.name}, annotation {number}", BAD_ROW)
    rows = (
        {**image, "captions": captions.pop(str(image.get("id")), [])}
        if isinstance(image, dict) and "sentences" not in image
        else image
        for image in images
    )
    yield from by_picture(rows, path.name, split, identify)
    yield from (LeftOut(image_id, _UNLISTED) for image_id in captions)


def _content(path: Path) -> tuple[list[Any], list[Any]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            content = json.load(file, object_hook=_lean)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON: {error}") from error
    images = content.get("images") if isinstance(content, dict) else None
    annotations = content.get("annotations", []) if isinstance(content, dict) else None
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(
            f"{path}: expected a list of rows, or an object with images, which have sentences or have annotations "
            f"beside them; found {', '.join(content) if isinstance(content, dict) else 'one row'}"
        )
    return images, annotations


def _lean(entry: dict[str, Any]) -> Any:
    """Keep of a caption what is needed: of Karpathy's the text, of COCO's the picture's id and the text."""
    if "raw" in entry:
        return entry["raw"]
    return (entry["image_id"], entry["caption"]) if "image_id" in entry and "caption" in entry else entry


def _fields(row: Any) -> tuple[str, str, list[str]] | None:
    """Give the name, the split ("" for none) and the captions of a row's picture, None where it tells of none."""
    if isinstance(row, dict):
        image, split, captions = _first(row, _IMAGE), row.get("split"), _first(row, _CAPTIONS)
    elif isinstance(row, list) and len(row) == 2:
        (image, captions), split = row, None
    else:
        return None
    if isinstance(captions, str):
        captions = [captions]
    elif not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        return None
    if not isinstance(image, str) or not image or image.endswith("/"):
        return None
    return image, split if isinstance(split, str) else "", captions


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    return None


def _picture(row: Any, fields: tuple[str, str, list[str]], split: str, identify: Identify) -> Picture:
    image, own, captions = fields
    name = image.rpartition("/")[2]
    meta = {"image": image}
    if isinstance(row, dict):
        meta = {name: value for name, value in row.items() if name not in _NO_META}
        image = f"{row['filepath']}/{image}" if "filepath" in row else image
    split = "train" if own == "restval" else split_name(own) or own or split
    return Picture(identify(name.rpartition(".")[0] or name), image, split, captions, meta)
