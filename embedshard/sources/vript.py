"""Vript: a long caption for every scene of 12k videos. May import `address`, `sample` and the helpers of sources."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from embedshard.address import AddressOpener
from embedshard.demo import Tree
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._media import MediaIndex, files, media_index
from embedshard.sources._read import MISSING_MEDIA, NO_CAPTION, UNREADABLE, find, rows, seconds

__all__ = ["Vript"]

_TABLES = ("vript_long_videos_captions.jsonl", "vript_short_videos_captions.jsonl")
_CAPTION, _CUT = "_caption.json", "_cut_meta.json"
_NO_WINDOW = "only the whole video is there, and no times of the clip"

Row = Mapping[str, Any]
ReadJson = Callable[[str], Any]


class Vript(Source):
    """Vript; a key is the `clip_id`, and the media id is the video's, so that all its clips are in one split.

    The caption is the `content`; shot type, camera movement, scene title and voice-over are metadata, and so are the
    times of the clip in its video (`cut_meta`). Where the clip is not there but the whole video is, they are the
    window. Of a video that is not captioned completely (`integrity`) some clips have no caption.
    """

    name = "vript"
    title = "Vript"
    homepage = "https://github.com/mutonix/Vript"
    license = "academic use only, no redistribution"
    kind = "caption"
    modality = "video"
    splits = {"given": ("train",)}
    expects = """
vript_captions/vript_long_videos_captions.jsonl    {"meta": {"video_id", ...}, "clip_id", "caption", "voiceover"},
vript_captions/vript_short_videos_captions.jsonl   one clip a line; or a file a video, loose or in zips:
vript_captions/vript_long_videos_captions.zip
    007EvOaWFOA_caption.json                       {"meta": {"video_id", ...}, "data": {clip_id: {"caption", ...}}},
                                                   "caption": {"content", "shot_type", ...}
vript_long_videos_clips/clips_1_of_1095.zip        loose or in zips, and the same of vript_short_videos_clips
    007EvOaWFOA/007EvOaWFOA-Scene-001.mp4
    007EvOaWFOA/007EvOaWFOA_cut_meta.json          optional: {"clips": [{"clip_id", "start", "end", ...}]}
vript_long_videos/007EvOaWFOA.mp4                  optional, for clips that are not there
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the clips of the tables in their order, then those of files of videos that no table has."""
        tables = [path for name in _TABLES if (path := find(root, name))]
        texts = _json_files(root)
        if not (tables or any(name.endswith(_CAPTION) for name in texts)):
            raise tree_error(self, root, f"found no {_TABLES[0]} and no VIDEO{_CAPTION}")
        media = media_index(root, "video")
        with AddressOpener() as opener:
            read = partial(_read, opener, root)
            cuts = lru_cache(maxsize=16)(partial(_cuts, texts, read))
            done: set[str] = set()
            for clip, row in chain(_table_rows(tables, done), _file_rows(texts, read, done)):
                found = row if isinstance(row, str) else _sample(row, media, cuts)
                yield LeftOut(clip, found) if isinstance(found, str) else found
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out a table and a file, clips and a whole video, a clip without a caption and a missing one."""
        dog, cat, short = "007EvOaWFOA", "-b1cD_e2F3g", "02toZL7p4_0"
        lines = [_clip(dog, 1, "A dog runs."), _clip(dog, 2, None), _clip(dog, 3, "It is gone.")]
        lines += [_clip(cat, 1, "A cat sleeps. "), _clip(cat, 2, "它醒了。")]
        tree.text(f"vript_captions/{_TABLES[0]}", "".join(json.dumps(line) + "\n" for line in lines))
        clip = _clip(short, 1, "A boat sails.")
        file = {"meta": clip.pop("meta"), "data": {clip["clip_id"]: clip}}
        tree.json(f"vript_captions/vript_short_videos_captions/{short}{_CAPTION}", file)
        clips = "vript_long_videos_clips/clips_1_of_1095"
        for video in (dog, cat):
            times = [{"clip_id": f"{video}-Scene-00{n}.mp4", "start": n - 1, "end": n + 0.5} for n in (1, 2)]
            tree.json(f"{clips}/{video}/{video}{_CUT}", {"clips": times})
        for number in (1, 2):
            tree.video(f"{clips}/{dog}/{dog}-Scene-00{number}.mp4", f"dog {number}")
        tree.video(f"vript_long_videos/video_1_of_1095/{cat}.mp4", "cat", 3.0)
        tree.video(f"vript_short_videos_clips/shorts_clips_1_of_42/{short}/{short}-Scene-001.mp4", "boat")


def _clip(video: str, number: int, content: str | None) -> dict[str, Any]:
    caption = {"shot_type": "Close-up", "camera_movement": "Static", "content": content, "scene_title": "An animal"}
    meta = {"video_id": video, "video_title": "Animals", "num_clips": 3, "integrity": False}
    clip = {"meta": meta, "clip_id": f"{video}-Scene-00{number}", "caption": caption if content else None}
    return {**clip, "voiceover": ["Look at that!"]}


def _json_files(root: Path) -> MediaIndex:
    """Find the captions and the times of videos, loose and in archives, by name."""

    def named() -> Iterator[tuple[str, str]]:
        for path, address in files(root):
            if isinstance(address, str) and path.endswith((_CAPTION, _CUT)):
                yield path.rpartition("/")[2], address

    return MediaIndex(named())


def _read(opener: AddressOpener, root: Path, address: str) -> Any:
    """Read a JSON file; raises ValueError where that cannot be done."""
    try:
        place = opener.open(address, root)
        return json.loads(place.read_bytes() if isinstance(place, Path) else place.read())
    except (OSError, EOFError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _table_rows(tables: Iterable[Path], done: set[str]) -> Iterator[tuple[str, Row | str]]:
    """Yield id and row of each clip, and note the videos."""
    for table in tables:
        for number, row in enumerate(rows(table)):
            clip = f"row {number} of {table.name}"
            if not isinstance(row, str):
                clip = str(row.get("clip_id") or clip)
                done.add(clip.partition("-Scene-")[0])
            yield clip, row


def _file_rows(texts: Mapping[str, str], read: ReadJson, done: Container[str]) -> Iterator[tuple[str, Row | str]]:
    """Yield the clips of files of videos that are not done, as a table has them."""
    for name in texts:
        if not name.endswith(_CAPTION) or name.removesuffix(_CAPTION) in done:
            continue
        try:
            file = read(texts[name])
            clips = list(file["data"].items())
        except (AttributeError, KeyError, TypeError, ValueError):
            yield name, UNREADABLE
            continue
        for clip, row in clips:
            yield clip, {"meta": file.get("meta"), **row} if isinstance(row, dict) else UNREADABLE


def _cuts(texts: Mapping[str, str], read: ReadJson, video: str) -> Mapping[str, Row]:
    """Give what is told of each clip of a video, nothing where that cannot be read."""
    try:
        return {cut["clip_id"].removesuffix(".mp4"): cut for cut in read(texts[video + _CUT])["clips"]}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _sample(row: Row, media: Mapping[str, str], cuts: Callable[[str], Mapping[str, Row]]) -> Sample | str:
    """Give the sample of a clip, or why there is none."""
    try:
        clip, video, caption = row["clip_id"].removesuffix(".mp4"), row["meta"]["video_id"], row["caption"] or {}
        script = {name: text for name, text in caption.items() if name != "content"}
        content = caption.get("content") or ""
        if not (clip and isinstance(content, str)):
            return UNREADABLE
        cut = cuts(video).get(clip, {})
        found = _media(clip, video, media, cut)
    except (AttributeError, KeyError, TypeError):
        return UNREADABLE
    if not (content := content.strip()):
        return NO_CAPTION
    if isinstance(found, str):
        return found
    fields = {name: value for name, value in row.items() if name not in ("meta", "caption")}
    meta = {**row["meta"], **fields, **script, "id": clip}
    if cut and found.end is None:
        meta["cut_meta"] = {name: value for name, value in cut.items() if name != "clip_id"}
    return Sample(make_key(clip), "", found, content, meta)


def _media(clip: str, video: str, media: Mapping[str, str], cut: Row) -> Media | str:
    """Give the clip, or the whole video and the window of the clip in it, or why there is neither."""
    if path := media.get(clip):
        return Media(video, path, "video")
    path = media.get(video)
    if not path:
        return MISSING_MEDIA
    try:
        start, end = (seconds(cut.get(name, cut.get(f"{name}_time"))) for name in ("start", "end"))
    except (TypeError, ValueError):
        start = end = None
    return _NO_WINDOW if start is None or end is None else Media(video, path, "video", start, end)
