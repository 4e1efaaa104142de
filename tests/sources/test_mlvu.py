from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/mlvu"
RECIPE = Path(__file__).parents[2] / "splits/ratio-80-10-10.yaml"

real = pytest.mark.skipif(not REAL.is_dir(), reason="the real heads of MLVU are not in ../shared/data")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("mlvu")
    get_source("mlvu").demo(Tree(path))
    return path


@pytest.fixture
def real_tree(tmp_path):
    shutil.copytree(REAL, tmp_path / "MLVU/json")
    return tmp_path


def write(root: Path, *rows: object, task: str = "9_summary") -> Path:
    (root / f"{task}.json").write_text(json.dumps(rows))
    touch(root, "video/a.mp4")
    return root


def row(video: str = "a.mp4", **fields: object) -> dict[str, object]:
    return {"video": video, "duration": 200, "question": "What is it?", "answer": "A cat.", **fields}


@real
def test_real_summaries(real_tree):
    touch(real_tree, "MLVU/video/9_summary/217.mp4", "MLVU/video/9_summary/movie101_30.mp4")
    samples, left_out = read("mlvu", real_tree)
    assert [(s.key, s.split, s.media.id, s.media.duration) for s in samples] == [
        ("217_0", "", "217", 480.0),
        ("movie101_30_0", "", "movie101_30", 726.0),
    ]
    assert samples[0].caption.startswith("The video starts with waves lapping")
    assert samples[0].media.path == "MLVU/video/9_summary/217.mp4"
    assert samples[0].meta["question"] == "Please summarize this video, including its main content."
    assert list(samples[0].meta) == ["video", "question", "answer", "question_type"]
    assert left_out == {"232_0": "missing media", "1_0": "missing media"}


@real
def test_real_summaries_as_questions(real_tree):
    touch(real_tree, "217.mp4")
    (sample,) = read("mlvu", real_tree, **{"as": "qa"})[0]
    assert sample.caption.startswith("Please summarize this video, including its main content. The video starts with")


@real
def test_real_choices(real_tree):
    touch(real_tree, "MLVU/video/plotQA/xiaoliyu_6.mp4")
    (sample,) = read("mlvu", real_tree, task="1_plotQA")[0]
    assert sample.caption == "How did the cartoon jellyfish leave the mire? Carried by the cartoon turtle"
    assert sample.meta["options"][3] == "Carried by the cartoon seahorse"
    assert (sample.meta["answer_index"], sample.meta["answer_letter"]) == (1, "B")
    assert "candidates" not in sample.meta


@real
def test_real_scenes(real_tree):
    touch(real_tree, "subPlot_new_all_126.mp4")
    (sample,) = read("mlvu", real_tree, task="8_sub_scene")[0]
    assert sample.caption.startswith("Please describe the scene when the man in the green plaid shirt,")
    assert sample.caption.endswith("introduce the man in the green plaid shirt.")
    assert len(sample.meta["scoring_points"]) == 3
    assert sample.media.duration == 5632.830200880858


def test_answer_that_is_no_candidate(demo):
    samples, left_out = read("mlvu", demo, task="1_plotQA")
    assert [s.caption for s in samples] == ["What colour is the kite? Red"]
    assert left_out == {"217_1": "an answer that is none of the candidates"}


def test_own_folder_goes_before_those_of_other_tasks(demo):
    paths = {task: read("mlvu", demo, task=task)[0][0].media.path for task in ("1_plotQA", "9_summary")}
    assert paths == {"1_plotQA": "video/1_plotQA/217.mp4", "9_summary": "video/9_summary/217.mp4"}
    (scene,) = read("mlvu", demo, task="8_sub_scene")[0]
    assert scene.media.path == "video/3.mp4"


def test_a_video_of_another_task_is_not_taken_for_one_of_the_same_name(tmp_path):
    touch(write(tmp_path, row("217.mp4")), "video/1_plotQA/217.mp4", "video/needle/217.mp4")
    assert read("mlvu", tmp_path) == ([], {"217_0": "missing media"})


@pytest.mark.parametrize("path", ["217.mp4", "MLVU/video/9_summary/217.mkv", "video/summary/part1/217.webm"])
def test_video_is_found_in_any_folder(tmp_path, path):
    touch(write(tmp_path, row("217.mp4")), path, "217.jpg", "x217.mp4")
    assert [s.media.path for s in read("mlvu", tmp_path)[0]] == [path]


def test_two_summaries_of_a_video_share_it_and_have_keys_of_their_own(demo):
    samples = [s for s in read("mlvu", demo)[0] if s.media.id == "AWA-4"]
    assert [(s.key, s.caption) for s in samples] == [("AWA-4_0", "A cat hides."), ("AWA-4_1", "The cat sleeps.")]
    assert samples[0].media == samples[1].media


def test_keys_stay_when_videos_come(tmp_path):
    write(tmp_path, row("b.mp4"), row(), row("b.mp4", answer="A dog."))
    assert read("mlvu", tmp_path)[1].keys() == {"b_0", "b_1"}
    touch(tmp_path, "b.mp4")
    assert [s.key for s in read("mlvu", tmp_path)[0]] == ["b_0", "a_0", "b_1"]


def test_split_is_by_video_and_not_by_row(tmp_path):
    names = [f"{number}.mp4" for number in range(40)]
    write(tmp_path, *(row(name, answer=answer) for answer in ("A.", "B.") for name in names))
    touch(tmp_path, *(f"video/9_summary/{name}" for name in names))
    manifest = tmp_path.parent / f"{tmp_path.name}.parquet"
    report = prepare(get_source("mlvu"), tmp_path, manifest, PrepareOptions(split=str(RECIPE)), lambda n: None)
    assert all(report.samples.values())
    assert len({(s.media.id, s.split) for s in open_manifest(manifest).samples()}) == 40


def test_rows_with_missing_keys_are_counted(tmp_path):
    rows = [{name: value for name, value in row().items() if name != gone} for gone in ("video", "question", "answer")]
    wrong = [5, row(answer=" "), row(candidates="A"), row(candidates=[1]), row(video=["a.mp4"])]
    samples, left_out = read("mlvu", write(tmp_path, *rows, *wrong, row()))
    assert [s.key for s in samples] == ["a_0"]
    assert list(left_out) == [f"entry {number} of 9_summary.json" for number in range(8)]
    assert len(set(left_out.values())) == 2


@pytest.mark.parametrize("duration", [None, "long", [1], float("inf")])
def test_video_of_unknown_duration_is_kept(tmp_path, duration):
    (sample,) = read("mlvu", write(tmp_path, row(duration=duration)))[0]
    assert sample.media.duration is None


def test_other_trees_and_options(tmp_path):
    write(tmp_path, row())
    with pytest.raises(InputError, match=r"(?s)found no 3_ego\.json.*json/9_summary\.json.*found:.*9_summary\.json"):
        read("mlvu", tmp_path, task="3_ego")
    with pytest.raises(InputError, match=r"option task: expected one of 1_plotQA, .*found 'summary'"):
        read("mlvu", tmp_path, task="summary")
