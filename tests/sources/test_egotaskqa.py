from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

RECIPE = Path(__file__).parents[2] / "splits/ratio-80-10-10.yaml"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("egotaskqa")
    get_source("egotaskqa").demo(Tree(path))
    return path


def question(number: int, interval: str = "1-2-1|P1|0|48", **other: object) -> dict[str, object]:
    fields = {"question": "What did I do?", "answer": "get a cup", "interval": interval, "question_id": number}
    return {**fields, "reference": "indirect", "reasoning_type": "query$descriptive", **other}


def test_a_question_on_the_clip_of_an_interval(raw):
    first, *_ = read("egotaskqa", raw)[0]
    assert (first.key, first.split, first.caption) == ("0", "train", "What did the person do first? throw a ball")
    assert (first.media.id, first.media.path) == ("1-2-1", "qa_videos/1-2-1|P1|0|48.mp4")
    assert (first.meta["question_id"], first.meta["category"], first.meta["type"]) == (0, ["descriptive"], ["query"])


def test_frame_numbers_are_no_window_in_seconds(raw):
    samples, _ = read("egotaskqa", raw)
    assert {(sample.media.start, sample.media.end) for sample in samples} == {(None, None)}
    assert samples[-1].meta["interval"] == "4-1-1|P1|96|144"


def test_direct_and_indirect_are_never_joined(raw):
    direct, _ = read("egotaskqa", raw)
    indirect, _ = read("egotaskqa", raw, "indirect")
    assert {sample.key: sample.split for sample in direct} == {"0": "train", "1": "train", "3": "val", "4": "test"}
    assert {sample.key: sample.split for sample in indirect} == {"3": "train", "0": "val", "1": "val", "4": "test"}
    assert read("egotaskqa", raw, "direct")[0] == direct


def test_bar_of_a_clip_that_windows_wrote_as_underscore(raw):
    paths = {sample.key: sample.media.path for sample in read("egotaskqa", raw)[0]}
    assert paths["1"] == "qa_videos/1-2-1_P2_24_48.mp4"


def test_clips_of_one_video_share_the_media_id(raw):
    assert [s.media.id for s in read("egotaskqa", raw)[0]] == ["1-2-1", "1-2-1", "30l-12-2-1", "4-1-1"]


def test_published_splits_that_share_clips_need_a_word_or_a_recipe(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        Tree(tmp_path / "raw").json(f"direct/{split}_qas.json", [question(number)])
    touch(tmp_path, "raw/qa_videos/1-2-1|P1|0|48.mp4")
    source, out = get_source("egotaskqa"), tmp_path / "out/samples.parquet"
    with pytest.raises(InputError, match="1 media lie in two splits"):
        prepare(source, tmp_path / "raw", out, PrepareOptions(), lambda n: None)
    leaky = prepare(source, tmp_path / "raw", out, PrepareOptions(allow_leak=True), lambda n: None)
    assert leaky.samples == {"train": 1, "val": 1, "test": 1}
    again = prepare(source, tmp_path / "raw", out, PrepareOptions(split=str(RECIPE)), lambda n: None)
    assert sorted(again.samples.values()) == [0, 0, 3]


def test_clips_in_the_zip(tmp_path):
    Tree(tmp_path).json("qa/direct/test_qas.json", [question(7)])
    with zipfile.ZipFile(tmp_path / "qa_videos.zip", "w") as archive:
        archive.writestr("qa_videos/1-2-1|P1|0|48.mp4", b"a clip")
    (sample,) = read("egotaskqa", tmp_path)[0]
    assert sample.media.path.startswith("qa_videos.zip#qa_videos/1-2-1|P1|0|48.mp4:")


def test_full_video_alone_is_not_the_clip(tmp_path):
    Tree(tmp_path).json("direct/train_qas.json", [question(7)])
    touch(tmp_path, "videos/1-2-1.mp4")
    assert read("egotaskqa", tmp_path) == ([], {"7": "missing media"})


def test_rows_that_are_no_questions_take_no_other_down(tmp_path):
    wrong = [3, question(1, answer=None), question(2, question=" "), {"question": "?"}, question("4"), question(5)]
    Tree(tmp_path).json("direct/train_qas.json", wrong)
    touch(tmp_path, "1-2-1|P1|0|48.mp4")
    samples, left_out = read("egotaskqa", tmp_path)
    assert [sample.key for sample in samples] == ["5"]
    assert left_out.pop("entry 0 of train_qas.json") == "an entry that is no JSON object"
    assert set(left_out.values()) == {"an entry without the fields that it should have"}
    assert len(left_out) == 4


def test_wrong_tree(tmp_path):
    touch(tmp_path, "train_qas.json")
    with pytest.raises(InputError, match=r"found no indirect/train_qas\.json(?s:.*)qa_videos/(?s:.*)train_qas\.json"):
        read("egotaskqa", tmp_path, "indirect")
