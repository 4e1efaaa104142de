from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sources import get_source
from tests.sources.rows import read, touch

SHARED = Path(__file__).parents[2] / "../shared/data/annotations/star"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real heads of STAR are not in ../shared/data")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("star")
    get_source("star").demo(Tree(path))
    return path


def question(raw_id: str = "Interaction_T1_0", **other: object) -> dict[str, Any]:
    choices = [{"choice_id": n, "choice": text, "choice_program": []} for n, text in enumerate(("Took.", "Ate."))]
    fields = {"question_id": raw_id, "question": "What was done?", "video_id": "YSKX3", "start": 1.5, "end": 3.0}
    return {**fields, "choices": choices, "answer": "Ate.", **other}


@real
def test_real_questions_of_test(tmp_path):
    shutil.copy(SHARED / "STAR_test.json", tmp_path)
    rows = json.loads((SHARED / "STAR_test.json").read_text())
    touch(tmp_path, "Charades_v1_480/YSKX3.mp4")
    samples, left_out = read("star", tmp_path)
    assert ([sample.key for sample in samples], left_out) == ([row["question_id"] for row in rows], {})
    assert [sample.caption for sample in samples] == [row["question"] for row in rows]
    assert samples[0].media[2:5] == ("video", 12.1, 18.0)
    assert samples[0].meta["options"] == ["The food.", "The laptop.", "The book.", "The pillow."]
    assert {sample.media.path for sample in samples} == {"Charades_v1_480/YSKX3.mp4"}


def test_the_answer_is_found_by_its_text(raw):
    first = read("star", raw)[0][0]
    assert (first.key, first.split) == ("Interaction_T1_0", "train")
    assert first.caption == "Which object was taken by the person? The cup/glass/bottle."
    assert first.meta["options"] == ["The food.", "The cup/glass/bottle."]
    assert (first.meta["answer_index"], first.meta["answer_letter"]) == (1, "B")
    assert first.meta["question_type"] == "Interaction"


def test_windows_of_one_video_share_it(raw):
    first, second, *_ = read("star", raw)[0]
    assert (first.media.id, first.media.path) == (second.media.id, second.media.path)
    assert (first.media.start, first.media.end, second.media.start, second.media.end) == (0.3, 1.5, 1.0, 2.0)


def test_situations_are_not_copied(raw):
    meta = read("star", raw)[0][0].meta
    names = "question_id question video_id question_program options answer answer_index answer_letter question_type"
    assert set(meta) == set(names.split())


def test_questions_without_an_answer_are_their_own_caption(raw):
    sample = read("star", raw)[0][-1]
    assert (sample.split, sample.caption) == ("test", "Which object was taken by the person?")
    assert (sample.meta["answer"], sample.meta["answer_index"]) == (None, None)


def test_what_is_left_out(raw):
    expected = {"Prediction_T1_4": "missing media", "Feasibility_T3_2": "an answer that is none of the choices"}
    assert read("star", raw)[1] == expected


def test_videos_in_the_zip(tmp_path):
    Tree(tmp_path).json("annotations/STAR_val.json", [question()])
    with zipfile.ZipFile(tmp_path / "Charades_v1_480.zip", "w") as archive:
        archive.writestr("Charades_v1_480/YSKX3.mp4", b"a video")
    (sample,) = read("star", tmp_path)[0]
    assert sample.media.path.startswith("Charades_v1_480.zip#Charades_v1_480/YSKX3.mp4:")
    assert sample.split == "val"


def test_folders_of_frames_named_as_videos_are_no_videos(tmp_path):
    Tree(tmp_path).json("STAR_val.json", [question()])
    touch(tmp_path, "frames/YSKX3.mp4/000012.png")
    assert read("star", tmp_path)[1] == {"Interaction_T1_0": "missing media"}


def test_rows_that_are_no_questions_take_no_other_down(tmp_path):
    no_window, no_choice = question(), question(choices=[{"choice_id": 0}])
    del no_window["end"]
    wrong = [
        no_window,
        no_choice,
        question(start="late"),
        question(end=None),
        question(answer=1),
        question(3),
        question(""),
    ]
    Tree(tmp_path).json("STAR_train.json", [*wrong, "text", question("Sequence_T6_1", start="1.5")])
    touch(tmp_path, "YSKX3.mp4")
    samples, left_out = read("star", tmp_path)
    assert [(sample.key, sample.media.start) for sample in samples] == [("Sequence_T6_1", 1.5)]
    assert left_out.pop("entry 7 of STAR_train.json") == "an entry that is no JSON object"
    assert left_out == {
        f"entry {number} of STAR_train.json": "an entry without the fields that it should have"
        for number in range(len(wrong))
    }


def test_wrong_tree(tmp_path):
    touch(tmp_path, "train.json")
    with pytest.raises(InputError, match=r"found no STAR_train\.json(?s:.*)Charades_v1_480(?s:.*)train\.json"):
        read("star", tmp_path)
