"""A folder of videos or pictures with a caption file beside each. May import `sample` and `_read`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.sample import SPLITS, Kind, LeftOut, Media, Sample, make_key, media_kind
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._read import ANOTHER_MEDIA, MISSING_MEDIA, json_safe, natural, path_split, walk

__all__ = ["Folder", "FolderOptions"]

_SIDECARS = (".txt", ".json")


@dataclass(frozen=True)
class FolderOptions(Options):
    """How a folder is read."""

    caption: str = option(
        "sidecar",
        "where the caption is: the sidecar, the file's stem, or the name of its folder",
        ("sidecar", "stem", "folder"),
    )
    frames: bool = option(False, "read every innermost folder of pictures as one video, its sidecar is FOLDER.txt")


class Folder(Source):
    """Media with sidecars. The media id is the path below the root (split folder included) without extension."""

    name = "folder"
    title = "Folder of videos or pictures with captions"
    kind = "caption"
    modality = "video, image"
    splits = {"given": SPLITS}
    options = FolderOptions
    expects = """
train/, val/, test/ (or none of them), with any folders inside
    NAME.mp4             a video, GIF or picture
    NAME.txt             its caption, UTF-8
    NAME.json            its metadata; "caption" or "text" is the caption where there is no NAME.txt
Without sidecars: --option caption=stem, or caption=folder for one folder a class
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield media in natural order, then what has only a sidecar or a name that is taken."""
        assert isinstance(options, FolderOptions)
        if not root.is_dir():
            raise tree_error(self, root, "expected a folder")
        for folder, folders, files in walk(root):
            frames = [name for name in folders if options.frames and _holds_frames(root / folder / name)]
            folders[:] = [name for name in folders if name not in frames]
            yield from _folder_rows(root, folder, _media(frames, files), files, options.caption)

    def demo(self, tree: Tree) -> None:
        """Lay out three splits, and rows without caption or media."""
        tree.video("train/cats/-a.b c.mp4", "cat")
        tree.text("train/cats/-a.b c.txt", 'A cat, "asleep".\nIt dreams.')
        tree.json("train/cats/-a.b c.json", {"videoID": "-a.b", "fps": 10})
        tree.image("train/cats/-a.b c.jpg", "its thumbnail")
        tree.video("train/2.webm", "dog")
        tree.json("train/2.json", {"text": "A dog runs 🐕"})
        tree.gif("train/10.gif", "bird")
        tree.text("train/10.txt", "A bird.")
        tree.image("validation/猫.png", "猫")
        tree.text("validation/猫.txt", "一只猫在睡觉。")
        tree.video("test/clip.avi", "horse")
        tree.text("test/clip.txt", "A horse.")
        tree.video("test/blank.mp4", "blank")
        tree.text("test/blank.txt", " \n")
        tree.image("test/bare.jpg", "bare")
        tree.text("test/gone.txt", "The video of this caption is not there.")


def _holds_frames(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        kinds = {"folder" if entry.is_dir() else media_kind(entry.name) for entry in entries}
    return "image" in kinds and not kinds & {"folder", "video"}


def _media(frames: list[str], files: list[str]) -> list[tuple[str, str, Kind]]:
    """Give stem, name and kind of all media of one folder, videos before pictures."""
    media: list[tuple[str, str, Kind]] = [(name, name, "frames") for name in frames]
    for wanted in ("video", "image"):
        media += [(os.path.splitext(name)[0], name, kind) for name in files if (kind := media_kind(name)) == wanted]
    return media


def _folder_rows(
    root: Path, folder: str, media: list[tuple[str, str, Kind]], files: list[str], caption: str
) -> Iterator[Sample | LeftOut]:
    names, taken = set(files), set()
    for stem, name, kind in sorted(media, key=lambda item: natural(item[0])):
        if stem in taken:
            yield LeftOut(folder + name, ANOTHER_MEDIA)
            continue
        taken.add(stem)
        there = [extension for extension in _SIDECARS if stem + extension in names]
        try:
            text, meta = _read_sidecars(root / folder, stem, there)
        except ValueError:
            yield LeftOut(folder + stem, "a sidecar that is not UTF-8 text or not a JSON object")
            continue
        if caption != "sidecar":
            text = stem if caption == "stem" else (root / folder).name
        one = Media(folder + stem, folder + name, kind)
        yield Sample(make_key(one.id), path_split(one.path), one, text, meta)
    if caption == "sidecar":
        alone = {stem for stem, extension in map(os.path.splitext, files) if extension in _SIDECARS} - taken
        yield from (LeftOut(folder + stem, MISSING_MEDIA) for stem in sorted(alone, key=natural))


def _read_sidecars(folder: Path, stem: str, there: list[str]) -> tuple[str, Mapping[str, Any]]:
    """Give caption ("" for none) and metadata; raises ValueError where a sidecar cannot be read."""
    meta = json.loads((folder / f"{stem}.json").read_bytes()) if ".json" in there else {}
    if not isinstance(meta, dict):
        raise ValueError("expected a JSON object")
    meta = json_safe(meta)
    if ".txt" in there:
        return (folder / f"{stem}.txt").read_bytes().decode("utf-8-sig"), meta
    return str(meta.get("caption") or meta.get("text") or ""), meta
