"""Tars of media, captions and metadata, as video2dataset and img2dataset write them. May import `sample`, `_read`.

Only headers and small members are read: a media path is the address of a range of bytes of its tar.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.address import Coding, member_address
from embedshard.demo import Tree, image_bytes, video_bytes
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key, media_kind
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._archive import TarMember, read_tar, tar_coding
from embedshard.sources._read import (
    ANOTHER_MEDIA,
    MISSING_MEDIA,
    json_safe,
    media_root,
    path_split,
    relative,
    walk,
    with_id,
)

__all__ = ["WebDataset", "WebDatasetOptions"]

_CAPTIONS = ("txt", "cap")
_TEXTS = (".txt", ".cap", ".json", ".TXT", ".JSON")
_NOT_PLAIN = "neither a tar nor a tar.gz (decompress it first: zstd -d, xz -d)"
_EMPTY = "an empty file (write or download it again)"
_DAMAGED = "the tar is damaged or cut off from here on"


@dataclass(frozen=True)
class WebDatasetOptions(Options):
    """How tars are read."""

    tar_in_key: bool = option(False, "put the tar's path before every key, for tars that repeat each other's keys")


class _Place(NamedTuple):
    tar: str
    coding: Coding
    split: str


class _Member(NamedTuple):
    stem: str
    extension: str
    file: TarMember


class WebDataset(Source):
    """Tars of samples.

    The id of a sample is its member's name up to the first dot, which img2dataset and video2dataset number over
    all tars; the media id is the `url` of the json, which all clips of a video share, else the sample's id.
    """

    name = "webdataset"
    title = "WebDataset of videos or pictures"
    kind = "caption"
    modality = "video, image"
    splits = {"given": SPLITS}
    options = WebDatasetOptions
    expects = """
00000.tar, 00001.tar.gz, ... in any folders (one named train, val or test is the split), or one tar,
                             or a pattern such as '/data/{00000..00012}.tar'
    NAME.mp4                 a video, GIF or picture
    NAME.txt                 its caption, UTF-8 (or NAME.cap, or "caption" of NAME.json)
    NAME.json                its metadata
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield samples tar after tar in natural order."""
        assert isinstance(options, WebDatasetOptions)
        base = media_root(root)
        for path in self._tars(root):
            address = relative(str(path), str(base))
            split = path_split(address if root.is_dir() else f"{path.parent.name}/")
            if problem := _problem(path):
                yield LeftOut(address, problem)
                continue
            prefix = os.path.splitext(address)[0] + "/" if options.tar_in_key else ""
            for stem, members in groupby(_members(path), key=lambda member: member.stem if member else None):
                if stem is None:
                    yield LeftOut(address, _DAMAGED)
                else:
                    at = _Place(address, tar_coding(path), split)
                    yield from _rows(prefix + stem, [m for m in members if m], at)

    def demo(self, tree: Tree) -> None:
        """Lay out tars of both tools, and samples that were not downloaded."""
        tree.tar("train/00000.tar", {**_demo_sample("000000000", "A dog."), **_demo_sample("000000001", " ")})
        failed = {"key": "000010001", "status": "failed_to_download", "url": "https://example.org/1"}
        tree.tar(
            "train/00001.tar",
            {
                **_demo_sample("000010000", "狗\n🐕"),
                "000010001.txt": b"A video that is gone.",
                "000010001.json": json.dumps(failed).encode(),
            },
        )
        tree.tar("val/00002.tar", {"-x.thumb.jpg": image_bytes("x"), "-x.cap": b'A "picture".'})
        captioned = json.dumps({"caption": "A cat.", "duration": float("nan")}).encode()
        tree.tar("test/00003.tar", {"a/7.webm": video_bytes("cat", ".webm"), "a/7.json": captioned})
        tree.text("test/00004.tar.gz", "compressed")

    def _tars(self, root: Path) -> list[Path]:
        if root.is_dir():
            names = [root / folder / name for folder, _, files in walk(root) for name in files]
            tars = [path for path in names if ".tar" in path.suffixes[-2:] or path.suffix == ".tgz"]
        elif root.is_file():
            tars = [root]
        else:
            from braceexpand import braceexpand

            try:
                tars = [Path(text) for text in braceexpand(str(root))]
            except ValueError as error:
                raise tree_error(self, root, f"expected a pattern like '00{{0..2}}.tar', found: {error}") from error
        if missing := next((path for path in tars if not path.is_file()), None):
            raise tree_error(self, root, f"no tar {missing}")
        if not tars:
            raise tree_error(self, root, "expected at least one .tar")
        return tars


def _demo_sample(key: str, caption: str) -> dict[str, bytes]:
    meta = {"key": key, "status": "success", "url": f"https://example.org/{key}", "caption": caption}
    return {
        f"{key}.mp4": video_bytes(key),
        f"{key}.txt": caption.encode(),
        f"{key}.json": json.dumps(meta).encode(),
    }


def _problem(path: Path) -> str:
    """Tell why a file is not read as a tar, "" where it is."""
    try:
        tarfile.open(path, "r:gz" if tar_coding(path) else "r:").close()
    except (tarfile.TarError, OSError):
        return _NOT_PLAIN if path.stat().st_size else _EMPTY
    return ""


def _members(path: Path) -> Iterator[_Member | None]:
    """Yield all files of a tar in order without reading the media, then None where it is damaged."""
    try:
        for member in read_tar(path, _TEXTS):
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            if stem:
                yield _Member(f"{folder}/{stem}" if folder else stem, extension.lower(), member)
    except (tarfile.TarError, EOFError, OSError, ValueError):
        yield None


def _rows(raw_id: str, members: list[_Member], at: _Place) -> Iterator[Sample | LeftOut]:
    texts = {member.extension: member.file.content for member in members if member.extension in (*_CAPTIONS, "json")}
    media = [(kind, member.file) for member in members if (kind := media_kind(member.file.name))]
    media.sort(key=lambda found: found[0], reverse=True)  # a video before its thumbnail
    try:
        caption, meta = _caption_and_meta(texts)
    except ValueError:
        yield LeftOut(raw_id, "a text that is not UTF-8 or not a JSON object")
        return
    if meta.get("status", "success") != "success":
        yield LeftOut(raw_id, f"status {meta['status']!r} in its json")
        return
    if not media:
        yield LeftOut(raw_id, MISSING_MEDIA)
        return
    kind, member = media[0]
    path = member_address(at.tar, member.name, member.offset, member.size, at.coding)
    one = Media(str(meta.get("url") or raw_id), path, kind)
    yield Sample(make_key(raw_id), at.split, one, caption, with_id(meta, raw_id))
    yield from (LeftOut(extra.name, ANOTHER_MEDIA) for _, extra in media[1:])


def _caption_and_meta(texts: dict[str, bytes]) -> tuple[str, dict[str, Any]]:
    """Give caption ("" for none) and metadata; raises ValueError where a text cannot be read."""
    meta = json.loads(texts.get("json", b"{}"))
    if not isinstance(meta, dict):
        raise ValueError("expected a JSON object")
    for extension in _CAPTIONS:
        if extension in texts:
            return texts[extension].decode("utf-8-sig"), json_safe(meta)
    return str(meta.get("caption") or ""), json_safe(meta)
