from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/videochatgpt/train_video_ids.txt"

real = pytest.mark.skipif(not REAL.is_file(), reason="the real ids of VideoInstruct100K are not in ../shared/data")


def row(video: object, question: object = "Who is it?", answer: object = "A boy.") -> dict[str, object]:
    return {"q": question, "a": answer, "video_id": video}


def converted(number: int, video: str, question: str, answer: str) -> dict[str, object]:
    """Give a row as training takes it, the place of the video before or after the question."""
    asked = f"{question}\n<video>" if number % 2 == 0 else f"<video>\n{question}"
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"id": video, "video": f"{video}.pkl", "conversations": turns}


@real
def test_real_ids(tmp_path):
    videos = REAL.read_text().split()
    Tree(tmp_path).json("VideoInstruct100K.json", [row(video) for video in videos])
    touch(tmp_path, *(f"videos/{video}.mp4" for video in videos))
    samples, left_out = read("videochatgpt", tmp_path)
    assert [s.media.id for s in samples] == videos
    assert not left_out


def test_rows_of_a_video_share_it(tmp_path):
    Tree(tmp_path).json("VideoInstruct100K.json", [row("v_a-b"), row("v_c", "Where"), row("v_a-b", "Why?", " So.\n")])
    touch(tmp_path, "train/v_a-b.mp4", "c.webm")
    samples, _ = read("videochatgpt", tmp_path)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("v_a-b_0", "", "Who is it? A boy."),
        ("v_c_0", "", "Where? A boy."),
        ("v_a-b_1", "", "Why? So."),
    ]
    assert samples[0].media == samples[2].media
    assert samples[1].media.path == "c.webm"
    assert samples[2].meta == {"id": "v_a-b_1", "video_id": "v_a-b", "question": "Why?", "answer": "So."}


def test_the_form_for_training_gives_the_same_samples(tmp_path):
    told = [("v_a", "Who?", "A boy."), ("v_b", "Where?", "There."), ("v_a", "Why?", "So.")]
    Tree(tmp_path).json("raw/VideoInstruct100K.json", [row(*entry) for entry in told])
    rows = [converted(number, *entry) for number, entry in enumerate(told)]
    Tree(tmp_path).json("training/video_chatgpt_training.json", rows)
    touch(tmp_path, *(f"{folder}/{video}.mp4" for folder in ("raw", "training") for video in ("v_a", "v_b")))
    assert read("videochatgpt", tmp_path / "training") == read("videochatgpt", tmp_path / "raw")
    alone = tmp_path / "training/video_chatgpt_training.json"
    assert read("videochatgpt", alone) == read("videochatgpt", tmp_path / "raw")


def test_placeholders_reach_no_caption(tmp_path):
    Tree(tmp_path).json("VideoInstruct100K.json", [row("v_a", "<video>\nWhat?"), row("v_a", "What\n<video>")])
    touch(tmp_path, "v_a.mp4")
    assert [s.caption for s in read("videochatgpt", tmp_path)[0]] == ["What? A boy.", "What? A boy."]


def test_ids_with_and_without_prefix_are_one_media(tmp_path):
    Tree(tmp_path).json("VideoInstruct100K.json", [row("v_a"), row("a")])
    touch(tmp_path, "a.mp4")
    samples, _ = read("videochatgpt", tmp_path)
    assert [(s.key, s.media.id, s.meta["video_id"]) for s in samples] == [
        ("v_a_0", "v_a", "v_a"),
        ("v_a_1", "v_a", "a"),
    ]


def test_conversation_of_many_turns_is_all_answers(tmp_path):
    entry = converted(0, "v_a", "Who?", "A boy.")
    turns = [*entry["conversations"], {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}]
    Tree(tmp_path).json("video_chatgpt_training.json", [{**entry, "conversations": turns}])
    touch(tmp_path, "v_a.mp4")
    (sample,) = read("videochatgpt", tmp_path)[0]
    assert (sample.caption, sample.meta["conversations"]) == ("A boy. There.", turns)


def test_videos_in_a_tar(tmp_path):
    Tree(tmp_path).json("VideoInstruct100K.json", [row("v_a")])
    touch(tmp_path, "x")
    with tarfile.open(tmp_path / "activitynet.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "x", "Train/v_a.mp4")
    (sample,) = read("videochatgpt", tmp_path)[0]
    assert sample.media.path.startswith("activitynet.tar.gz#Train/v_a.mp4:")


def test_one_bad_row_takes_no_other_down(tmp_path):
    rows = [7, {}, row(5), row(""), row("v_a", None), row("v_a", "Who?", 5), row("v_a", "Who?", " "), row("v_gone")]
    rows += [{"id": "v_a", "conversations": 5}, {"id": "v_a", "conversations": []}, row("v_a")]
    Tree(tmp_path).json("VideoInstruct100K.json", rows)
    touch(tmp_path, "v_a.mp4")
    samples, left_out = read("videochatgpt", tmp_path)
    assert [s.key for s in samples] == ["v_a_1"]
    assert (left_out["v_a_0"], left_out["v_gone_0"]) == ("no caption", "missing media")
    assert len(left_out) == len(rows) - 1


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found none of VideoInstruct100K\.json.*expected in.*found"):
        read("videochatgpt", tmp_path)
