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
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, split_name
from embedshard.sources._captions import caption_samples
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, entries, find, json_safe, with_id

__all__ = ["BAD_ROW", "ImageIndex", "Picture", "by_picture", "picture_samples", "pictures", "split_files"]

BAD_ROW = "a row without the name of a picture, or without captions that are text"

_ALL_FOLDERS = 100
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


class ImageIndex(dict[str, list[str]]):
    """The paths of all pictures of a tree by media id, several where there are masks or copies of the same name.

    Attributes:
        problems: Archives that cannot be read, which a source yields beside its rows.
    """

    def __init__(self, root: Path, identify: Identify = str) -> None:
        """Take the raw dataset, and what gives the media id of a file name without folder and extension."""
        super().__init__()
        media = media_index(root, "image", folders=_ALL_FOLDERS)
        self.problems = media.problems
        for name, path in media.items():
            self.setdefault(identify(name.rpartition("/")[2]), []).append(path)


def split_files(root: Path, *patterns: str) -> dict[str, Path]:
    """Find the file of each split, such as `flickr5k_{}.json`; val may be spelled valid."""
    found = {}
    for split in SPLITS:
        spellings = (split, "valid") if split == "val" else (split,)
        if path := find(root, *(pattern.format(spelling) for pattern in patterns for spelling in spellings)):
            found[split] = path
    return found


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
        elif fields[:2] in captions:
            captions[fields[:2]].extend(fields[2])
        else:
            picture = _picture(row, fields, split, identify)
            if (first := found.setdefault((picture.id, picture.split), picture)) is not picture:
                first.captions.extend(picture.captions)
            captions[fields[:2]] = first.captions
    yield from found.values()


def picture_samples(
    found: Iterable[Picture | LeftOut], index: Mapping[str, list[str]], which: str
) -> Iterator[Sample | LeftOut]:
    """Yield the samples of pictures, `which` being the value of the option `captions`."""
    for picture in found:
        if isinstance(picture, LeftOut):
            yield picture
        elif paths := index.get(picture.id):
            path = next((path for path in paths if picture.image in path), paths[0])
            media = Media(picture.id, path, "image")
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
