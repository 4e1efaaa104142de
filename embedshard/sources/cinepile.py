"""CinePile: 300000 questions about scenes of films, five options each.

May import `sample` and the helpers of sources.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key, split_name
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import answered, choice_fields, without_letters
from embedshard.sources._media import media_index
from embedshard.sources._parquet import missing_tables, table_split, tables
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, media_root, rows

__all__ = ["CinePile", "CinePileOptions"]

_VERSIONS = ("v2", "v1")
_COLUMNS = ("question", "choices", "answer_key_position")
_TEXT = json.JSONEncoder(default=str)
_NO_CHOICE = "an answer that is none of the choices"
_LINKED = re.compile(r"(?:[?&]v=|youtu\.be/|/embed/|/shorts/)([\w-]{11})(?![\w-])")


@dataclass(frozen=True)
class CinePileOptions(Options):
    """Which version is read."""

    version: str = option("v2", "which version, where the tree has a folder of each", _VERSIONS)


class CinePile(Source):
    """CinePile; the media id is the YouTube id, and a key is that and a hash of question and choices.

    A key is thus the same whichever tables are there: `Z4DDrBjEBHE_0f3a91c2`; the same question once more counts on,
    `Z4DDrBjEBHE_0f3a91c2_1`. The whole clip is the media. Many questions lean on what is said, so `subtitles` stays in
    the metadata. The right option is that at `answer_key_position`; `answer_key` may be worded otherwise.
    """

    name = "cinepile"
    title = "CinePile"
    homepage = "https://huggingface.co/datasets/tomg-group-umd/cinepile"
    license = "CC BY-NC-SA 4.0 (annotations)"
    kind = "choice"
    modality = "video"
    published_samples = {"official": {"train": 298888, "test": 4941}}
    splits = {"official": ("train", "test")}
    options = CinePileOptions
    expects = """
v2/train-00000-of-00003.parquet    at least one table of a split, in one folder of any name: question, choices,
v2/test-00000-of-00001.parquet     answer_key_position, subtitles, videoID, ...; in v1/, for --option version=v1,
                                   yt_clip_link in place of videoID
videos/Z4DDrBjEBHE.mp4             or Z4DDrBjEBHE.mkv, in any folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the questions in the order of the tables, those of train first."""
        assert isinstance(options, CinePileOptions)
        files = _tables(root, options.version)
        if not files:
            raise tree_error(self, root, f"found no train-*.parquet or test-*.parquet of version={options.version}")
        index = media_index(media_root(root), "video")
        media: dict[str, Media] = {}
        numbers: Counter[str] = Counter()
        for split in SPLITS:
            for path in files:
                for number, row in enumerate(_rows(path) if table_split(path) == split else ()):
                    video = row.get("videoID") or _linked(row.get("yt_clip_link"))
                    if not (video and isinstance(video, str)):
                        yield LeftOut(f"row {number} of {path.name}", "no YouTube id")
                        continue
                    if video not in media:
                        media[video] = Media(video, index.get(video, ""), "video")
                    raw_id = f"{video}_{_digest(row)}"
                    yield _sample(
                        f"{raw_id}_{count}" if (count := numbers[raw_id]) else raw_id, split, media[video], row
                    )
                    numbers[raw_id] += 1
        if root.is_dir():
            yield from missing_tables(files)
        yield from index.problems

    def demo(self, tree: Tree) -> None:
        """Lay out both versions: two questions on a clip, a clip that is missing, and a position out of bounds."""
        first = _demo_row("Z4DDrBjEBHE", "What does he hold?", 1)
        second = _demo_row("Z4DDrBjEBHE", "Where is he?", 0)
        gone = _demo_row("gone_-12345", "Who is gone?", 2)
        test = [_demo_row("-a1_b2C3d4E", "Why does she smile?", 5), _demo_row("-a1_b2C3d4E", "Who smiles", 4)]
        contents = {
            "train-00000-of-00002": [first, gone],
            "train-00001-of-00002": [second],
            "test-00000-of-00001": test,
        }
        for name, questions in contents.items():
            tree.parquet(f"v2/{name}.parquet", questions)
            older = [{key: value for key, value in row.items() if key != "videoID"} for row in questions]
            tree.parquet(f"v1/{name}.parquet", older)
        tree.video("videos/Z4DDrBjEBHE.mp4", "film")
        tree.video("videos/-a1_b2C3d4E.webm", "another film")


def _demo_row(video: str, question: str, position: int) -> dict[str, Any]:
    return {
        "movie_name": "A Made-up Film",
        "year": 1955,
        "genre": ["Drama"],
        "yt_clip_title": "A Made-up Film - The Letter",
        "yt_clip_link": f"https://www.youtube.com/watch?v={video}",
        "movie_scene": "He enters the hall.\n<subtitle> Good evening!",
        "subtitles": "\n<subtitle> Good evening!",
        "question": question,
        "choices": ["The hall", "A lamp", "A letter", "Nothing", "The maid"],
        "answer_key": "As worded elsewhere",
        "answer_key_position": position,
        "question_category": "Setting and Technical Analysis",
        "hard_split": "False",
        "visual_reliance": "True",
        "videoID": video,
    }


def _tables(root: Path, version: str) -> list[Path]:
    """Find the tables of a version: those in folders of its name, else those in no folder of another's.

    Raises:
        InputError: They lie in several folders.
    """
    found = [path for path in tables(root, ".parquet") if table_split(path)]
    named = [path for path in found if version in path.relative_to(root).parts]
    others = set(_VERSIONS) - {version}
    files = named or [path for path in found if not others & set(path.relative_to(root).parts)]
    folders = {path.parents[bool(split_name(path.parent.name))]: None for path in files}
    if len(folders) > 1:
        raise InputError(
            f"{root}: expected the tables of version={version} in one folder, found {' and '.join(map(str, folders))}\n"
            "  Give the folder of one version as RAW, or take the others out"
        )
    return files


def _digest(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(_TEXT.encode([row["question"], row["choices"]]).encode()).hexdigest()[:8]


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    checked = False
    for row in rows(path):
        assert not isinstance(row, str)  # a parquet table has no row that cannot be read
        if not checked and any(name not in row for name in _COLUMNS):
            raise InputError(f"{path}: expected the columns {', '.join(_COLUMNS)}, found {', '.join(row)}")
        checked = True
        yield row


def _linked(link: Any) -> str:
    match = _LINKED.search(link) if isinstance(link, str) else None
    return match[1] if match else ""


def _sample(raw_id: str, split: str, media: Media, row: Mapping[str, Any]) -> Sample | LeftOut:
    if not media.path:
        return LeftOut(raw_id, MISSING_MEDIA)
    try:
        question, choices = row["question"].strip(), without_letters([choice.strip() for choice in row["choices"]])
        position = row["answer_key_position"]
        if isinstance(position, bool) or (isinstance(position, float) and not position.is_integer()):
            raise ValueError("no position")
        fields = choice_fields(question, choices, int(position))
    except IndexError:
        return LeftOut(raw_id, _NO_CHOICE)
    except (AttributeError, TypeError, ValueError):
        return LeftOut(raw_id, UNREADABLE)
    meta = {**row, **fields, "id": raw_id}
    del meta["choices"], meta["answer_key_position"]
    return Sample(make_key(raw_id), split, media, answered(question, fields["answer"]), meta)
