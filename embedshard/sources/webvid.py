"""WebVid: clips of stock footage with one caption each. May import `sample`, `address` and the helpers of sources."""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.address import AddressOpener, member_address
from embedshard.demo import Tree, video_bytes
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key, media_kind
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._archive import DAMAGED_ARCHIVE, archives, members, read_tar
from embedshard.sources._media import media_index
from embedshard.sources._read import (
    ANOTHER_MEDIA,
    MISSING_MEDIA,
    find_splits,
    media_root,
    path_split,
    relative,
    rows,
    seconds,
    walk,
    with_id,
)

__all__ = ["WebVid", "WebVidOptions"]

_PROMPTS = "filtered_train.json"
_NO_JSON = "a video without its json"
_NOT_OBJECT = "a json that holds no JSON object"
_ISO_TIME = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?")

_File = tuple[str, str, bytes]
"""Name, address, and the content of a json."""


@dataclass(frozen=True)
class WebVidOptions(Options):
    """How WebVid is read."""

    size: str = option(
        "largest", "of the csv files, which set: 2M is a part of 10M, and never both are read", ("largest", "10M", "2M")
    )


class WebVid(Source):
    """WebVid; the media id is the id of the video, which is the key too.

    The tars have no split, unless they lie in a folder that is named by one. `--split tars` reads them where csv
    files lie beside them as well. A video has its duration in whole seconds in the csv files.
    """

    name = "webvid"
    title = "WebVid"
    homepage = "https://github.com/m-bain/webvid"
    license = "see homepage"
    kind = "caption"
    modality = "video"
    splits = {"official": ("train", "val"), "tars": ("train",)}
    options = WebVidOptions
    expects = f"""
Either csv files, with columns in any order, and videos in any folders or archives; or one csv file as RAW:
  results_10M_train.csv        videoid,name,page_dir,duration,contentUrl (PT00H00M17S); or results_2M_train.csv
  results_10M_val.csv          or results_2M_val.csv; never one split of 10M and another of 2M
  027701_027750/1053841541.mp4
Or tars, which no csv file goes with; or one tar, or a pattern such as 'data/{{00000000..00002680}}.tar':
  00000000.tar, ...
    00001.mp4
    00001.json                 {{"<ID>": "15966265", "<URL>": ..., "text": "A dog runs."}}, or "caption" for "text"
Or what lay in the tars, unpacked
{_PROMPTS} is passed over: it holds prompts
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of the csv files, or the videos of each folder, then those of each of its archives."""
        assert isinstance(options, WebVidOptions)
        if options.split == "tars" and options.size != "largest":
            raise InputError(
                f"webvid: size={options.size} chooses among csv files, and --split tars reads none of them"
            )
        tables = {} if options.split == "tars" else _tables(root, options.size)
        if not tables and options.size != "largest":
            raise tree_error(self, root, f"found no results_{options.size}_train.csv or results_{options.size}_val.csv")
        yield from _from_tables(tables, media_root(root)) if tables else self._from_pairs(root)

    def demo(self, tree: Tree) -> None:
        """Lay out csv files of both orders of columns, a tar, pairs that are not whole, and the file of prompts."""
        tree.text(
            "results_2M_train.csv",
            "videoid,contentUrl,duration,page_dir,name\n"
            '15966265,https://example.org/a.mp4,PT00H00M02S,000001_000050,"A dog runs, and barks."\n'
            "204,https://example.org/b.mp4,PT00H01M30S,000001_000050,A video that is gone\n",
        )
        tree.text(
            "results_2M_val.csv",
            "videoid,name,page_idx,page_dir,duration,contentUrl\n"
            "1053841541,狗在跑,27732,027701_027750,PT00H00M01S,https://example.org/c.mp4\n"
            "7,  ,27733,027701_027750,PT00H00M02S,https://example.org/d.mp4\n",
        )
        tree.video("videos/027701_027750/1053841541.webm", "dogs", 1.0)
        tree.json(_PROMPTS, [{"QA": [{"i": "Describe the video.", "q": "", "a": ""}]}])
        cuts, video = {"<SCENECUT_FRAMES>": [[0, 20]], "<SCENECUT_SECS>": [[0.0, 2.0]]}, video_bytes("dog")
        whole = {"<ID>": "15966265", **cuts, "<URL>": "a.mp4", "text": "A dog runs, and barks."}
        tree.tar(
            "data/00000000.tar",
            {
                "15966265.mp4": video,
                "15966265.json": json.dumps(whole).encode(),
                "204.json": json.dumps({"<ID>": "204", "text": "A video that is gone"}).encode(),
                "7.mp4": video,
                "7.json": json.dumps({"<ID>": "7", "text": "  "}).encode(),
                "8.mp4": video,
            },
        )

    def _from_pairs(self, root: Path) -> Iterator[Sample | LeftOut]:
        found = False
        for split, files in self._places(root):
            for row in _pairs(files, split):
                found = True
                yield row
        if not found:
            raise tree_error(self, root, "found no results_*.csv, and no video or json in any tar or folder")

    def _places(self, root: Path) -> Iterator[tuple[str, Iterator[_File | LeftOut]]]:
        """Yield the split of every folder and every archive, and what lies in it."""
        if not root.is_dir():
            for path in self._archives(root):
                address = relative(str(path), str(root.parent))
                yield path_split(f"{path.parent.name}/"), _archived(address, root.parent)
            return
        for folder, _, names in walk(root, None):
            yield path_split(folder), _read(((name, folder + name) for name in names), root)
            for address in archives(folder + name for name in names):
                yield path_split(address), _archived(address, root)

    def _archives(self, root: Path) -> list[Path]:
        if root.is_file():
            return [root]
        from braceexpand import braceexpand

        try:
            patterns = list(braceexpand(str(root)))
        except ValueError as error:
            raise tree_error(self, root, f"expected a pattern like '{{00..02}}.tar', found: {error}") from error
        found = {pattern: sorted(glob.glob(pattern)) for pattern in patterns}
        if missing := next((pattern for pattern, paths in found.items() if not paths), None):
            raise tree_error(self, root, f"no file {missing}")
        return [Path(path) for paths in found.values() for path in paths]


def _tables(root: Path, size: str) -> dict[str, Path]:
    """Give the csv file of each split, of one size only; the larger one must have all the splits that the other has."""
    if root.is_file():
        return {path_split(f"{root.stem.replace('_', '/')}/"): root} if root.suffix.lower() == ".csv" else {}
    if not root.is_dir():
        return {}
    sizes = ("10M", "2M") if size == "largest" else (size,)
    found = [find_splits(root, {split: (f"results_{one}_{split}.csv",) for split in SPLITS}) for one in sizes]
    largest, *others = list(filter(None, found)) or [{}]
    if any(other.keys() - largest.keys() for other in others):
        names = " beside ".join(" and ".join(path.name for path in tables.values()) for tables in (largest, *others))
        raise InputError(
            f"{root}: expected csv files of one size, or all splits of the larger one, found {names}\n"
            "  Choose with --option size=10M or size=2M, or take the others out"
        )
    return largest


def _from_tables(tables: Mapping[str, Path], base: Path) -> Iterator[Sample | LeftOut]:
    media = media_index(base, "video")
    yield from media.problems
    for split, table in tables.items():
        for number, row in enumerate(rows(table)):
            if isinstance(row, str):
                yield LeftOut(f"row {number} of {table.name}", row)
            elif not ("videoid" in row and "name" in row):
                raise InputError(f"{table}: expected the columns videoid and name, found {', '.join(row)}")
            elif path := media.get(row["videoid"]):
                fields = dict(row)
                yield _sample(fields.pop("videoid"), split, path, fields.pop("name"), fields)
            else:
                yield LeftOut(row["videoid"], MISSING_MEDIA)


def _pairs(files: Iterable[_File | LeftOut], split: str) -> Iterator[Sample | LeftOut]:
    """Yield a sample for each video and the json of its name, which mostly lie side by side."""
    waiting: dict[str, _File] = {}
    for file in files:
        if isinstance(file, LeftOut):
            yield file
            continue
        stem, _, extension = file[0].rpartition(".")
        is_json = extension == "json"
        if not (is_json or media_kind(file[0]) == "video") or file[0].endswith(_PROMPTS):
            continue
        other = waiting.pop(stem, None)
        if other and other[0].endswith(".json") != is_json:
            video, text = (other, file) if is_json else (file, other)
            yield _from_json(stem.rpartition("/")[2], split, video[1], text[2])
        else:
            waiting[stem] = other or file
            if other:
                yield LeftOut(file[1], ANOTHER_MEDIA)
    for name, address, _ in waiting.values():
        yield LeftOut(address, MISSING_MEDIA if name.endswith(".json") else _NO_JSON)


def _from_json(stem: str, split: str, path: str, text: bytes) -> Sample | LeftOut:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return LeftOut(stem, _NOT_OBJECT)
    raw_id = str(row.pop("<ID>", "") or stem or path)
    caption = row.pop("text", None) or row.pop("caption", None)
    return _sample(raw_id, split, path, caption if isinstance(caption, str) else "", row)


def _sample(raw_id: str, split: str, path: str, caption: str, fields: dict[str, Any]) -> Sample:
    media = Media(raw_id, path, "video", duration=_duration(fields.pop("duration", None)))
    return Sample(make_key(raw_id), split, media, caption.strip(), with_id(fields, raw_id))


def _duration(value: Any) -> float | None:
    if isinstance(value, str):
        return _text_duration(value)
    return float(value) if isinstance(value, int | float) and 0 < value < float("inf") else None


@functools.lru_cache(maxsize=1 << 14)
def _text_duration(text: str) -> float | None:
    if match := _ISO_TIME.fullmatch(text):
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        return hours * 3600 + minutes * 60 + rest or None
    try:
        return seconds(text) or None
    except ValueError:
        return None


def _read(found: Iterable[tuple[str, str] | LeftOut], base: Path) -> Iterator[_File | LeftOut]:
    """Read the json files among files or members; one that cannot be read is blank."""
    with AddressOpener() as opener:
        for item in found:
            if isinstance(item, LeftOut):
                yield item
                continue
            name, address = item
            content = b""
            with contextlib.suppress(OSError, EOFError, ValueError):
                if name.endswith(".json"):
                    opened = opener.open(address, base)
                    content = opened.read_bytes() if isinstance(opened, Path) else opened.read()
            yield name, address, content


def _archived(address: str, base: Path) -> Iterator[_File | LeftOut]:
    if address.lower().endswith(".tar"):
        return _in_tar(base / address, address)
    return _read(members(base / address, address), base)


def _in_tar(path: Path, address: str) -> Iterator[_File | LeftOut]:
    try:
        for name, _, offset, size, content in read_tar(path, (".json",)):
            yield name, member_address(address, name, offset, size), content
    except (tarfile.TarError, OSError, ValueError):
        yield LeftOut(address, DAMAGED_ARCHIVE)
