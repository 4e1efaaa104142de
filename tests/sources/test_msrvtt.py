from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sources import get_source
from tests.sources.rows import read, touch

SHARED = Path(__file__).parents[2] / "../shared/data/annotations"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real heads of MSR-VTT are not in ../shared/data")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("msrvtt")
    get_source("msrvtt").demo(Tree(path))
    return path


@real
def test_real_lists_of_1k_a(tmp_path):
    shutil.copytree(SHARED / "msrvtt", tmp_path / "csv")
    touch(tmp_path, "TrainValVideo/video0.mp4", "TestVideo/video9770.mp4", "TestVideo/video7020.avi")
    samples, left_out = read("msrvtt", tmp_path, "1k-A")
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("video9770", "test", "a person is connecting something to system"),
        ("video7020", "test", "a woman creating a fondant baby and flower"),
    ]
    assert samples[0].media.path == "TestVideo/video9770.mp4"
    assert (left_out["video0"], left_out["video1"]) == ("no caption", "missing media")


@real
def test_real_adaclip_form(tmp_path):
    shutil.copytree(SHARED / "adaclip_annots/msrvtt-jsfusion", tmp_path / "annots")
    touch(tmp_path, "videos/all/video7020.mp4")
    for way, split in (("1k-A", "test"), ("official", "val")):
        (sample,), _ = read("msrvtt", tmp_path, way)
        assert (sample.split, sample.caption) == (split, "a woman creating a fondant baby and flower")
    assert sample.meta["timestamps"] == [[221.77, 233.08]]


def test_ways_to_use_captions(raw):
    texts = {way: {s.key: s.caption for s in read("msrvtt", raw, captions=way)[0]} for way in ("first", "each", "join")}
    assert texts["first"]["video0"] == "a man sings"
    assert texts["join"]["video0"] == "a man sings. a man is singing a song."
    assert texts["join"]["video1"] == "两只狗在跑. two dogs run!"
    assert texts["join"]["video2"] == 'she says "hello".'
    assert (texts["each"]["video0_0"], texts["each"]["video0_1"]) == ("a man sings", "a man is singing a song.")


def test_each_caption_shares_the_clip_and_knows_all(raw):
    samples = [s for s in read("msrvtt", raw, captions="each")[0] if s.media.id == "video0"]
    assert len(samples) == 2
    assert samples[0].media == samples[1].media
    assert samples[1].meta["captions"] == ["a man sings", "a man is singing a song."]
    assert (samples[0].media.start, samples[0].meta["start time"]) == (None, 137.72)


def test_1k_a_tests_on_the_one_sentence(raw):
    samples, left_out = read("msrvtt", raw, "1k-A", captions="each")
    assert [(s.key, s.caption) for s in samples if s.split == "test"] == [("video3_0", "a boy plays a game")]
    assert left_out == {"video4": "no caption", "video5": "missing media", "video6": "missing media"}


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)annotations of --split official.*MSRVTT_data\.json"):
        read("msrvtt", tmp_path)
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({"videos": [{"video_id": "v"}], "sentences": []}))
    with pytest.raises(InputError, match="without: 'split'"):
        read("msrvtt", tmp_path)
    (tmp_path / "MSRVTT_data.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        read("msrvtt", tmp_path)
