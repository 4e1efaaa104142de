"""EgoTaskQA: 40000 open questions on clips of egocentric videos. May import `sample`, `_read` and `_captions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.sample import SPLITS, LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._captions import answered
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, UNREADABLE, find, rows

__all__ = ["EgoTaskQA"]


class EgoTaskQA(Source):
    """EgoTaskQA; the key is the `question_id`, and the media id the video that an interval was cut out of.

    `direct` and `indirect` are two ways to split the same questions, so only one of them is read. Both were drawn by
    question, and most clips lie in all three splits: the splits as published need `--allow-leak`, and a recipe, which
    splits the questions of one way again by video, does not.

    An interval is `VIDEO|PERSON|START|END` in frames, and its clip is a file of its own: there is no window. Unpacking
    on Windows turns each `|` of a file name into `_`, which is found too.
    """

    name = "egotaskqa"
    title = "EgoTaskQA"
    homepage = "https://sites.google.com/view/egotaskqa"
    license = "see homepage"
    kind = "open question"
    modality = "video"
    splits = {"direct": SPLITS, "indirect": SPLITS}
    expects = """
direct/train_qas.json                here or in any folder: [{"question", "answer", "question_id", "type", "category",
                                     "interval": "<video>|P1|<first frame>|<last frame + 1>", ...}, ...]
direct/val_qas.json                  and test_qas.json; at least one of the three
indirect/train_qas.json, ...         for --split indirect
qa_videos/<interval>.mp4             in any folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the questions of each split of one way in the order of its file."""
        way = options.split or "direct"
        files = {split: path for split in SPLITS if (path := find(root, f"{way}/{split}_qas.json"))}
        if not files:
            raise tree_error(self, root, f"found no {way}/train_qas.json, val_qas.json or test_qas.json")
        media = media_index(root, "video")
        for split, path in files.items():
            for number, row in enumerate(rows(path)):
                if isinstance(row, str) or not _readable(row):
                    yield LeftOut(f"entry {number} of {path.name}", row if isinstance(row, str) else UNREADABLE)
                else:
                    yield _sample(split, row, media)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out both ways: a row of direct's val is in indirect's train, a clip is missing, one has `_` for `|`."""
        juggler, juggled, runner, rider = "1-2-1|P1|0|48", "1-2-1|P2|24|48", "30l-12-2-1|P1|0|40", "4-1-1|P1|96|144"
        asked = {
            0: _question(0, juggler, "What did the person do first?", "throw a ball"),
            1: _question(1, juggled, "Is the other person aware?", "yes"),
            2: _question(2, "9-9-9|P1|0|24", "Who knows?", "nobody"),
            3: _question(3, runner, "If the person did not run, will the race end?", "no"),
            4: _question(4, rider, "What changed after that?", "cleanliness", "indirect"),
        }
        numbers = {"direct": ((0, 2, 1), (3,), (4,)), "indirect": ((3, 2), (0, 1), (4,))}
        for way, parts in numbers.items():
            for split, part in zip(SPLITS, parts, strict=True):
                tree.json(f"qa/{way}/{split}_qas.json", [asked[number] for number in part])
        for interval in (juggler, runner, rider):
            tree.video(f"qa_videos/{interval}.mp4", interval)
        tree.video(f"qa_videos/{juggled.replace('|', '_')}.mp4", juggled)


def _question(number: int, interval: str, question: str, answer: str, reference: str = "direct") -> dict[str, Any]:
    types = {"type": ["query"], "category": ["descriptive"], "semantic": "action", "structural": "query"}
    fields = {**types, "reference": reference, "reasoning_type": f"query$descriptive$action$query${reference}"}
    return {"question": question, "answer": answer, "interval": interval, **fields, "question_id": number}


def _readable(row: Mapping[str, Any]) -> bool:
    texts = [row.get(name) for name in ("interval", "question", "answer")]
    return isinstance(row.get("question_id"), int) and all(isinstance(text, str) and text.strip() for text in texts)


def _sample(split: str, row: Mapping[str, Any], media: Mapping[str, str]) -> Sample | LeftOut:
    raw_id, interval = str(row["question_id"]), row["interval"]
    path = media.get(interval) or media.get(interval.replace("|", "_"))
    if not path:
        return LeftOut(raw_id, MISSING_MEDIA)
    video = Media(interval.partition("|")[0], path, "video")
    return Sample(make_key(raw_id), split, video, answered(row["question"], row["answer"]), row)
