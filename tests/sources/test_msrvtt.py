from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY / "../shared/data/annotations"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real heads of MSR-VTT are not in ../shared/data")

ADACLIP = {"video0": {"sentences": ["one", "two"], "timestamps": [[1.5, 9]]}, "video1": {"sentences": ["three"]}}
JSFUSION = "key,vid_key,video_id,sentence\nret0,msr2,video2,a boy plays a game\n"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("msrvtt")
    get_source("msrvtt").demo(Tree(path))
    return path


def annotate(path: Path, **splits: str) -> None:
    """Write annotations of clips with two captions each."""
    videos = [{"video_id": video, "start time": 1.5, "end time": 9, "split": split} for video, split in splits.items()]
    sentences = [{"video_id": video, "caption": f"{n} of {video}"} for n in ("one", "two") for video in splits]
    Tree(path.parent).json(path.name, {"info": {}, "videos": videos, "sentences": sentences})


@real
def test_real_lists_of_1k_a(tmp_path):
    shutil.copytree(SHARED / "msrvtt", tmp_path / "csv")
    with (SHARED / "msrvtt/MSRVTT_JSFUSION_test.csv").open(newline="") as file:
        sentences = {row["video_id"]: row["sentence"] for row in csv.DictReader(file)}
    first, *others = sentences
    touch(tmp_path, "TrainValVideo/video0.mp4", f"TestVideo/{first}.mp4", *(f"TestVideo/{name}.avi" for name in others))
    samples, left_out = read("msrvtt", tmp_path, "1k-A")
    assert {s.key: s.caption for s in samples} == sentences
    assert {s.split for s in samples} == {"test"}
    assert samples[0].media.path == f"TestVideo/{first}.mp4"
    assert (left_out["video0"], left_out["video1"]) == ("no caption", "missing media")


@real
def test_real_original_annotations_give_what_adaclip_gives(tmp_path):
    shutil.copytree(SHARED / "adaclip_annots/msrvtt-jsfusion", tmp_path / "theirs")
    theirs = json.loads((tmp_path / "theirs/val.json").read_text())
    touch(tmp_path, *(f"theirs/{video}.mp4" for video in theirs), *(f"ours/{video}.mp4" for video in theirs))
    shutil.copy(SHARED / "msrvtt/MSRVTT_JSFUSION_test.csv", tmp_path / "ours")
    shutil.copy(SHARED / "msrvtt/MSRVTT_train.9k.csv", tmp_path / "ours")
    expected, _ = read("msrvtt", tmp_path / "theirs", "1k-A")
    assert {s.key: (s.split, [s.caption]) for s in expected} == {
        video: ("test", entry["sentences"]) for video, entry in theirs.items()
    }
    assert {s.key: s.meta["timestamps"] for s in expected} == {v: entry["timestamps"] for v, entry in theirs.items()}
    found, _ = read("msrvtt", tmp_path / "ours", "1k-A")
    assert found  # the heads of both have this one
    assert {(s.key, s.caption) for s in found} <= {(s.key, s.caption) for s in expected}


def test_ways_to_use_captions(raw):
    texts = {way: {s.key: s.caption for s in read("msrvtt", raw, captions=way)[0]} for way in ("first", "each", "join")}
    assert texts["first"]["video0"] == "a man sings"
    assert texts["join"]["video0"] == "a man sings. a man is singing a song."
    assert texts["join"]["video1"] == "两只狗在跑。 two dogs run!"
    assert texts["join"]["video2"] == 'she says "hello".'
    assert (texts["each"]["video0_0"], texts["each"]["video0_1"]) == ("a man sings", "a man is singing a song.")


def test_each_caption_shares_the_clip_and_knows_all(raw):
    samples = [s for s in read("msrvtt", raw, captions="each")[0] if s.media.id == "video0"]
    assert len(samples) == 2
    assert samples[0].media == samples[1].media
    assert samples[1].meta["captions"] == ["a man sings", "a man is singing a song."]


def test_times_in_the_youtube_video_are_no_window(raw):
    sample = read("msrvtt", raw)[0][0]
    assert (sample.media.start, sample.media.end) == (None, None)
    assert (sample.meta["start time"], sample.meta["end time"]) == (12.5, 24.0)


def test_1k_a_tests_on_the_one_sentence(raw):
    samples, left_out = read("msrvtt", raw, "1k-A", captions="each")
    (test,) = [s for s in samples if s.split == "test"]
    assert (test.key, test.caption, test.meta["captions"]) == ("video3_0", "a boy plays a game", ["a boy plays a game"])
    assert (test.meta["all_captions"], test.meta["vid_key"]) == (["a boy plays a racing game"], "msr3")
    assert left_out == {"video4": "no caption", "video5": "missing media", "video6": "missing media"}


def test_clips_that_no_list_has_are_left_out_with_a_reason(raw):
    samples, left_out = read("msrvtt", raw, "7k")
    assert {s.key: s.split for s in samples} == {"video0": "train", "video1": "train", "video3": "test"}
    assert left_out["video2"] == "not in the lists of the split"


def test_missing_video_is_not_kept_with_an_empty_extension(tmp_path):
    entry = {"timestamps": [[1, 2]], "sentences": ["a man sings"]}
    entries = {"video1": {"extension": "", **entry}, "video2": {"extension": "mkv", **entry}}
    Tree(tmp_path).json("val.json", entries)
    touch(tmp_path, "video2.webm")
    samples, left_out = read("msrvtt", tmp_path, "1k-A")
    assert [(s.key, s.media.path) for s in samples] == [("video2", "video2.webm")]
    assert left_out == {"video1": "missing media"}


def test_the_two_files_of_the_challenge(tmp_path):
    annotate(tmp_path / "train_val_videodatainfo.json", video0="train", video1="validate")
    annotate(tmp_path / "test_videodatainfo.json", video2="test")
    touch(tmp_path, "TrainValVideo/video0.mp4", "TrainValVideo/video1.mp4", "TestVideo/video2.mp4")
    samples, _ = read("msrvtt", tmp_path)
    assert {s.key: s.split for s in samples} == {"video0": "train", "video1": "val", "video2": "test"}
    annotate(tmp_path / "test_videodatainfo.json", video2="test", video0="test")
    twice = {"video 1 of test_videodatainfo.json": "a clip that is among the videos before"}
    assert read("msrvtt", tmp_path) == (samples, twice)
    annotate(tmp_path / "MSRVTT_data.json", video0="train", video1="validate", video2="test")
    assert read("msrvtt", tmp_path)[0] == samples  # the joint file says the same, and is not added to them


def test_lists_of_the_full_split_go_before_the_annotations(tmp_path):
    annotate(tmp_path / "annotation/MSRVTT_data.json", video0="test", video1="test", video2="test", video3="test")
    lists = {"train": "video2\nvideo0", "val": "video1\r\n", "test": "\ufeffvideo9\n\n"}
    for split, text in lists.items():
        Tree(tmp_path).text(f"full_split/{split}_list_full.txt", text)
    touch(tmp_path, *(f"v/video{number}.mp4" for number in range(4)))
    samples, left_out = read("msrvtt", tmp_path)
    assert [(s.key, s.split) for s in samples] == [("video2", "train"), ("video0", "train"), ("video1", "val")]
    assert left_out == {"video9": "missing media", "video3": "not in the lists of the split"}


def test_annotations_of_the_shared_zip_with_plain_lists(tmp_path):
    texts = [("video1", "a"), ("video0", "b"), ("video1", "c"), ("video2", "d")]
    tree = Tree(tmp_path)
    tree.json("annotation/MSR_VTT.json", {"annotations": [{"image_id": v, "id": 1, "caption": t} for v, t in texts]})
    tree.text("high-quality/structured-symlinks/train_list_jsfusion.txt", "video0\nvideo1\n")
    tree.text("high-quality/structured-symlinks/val_list_jsfusion.txt", "video2\n")
    tree.text("MSRVTT_JSFUSION_test.csv", JSFUSION)
    touch(tmp_path, *(f"videos/all/video{number}.mp4" for number in range(3)), "thumbnails/video0.jpg")
    samples, _ = read("msrvtt", tmp_path, "1k-A")
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("video0", "train", "b"),
        ("video1", "train", "a"),
        ("video2", "test", "a boy plays a game"),
    ]
    assert samples[0].media.path == "videos/all/video0.mp4"
    assert {s.split for s in read("msrvtt", tmp_path)[0]} == {""}


def test_1k_b_by_the_recipe(tmp_path):
    annotate(tmp_path / "raw/MSRVTT_data.json", video0="train", video1="validate", video2="test", video3="test")
    Tree(tmp_path).text("raw/lists/train_list_miech.txt", "video1\nvideo3\n")
    Tree(tmp_path).text("raw/lists/test_list_miech.txt", "video0\n")
    touch(tmp_path, *(f"raw/v/video{number}.mp4" for number in range(4)))
    options = PrepareOptions(split=str(REPOSITORY / "splits/msrvtt-1k-B.yaml"))
    report = prepare(get_source("msrvtt"), tmp_path / "raw", tmp_path / "m.parquet", options, lambda n: None)
    assert report.samples == {"train": 2, "val": 0, "test": 1}
    assert report.left_out == {"not in the split recipe": 1}


def test_one_bad_row_takes_no_other_down(tmp_path):
    sentences = [{"video_id": "video0", "caption": "fine"}, {"caption": "whose"}, {"video_id": "video0"}, 7]
    sentences += [{"video_id": "video0", "caption": 5}, {"video_id": "video7", "caption": "of nothing"}]
    videos = [{"video_id": "video0", "split": "train"}, {"id": 1}, None, {"video_id": "video1", "split": "extra"}]
    Tree(tmp_path).json("MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    touch(tmp_path, "video0.mp4", "video1.mp4")
    samples, left_out = read("msrvtt", tmp_path)
    assert [(s.key, s.caption) for s in samples] == [("video0", "fine")]
    unreadable = "an entry without the fields that it should have"
    assert left_out == {
        **{f"sentence {number} of MSRVTT_data.json": unreadable for number in (1, 2, 3, 4)},
        **{f"video {number} of MSRVTT_data.json": unreadable for number in (1, 2)},
        "video7": "captions of a clip that is not among the videos",
        "video1": "no caption",
    }


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found neither MSRVTT_data\.json nor .*expected in.*found:"):
        read("msrvtt", tmp_path)
    (tmp_path / "MSRVTT_data.json").write_text('{"videos": {}}')
    with pytest.raises(InputError, match="expected lists of videos and sentences, found the keys videos"):
        read("msrvtt", tmp_path)
    (tmp_path / "MSRVTT_data.json").write_text("{")
    with pytest.raises(InputError, match="is not the JSON that was expected"):
        read("msrvtt", tmp_path)
    (tmp_path / "MSRVTT_train.9k.csv").write_text("vid\nvideo0\n")
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text("video_id\nvideo1\n")
    (tmp_path / "MSRVTT_data.json").unlink()
    with pytest.raises(InputError, match="expected the columns video_id, found vid"):
        read("msrvtt", tmp_path, "1k-A")
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\n")
    with pytest.raises(InputError, match="expected the columns video_id, sentence, found video_id"):
        read("msrvtt", tmp_path, "1k-A")


def test_adaclip_files_tell_which_split_they_are(tmp_path):
    touch(tmp_path, "video0.mp4")
    for name in ("train", "val"):
        Tree(tmp_path).json(f"{name}.json", {f"video{len(name) - 5}": {"sentences": ["a man sings"]}, "video5": [1]})
    assert [s.split for s in read("msrvtt", tmp_path, "1k-A")[0]] == ["train"]
    with pytest.raises(InputError, match=r"nor AdaCLIP's train\.json, val\.json and test\.json for --split official"):
        read("msrvtt", tmp_path)
    with pytest.raises(InputError, match=r"found no MSRVTT_train\.7k\.csv for --split 7k"):
        read("msrvtt", tmp_path, "7k")
    Tree(tmp_path).json("test.json", {"video0": {"sentences": ["a man sings"]}})
    samples, left_out = read("msrvtt", tmp_path)
    assert [s.split for s in samples] == ["train", "test"]
    assert left_out["video5"] == "an entry without the fields that it should have"


@pytest.mark.parametrize("way", ["1k-A", "7k"])
def test_list_of_the_test_clips_without_their_sentences_is_not_enough(way, tmp_path):
    annotate(tmp_path / "MSRVTT_data.json", video0="train", video2="test")
    Tree(tmp_path).text(f"MSRVTT_train.{way[0].replace('1', '9')}k.csv", "video_id\nvideo0\n")
    Tree(tmp_path).text("val_list_jsfusion.txt", "video2\n")
    touch(tmp_path, "video0.mp4", "video2.mp4")
    with pytest.raises(InputError, match=f"(?s)found no MSRVTT_JSFUSION_test.csv for --split {way}.*val_list_jsfusion"):
        read("msrvtt", tmp_path, way)
    Tree(tmp_path).json("adaclip/val.json", {"video2": {"sentences": ["a boy plays a game"]}})
    train, test = read("msrvtt", tmp_path, way)[0]
    assert (train.caption, test.caption, test.split) == ("one of video0", "a boy plays a game", "test")
    assert test.meta["all_captions"] == ["one of video2", "two of video2"]


def test_val_json_of_another_split_is_no_test_of_1k_a(tmp_path):
    Tree(tmp_path).json("val.json", {"video9": {"sentences": ["one", "two"]}})
    touch(tmp_path, "video9.mp4")
    with pytest.raises(
        InputError, match=r"val\.json: expected .*JSFusion's one sentence, found video9 with sentences \(2\)"
    ):
        read("msrvtt", tmp_path, "1k-A")


def test_csv_lists_take_the_captions_of_adaclip(tmp_path):
    tree = Tree(tmp_path)
    tree.text("MSRVTT_train.9k.csv", "video_id\nvideo1\nvideo0\n")
    tree.text("MSRVTT_train.7k.csv", "video_id\nvideo0\n")
    tree.text("MSRVTT_JSFUSION_test.csv", JSFUSION)
    tree.json("train.json", ADACLIP)
    touch(tmp_path, *(f"video{number}.mp4" for number in range(3)))
    samples, left_out = read("msrvtt", tmp_path, "1k-A", captions="join")
    assert [s.caption for s in samples] == ["three.", "one. two.", "a boy plays a game."]
    assert (samples[1].meta["timestamps"], left_out) == ([[1.5, 9]], {})
    samples, left_out = read("msrvtt", tmp_path, "7k")
    assert [s.key for s in samples] == ["video0", "video2"]
    assert left_out == {"video1": "not in the lists of the split"}


def test_file_without_which_a_split_is_another_is_missed(tmp_path):
    annotate(tmp_path / "train_val_videodatainfo.json", video0="train", video1="validate")
    touch(tmp_path, "video0.mp4", "video1.mp4")
    assert len(read("msrvtt", tmp_path)[0]) == 2
    for split in ("train", "test"):
        Tree(tmp_path).text(f"{split}_list_full.txt", "video0\n")
    with pytest.raises(InputError, match=r"train_val_videodatainfo\.json without test_videodatainfo\.json"):
        read("msrvtt", tmp_path)
    annotate(tmp_path / "MSRVTT_data.json", video0="train", video1="validate")
    with pytest.raises(InputError, match=r"found no val_list_full\.txt for --split official"):
        read("msrvtt", tmp_path)


def test_files_of_another_dataset_with_the_names_of_adaclip(tmp_path):
    for split in ("train", "val", "test"):
        Tree(tmp_path).json(f"didemo/{split}.json", {f"1@N00_{split}.mov": {"sentences": ["a dog."]}})
    for way in ("official", "1k-A"):
        with pytest.raises(InputError, match=r"didemo/\w+\.json: expected clips video0, .* another dataset's"):
            read("msrvtt", tmp_path, way)
    Tree(tmp_path).json("msrvtt-jsfusion/val.json", ADACLIP)
    with pytest.raises(InputError, match=r"expected one val\.json, found .*didemo/val\.json and .*msrvtt-jsfusion"):
        read("msrvtt", tmp_path, "1k-A")


@pytest.mark.parametrize("way", ["official", "1k-A"])
def test_video_listed_twice_is_used_once_and_reported(way, tmp_path):
    videos = [{"video_id": "video0", "split": split} for split in ("train", "test")]
    sentences = [{"video_id": "video0", "caption": "a man sings"}]
    Tree(tmp_path).json("MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    Tree(tmp_path).text("MSRVTT_train.9k.csv", "video_id\nvideo0\n")
    Tree(tmp_path).text("MSRVTT_JSFUSION_test.csv", JSFUSION)
    touch(tmp_path, "video0.mp4", "video2.mp4")
    samples, left_out = read("msrvtt", tmp_path, way)
    assert (samples[0].key, samples[0].split, samples[0].caption) == ("video0", "train", "a man sings")
    assert left_out == {"video 1 of MSRVTT_data.json": "a clip that is among the videos before"}
