"""TextVR: short videos with text in them, and captions that tell it. May import `sample` and the helpers of sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from embedshard.address import member_name
from embedshard.demo import Tree
from embedshard.sample import LeftOut, Media, Sample
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import CaptionsOptions, caption_samples
from embedshard.sources._media import MediaIndex, media_index
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, find, rows, seconds_or_none

__all__ = ["TextVR"]


Fields = Mapping[str, Any]


class TextVR(Source):
    """TextVR; the media id is `path`, folder included, and all captions are in the metadata as `captions`.

    A test video has one caption, a train video several. `TextVR_test_rand.json`, in the authors' download, has the
    captions of the test videos scrambled on purpose, so it is never read; those of `TextVR_test.json` are right.
    """

    name = "textvr"
    title = "TextVR"
    homepage = "https://github.com/callsys/TextVR"
    license = "see homepage"
    kind = "caption"
    modality = "video"
    published_media = {"official": {"test": 2727}}
    splits = {"official": ("train", "test")}
    options = CaptionsOptions
    expects = """
TextVR_train.json, TextVR_test.json    at least one, here or in any folder: [{"path": "Activity/v_aB3dE6gHi0_1.mp4",
                                       "captions_info": [{"caption", "caption_info": {"duration", "desc_id"}}, ...],
                                       "videos_info": {"source", "split", "Kwai_OCR"}}, ...]
Videos/Activity/v_aB3dE6gHi0_1.mp4     or other folders or archives, with the last folder of path kept; of several
                                       videos of one name, that of the folder Videos is taken
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the videos in the order of the files, and their captions in theirs."""
        assert isinstance(options, CaptionsOptions)
        tables = {split: path for split in ("train", "test") if (path := find(root, f"TextVR_{split}.json"))}
        if not tables:
            raise tree_error(self, root, "found no TextVR_train.json or TextVR_test.json")
        media = media_index(root, "video", folders=1)
        for split, table in tables.items():
            for number, row in enumerate(rows(table)):
                if isinstance(row, str) or not _readable(row):
                    yield LeftOut(f"entry {number} of {table.name}", row if isinstance(row, str) else UNREADABLE)
                elif found := _found(media, row["path"]):
                    yield from _samples(row, split, found, options.captions)
                else:
                    yield LeftOut(row["path"], MISSING_MEDIA)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out both splits, two videos of one name, captions with outer blanks, and what is left out."""
        train = [
            _row("Activity/v_aB3-E6gHi0_1.mp4", " A man holds a sign that says OPEN.", "The sign says OPEN"),
            _row("Sports/v_aB3-E6gHi0_1.mp4", "The score is 2:0", "", "HOME leads 2:0.", duration=2.0),
            _row("Cooking/gone_00200_00210.mp4", "This video is gone.", duration=10.0),
            _row("Cooking/blank_00200_00210.mp4", " "),
        ]
        test = [_row("Driving/road_00010_00020.mp4", "The car passes EXIT 12."), _row("Sports/run_1.mp4", "Lap 3. ")]
        swapped = [_row("Driving/road_00010_00020.mp4", "Lap 3."), _row("Sports/run_1.mp4", "The car passes EXIT 12.")]
        for name, table in (("train", train), ("test", test), ("test_rand", swapped)):
            tree.json(f"TextVR_{name}.json", table)
        for row in (*train[:2], train[3], *test):
            tree.video(f"Videos/{row['path']}", row["path"])


def _row(path: str, *captions: str, duration: float = 0) -> dict[str, Any]:
    infos = [{"caption": text, "caption_info": {"duration": duration, "desc_id": n}} for n, text in enumerate(captions)]
    return {"path": path, "captions_info": infos, "videos_info": {"source": "demo", "Kwai_OCR": f"{path[:-4]}.json"}}


def _readable(row: Fields) -> bool:
    path = row.get("path")
    return isinstance(path, str) and bool(path) and isinstance(row.get("captions_info"), list)


def _found(media: MediaIndex, path: str) -> str | None:
    """Find a video by its last folder and its stem; of several, the one of the folder `Videos` goes first."""
    stem = path.removesuffix(PurePosixPath(path).suffix)
    name = "/".join(stem.split("/")[-2:])
    own = [
        place for place in media.all(name) if f"/{member_name(place)}".rpartition(".")[0].endswith(f"/Videos/{stem}")
    ]
    found: str | None = media.get(name)
    return found if found in own or not own else own[0]


def _samples(row: Fields, split: str, path: str, which: str) -> Iterator[Sample | LeftOut]:
    infos = [_mapping(info) for info in row["captions_info"]]
    details = [_mapping(info.get("caption_info")) for info in infos]
    durations = (seconds_or_none(detail.get("duration")) for detail in details)
    video = Media(row["path"], path, "video", duration=next(filter(None, durations), None))
    about = {name: value for name, value in _mapping(row.get("videos_info")).items() if name != "split"}
    meta = {**about, "id": row["path"], "desc_ids": [detail.get("desc_id") for detail in details]}
    return caption_samples(row["path"], split, video, [info.get("caption", "") for info in infos], which, meta)


def _mapping(value: Any) -> Fields:
    return value if isinstance(value, dict) else {}
