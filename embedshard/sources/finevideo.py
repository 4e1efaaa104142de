"""FineVideo: 43751 YouTube videos inside parquet files. May import `address`, `sample` and the helpers of sources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from embedshard.address import row_address
from embedshard.demo import Tree, video_bytes
from embedshard.errors import InputError
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import answered, joined
from embedshard.sources._parquet import tables
from embedshard.sources._read import media_root, relative, rows, seconds, seconds_or_none

__all__ = ["FineVideo", "FineVideoOptions"]

_UNREADABLE = "a row, question or scene without the fields that it should have"
_LISTS = {"qa": "qAndA", "segment": "scenes"}
_NONE = {"qa": "a video without questions", "segment": "a video without scenes"}
_LEFT_IN_TABLE = ("content_metadata", "duration_seconds", "text_to_speech", "timecoded_text_to_speech")

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class FineVideoOptions(Options):
    """How FineVideo is read."""

    as_: str = option(
        "caption",
        "a sample: a video with its description, a question with its answer, or a scene with its window",
        ("caption", "qa", "segment"),
    )


class FineVideo(Source):
    """FineVideo; the media id is the YouTube id, or file number and row where there is none.

    The videos stay in the tables: a media's path is a row of the column `mp4`, which is not read before `encode`.
    The caption of a scene is its title and activities. The metadata holds the fields of the video (and of the scene),
    but for what is as long as a transcript. There is no official split: all samples are train unless a recipe tells.
    """

    name = "finevideo"
    title = "FineVideo"
    homepage = "https://huggingface.co/datasets/HuggingFaceFV/finevideo"
    license = "Creative Commons (that of each video)"
    kind = "caption, open question, segment"
    modality = "video"
    published_media = {"given": {"train": 43751}}
    splits = {"given": ("train",)}
    options = FineVideoOptions
    expects = """
data/train-00000-of-01357.parquet    any number of them, in any folders, with the columns
    mp4                              the bytes of the video, or a struct that has them as "bytes"
    json                             {"original_video_filename", "duration_seconds", "content_metadata":
                                     {"description", "qAndA", "scenes", ...}, ...}, as a struct or as text
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the videos, or their questions or scenes, in the natural order of the files and that of the rows."""
        assert isinstance(options, FineVideoOptions)
        files = tables(root, ".parquet")
        if not files:
            raise tree_error(self, root, "found no parquet file")
        for path in files:
            column = _video_column(path)
            address = relative(str(path), str(media_root(root)))
            for number, row in enumerate(rows(path)):
                fields = _fields(row)
                if not isinstance(content := fields.get("content_metadata"), dict):
                    yield LeftOut(f"row {number} of {path.name}", _UNREADABLE)
                    continue
                video = _youtube_id(fields) or f"{_chunk(path)}-{number}"
                media = Media(
                    video,
                    row_address(address, column, number),
                    "video",
                    duration=seconds_or_none(fields.get("duration_seconds")),
                )
                kept = {name: value for name, value in fields.items() if name not in _LEFT_IN_TABLE}
                yield from _samples(options.as_, media, kept, content)

    def demo(self, tree: Tree) -> None:
        """Lay out two files: a video without an id, one without questions and scenes, one without a description."""
        first = _demo_video("a1B2c3D4e5F", "A man mends a net.", "Mending", "Sailing")
        first["json"]["content_metadata"]["qAndA"].append(None)
        bare = _demo_video("-_2B2c3D4e5", "Nothing is asked here.")
        bare["json"]["content_metadata"] |= {"qAndA": None, "scenes": []}
        unnamed = _demo_video("", "Waves roll in.", "Waves")
        tree.parquet("data/train-00000-of-00011.parquet", [first, _demo_video("nodescribed", "", "Clouds")])
        tree.parquet("data/train-00010-of-00011.parquet", [bare, unnamed])


def _demo_video(video: str, description: str, *scenes: str) -> dict[str, Any]:
    content = {
        "title": f"{description} A film",
        "description": description,
        "fps": 10.0,
        "qAndA": [{"question": "What is seen?", "answer": description or "Clouds."}],
        "scenes": [_demo_scene(number, title) for number, title in enumerate(scenes)],
    }
    fields = {
        "content_fine_category": "Crafts",
        "content_metadata": content,
        "content_parent_category": "Hobbies",
        "duration_seconds": 2,
        "original_video_filename": f"{video}.mp4" if video else None,
        "text_to_speech": "Hello!",
        "timecoded_text_to_speech": [{"start": "00:00:00.000", "end": "00:00:01.000", "text": "Hello!"}],
        "youtube_tags": ["sea"],
    }
    return {"mp4": video_bytes(description), "json": fields}


def _demo_scene(number: int, title: str) -> dict[str, Any]:
    times = {"start_timestamp": f"00:00:0{number}.000", "end_timestamp": f"00:00:0{number + 1}.500"}
    activities = [{"description": "Hands move", "timestamp": times}]
    return {"sceneId": number + 1, "title": title, "timestamps": times, "activities": activities}


def _video_column(path: Path) -> str:
    """Give the column of the videos' bytes, which may be a field of `mp4`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a parquet file, or a damaged one: {error}") from error
    if not {"mp4", "json"} <= set(schema.names):
        raise InputError(f"{path}: expected the columns mp4 and json, found {', '.join(schema.names)}")
    kind = schema.field("mp4").type
    inside = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    content = kind.field("bytes").type if inside else kind
    if not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        raise InputError(f"{path}: expected the column mp4 to be bytes or a struct with the field bytes, found {kind}")
    return "mp4.bytes" if inside else "mp4"


def _fields(row: Fields | str) -> Fields:
    """Give the fields of a video, none where there are none."""
    fields = None if isinstance(row, str) else row.get("json")
    try:
        found = json.loads(fields) if isinstance(fields, str) else fields
    except (RecursionError, ValueError):
        found = None
    return found if isinstance(found, dict) else {}


def _youtube_id(fields: Fields) -> str:
    names = (fields.get(f"original_{kind}_filename") for kind in ("video", "json"))
    return next((PurePosixPath(name).stem for name in names if name and isinstance(name, str)), "")


def _chunk(path: Path) -> str:
    number = re.search(r"\d+", path.stem)
    return str(int(number[0])) if number else path.stem


def _samples(way: str, media: Media, fields: Fields, content: Fields) -> Iterator[Sample | LeftOut]:
    if way == "caption":
        text = content.get("description")
        text = text.strip() if isinstance(text, str) else ""
        yield Sample(make_key(media.id), "", media, text, {**fields, "id": media.id, "title": content.get("title")})
        return
    parts = content.get(_LISTS[way])
    if not (parts and isinstance(parts, list)):
        yield LeftOut(media.id, _NONE[way])
        return
    for number, part in enumerate(parts):
        raw_id = f"{media.id}_{number}"
        try:
            caption, window, meta = _question(part) if way == "qa" else _scene(part)
        except (AttributeError, KeyError, TypeError, ValueError):
            yield LeftOut(raw_id, _UNREADABLE)
            continue
        index = {"segment_index": number} if way == "segment" else {}
        where = media._replace(start=window[0], end=window[1])
        yield Sample(make_key(raw_id), "", where, caption, {**fields, **meta, **index, "id": raw_id})


def _question(pair: Fields) -> tuple[str, tuple[None, None], Fields]:
    question, answer = pair["question"].strip(), pair["answer"].strip()
    if not (question and answer):
        raise ValueError("no question or no answer")
    return answered(question, answer), (None, None), {"question": question, "answer": answer}


def _scene(scene: Fields) -> tuple[str, tuple[float, float], Fields]:
    times = scene["timestamps"]
    start, end = seconds(times["start_timestamp"]), seconds(times["end_timestamp"])
    if start is None or end is None:
        raise ValueError("no time")
    activities = (activity.get("description") for activity in scene.get("activities") or () if activity is not None)
    texts = [text for text in (scene["title"], *activities) if isinstance(text, str)]
    return joined(texts), (start, end), {name: value for name, value in scene.items() if name != "timestamps"}
