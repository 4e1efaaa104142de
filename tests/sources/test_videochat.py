from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/videochat"

real = pytest.mark.skipif(not REAL.is_dir(), reason="the real heads of VideoChat are not in ../shared/data")


def row(path: object, *turns: tuple[str, object], of: str = "video") -> dict[str, object]:
    return {of: path, "QA": [{"q": question, "a": answer} for question, answer in turns]}


@real
def test_real_reasoning_is_question_and_answer(tmp_path):
    shutil.copy(REAL / "llava_complex_reasoning_2k.json", tmp_path)
    first, *others = json.loads((REAL / "llava_complex_reasoning_2k.json").read_text())
    touch(tmp_path, f"coco/{first['image']}")
    samples, left_out = read("videochat", tmp_path)
    assert [(s.key, s.media.id, s.media.path, s.media.kind) for s in samples] == [
        (
            "reasoning_COCO_train2014_000000021248_0",
            "COCO_train2014_000000021248",
            "coco/train2014/COCO_train2014_000000021248.jpg",
            "image",
        )
    ]
    assert samples[0].caption.startswith("What precautions should the pedestrians consider")
    assert samples[0].caption.endswith(first["QA"][0]["a"][-20:])
    assert list(left_out.values()) == ["missing media"] * len(others)


@real
def test_real_captions_of_numbered_pictures(tmp_path):
    shutil.copy(REAL / "minigpt_caption_3k.json", tmp_path)
    touch(tmp_path, "minigpt4/image/2.jpg", "minigpt4/image/4.jpg", "coco/3.jpg")
    samples, left_out = read("videochat", tmp_path)
    assert [(s.key, s.media.id) for s in samples] == [("caption_2_0", "2"), ("caption_4_0", "4")]
    assert samples[0].caption.startswith("The image shows a man fishing on a lawn")
    assert list(left_out) == ["caption_3_0", "caption_5_0"]


def test_descriptions_and_talks_on_one_video(tmp_path):
    talk = row("000001_000050/7.mp4", ("Who?", "A boy."), ("Where?", "There."))
    rows = [row("000001_000050/7.mp4", ("Describe it.", "A boy runs.")), talk]
    Tree(tmp_path).json("videochat_instruct_11k.json", rows)
    touch(tmp_path, "WebVid10M/000001_000050/7.mp4", "WebVid10M/000051_000100/7.mp4")
    samples, _ = read("videochat", tmp_path)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("conversation_7_0", "", "A boy runs."),
        ("conversation_7_1", "", "A boy. There."),
    ]
    assert samples[0].media == samples[1].media
    assert samples[0].media.path == "WebVid10M/000001_000050/7.mp4"
    assert samples[1].meta["conversations"] == talk["QA"]


def test_all_files_at_once_and_one_alone(tmp_path):
    Tree(tmp_path).json("videochat_instruct_11k.json", [row("1/1066674784.mp4", ("Who?", "A boy."))])
    for name in ("llava_conversation_2k", "llava_complex_reasoning_2k"):
        Tree(tmp_path).json(f"anno/{name}.json", [row("train2014/COCO_1.jpg", ("Why?", "So."), of="image")])
    touch(tmp_path, "train2014/COCO_1.jpg", "anno/train2014/COCO_1.jpg", "webvid/1066674784.mkv")
    assert {s.key: s.caption for s in read("videochat", tmp_path)[0]} == {
        "conversation_1066674784_0": "A boy.",
        "conversation_COCO_1_0": "So.",
        "reasoning_COCO_1_0": "Why? So.",
    }
    (alone,) = read("videochat", tmp_path / "anno/llava_complex_reasoning_2k.json")[0]
    assert (alone.key, alone.media.path) == ("reasoning_COCO_1_0", "train2014/COCO_1.jpg")


def test_renamed_file_takes_no_numbered_picture_of_another_set(tmp_path):
    rows = [row("2.jpg", ("What?", "A man."), of="image"), row("minigpt4/3.jpg", ("What?", "A cat."), of="image")]
    Tree(tmp_path).json("mine.json", rows)
    touch(tmp_path, "othr/gqa/2.jpg", "minigpt4/3.jpg")
    samples, left_out = read("videochat", tmp_path / "mine.json")
    assert [s.media.path for s in samples] == ["minigpt4/3.jpg"]
    assert list(left_out) == ["conversation_2_0"]


def test_videos_in_a_zip(tmp_path):
    Tree(tmp_path).json("videochat_instruct_11k.json", [row("1/1066674784.mp4", ("Who?", "A boy."))])
    with zipfile.ZipFile(tmp_path / "webvid.zip", "w") as archive:
        archive.writestr("1/1066674784.mp4", b"video")
    (sample,) = read("videochat", tmp_path)[0]
    assert sample.media.path.startswith("webvid.zip#1/1066674784.mp4:")


def test_one_bad_row_takes_no_other_down(tmp_path):
    rows = [
        7,
        {},
        row(None, ("Who?", "A boy.")),
        row("1/a.mp4"),
        row("1/a.mp4", ("Who?", 5)),
        row("1/a.mp4", ("Who?", "I")),
    ]
    Tree(tmp_path).json("videochat_instruct_11k.json", rows)
    touch(tmp_path, "a.mp4")
    samples, left_out = read("videochat", tmp_path)
    assert [s.key for s in samples] == ["conversation_a_2"]
    assert len(left_out) == 5


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found none of videochat_instruct_11k\.json.*expected in.*found"):
        read("videochat", tmp_path)
