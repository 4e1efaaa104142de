"""Kinetics-710: Kinetics-400, 600 and 700 merged into one set of 710 classes. May import `sample` and `_read`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from embedshard.demo import Tree
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, find

__all__ = ["Kinetics710"]

_EDITIONS = ("k400", "k600", "k700")
_LABELS = "label_map_k710.txt"
_TIMES = re.compile(r"(.+)_\d{6}_\d{6}", re.DOTALL)
_UNREADABLE = "a line that is not PATH LABEL"
_NO_LABEL = f"a label number that {_LABELS} does not have"
_IN_VAL = "a video of train that some edition has in val"
_REPEATED = "another clip of the video is used"


class Kinetics710(Source):
    """Kinetics-710; the media id is the YouTube id, and so is the key: the authors keep one clip of a video.

    The lists are merged by the authors' rule: train is what the three train lists have, each video once, without
    the videos that any of the three val lists has. Of several clips of a video the first one counts that is there,
    Kinetics-400 before 600 before 700. Lists of one or two editions are enough, but then the val lists of the others
    are not known. The files are clips already, so the times in their names are no window. Memory holds the ids.
    """

    name = "kinetics710"
    title = "Kinetics-710"
    homepage = "https://github.com/OpenGVLab/UniFormerV2/blob/main/DATASET.md"
    license = "see homepage"
    kind = "classification"
    modality = "video"
    splits = {"official": ("train", "val")}
    expects = f"""
k400_train_list_videos.txt, k400_val_list_videos.txt    at least one list of k400, k600 or k700, here or in any folder:
                                                        lines PATH LABEL, as vol_00/jf7RDuUTrsQ_000018_000028.mp4 5
{_LABELS}                                    the text of label 0, 1, ...
kinetics400/videos_train/jf7RDuUTrsQ.mp4                clips in any folders or archives, found by the names of PATH or
                                                        by the YouTube id
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the lines of the train lists, then those of the val lists."""
        lists = {
            split: {
                edition: path for edition in _EDITIONS if (path := find(root, f"{edition}_{split}_list_videos.txt"))
            }
            for split in ("train", "val")
        }
        if not any(lists.values()):
            raise tree_error(self, root, "found no list as k400_train_list_videos.txt")
        if not (labels_path := find(root, _LABELS)):
            raise tree_error(self, root, f"found no {_LABELS}, which has the text of the labels")
        labels = labels_path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
        media = media_index(root, "video")
        in_val = {line.video for line in _lines(lists["val"]) if isinstance(line, _Line)}
        for split, paths in lists.items():
            used: set[str] = set()
            for line in _lines(paths):
                if isinstance(line, LeftOut):
                    yield line
                elif split == "train" and line.video in in_val:
                    yield LeftOut(line.clip, _IN_VAL)
                elif line.video in used:
                    yield LeftOut(line.clip, _REPEATED)
                else:
                    sample = _sample(line, split, labels, media)
                    if isinstance(sample, Sample):
                        used.add(line.video)
                    yield sample
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out lists of three editions: a repeated video, a leak, a path with blanks, and a missing clip."""
        tree.text(_LABELS, "abseiling\nair drumming\nanswering questions\n")
        lists = {
            "k400_train": ["jf7RDuUTrsQ.mp4 1", "-b_dE6gHi0k.mp4 0", "gone1234567.mp4 0"],
            "k400_val": ["val12345678.mp4 0"],
            "k600_train": ["vol_00/jf7RDuUTrsQ_000018_000028.mp4 1", "vol_00/gone1234567_000001_000011.mp4 0"],
            "k700_train": ["air drumming/_A5JFdMXB_k_000018_000028.mp4 1", "abseiling/val12345678_000005_000015.mp4 0"],
            "k700_val": ["vol 01/w000000_000_000001_000011.mp4 2", "vol 01/none1234567_000001_000011.mp4 710"],
        }
        for name, lines in lists.items():
            tree.text(f"kinetics710/{name}_list_videos.txt", "".join(f"{line}\n" for line in lines))
        tree.video("kinetics400/videos_train/jf7RDuUTrsQ.mp4", "drums")
        tree.video("kinetics400/videos_train/-b_dE6gHi0k.mkv", "rope")
        tree.video("kinetics400/videos_val/val12345678.mp4", "another rope")
        tree.video("kinetics600/videos/vol_00/jf7RDuUTrsQ_000018_000028.mp4", "more drums")
        tree.video("kinetics700/videos/air drumming/_A5JFdMXB_k_000018_000028.mp4", "other drums")
        tree.video("kinetics700/videos/vol 01/w000000_000_000001_000011.webm", "question")


class _Line(NamedTuple):
    edition: str
    clip: str
    video: str
    label: str


def _lines(paths: Mapping[str, Path]) -> Iterator[_Line | LeftOut]:
    """Yield the lines of some lists; a YouTube id has no dot, but may begin and end with `_`, as times do."""
    for edition, path in paths.items():
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                place, _, label = line.strip().rpartition(" ")
                clip = place.rpartition("/")[2].partition(".")[0]
                if clip:
                    times = _TIMES.fullmatch(clip)
                    yield _Line(edition, clip, times[1] if times else clip, label)
                elif label:
                    yield LeftOut(f"line {number} of {path.name}", _UNREADABLE)


def _sample(line: _Line, split: str, labels: Sequence[str], media: Mapping[str, str]) -> Sample | LeftOut:
    if not (line.label.isdecimal() and int(line.label) < len(labels)):
        return LeftOut(line.clip, _NO_LABEL)
    if not (path := media.get(line.clip) or media.get(line.video)):
        return LeftOut(line.clip, MISSING_MEDIA)
    label = labels[int(line.label)].strip()
    fields = {"id": line.video, "clip": line.clip, "edition": line.edition, "label": label, "label_id": int(line.label)}
    return Sample(make_key(line.video), split, Media(line.video, path, "video"), label, fields)
