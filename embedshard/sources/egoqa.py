"""EgoQA: questions on clips cut from Ego4D, a sub-set of VideoChat2-IT. May import `sample`, `_read`, `_videochat`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from embedshard.demo import Tree, video_bytes
from embedshard.errors import InputError
from embedshard.sample import LeftOut, Sample
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._read import UNREADABLE, find, media_root, rows, walk
from embedshard.sources._videochat import MediaFiles, named, sample

__all__ = ["EgoQA"]


class EgoQA(Source):
    """EgoQA; the media id is the Ego4D video that a clip is cut from, so that its clips never lie in two splits.

    A key is the video, the clip and the number of the row among those of the clip: `d250521e-5197_split_0_1`.
    """

    name = "egoqa"
    title = "EgoQA"
    homepage = "https://huggingface.co/datasets/OpenGVLab/VideoChat2-IT"
    license = "MIT (annotations); Ego4D's own (videos)"
    kind = "open question"
    modality = "video"
    splits = {"given": ("train",)}
    expects = """
video/vqa/ego_qa/train.json                  in any folder, or ego_qa or the file as RAW:
                                             [{"video": "d250521e-5197/split_0.mp4", "QA": [{"i", "q", "a"}]}, ...]
split_videos/d250521e-5197/split_0.mp4       in any folders, or egoqa_split_videos.zip as it was downloaded
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows in the order of the file."""
        alone = next(filter(Path.is_file, (root, root / "train.json")), None)
        table = alone or find(root, "ego_qa/train.json") or _deeper(root)
        if not table:
            raise tree_error(self, root, "found no ego_qa/train.json")
        media = MediaFiles(media_root(root))
        numbers: Counter[str] = Counter()
        for number, row in enumerate(rows(table)):
            if isinstance(row, str) or not (name := named(row)):
                yield LeftOut(f"entry {number} of {table.name}", row if isinstance(row, str) else UNREADABLE)
                continue
            clip = f"{name.folder}_{name.stem}".lstrip("_")
            yield sample(f"{clip}_{numbers[clip]}", row, "vqa", media, "ego_qa")
            numbers[clip] += 1
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out clips of one name of two videos, two questions on one clip, a missing clip, a blank answer."""
        told = [
            ("d250521e-5197/split_0.mp4", "Where did I put the cup?", "On the shelf."),
            ("d250521e-5197/split_0.mp4", "What did I pick up", "A spoon."),
            ("d250521e-5197/split_1.mp4", "Who was there?", "A girl in red."),
            ("a51e77c2-0b44/split_0.mp4", "How many eggs did I break?", "Three."),
            ("f00dcafe-1111/split_0.mp4", "What is in the clip that is gone?", "Nobody knows."),
            ("d250521e-5197/split_1.mp4", "What is not told?", " "),
        ]
        ask = "Answer the question about the video."
        rows = [{"video": video, "QA": [{"i": ask, "q": question, "a": answer}]} for video, question, answer in told]
        tree.json("video/vqa/ego_qa/train.json", rows)
        tree.video("egoqa_split_videos/split_videos/d250521e-5197/split_0.mp4", "cup")
        tree.video("egoqa_split_videos/split_videos/d250521e-5197/split_1.mp4", "girl")
        tree.tar("rest.tar", {"split_videos/a51e77c2-0b44/split_0.mp4": video_bytes("eggs")})


def _deeper(root: Path) -> Path | None:
    """Find the table at any depth.

    Raises:
        InputError: There are several.
    """
    homes = (root / folder / "ego_qa" for folder, folders, _ in walk(root, None) if "ego_qa" in folders)
    found = [home / "train.json" for home in homes if (home / "train.json").is_file()]
    if len(found) > 1:
        raise InputError(f"{root}: expected one ego_qa/train.json, found {' and '.join(map(str, found[:3]))}")
    return found[0] if found else None
