from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from embedshard.sources._read import frame_time
from tests.sources.rows import read, touch

TRAIN, TEST = "MovieChat-1K_train", "MovieChat-1K-test"


def entry(video: str = "AWA-1.mp4", **fields: object) -> dict[str, Any]:
    return {
        "info": {"video_path": video, "fps": 24, "num_frame": 2400},
        "caption": "A cat hides.",
        "global": [{"question": "Is it day?", "answer": "Yes"}, {"question": "Who hides", "answer": "A cat."}],
        "breakpoint": [{"time": 60, "question": "Who is it?", "answer": "A dog."}],
        **fields,
    }


def write(root: Path, folder: str = "jsons", name: str = "AWA-1", **fields: object) -> Path:
    Tree(root).json(f"{folder}/{name}.json", entry(f"{name}.mp4", **fields))
    return root


def test_caption_of_the_whole_video(tmp_path):
    touch(write(tmp_path), "raw_videos/AWA-1.mp4")
    (sample,) = read("moviechat", tmp_path)[0]
    assert (sample.key, sample.caption, sample.split, sample.meta["captions"]) == (
        *("AWA-1", "A cat hides.", ""),
        ["A cat hides."],
    )
    assert (sample.media.start, sample.media.end, sample.media.duration) == (None, None, 100.0)


def test_questions_of_the_whole_and_of_what_lies_before_a_breakpoint(tmp_path):
    touch(write(tmp_path), "raw_videos/AWA-1.mp4")
    samples, _ = read("moviechat", tmp_path, **{"as": "qa"})
    assert [(s.key, s.caption, s.media.start, s.media.end) for s in samples] == [
        ("AWA-1_global_0", "Is it day? Yes", None, None),
        ("AWA-1_global_1", "Who hides? A cat.", None, None),
        ("AWA-1_breakpoint_0", "Who is it? A dog.", 0.0, 2.5),
    ]
    assert {(s.media.id, s.media.path) for s in samples} == {("AWA-1", "raw_videos/AWA-1.mp4")}
    assert (samples[2].meta["time"], samples[2].meta["mode"], samples[2].meta["answer"]) == (60, "breakpoint", "A dog.")


def test_both_repositories_are_the_splits_and_one_alone_is_none(tmp_path):
    write(tmp_path, f"{TRAIN}/jsons", "AWA-1")
    write(tmp_path, f"{TEST}/annotations", "TFS-1")
    touch(tmp_path, f"{TRAIN}/raw_videos/AWA-1.mp4", f"{TEST}/videos/TFS-1.mp4")
    assert {s.key: s.split for s in read("moviechat", tmp_path)[0]} == {"AWA-1": "train", "TFS-1": "test"}
    for repository in (TRAIN, TEST):
        assert [s.split for s in read("moviechat", tmp_path / repository)[0]] == [""]


@pytest.mark.parametrize("repositories", [(TRAIN, TEST), ("one", "two"), ("", TEST)])
def test_missing_video_is_not_taken_from_the_other_repository(tmp_path, repositories):
    train, test = (tmp_path / repository for repository in repositories)
    for name in ("1", "2"):
        write(train, name=name)
    write(test, "annotations", "TFS-1")
    touch(train, "raw_videos/2.mp4")
    touch(test, "videos/1.mp4", "2.mp4", "videos/TFS-1.mp4")
    samples, left_out = read("moviechat", tmp_path)
    assert left_out == {"1": "missing media"}
    assert {s.key: tmp_path / s.media.path for s in samples} == {
        "2": train / "raw_videos/2.mp4",
        "TFS-1": test / "videos/TFS-1.mp4",
    }


def test_videos_and_answers_beside_the_repositories_are_found(tmp_path):
    write(tmp_path, f"{TRAIN}/jsons", "AWA-1")
    for folder in (f"{TEST}/annotations", "answers/gt/gt"):
        write(tmp_path, folder, "TFS-1")
    touch(tmp_path, "videos/AWA-1.mp4", f"{TEST}/videos/TFS-1.mp4")
    assert read("moviechat", tmp_path)[1] == {}


def test_folders_named_by_their_splits(tmp_path):
    for split, name in (("train", "AWA-1"), ("test", "TFS-1")):
        touch(write(tmp_path, f"{split}/jsons", name), f"{split}/{name}.mp4")
    assert {s.key: s.split for s in read("moviechat", tmp_path)[0]} == {"AWA-1": "train", "TFS-1": "test"}


def test_files_with_answers_go_before_those_without(tmp_path):
    hidden = [{"question": "Is it day?"}]
    for name in ("TFS-1", "TFS-2"):
        touch(write(tmp_path, "annotations", name, **{"global": hidden, "breakpoint": []}), f"videos/{name}.mp4")
    write(tmp_path, "gt/gt", "TFS-1", **{"breakpoint": []})
    samples, _ = read("moviechat", tmp_path, **{"as": "qa"})
    assert [(s.key, s.caption, s.meta["answer"]) for s in samples] == [
        ("TFS-1_global_0", "Is it day? Yes", "Yes"),
        ("TFS-1_global_1", "Who hides? A cat.", "A cat."),
        ("TFS-2_global_0", "Is it day?", None),
    ]


def test_files_come_in_natural_order(tmp_path):
    for name in ("AWA-10", "AWA-2", "1"):
        touch(write(tmp_path, name=name), f"{name}.mp4")
    assert [s.key for s in read("moviechat", tmp_path)[0]] == ["1", "AWA-2", "AWA-10"]


def test_videos_in_zips_are_read_where_they_lie(tmp_path):
    write(tmp_path)
    with zipfile.ZipFile(tmp_path / "raw_videos.zip", "w") as archive:
        archive.writestr("raw_videos/AWA-1.mp4", b"video")
    (sample,) = read("moviechat", tmp_path)[0]
    assert sample.media.path.startswith("raw_videos.zip#raw_videos/AWA-1.mp4:")


# Bugs of published scripts


@pytest.mark.parametrize("ending", ["MP4", "mkv", "MKV"])
def test_video_of_another_ending_is_found(tmp_path, ending):
    touch(write(tmp_path), f"raw_videos/AWA-1.{ending}")
    assert [s.media.path for s in read("moviechat", tmp_path)[0]] == [f"raw_videos/AWA-1.{ending}"]


def test_annotations_whose_video_was_never_published_are_left_out(tmp_path):
    for name in ("179", "s02e10-3", "AWA-1"):
        write(tmp_path, name=name)
    touch(tmp_path, "raw_videos/AWA-1.mp4")
    samples, left_out = read("moviechat", tmp_path)
    assert ([s.key for s in samples], left_out) == (["AWA-1"], {"179": "missing media", "s02e10-3": "missing media"})
    assert len(read("moviechat", tmp_path, **{"as": "qa"})[1]) == 6


def test_captions_and_breakpoints_are_not_dropped(tmp_path):
    touch(write(tmp_path), "AWA-1.mp4")
    assert [s.caption for s in read("moviechat", tmp_path)[0]] == ["A cat hides."]
    modes = [s.meta["mode"] for s in read("moviechat", tmp_path, **{"as": "qa"})[0]]
    assert modes == ["global", "global", "breakpoint"]


def test_a_question_with_its_mark_gets_no_full_stop(tmp_path):
    touch(write(tmp_path), "AWA-1.mp4")
    assert read("moviechat", tmp_path, **{"as": "qa"})[0][0].caption == "Is it day? Yes"


def test_breakpoint_past_the_end_is_clamped_and_one_at_the_start_has_a_reason(tmp_path):
    questions = [{"time": time, "question": "Who?", "answer": "A cat."} for time in (9999, 0)]
    touch(write(tmp_path / "raw", **{"global": [], "breakpoint": questions}), "raw/AWA-1.mp4")
    options = PrepareOptions(settings={"as": "qa"})
    report = prepare(get_source("moviechat"), tmp_path / "raw", tmp_path / "m.parquet", options, lambda n: None)
    assert (report.first[0].media.end, report.samples["train"]) == (100.0, 1)
    assert report.left_out == {"start is negative, or not before the end of the window or of the media": 1}


def test_times_need_a_frame_and_a_rate():
    assert [frame_time(30, rate) for rate in (30, "15", 29.97)] == [1.0, 2.0, 30 / 29.97]
    for frame, rate in (
        (30, 0),
        (30, None),
        (None, 30),
        ("x", 30),
        (30, []),
        (-1, 30),
        (float("nan"), 30),
        (1e308, 0.1),
    ):
        assert frame_time(frame, rate) is None


def test_one_bad_file_or_question_takes_no_other_down(tmp_path):
    questions = [
        7,
        {"question": None},
        {"question": "How many?", "answer": 3},
        {"question": "Who?", "answer": ["A cat."]},
    ]
    breakpoints = [{"time": None, "question": "Who?", "answer": "A cat."}]
    touch(write(tmp_path, **{"global": questions, "breakpoint": breakpoints}), "AWA-1.mp4")
    for name, text in {"a": "{", "b": "[]", "c": '{"caption": "x"}', "d": '{"info": {"video_path": 7}}'}.items():
        Tree(tmp_path).text(f"jsons/{name}.json", text)
    (tmp_path / "jsons/e.json").write_bytes(b"\xff")
    samples, left_out = read("moviechat", tmp_path, **{"as": "qa"})
    assert [(s.key, s.caption) for s in samples] == [("AWA-1_global_2", "How many? 3")]
    assert left_out == {
        **dict.fromkeys("abcde", "a file that is no JSON object with the video's path in its info"),
        **{f"AWA-1_global_{number}": "a question or an answer that is no text" for number in (0, 1, 3)},
        "AWA-1_breakpoint_0": "a breakpoint without its frame, or a video without its frame rate",
    }


def test_file_without_caption_or_questions(tmp_path):
    touch(write(tmp_path, caption=None, **{"global": None, "breakpoint": []}), "AWA-1.mp4")
    assert read("moviechat", tmp_path) == ([], {"AWA-1": "no caption"})
    assert read("moviechat", tmp_path, **{"as": "qa"}) == ([], {"AWA-1": "no questions"})


def test_another_tree(tmp_path):
    Tree(tmp_path).json("AWA-1.json", entry())
    with pytest.raises(
        InputError, match=r"(?s)no \*.json in a folder jsons.*expected in.*annotations.*found.*AWA-1.json"
    ):
        read("moviechat", tmp_path)
