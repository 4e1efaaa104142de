"""OpenVid-1M: a million short clips, a long caption each. May import `sample` and the helpers of sources."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from embedshard.demo import Tree, video_bytes
from embedshard.errors import InputError
from embedshard.sample import LeftOut, Media, Sample, make_key, media_kind
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, find, rows

__all__ = ["OpenVid", "OpenVidOptions"]

_HEADER = "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds"
_NUMBERS = ("aesthetic score", "motion score", "temporal consistency score", "frame", "fps", "seconds")
_CUT = re.compile(r"celebv_(.+)_\d+|(.+)_\d+_\d+to\d+")


@dataclass(frozen=True)
class OpenVidOptions(Options):
    """Which of the two tables is read."""

    hd: bool = option(False, "the 1080p clips alone: OpenVidHD.csv, which is a part of OpenVid-1M.csv")


class OpenVid(Source):
    """OpenVid-1M; a key is the clip's name, and the media id is the video that it was cut from.

    Clips of one video are named `VIDEO_13_0to241.mp4` (shot and frames) or `celebv_VIDEO_0.mp4`; they stay in one
    split. Of other clips the name is the media id.
    """

    name = "openvid"
    title = "OpenVid-1M"
    homepage = "https://nju-pcalab.github.io/projects/openvid"
    license = "CC BY 4.0 (and the licences of the collections that the clips come from)"
    kind = "caption"
    modality = "video"
    published_samples = {"given": {"train": 1019957}}
    splits = {"given": ("train",)}
    options = OpenVidOptions
    expects = f"""
data/train/OpenVid-1M.csv          here or in any folder:
                                   {_HEADER}
data/train/OpenVidHD.csv           the same; read with --option hd=true, or where it is the only one
video/---_iRTHryQ_13_0to241.mp4    in any folders, or in archives, which need not be unpacked or joined:
OpenVid_part0.zip, OpenVid_part73_partaa, OpenVid_part73_partab, ...
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the clips in the order of the table."""
        assert isinstance(options, OpenVidOptions)
        names = ("OpenVidHD.csv",) if options.hd else ("OpenVid-1M.csv", "OpenVidHD.csv")
        table = find(root, *names)
        if not table:
            raise tree_error(self, root, f"found no {' or '.join(names)}")
        media = media_index(root, "video")
        for number, row in enumerate(rows(table)):
            if isinstance(row, str):
                yield LeftOut(f"row {number} of {table.name}", row)
            elif "video" not in row or "caption" not in row:
                raise InputError(f"{table}: expected the columns {_HEADER}, found {','.join(row)}")
            else:
                yield _sample(row, media)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out both tables, loose clips and a tar, a clip without a caption and one that is missing."""
        cats, one, face = "---_iRTHryQ_13_0to241", "---_iRTHryQ_2_18to37", "celebv_-_Bdf9C0SAU_0"
        lines = [
            _line(cats, '"Two cats, one ""black"", sleep on a sofa."'),
            _line(one, '"A cat wakes.\nIt looks at the other."'),
            _line(face, "一个人在笑"),
            _line("mixkit-waves-1", " "),
            _line("gone_0_0to10", "Nobody knows."),
        ]
        tree.text("data/train/OpenVid-1M.csv", "\n".join([_HEADER, *lines]))
        tree.text("data/train/OpenVidHD.csv", "\n".join([_HEADER, lines[0]]))
        for name in (cats, face, "mixkit-waves-1"):
            tree.video(f"video/{name}.mp4", name)
        tree.tar("OpenVid_part1.tar", {f"{one}.mp4": video_bytes(one)})


def _line(name: str, caption: str) -> str:
    return f"{name}.mp4,{caption},5.6,4.1,0.99,pan_left,20,10.0,2.0"


def _sample(row: Mapping[str, str], media: Mapping[str, str]) -> Sample | LeftOut:
    name = row["video"].rpartition("/")[2]
    name = name.rpartition(".")[0] if media_kind(name) == "video" else name
    path = media.get(name)
    if not path:
        return LeftOut(name or "a row without a name", MISSING_MEDIA)
    meta: dict[str, Any] = {"id": name, **row}
    caption = meta.pop("caption").strip()
    for column in _NUMBERS:
        if column in row:
            meta[column] = _number(row[column])
    seconds = meta.pop("seconds", None)
    duration = seconds if isinstance(seconds, float) and seconds > 0 else None
    cut = _CUT.fullmatch(name)
    video = cut[cut.lastindex or 0] if cut else name
    return Sample(make_key(name), "", Media(video, path, "video", duration=duration), caption, meta)


def _number(text: str) -> float | str | None:
    """Read a number; None where it is not finite, and a text that is none stays as it is."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if isfinite(number) else None
