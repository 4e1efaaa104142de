"""Video-ChatGPT's VideoInstruct100K: questions on ActivityNet videos. May import `sample`, `_captions` and `_read`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import answered, turns, without_placeholders
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, NO_CAPTION, UNREADABLE, find, media_root, rows

__all__ = ["VideoChatGPT"]

_FILES = ("VideoInstruct100K.json", "VideoInstruct_Dataset.json", "video_chatgpt_training.json")

Row = Mapping[str, Any]


class VideoChatGPT(Source):
    """VideoInstruct100K; the media id is ActivityNet's, `v_` and the id on YouTube, which the rows of a video share.

    A key is that and the number of the row among those of its video: `v_mTDRTiTnsjQ_0`. The form that training takes
    gives the same keys and captions.
    """

    name = "videochatgpt"
    title = "VideoInstruct100K (Video-ChatGPT)"
    homepage = "https://huggingface.co/datasets/MBZUAI/VideoInstruct-100K"
    license = "CC BY-SA 4.0 (annotations)"
    kind = "open question"
    modality = "video"
    published_samples = {"given": {"train": 100010}}
    published_media = {"given": {"train": 13303}}
    splits = {"given": ("train",)}
    expects = """
VideoInstruct100K.json           here or in any folder, or alone as RAW: [{"q", "a", "video_id"}, ...]
video_chatgpt_training.json      in its place: [{"id", "video", "conversations": [{"from", "value"}, ...]}, ...]
videos/v_mTDRTiTnsjQ.mp4         or mTDRTiTnsjQ.mkv, in any folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows in the order of the file."""
        table = root if root.is_file() else find(root, *_FILES)
        if not table:
            raise tree_error(self, root, f"found none of {', '.join(_FILES)}")
        media = media_index(media_root(root), "video")
        numbers: Counter[str] = Counter()
        for number, row in enumerate(rows(table)):
            if isinstance(row, str) or not (told := _told(row)):
                yield LeftOut(f"entry {number} of {table.name}", row if isinstance(row, str) else UNREADABLE)
                continue
            video = told[0]
            yield _sample(f"{video}_{numbers[video]}", told, row, media)
            numbers[video] += 1
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out two questions on a video, ids with `_` and `-`, a missing video and a blank answer."""
        told = [
            ("v_mTDRTiTnsjQ", "What does the man lift?", "He lifts a weight."),
            ("v_-aZ_45678-0", "Summarize the video", "A girl dances."),
            ("v_mTDRTiTnsjQ", "Where is he?", "In a gym.\nIt is bright."),
            ("v_gone0000000", "What is gone?", "The video."),
            ("v_mTDRTiTnsjQ", "What is not told?", ""),
        ]
        tree.json("VideoInstruct100K.json", [{"q": q, "a": a, "video_id": video} for video, q, a in told])
        tree.video("videos/v_mTDRTiTnsjQ.mp4", "weight")
        tree.video("videos/-aZ_45678-0.mkv", "dance")


def _told(row: Row) -> tuple[str, list[str], list[str]] | None:
    """Give the media id of a row, what is asked and what is answered; None where it has not the form that it should."""
    try:
        if "conversations" in row:
            video, (asked, answers) = row["id"], turns(row["conversations"])
        else:
            video, asked, answers = row["video_id"], *([without_placeholders(row[side])] for side in "qa")
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    is_told = isinstance(video, str) and video and answers
    return (f"v_{video.removeprefix('v_')}", asked, answers) if is_told else None


def _sample(
    raw_id: str, told: tuple[str, list[str], list[str]], row: Row, media: Mapping[str, str]
) -> Sample | LeftOut:
    video, asked, answers = told
    path = media.get(video) or media.get(video.removeprefix("v_"))
    if not path:
        return LeftOut(raw_id, MISSING_MEDIA)
    if not any(answers):
        return LeftOut(raw_id, NO_CAPTION)
    meta: dict[str, Any] = {"id": raw_id, "video_id": row.get("video_id") or row["id"]}
    if len(asked) == len(answers) == 1:
        caption = answered(asked[0], answers[0])
        meta |= {"question": asked[0], "answer": answers[0]}
    else:
        caption = " ".join(filter(None, answers))
        meta["conversations"] = row["conversations"]
    return Sample(make_key(raw_id), "", Media(video, path, "video"), caption, meta)
