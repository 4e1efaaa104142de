from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

SHARED = Path(__file__).parents[2] / "../shared/data/annotations"
real = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real heads of ActivityNet Captions are not in ../shared/data"
)

NAME = "activitynet_captions"
SEGMENT = {"as": "segment"}


def entry(duration: object, timestamps: object, sentences: object) -> dict[str, object]:
    return {"duration": duration, "timestamps": timestamps, "sentences": sentences}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp(NAME)
    get_source(NAME).demo(Tree(path))
    return path


@real
def test_real_original_annotations_give_what_adaclip_gives(tmp_path):
    shutil.copytree(SHARED / NAME, tmp_path / "ours")
    shutil.copytree(SHARED / "adaclip_annots/activitynet", tmp_path / "theirs")
    theirs = json.loads((tmp_path / "theirs/val.json").read_text())
    touch(tmp_path, *(f"{tree}/v/{video}.mkv" for tree in ("ours", "theirs") for video in theirs))
    for split, name in (("official", "val"), ("retrieval", "test")):
        ours, _ = read(NAME, tmp_path / "ours", split)
        assert ours == read(NAME, tmp_path / "theirs", split)[0]
        assert {s.split for s in ours} == {name}
    assert {s.key: s.caption for s in ours} == {
        video: " ".join(map(str.strip, entry["sentences"])) for video, entry in theirs.items()
    }
    assert [s.meta["timestamps"] for s in ours] == [entry["timestamps"] for entry in theirs.values()]


@real
def test_real_windows_of_both_annotations(tmp_path):
    shutil.copytree(SHARED / NAME, tmp_path, dirs_exist_ok=True)
    tables = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("val_1", "val_2")}
    touch(tmp_path, *(f"{video}.mp4" for video in tables["val_1"]))
    samples, left_out = read(NAME, tmp_path, val_2="true", **SEGMENT)
    assert left_out == {}
    assert len({s.key for s in samples}) == len(samples)
    for suffix, table in (("", tables["val_1"]), ("_val_2", tables["val_2"])):
        for video, found in table.items():
            for number, (window, sentence) in enumerate(zip(found["timestamps"], found["sentences"], strict=True)):
                (sample,) = [s for s in samples if s.key == f"{video}{suffix}_{number}"]
                assert [sample.media.start, sample.media.end] == window
                assert (sample.caption, sample.media.duration) == (sentence.strip(), found["duration"])


def test_paragraph_of_a_video(raw):
    samples, left_out = read(NAME, raw)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("v_-aB3dE6gHi0", "train", "A woman dances. She turns around and bows."),
        ("v_val_5678901", "val", "两只狗在跑。"),
    ]
    assert samples[0].meta["captions"] == ["A woman dances.", "She turns around and bows."]
    assert (samples[0].media.start, samples[0].media.end, samples[0].media.duration) == (None, None, 2)
    assert left_out == {"v_gone1234567": "missing media"}


def test_windows_overlap_share_the_video_and_are_clamped_to_its_duration(raw, tmp_path):
    samples, _ = read(NAME, raw, "retrieval", **SEGMENT)
    dance = [s for s in samples if s.split == "train"]
    assert [(s.media.start, s.media.end) for s in dance] == [(0, 1.2), (0.9, 2.01)]
    assert len({(s.media.id, s.media.path) for s in dance}) == 1
    assert [s.meta["segment_index"] for s in dance] == [0, 1]
    options = PrepareOptions(settings=SEGMENT)
    report = prepare(get_source(NAME), raw, tmp_path / "m.parquet", options, lambda n: None)
    assert report.first[1].media.end == 2
    assert report.left_out == {"missing media": 1, "no caption": 1}


def test_second_annotation_has_its_own_keys_and_the_same_videos(raw):
    one, two = [s for s in read(NAME, raw, val_2="true")[0] if s.split == "val"]
    assert (one.key, two.key) == ("v_val_5678901", "v_val_5678901_val_2")
    assert (one.media, two.caption) == (two.media, "Two dogs run")


@pytest.mark.parametrize(
    "name", ["v_-aB3dE6gHi0.mkv", "v_-aB3dE6gHi0.webm", "a/b/v_-aB3dE6gHi0.mp4", "-aB3dE6gHi0.mp4"]
)
def test_mkv_and_webm_and_names_without_v_are_found(name, tmp_path):
    Tree(tmp_path).json("train.json", {"v_-aB3dE6gHi0": entry(9, [[0, 1]], ["A man."])})
    touch(tmp_path, name)
    (sample,), _ = read(NAME, tmp_path)
    assert (sample.media.path, sample.media.id) == (name, "v_-aB3dE6gHi0")


def test_partial_file_is_no_video(tmp_path):
    Tree(tmp_path).json("train.json", {"v_a": entry(9, [[0, 1]], ["A man."])})
    touch(tmp_path, "v_a.mp4.part", "v_a.jpg", "v_a.txt", ".v_a.mp4", "v_ab.mp4")
    assert read(NAME, tmp_path) == ([], {"v_a": "missing media"})


def test_one_bad_row_takes_no_other_down(tmp_path):
    good = entry("nine", [[0, 1], None, [1], ["x", 2]], ["One.", "Two.", "Three.", "Four.", "Five."])
    Tree(tmp_path).json("train.json", {"v_a": 5, "v_b": {"sentences": "One."}, "v_d": good})
    touch(tmp_path, "v_d.mp4")
    unreadable = dict.fromkeys(("v_a", "v_b"), "an entry without the fields that it should have")
    (sample,), left_out = read(NAME, tmp_path)
    assert (sample.caption, sample.media.duration) == ("One. Two. Three. Four. Five.", None)
    assert left_out == unreadable
    samples, left_out = read(NAME, tmp_path, **SEGMENT)
    assert [s.key for s in samples] == ["v_d_0"]
    windows = {f"v_d_{number}": "a sentence without a start and an end" for number in range(1, 5)}
    assert left_out == {**unreadable, **windows}


@pytest.mark.parametrize(("mode", "rows"), [("caption", 5), ("segment", 9)])
def test_every_sentence_is_a_row(mode, rows, tmp_path):
    pairs = [[0, 1], [1, 2], [2, 3]]
    videos = {
        "gone": ["One.", "Two.", "Three."],
        "half": ["One.", None, "Three."],
        "bad": [7],
        "none": [],
        "blank": [" "],
    }
    tree = {f"v_{name}": entry(9, pairs[: len(texts)], texts) for name, texts in videos.items()}
    Tree(tmp_path / "raw").json("train.json", tree)
    touch(tmp_path / "raw", "v_half.mp4", "v_bad.mp4", "v_none.mp4", "v_blank.mp4")
    options = PrepareOptions(settings={"as": mode})
    report = prepare(get_source(NAME), tmp_path / "raw", tmp_path / "m.parquet", options, lambda n: None)
    assert report.samples["train"] + sum(report.left_out.values()) == rows
    captions = {sample.key: sample.caption for sample in report.first}
    if mode == "caption":
        assert captions == {"v_half": "One. Three."}
        assert report.left_out == {"missing media": 1, "no caption": 3}
    else:
        assert captions == {"v_half_0": "One.", "v_half_2": "Three."}
        assert report.left_out == {"missing media": 3, "no caption": 4}
        assert report.examples["missing media"] == ("v_gone_0", "v_gone_1", "v_gone_2")


def test_files_of_another_dataset_with_the_names_of_adaclip(tmp_path):
    tree = Tree(tmp_path)
    for split in ("train", "val", "test"):
        tree.json(f"didemo/{split}.json", {"1@N00_2_ab.mov": {"extension": "mp4", "sentences": ["a dog."]}})
    tree.json("activitynet/val_1.json", {"v_a": entry(9, [[0, 1]], ["A man."])})
    touch(tmp_path, "v_a.mp4", "1@N00_2_ab.mov.mp4")
    with pytest.raises(InputError, match=r"didemo/train\.json: expected videos v_.* found 1@N00_2_ab\.mov"):
        read(NAME, tmp_path)
    (tmp_path / "activitynet/val_1.json").rename(tmp_path / "activitynet/val.json")
    with pytest.raises(InputError, match=r"expected one val\.json, found .*activitynet/val\.json and .*didemo"):
        read(NAME, tmp_path)


def test_another_tree(tmp_path):
    touch(tmp_path, "test_ids.json")
    with pytest.raises(
        InputError, match=r"(?s)found no train\.json.*expected in.*val_1\.json.*found:\s+test_ids\.json"
    ):
        read(NAME, tmp_path)
    (tmp_path / "val_1.json").write_text("[]")
    with pytest.raises(InputError, match=r"found no val_2\.json"):
        read(NAME, tmp_path, val_2="true")
    with pytest.raises(InputError, match=r"val_1\.json is not the JSON that was expected"):
        read(NAME, tmp_path)
