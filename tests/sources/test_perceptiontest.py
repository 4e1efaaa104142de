from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

THREE = ["cup", "ball", "box"]


def question(number: int = 0, **fields: object) -> dict[str, Any]:
    return {"id": number, "question": "What falls?", "options": THREE, "answer_id": 1, "area": "physics", **fields}


def write(root: Path, *questions: object, split: str = "valid", video: str = "video_1", **facts: object) -> Path:
    entry = {"metadata": {"video_id": video, "split": split, **facts}, "mc_question": questions}
    Tree(root).json(f"mc_question_{split}.json", {video: entry})
    touch(root, f"videos/{video}.mp4")
    return root


def write_parquet(path: Path, **fields: object) -> None:
    row = {"video_name": "video_1", "question": "What falls?", "question_id": "3", "options": THREE, **fields}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row]), path)
    touch(path.parent, "videos/video_1.mp4")


def test_questions_of_deepminds_file(tmp_path):
    write(tmp_path, question(4), question(5, answer_id=0), frame_rate=30.0, num_frames=300)
    samples, left_out = read("perceptiontest", tmp_path)
    assert [(s.key, s.caption, s.split) for s in samples] == [
        ("video_1_4", "What falls? ball", "val"),
        ("video_1_5", "What falls? cup", "val"),
    ]
    assert samples[0].media == samples[1].media
    assert (samples[0].media.id, samples[0].media.duration) == ("video_1", 10.0)
    assert samples[0].meta == {
        **{"id": "video_1_4", "video_name": "video_1", "question_id": 4, "area": "physics", "question": "What falls?"},
        **{"options": THREE, "answer": "ball", "answer_index": 1, "answer_letter": "B"},
        "metadata": {"video_id": "video_1", "split": "valid", "frame_rate": 30.0, "num_frames": 300},
    }
    assert not left_out


def test_parquet_gives_the_same_samples_as_the_json(tmp_path):
    write(tmp_path / "ours", question(3))
    write_parquet(tmp_path / "theirs/mc_question_val/validation-00000-of-00001.parquet", answer_id="1", area="physics")
    ours, theirs = (read("perceptiontest", tmp_path / name)[0][0] for name in ("ours", "theirs"))
    assert (theirs.key, theirs.split, theirs.caption) == (ours.key, ours.split, ours.caption)
    assert {**theirs.meta, "question_id": 3, "metadata": ours.meta["metadata"]} == ours.meta


def test_each_split_has_its_file_and_the_first_form_is_read(tmp_path):
    for number, split in enumerate(("train", "valid", "test")):
        write(tmp_path, question(), split=split, video=f"video_{number}")
        Tree(tmp_path).json(f"all_{split}.json", {})
    samples, _ = read("perceptiontest", tmp_path)
    assert {s.key: s.split for s in samples} == {"video_0_0": "train", "video_1_0": "val", "video_2_0": "test"}
    (tmp_path / "mc_question_train.json").rename(tmp_path / "all_train.json")
    assert read("perceptiontest", tmp_path)[0] == samples


def test_videos_of_other_tasks_have_no_rows(tmp_path):
    tracks = {"metadata": {}, "object_tracking": [{"id": 0}]}
    Tree(tmp_path).json("all_train.json", {"video_1": {"mc_question": [question()]}, "video_2": tracks})
    touch(tmp_path, "video_1.mp4")
    samples, left_out = read("perceptiontest", tmp_path)
    assert ([s.key for s in samples], left_out) == (["video_1_0"], {})


def test_cups_game_ends_where_it_is_cut(tmp_path):
    write(tmp_path, question(), frame_rate=30.0, num_frames=300, is_cup_game=1)
    Tree(tmp_path).json("cut_frame_mapping_valid.json", {"video_1": 240, "video_2": -1})
    (sample,) = read("perceptiontest", tmp_path)[0]
    assert (sample.media.start, sample.media.end, sample.meta["cut_frame"]) == (None, 8.0, 240)
    Tree(tmp_path).json("cut_frame_mapping_valid.json", {"video_1": -1})
    (sample,) = read("perceptiontest", tmp_path)[0]
    assert (sample.media.end, "cut_frame" in sample.meta) == (None, False)


NO_RATE = "a video to be cut at a frame, whose frame rate is told by no mc_question_*.json or all_*.json of the split"


@pytest.mark.parametrize("raw", ["", "validation-00000-of-00001.parquet"])
def test_without_a_frame_rate_a_cups_game_does_not_show_its_answer(tmp_path, raw):
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", answer_id="1")
    Tree(tmp_path).json("cut_frame_mapping_valid.json", {"video_1": 20})
    assert read("perceptiontest", tmp_path / raw) == ([], {"video_1_3": NO_RATE})
    Tree(tmp_path).json("cut_frame_mapping_valid.json", {"video_1": -1})
    assert read("perceptiontest", tmp_path / raw)[0][0].media.end is None


def test_frame_rate_of_the_other_file_of_the_split_counts(tmp_path):
    write(tmp_path, question())
    Tree(tmp_path).json("cut_frame_mapping_valid.json", {"video_1": 20})
    Tree(tmp_path).json("all_train.json", {"video_1": {"metadata": {"frame_rate": 5.0}}})
    assert read("perceptiontest", tmp_path) == ([], {"video_1_0": NO_RATE})
    Tree(tmp_path).json("all_valid.json", {"video_1": {"metadata": {"frame_rate": 10.0}}})
    (sample,) = read("perceptiontest", tmp_path)[0]
    assert (sample.media.end, sample.meta["cut_frame"]) == (2.0, 20)


def test_all_shards_of_a_parquet_are_read_and_missing_ones_told(tmp_path):
    for number in (0, 2):
        write_parquet(
            tmp_path / f"val/validation-0000{number}-of-00003.parquet", answer_id="1", question_id=str(number)
        )
    samples, left_out = read("perceptiontest", tmp_path)
    assert [s.key for s in samples] == ["video_1_0", "video_1_2"]
    assert left_out == {"validation-00001-of-00003.parquet": "a table that is not there"}
    write_parquet(tmp_path / "copy/validation-00000-of-00003.parquet", answer_id="1")
    with pytest.raises(InputError, match=r"expected one set of tables of val, found .*copy.* and .*val"):
        read("perceptiontest", tmp_path)


def test_options_lose_their_letters(tmp_path):
    options = ["A. cup", "B. ball", "C. box"]
    write(tmp_path, question(options=options), question(1, options=["A. cup", "B. ", "C. box"]))
    samples, left_out = read("perceptiontest", tmp_path)
    assert [(s.caption, s.meta["options"]) for s in samples] == [("What falls? ball", THREE)]
    assert list(left_out) == ["entry 1 of mc_question_valid.json"]


@pytest.mark.parametrize("number", [1.7, True, 1.0, "1.0", "x"])
def test_answer_id_is_a_whole_number_or_digits(tmp_path, number):
    write(tmp_path, question(answer_id=number))
    assert read("perceptiontest", tmp_path) == ([], {"video_1_0": "an answer_id that is the number of no option"})


def test_cut_of_another_split_does_not_count(tmp_path):
    write(tmp_path, question(), frame_rate=30.0)
    Tree(tmp_path).json("cut_frame_mapping_train.json", {"video_1": 240})
    assert read("perceptiontest", tmp_path)[0][0].media.end is None


def test_videos_in_the_published_zips_are_read_where_they_lie(tmp_path):
    Tree(tmp_path).json(
        "mc_question_valid.json", {name: {"mc_question": [question()]} for name in ("video_1", "video_2")}
    )
    for name in ("video_1", "video_2"):
        with zipfile.ZipFile(tmp_path / f"videos_chunked_0{name[-1]}.zip", "w") as archive:
            archive.writestr(f"videos/{name}.mp4", b"video")
    paths = [s.media.path.partition(":")[0] for s in read("perceptiontest", tmp_path)[0]]
    assert paths == [f"videos_chunked_0{number}.zip#videos/video_{number}.mp4" for number in (1, 2)]


# Bugs of published scripts


def test_hidden_answers_of_a_test_parquet_stay_hidden(tmp_path):
    write_parquet(tmp_path / "raw/mc_question/test-00000-of-00001.parquet")
    prepare(get_source("perceptiontest"), tmp_path / "raw", tmp_path / "m.parquet", PrepareOptions(), lambda n: None)
    (sample,) = open_manifest(tmp_path / "m.parquet").samples()
    assert (sample.split, sample.caption, sample.meta["options"]) == ("test", "What falls?", THREE)
    assert [sample.meta[name] for name in ("answer", "answer_index", "answer_letter")] == [None, None, None]


@pytest.mark.parametrize("number", ["2", 2])
def test_answer_id_may_be_text(tmp_path, number):
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", answer_id=number)
    (sample,) = read("perceptiontest", tmp_path)[0]
    assert (sample.caption, sample.meta["answer_index"]) == ("What falls? box", 2)


def test_options_of_a_parquet_are_a_list(tmp_path):
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", answer_id="0")
    assert type(read("perceptiontest", tmp_path)[0][0].meta["options"]) is list


def test_validation_is_not_train(tmp_path):
    write_parquet(tmp_path / "mc_question_val/validation-00000-of-00001.parquet", answer_id="0")
    assert {s.split for s in read("perceptiontest", tmp_path)[0]} == {"val"}


def test_one_bad_row_takes_no_other_down(tmp_path):
    bad = [7, question(1, options="cup"), question(2, options=[]), question(3, question=" "), question(4, options=[1])]
    bad += [question(5, answer_id=3), question(6, answer_id=-1), question(7, answer_id="x"), question(8, answer_id=[])]
    write(tmp_path, *bad, question(9), {**question(), "id": None})
    table = {"video_2": {"mc_question": [question()]}, "video_3": 7, "video_4": {"mc_question": {}}}
    Tree(tmp_path).json("mc_question_train.json", table)
    samples, left_out = read("perceptiontest", tmp_path)
    assert [s.key for s in samples] == ["video_1_9"]
    unreadable = "an entry without the video, question and options that it should have"
    assert left_out == {
        "video_2_0": "missing media",
        **{f"entry {number} of mc_question_train.json": unreadable for number in (1, 2)},
        **{f"entry {number} of mc_question_valid.json": unreadable for number in (0, 1, 2, 3, 4, 10)},
        **{f"video_1_{number}": "an answer_id that is the number of no option" for number in (5, 6, 7, 8)},
    }


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no mc_question_\*.json.*expected in.*all_train.json.*found"):
        read("perceptiontest", tmp_path)
    Tree(tmp_path).text("all_train.json", "[]")
    with pytest.raises(InputError, match=r"expected \{ \(a object\), found \["):
        read("perceptiontest", tmp_path)
