from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedshard.errors import InputError
from embedshard.sample import LeftOut, Sample
from embedshard.sources import get_source
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/activitynet_qa"


def write(root: Path, name: str, value: object) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(value))


def question(video: str, number: int) -> dict[str, str]:
    return {"video_name": video, "question": f"what is {number}", "question_id": f"v_{video}_{number}"}


def answer(video: str, number: int) -> dict[str, object]:
    return {"answer": f"it is {number}", "type": 8, "question_id": f"v_{video}_{number}"}


def val(root: Path, questions: list[object], answers: list[object]) -> Path:
    write(root, "val_q.json", questions)
    write(root, "val_a.json", answers)
    touch(root, "a.mp4")
    return root


@pytest.mark.skipif(not REAL.is_dir(), reason="the real heads of ActivityNet-QA are not in ../shared/data")
def test_real_heads(tmp_path):
    shutil.copytree(REAL, tmp_path / "dataset")
    touch(tmp_path, "v/v_okC18bPTils.mp4", "v/v__ucD-3rUWWE.webm", "v/more/7X3wPRKuAsU.mkv", "v_FADShG5lyB8.avi")
    samples, left_out = read("activitynet_qa", tmp_path)
    assert [(s.key, s.split, s.media.id, s.media.path) for s in samples] == [
        ("v_okC18bPTils_3", "train", "v_okC18bPTils", "v/v_okC18bPTils.mp4"),
        ("v__ucD-3rUWWE_3", "train", "v__ucD-3rUWWE", "v/v__ucD-3rUWWE.webm"),
        ("v_7X3wPRKuAsU_3", "val", "v_7X3wPRKuAsU", "v/more/7X3wPRKuAsU.mkv"),
        ("v_7X3wPRKuAsU_2", "val", "v_7X3wPRKuAsU", "v/more/7X3wPRKuAsU.mkv"),
        ("v_FADShG5lyB8_10", "test", "v_FADShG5lyB8", "v_FADShG5lyB8.avi"),
    ]
    assert samples[0].caption == "are all the people in the video men? no"
    assert samples[0].meta == {
        "video_name": "okC18bPTils",
        "question": "are all the people in the video men",
        "question_id": "v_okC18bPTils_3",
        "answer": "no",
        "type": 3,
        "type_name": "yes/no",
    }
    assert len(left_out) == 7
    assert set(left_out.values()) == {"missing media"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_answers_are_joined_by_id_in_any_order(tmp_path, order):
    val(tmp_path, [question("a", n) for n in range(3)], [answer("a", n) for n in order])
    samples, left_out = read("activitynet_qa", tmp_path)
    assert [s.caption for s in samples] == [f"what is {n}? it is {n}" for n in range(3)]
    assert not left_out


def test_question_without_answer_is_kept_in_test_alone(tmp_path):
    val(tmp_path, [question("a", 1), question("a", 2)], [answer("a", 2)])
    samples, left_out = read("activitynet_qa", tmp_path)
    assert [s.caption for s in samples] == ["what is 2? it is 2"]
    assert left_out == {"v_a_1": "a question without an answer"}
    for name in ("q", "a"):
        (tmp_path / f"val_{name}.json").rename(tmp_path / f"test_{name}.json")
    samples, _ = read("activitynet_qa", tmp_path)
    assert [(s.caption, s.meta["answer"]) for s in samples] == [
        ("what is 1?", None),
        ("what is 2? it is 2", "it is 2"),
    ]
    assert "type" not in samples[0].meta


def test_an_answer_that_is_a_number_is_its_text(tmp_path):
    val(tmp_path, [question("a", 1)], [{**answer("a", 1), "answer": 3}])
    assert [s.caption for s in read("activitynet_qa", tmp_path)[0]] == ["what is 1? 3"]


def test_every_answer_without_a_question_is_counted(tmp_path):
    answers = [answer("b", 1), answer("b", 1), answer("a", 1), answer("a", 1), answer("c", 1)]
    source = get_source("activitynet_qa")
    found = list(source.samples(val(tmp_path, [question("a", 1)], answers), source.options("official")))
    left_out = [row for row in found if isinstance(row, LeftOut)]
    assert [row.caption for row in found if isinstance(row, Sample)] == ["what is 1? it is 1"]
    assert sorted(row.id for row in left_out) == ["v_a_1", "v_b_1", "v_b_1", "v_c_1"]
    assert {row.reason for row in left_out} == {"an answer without a question, or its second answer"}


def test_bad_rows_take_no_other_down(tmp_path):
    questions = [7, {"question_id": "v_a_5"}, {**question("a", 6), "question": None}, question("a", 1), {}]
    answers = [None, {"question_id": "v_a_6", "answer": ["no"]}, {**answer("a", 1), "type": [8]}]
    samples, left_out = read("activitynet_qa", val(tmp_path, questions, answers))
    assert [(s.caption, "type_name" in s.meta) for s in samples] == [("what is 1? it is 1", False)]
    assert set(left_out) == {
        "entry 0 of val_q.json",
        "v_a_5",
        "v_a_6",
        "entry 4 of val_q.json",
        "entry 0 of val_a.json",
    }


def test_test_answers_may_be_hidden_but_no_others(tmp_path):
    write(tmp_path, "test_q.json", [question("a", 1)])
    touch(tmp_path, "a.mp4")
    assert [s.caption for s in read("activitynet_qa", tmp_path)[0]] == ["what is 1?"]
    write(tmp_path, "train_q.json", [question("b", 1)])
    with pytest.raises(InputError, match=r"(?s)found train_q\.json but no train_a\.json.*expected.*found:.*a\.mp4"):
        read("activitynet_qa", tmp_path)


def test_another_tree(tmp_path):
    touch(tmp_path, "videos/v_a.mp4")
    with pytest.raises(InputError, match=r"(?s)found no train_q\.json.*train_a\.json.*found:.*videos/"):
        read("activitynet_qa", tmp_path)
    with pytest.raises(InputError, match="nothing of that name"):
        read("activitynet_qa", tmp_path / "gone")


def test_video_whose_name_only_begins_alike_is_not_taken(tmp_path):
    val(tmp_path, [question("abc", 1)], [answer("abc", 1)])
    touch(tmp_path, "v_abcd.mp4", "v_abc_1.mp4", "abc.mp4.part", ".v_abc.mp4", "v_abc.txt")
    assert read("activitynet_qa", tmp_path) == ([], {"v_abc_1": "missing media"})


def test_webm_needs_its_dot(tmp_path):
    val(tmp_path, [question("abc", 1), question("b", 1)], [answer("abc", 1), answer("b", 1)])
    touch(tmp_path, "v_abcwebm", "v_b.webm")
    assert [s.media.path for s in read("activitynet_qa", tmp_path)[0]] == ["v_b.webm"]


def test_mkv_without_stream_duration_is_not_dropped(tmp_path):
    val(tmp_path, [question("b", 1)], [answer("b", 1)])
    touch(tmp_path, "v_b.mkv")
    (sample,) = read("activitynet_qa", tmp_path)[0]
    assert (sample.media.path, sample.media.end) == ("v_b.mkv", None)


def test_ids_with_underscore_or_dash_at_their_ends(tmp_path):
    names = ["_b_c", "-b-c", "b_", "__"]
    val(tmp_path, [question(name, 1) for name in names], [answer(name, 1) for name in names])
    touch(tmp_path, *(f"v_{name}.mp4" for name in names))
    samples, _ = read("activitynet_qa", tmp_path)
    assert [s.media.id for s in samples] == [f"v_{name}" for name in names]
    assert [s.media.path for s in samples] == [f"v_{name}.mp4" for name in names]


def conversation(content: str, reply: object, path: str) -> dict[str, object]:
    messages = [{"content": content, "role": "user"}, {"content": reply, "role": "assistant"}]
    return {"messages": messages, "videos": [path]}


def test_list_of_conversations(tmp_path):
    rows = [
        conversation("<video>who runs?", "a man", "/data/v_a_b.mkv"),
        conversation("<video>who sits?", "a dog", "/data/v_a_b.mkv"),
        conversation("<video>who?", None, "/data/v_a_b.mkv"),
        conversation("<video>who?", "nobody", "/data/v_gone.mkv"),
    ]
    write(tmp_path, "activitynet_qa_val_500_limit_20s.json", rows)
    touch(tmp_path, "videos/v_a_b.mkv")
    samples, left_out = read("activitynet_qa", tmp_path)
    assert [(s.split, s.media.id, s.caption) for s in samples] == [
        ("val", "v_a_b", "who runs? a man"),
        ("val", "v_a_b", "who sits? a dog"),
    ]
    assert samples[0].meta == {"id": "a_b_0", "video_name": "a_b", "question": "who runs?", "answer": "a man"}
    assert [s.key for s in samples] == ["a_b_0", "a_b_1"]
    assert set(left_out) == {"entry 2 of activitynet_qa_val_500_limit_20s.json", "gone_0"}
    assert read("activitynet_qa", tmp_path / "activitynet_qa_val_500_limit_20s.json") == (samples, left_out)


def test_registered_name_of_the_list_tells_no_split(tmp_path):
    write(tmp_path, "activitynet_qa_2000_limit_20s.json", [conversation("<video>who?", "a man", "v_a.mp4")])
    touch(tmp_path, "v_a.mp4")
    assert [s.split for s in read("activitynet_qa", tmp_path)[0]] == [""]


def test_empty_list_is_a_registration_and_no_empty_set(tmp_path):
    write(tmp_path, "activitynet_qa_2000_limit_20s.json", [])
    with pytest.raises(InputError, match=r"found \[\], which only registers a dataset; its data is elsewhere"):
        read("activitynet_qa", tmp_path)
