"""VideoChat's first instructions: descriptions of and talks on WebVid, and on pictures. May import `sample`, `_read`
and `_videochat`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.sample import LeftOut, Sample
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._read import UNREADABLE, find, media_root, rows
from embedshard.sources._videochat import MediaFiles, named, sample

__all__ = ["VideoChat"]

_FILES = {
    "videochat_instruct_11k.json": ("conversation", "webvid"),
    "llava_conversation_2k.json": ("conversation", "coco"),
    "llava_complex_reasoning_2k.json": ("reasoning", "coco"),
    "minigpt_caption_3k.json": ("caption", "minigpt4"),
}


class VideoChat(Source):
    """VideoChat (v1); the media id is the name of the video or picture, without extension.

    A key is the kind, the media and the number of the row among those of both: `conversation_1066674784_0`. The
    caption is all answers, joined; of `llava_complex_reasoning_2k.json` it is question and answer.
    """

    name = "videochat"
    title = "VideoChat (v1)"
    homepage = "https://github.com/OpenGVLab/InternVideo/tree/main/Data/instruction_data"
    license = "see homepage"
    kind = "conversation, open question, caption"
    modality = "video, image"
    splits = {"given": ("train",)}
    expects = """
videochat_instruct_11k.json                   at least one of these, here or in any folder, or one alone as RAW:
llava_conversation_2k.json                    [{"video" or "image": path, "QA": [{"q", "a"}, ...]}, ...]
llava_complex_reasoning_2k.json
minigpt_caption_3k.json
WebVid10M/000001_000050/1066674784.mp4        in any folders or archives
coco/train2014/COCO_train2014_000000000007.jpg
minigpt4/image/2.jpg                          or cc_sbu_align/image/2.jpg; what has only a number must lie in a folder
                                              that the row names, or minigpt4, webvid, ...
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of each file in its order."""
        found = [root] if root.is_file() else [path for name in _FILES if (path := find(root, name))]
        if not found:
            raise tree_error(self, root, f"found none of {', '.join(_FILES)}")
        media = MediaFiles(media_root(root))
        numbers: Counter[str] = Counter()
        for table in found:
            kind, owner = _FILES.get(table.name, ("conversation", ""))
            for number, row in enumerate(rows(table)):
                if isinstance(row, str) or not (name := named(row)):
                    yield LeftOut(f"entry {number} of {table.name}", row if isinstance(row, str) else UNREADABLE)
                    continue
                of = f"{kind}_{name.stem}"
                yield sample(f"{of}_{numbers[of]}", {"sub_set": table.stem, **row}, kind, media, owner)
                numbers[of] += 1
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out both halves: a video in two rows, one in another container, a missing one, a blank answer."""
        kite, boat = "000001_000050/1066674784.mp4", "000051_000100/21179416.mp4"
        describe = ("Describe the video in detail.", "A boy flies a kite.\n\nThe wind is strong.")
        talk = [_row("video", kite, describe), _row("video", kite, ("Who is it?", "A boy."), ("Where?", "On a hill."))]
        others = [_row("video", path, describe) for path in (boat, "000051_000100/404.mp4")]
        tree.json("videochat_instruct_11k.json", [*talk, *others, _row("video", boat, ("What?", " "))])
        tree.video(f"WebVid10M/{kite}", "kite")
        tree.video("WebVid10M/21179416.webm", "boat")
        image = "train2014/COCO_train2014_000000000007.jpg"
        tree.json("anno/llava_complex_reasoning_2k.json", [_row("image", image, ("Why wait?", "The light is red."))])
        tree.json("anno/minigpt_caption_3k.json", [_row("image", "2.jpg", ("Describe this image.", "A man fishes."))])
        tree.image(f"coco/{image}", "crossing")
        tree.image("minigpt4/image/2.jpg", "fisher")


def _row(of: str, path: str, *turns: tuple[str, str]) -> dict[str, Any]:
    return {of: path, "QA": [{"q": question, "a": answer} for question, answer in turns]}
