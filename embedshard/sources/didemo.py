"""DiDeMo: moments of Flickr videos, in chunks of five seconds. May import `sample` and the helpers of sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._adaclip import NOT_LISTED, clips, listed_ids, paragraph, require
from embedshard.sources._media import MediaIndex, media_index
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, find, find_splits, rows, walk

__all__ = ["DiDeMo", "DiDeMoOptions"]

_CHUNK = 5.0
_NO_WINDOW = "times are no pairs of chunks"

PathOf = Callable[[str], "str | None"]


@dataclass(frozen=True)
class DiDeMoOptions(Options):
    """How DiDeMo is read."""

    as_: str = option(
        "caption",
        "a sample: a video with all its descriptions joined, or a description with its window",
        ("caption", "segment"),
    )


class DiDeMo(Source):
    """DiDeMo; the media id is `video`, which all moments of a video share.

    `--as caption` is AdaCLIP's: all descriptions of a video joined, each with a full stop, for the whole file.
    `--as segment` has a window for each description: the pair of chunks that most of its annotators chose, the first
    of these where several are as frequent; `times` has the pairs of all. The annotators saw 30 seconds of a video
    at most, `num_segments` chunks; the last chunk of a shorter one ends with the file.
    """

    name = "didemo"
    title = "DiDeMo"
    homepage = "https://github.com/LisaAnne/LocalizingMoments"
    license = "CC BY-NC-SA 4.0 (annotations)"
    kind = "caption"
    modality = "video"
    published_media = {"official": {"train": 8392, "val": 1065, "test": 1004}}
    splits = {"official": SPLITS}
    options = DiDeMoOptions
    expects = """
train_data.json, val_data.json, test_data.json    as LocalizingMoments has them, at most two folders deep:
                                                  [{"video", "description", "times", "num_segments", ...}, ...]
train.json, val.json, test.json                   AdaCLIP's, each in place of that above; they have no windows
train_list.txt, val_list.txt, test_list.txt       optional, of Collaborative Experts: if there, they alone decide
                                                  which videos are used, and their split
videos/10@N00_4250000001_aa5c3c8051.m4v.mp4       the whole old name and a new extension, or the name itself
yfcc100m_hash.txt                                 optional: for videos named by their hash, as aab85c5f26374.mp4
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the videos in the order of their first descriptions, or the descriptions in the order of the files."""
        assert isinstance(options, DiDeMoOptions)
        tables = find_splits(root, {split: [f"{split}_data.json", f"{split}.json"] for split in SPLITS})
        if not tables:
            raise tree_error(self, root, "found no train_data.json, val_data.json or test_data.json")
        for path in tables.values():
            if not path.stem.endswith("_data"):
                require(path, "Flickr videos, as 10@N00_...", lambda clip: "@N" in clip.id)
        splits = _listed(root)
        media = media_index(root, "video")
        yield from media.problems
        path_of = _finder(root, media)
        yield from (_segments if options.as_ == "segment" else _paragraphs)(_descriptions(tables, splits), path_of)

    def demo(self, tree: Tree) -> None:
        """Lay out three splits with lists, dotted names, all ways to name a file, and what is left out."""
        dog, waves, flag = "10@N00_4250000001_aa5c3c8051.m4v", "11@N01_6010000002_0a1b2c3d4e.mpg", "12@N03_7585_57."
        train = [
            _demo_row(1, dog, "a dog runs", [[0, 0], [1, 1], [1, 1], [0, 1]]),
            _demo_row(2, dog, "the dog stops.", [[0, 0], [1, 1]]),
            _demo_row(3, waves, "someone waves", [[4, 5]] * 4, 6),
            _demo_row(4, "13@N00_1_ab.avi", "this video is gone", [[2, 2]] * 4),
            _demo_row(5, "14@N00_2_cd.mov", "this video is in no list", [[2, 2]] * 4),
        ]
        tree.json("data/train_data.json", train)
        val = [_demo_row(6, flag, "a flag in the wind ", [[0, 4]] * 5), _demo_row(7, flag, " ", [[0, 0]] * 4)]
        tree.json("data/val_data.json", val)
        tree.json("data/test_data.json", [_demo_row(8, "15@N00_3_ef.3gp", "first we see the sea", [[0, 0]] * 7)])
        tree.text("data/train_list.txt", f"{dog}\n{waves}\n13@N00_1_ab.avi\n")
        tree.text("data/val_list.txt", f"{flag}\n")
        tree.text("data/test_list.txt", "15@N00_3_ef.3gp\n")
        tree.text("data/yfcc100m_hash.txt", "6010000002\taab85c5f26374\n")
        tree.video(f"videos/{dog}.mp4", "dog", 6.0)
        tree.video("videos/aab/85c/aab85c5f26374.mp4", "waves", 22.0)
        tree.video(f"videos/{flag}.mkv", "flag", 4.0)
        tree.video("videos/15@N00_3_ef.avi", "sea", 3.0)


class _Row(NamedTuple):
    video: str
    split: str
    sentence: str
    fields: Mapping[str, Any]


def _demo_row(number: int, video: str, description: str, times: list[list[int]], chunks: int = 5) -> dict[str, Any]:
    fields = {"num_segments": chunks, "description": description, "dl_link": f"https://www.flickr.com/{number}"}
    return {**fields, "times": times, "video": video, "annotation_id": number}


def _listed(root: Path) -> dict[str, str] | None:
    """Give the split of every video that a list has; None where there is no list."""
    lists = find_splits(root, {split: [f"{split}_list.txt"] for split in SPLITS})
    splits: dict[str, str] = {}
    for split, path in lists.items():
        for video in listed_ids(path):
            if (other := splits.setdefault(video, split)) != split:
                raise InputError(f"{path}: expected every video in one list, found {video} in {lists[other]} too")
    return splits if lists else None


def _finder(root: Path, media: MediaIndex) -> PathOf:
    """Give the function that finds the file of a video: by its name, by its name less the extension, or by its hash."""
    bare = {name: folder + name for folder, _, names in walk(root, None) for name in names if name.endswith(".")}
    table = find(root, "yfcc100m_hash.txt")
    hashes = dict(line.split("\t", 1) for line in listed_ids(table) if "\t" in line) if table else {}

    def path_of(video: str) -> str | None:
        hashed = hashes.get(video.partition("_")[2].partition("_")[0], "")
        names = (video, video.rpartition(".")[0], hashed)
        return next(filter(None, map(media.get, names)), bare.get(video))

    return path_of


def _descriptions(tables: Mapping[str, Path], listed: Mapping[str, str] | None) -> Iterator[_Row | LeftOut]:
    for split, path in tables.items():
        for number, row in enumerate(_rows(path)):
            fields = {} if isinstance(row, str) else row
            video, text = fields.get("video"), fields.get("description")
            if not (isinstance(video, str) and isinstance(text, str)):
                yield LeftOut(f"entry {number} of {path.name}", UNREADABLE)
            elif (of := split if listed is None else listed.get(video)) is None:
                yield LeftOut(video, NOT_LISTED)
            else:
                yield _Row(video, of, text.strip(), fields)


def _rows(path: Path) -> Iterator[Mapping[str, Any] | str]:
    if path.stem.endswith("_data"):
        yield from rows(path)
        return
    for clip in clips(path):
        if isinstance(clip, LeftOut):
            yield clip.reason
        else:
            yield from ({"video": clip.id, "description": sentence} for sentence in clip.sentences or [""])


def _paragraphs(found: Iterable[_Row | LeftOut], path_of: PathOf) -> Iterator[Sample | LeftOut]:
    videos: dict[tuple[str, str], list[str]] = {}
    for row in found:
        if isinstance(row, LeftOut):
            yield row
        else:
            videos.setdefault((row.video, row.split), []).append(row.sentence)
    for (video, split), sentences in videos.items():
        path = path_of(video)
        if path is None:
            yield LeftOut(video, MISSING_MEDIA)
        else:
            caption = paragraph(text if text.endswith(".") else f"{text}." for text in sentences if text)
            meta = {"id": video, "captions": sentences}
            yield Sample(make_key(video), split, Media(video, path, "video"), caption, meta)


def _segments(found: Iterable[_Row | LeftOut], path_of: PathOf) -> Iterator[Sample | LeftOut]:
    numbers: Counter[str] = Counter()
    for row in found:
        if isinstance(row, LeftOut):
            yield row
            continue
        raw_id = f"{row.video}_{numbers[row.video]}"
        path, window = path_of(row.video), _window(row.fields)
        if path is None or window is None:
            yield LeftOut(raw_id, MISSING_MEDIA if path is None else _NO_WINDOW)
        else:
            fields = {name: value for name, value in row.fields.items() if name != "description"}
            media = Media(row.video, path, "video", *window)
            meta = {**fields, "id": raw_id, "segment_index": numbers[row.video]}
            yield Sample(make_key(raw_id), row.split, media, row.sentence, meta)
        numbers[row.video] += 1


def _window(fields: Mapping[str, Any]) -> tuple[float, float] | None:
    """Give start and end in seconds of the pair of chunks that is most frequent, the first of several."""
    times = fields.get("times")
    try:
        first, last = max(times, key=times.count)  # type: ignore[union-attr, arg-type]
        return _CHUNK * first, _CHUNK * min(last + 1, fields.get("num_segments", last + 1))
    except (AttributeError, TypeError, ValueError):
        return None
