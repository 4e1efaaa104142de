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

SHARED = Path(__file__).parents[2] / "../shared/data/annotations/clevrer"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real heads of CLEVRER are not in ../shared/data")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("clevrer")
    get_source("clevrer").demo(Tree(path))
    return path


def choice(number: int = 0, *choices: tuple[str, str], **other: object) -> dict[str, Any]:
    listed = [{"choice_id": n, "choice": text, "answer": answer} for n, (text, answer) in enumerate(choices)]
    return {
        "question_id": number,
        "question": "What is next?",
        "question_type": "predictive",
        "choices": listed,
        **other,
    }


def annotate(root: Path, *questions: Any, name: str = "train.json") -> None:
    """Write the scene 0 with these questions, and its video."""
    Tree(root).json(name, [{"scene_index": 0, "video_filename": "video_00000.mp4", "questions": questions}])
    touch(root, "video_00000.mp4")


@real
def test_real_subset_of_explanatory_questions(tmp_path):
    shutil.copytree(SHARED, tmp_path, dirs_exist_ok=True)
    train, val = (json.loads((SHARED / f"{split}-orig-small.json").read_text()) for split in ("train", "valid"))
    videos = [f"video_{int(scene):05}" for scene in train] + [f"video_{int(scene) + 10000}" for scene in val]
    touch(tmp_path, *(f"videos/{video}.mp4" for video in videos))
    samples, left_out = read("clevrer", tmp_path)
    assert ([sample.media.id for sample in samples], left_out) == (videos, {})
    first = samples[0]
    assert (first.key, first.split, samples[-1].split) == ("video_08995_11", "train", "val")
    assert first.caption == (
        "Which of the following is responsible for the brown cube's colliding with the blue object? the presence of "
        "the green metal cube; the collision between the green cube and the brown object; the green cube's entering "
        "the scene"
    )
    assert first.meta["answer_indices"] == [0, 1, 2]


def test_scenes_of_the_validation_subset_count_from_10000(tmp_path):
    for name in ("train", "valid"):
        Tree(tmp_path).json(f"{name}-orig-small.json", {"7": {"questions": [choice(3, ("it rolls", "correct"))]}})
    touch(tmp_path, "video_00007.mp4", "video_10007.mp4")
    samples, _ = read("clevrer", tmp_path)
    assert [(s.key, s.split) for s in samples] == [("video_00007_3", "train"), ("video_10007_3", "val")]


def test_every_right_choice_is_kept(raw):
    samples = {sample.key: sample for sample in read("clevrer", raw)[0]}
    both = samples["video_00000_1"]
    assert both.caption == "What causes the collision? the red cube; the collision of two cubes"
    assert both.meta["answers"] == ["the red cube", "the collision of two cubes"]
    assert both.meta["options"] == ["the red cube", "the collision of two cubes", "the ball"]
    assert (both.meta["answer_indices"], both.meta["answer"]) == ([0, 1], "the red cube; the collision of two cubes")
    assert samples["video_10000_2"].meta["answer_indices"] == [2]


def test_no_right_choice_is_none_of_the_above(raw):
    sample = next(sample for sample in read("clevrer", raw)[0] if sample.key == "video_10000_1")
    assert sample.caption == "What causes the collision? none of the above"
    assert (sample.meta["answers"], sample.meta["answer_indices"]) == ([], [])


def test_answer_of_a_descriptive_question_is_its_own(raw):
    sample = read("clevrer", raw)[0][0]
    assert (sample.key, sample.caption) == ("video_00000_0", "How many cubes are moving? 2")
    assert (sample.meta["answer"], sample.meta["question_type"]) == ("2", "descriptive")
    assert "options" not in sample.meta


def test_hidden_answers_of_test_are_null(raw):
    count, cause = (sample for sample in read("clevrer", raw)[0] if sample.split == "test")
    assert (count.caption, count.meta["answer"]) == ("How many cubes are moving?", None)
    assert (cause.caption, cause.meta["answer"], cause.meta["answers"]) == ("What causes the collision?", None, None)
    assert cause.meta["options"] == ["the red cube", "the collision of two cubes", "the ball"]


def test_questions_of_a_missing_video_are_left_out(raw):
    assert read("clevrer", raw)[1] == {"video_00001_0": "missing media"}


def test_questions_of_a_scene_share_its_video(raw):
    first, second, *_ = read("clevrer", raw)[0]
    assert first.media == second.media
    assert first.media.path == "video_train/video_00000-01000/video_00000.mp4"


def test_videos_in_the_zips(tmp_path):
    annotate(tmp_path, choice(0, ("it rolls", "correct")))
    (tmp_path / "video_00000.mp4").unlink()
    with zipfile.ZipFile(tmp_path / "video_train.zip", "w") as archive:
        archive.writestr("video_00000-01000/video_00000.mp4", b"a video")
    (sample,) = read("clevrer", tmp_path)[0]
    assert sample.media.path.startswith("video_train.zip#video_00000-01000/video_00000.mp4:")


@pytest.mark.parametrize("count", [2, 0])
def test_count_that_is_a_number_is_an_answer(tmp_path, count):
    annotate(tmp_path, {"question_id": 0, "question": "How many?", "answer": count})
    (sample,), left_out = read("clevrer", tmp_path)
    assert (sample.caption, sample.meta["answer"], left_out) == (f"How many? {count}", str(count), {})


def test_question_without_choices_is_not_hidden_but_left_out(tmp_path):
    annotate(tmp_path, choice(0))
    reason = "a question without the fields that it should have"
    assert read("clevrer", tmp_path) == ([], {"question 0 of video_00000": reason})


@pytest.mark.parametrize(
    "wrong",
    [
        "text",
        {"question_id": 0},
        {"question_id": 0, "question": " ", "answer": "yes"},
        {"question_id": 0, "question": "How many?", "answer": 2.5},
        {"question_id": 0, "question": "Is it red?", "answer": False},
        choice(0, ("it rolls", "maybe")),
        choice(0, choices=[{"choice": "it rolls", "answer": 0}]),
        choice(0, choices=[{"answer": "correct"}]),
        choice(0, choices="abc"),
    ],
)
def test_a_wrong_question_takes_no_other_down(tmp_path, wrong):
    annotate(tmp_path, wrong, choice(1, ("it rolls", "correct")))
    samples, left_out = read("clevrer", tmp_path)
    assert [sample.key for sample in samples] == ["video_00000_1"]
    assert left_out == {"question 0 of video_00000": "a question without the fields that it should have"}


@pytest.mark.parametrize("wrong", [None, "text", {"questions": []}, {"video_filename": "video_00000.mp4"}])
def test_a_wrong_scene_takes_no_other_down(tmp_path, wrong):
    annotate(tmp_path, choice(1, ("it rolls", "correct")))
    scenes = json.loads((tmp_path / "train.json").read_text())
    Tree(tmp_path).json("train.json", [wrong, *scenes])
    samples, left_out = read("clevrer", tmp_path)
    assert [sample.key for sample in samples] == ["video_00000_1"]
    assert left_out == {"scene 0 of train.json": "a scene without the fields that it should have"}


def test_wrong_tree(tmp_path):
    touch(tmp_path, "annotation_00000.json")
    with pytest.raises(InputError, match=r"found no train\.json(?s:.*)video_filename(?s:.*)annotation_00000\.json"):
        read("clevrer", tmp_path)


def test_questions_of_people_by_scene_are_another_dataset(tmp_path):
    Tree(tmp_path).json("train.json", {"127": {"questions": []}})
    with pytest.raises(InputError, match=r"train\.json is not the JSON(?s:.*)a list"):
        read("clevrer", tmp_path)
