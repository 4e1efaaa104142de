from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.encode.run import EncodeOptions, encode
from embedshard.errors import InputError
from embedshard.frames import Sampling
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sample import make_key
from embedshard.sources import get_source
from tests.sources.rows import read, touch

SHARED = Path(__file__).parents[2] / "../shared/data/annotations"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real heads of DiDeMo are not in ../shared/data")

SEGMENT = {"as": "segment"}
ONE, TWO = "10@N00_4250000001_aa5c3c8051.m4v", "12@N03_7585_57."


def row(video: str, description: object, times: object = ((0, 0),), num_segments: int = 6) -> dict[str, object]:
    return {"video": video, "description": description, "times": times, "num_segments": num_segments}


def window(tmp_path: Path, times: object, num_segments: int = 6) -> tuple[float | None, float | None]:
    Tree(tmp_path).json("val_data.json", [row(ONE, "a dog", times, num_segments)])
    touch(tmp_path, f"{ONE}.mp4")
    (sample,), _ = read("didemo", tmp_path, **SEGMENT)
    return sample.media.start, sample.media.end


@real
@pytest.mark.parametrize("split", ["val", "test"])
def test_real_original_annotations_give_what_adaclip_gives(split, tmp_path):
    theirs = json.loads((SHARED / f"adaclip_annots/didemo/{split}.json").read_text())
    rows = json.loads((SHARED / f"didemo/{split}_data.json").read_text())
    shutil.copytree(SHARED / "didemo", tmp_path / "ours", ignore=shutil.ignore_patterns("*list.txt"))
    Tree(tmp_path).text(f"ours/{split}_list.txt", "\n".join(theirs))
    shutil.copytree(SHARED / "adaclip_annots/didemo", tmp_path / "theirs")
    touch(tmp_path, *(f"{tree}/{video}.mp4" for tree in ("ours", "theirs") for video in theirs))
    adaclip, _ = read("didemo", tmp_path / "theirs")
    expected = {video: " ".join(entry["sentences"]) for video, entry in theirs.items()}
    assert {s.media.id: s.caption for s in adaclip} == expected
    assert {s.split for s in adaclip} == {split}
    samples, _ = read("didemo", tmp_path / "ours")
    assert [s.media.id for s in samples] == list(expected)
    for sample in samples:  # the head has not all descriptions of a video
        count = sum(row["video"] == sample.media.id for row in rows)
        assert sample.caption == " ".join(theirs[sample.media.id]["sentences"][:count])


@real
def test_real_lists_leave_out_what_they_do_not_have(tmp_path):
    shutil.copytree(SHARED / "didemo", tmp_path, dirs_exist_ok=True)
    samples, left_out = read("didemo", tmp_path)
    assert samples == []
    assert set(left_out.values()) == {"not in the lists of the split"}
    assert len(left_out) == 8


@real
def test_real_windows(tmp_path):
    shutil.copytree(SHARED / "didemo", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*list.txt"))
    rows = [row for split in ("val", "test") for row in json.loads((SHARED / f"didemo/{split}_data.json").read_text())]
    touch(tmp_path, *(f"videos/{row['video']}.mp4" for row in rows))
    samples, left_out = read("didemo", tmp_path, **SEGMENT)
    assert left_out == {}
    for sample, raw in zip(samples, rows, strict=True):
        first, last = sample.media.start // 5, sample.media.end // 5 - 1
        assert raw["times"].count([first, last]) == max(map(raw["times"].count, raw["times"]))
        assert (sample.caption, sample.media.id) == (raw["description"], raw["video"])
        assert {**sample.meta, "description": raw["description"]} == {
            **raw,
            "id": f"{raw['video']}_0",
            "segment_index": 0,
        }


def test_all_descriptions_of_a_video_are_one_caption(tmp_path):
    rows = [row(ONE, "a dog runs"), row(TWO, "a flag"), row(ONE, " it stops. "), row(ONE, " "), row(ONE, "it barks!")]
    Tree(tmp_path).json("train_data.json", rows)
    touch(tmp_path, f"{ONE}.mp4", f"{TWO}.mp4")
    samples, left_out = read("didemo", tmp_path)
    assert [(s.key, s.caption) for s in samples] == [
        (make_key(ONE), "a dog runs. it stops. it barks!."),  # a full stop where there is none, as AdaCLIP does
        (make_key(TWO), "a flag."),
    ]
    assert samples[0].meta == {"id": ONE, "captions": ["a dog runs", "it stops.", "", "it barks!"]}
    assert left_out == {}


def test_windows_are_chunks_of_five_seconds_whose_last_counts(tmp_path):
    assert window(tmp_path, [[3, 3]]) == (15, 20)
    assert window(tmp_path, [[1, 4]]) == (5, 25)


def test_most_frequent_window_of_the_annotators_wins_and_ties_go_to_the_first(tmp_path):
    assert window(tmp_path, [[4, 4], [2, 2], [4, 4], [4, 4]]) == (20, 25)
    assert window(tmp_path, [[2, 2], [1, 2], [1, 1], [2, 2]]) == (10, 15)
    assert window(tmp_path, [[0, 1], [1, 1]]) == (0, 10)


def test_window_ends_with_the_last_chunk(tmp_path):
    assert window(tmp_path, [[4, 5]], 6) == (20, 30)
    assert window(tmp_path, [[4, 5]], 5) == (20, 25)


def test_descriptions_of_a_video_share_its_file(tmp_path):
    get_source("didemo").demo(Tree(tmp_path))
    samples, left_out = read("didemo", tmp_path, **SEGMENT)
    dog = [s for s in samples if s.media.id.endswith(".m4v")]
    assert [(s.media.start, s.media.end, s.caption) for s in dog] == [(5, 10, "a dog runs"), (0, 5, "the dog stops.")]
    assert len({(s.media.id, s.media.path) for s in dog}) == 1
    assert [s.meta["segment_index"] for s in dog] == [0, 1]
    assert dog[0].meta["times"] == [[0, 0], [1, 1], [1, 1], [0, 1]]
    assert left_out == {"14@N00_2_cd.mov": "not in the lists of the split", "13@N00_1_ab.avi_0": "missing media"}


def test_last_chunk_of_a_short_video_ends_with_the_file(tmp_path, encoder):
    get_source("didemo").demo(Tree(tmp_path / "raw"))
    options = PrepareOptions(settings=SEGMENT)
    report = prepare(get_source("didemo"), tmp_path / "raw", tmp_path / "m.parquet", options, lambda n: None)
    assert report.samples == {"train": 3, "val": 1, "test": 1}
    assert report.left_out["no caption"] == 1
    manifest = open_manifest(tmp_path / "m.parquet")
    done = encode(manifest, tmp_path / "processed", encoder, EncodeOptions(Sampling("fps"), workers=0))
    assert (done.done, done.failed) == (5, 0)
    (waves,) = (tmp_path / "processed/train").glob("*mpg_0.json")
    meta = json.loads(waves.read_text())
    assert (meta["start"], meta["end"], meta["frame_times"]) == (20, 22, [20, 21])


@pytest.mark.parametrize(
    "name", [f"{ONE}.mp4", f"{ONE}.webm", ONE, ONE.replace("m4v", "mp4"), "aab/85c/aab85c.mp4", f"{ONE.upper()}.MP4"]
)
def test_names_of_the_files(name, tmp_path):
    Tree(tmp_path).json("data/train_data.json", [row(ONE, "a dog")])
    Tree(tmp_path).text("data/yfcc100m_hash.txt", "1\tff\n4250000001\taab85c\n")
    touch(tmp_path, f"videos/{name}", f"videos/{ONE}.mp4.part", f"videos/{ONE}.txt", f"thumbs/{ONE}.jpg")
    samples, left_out = read("didemo", tmp_path)
    assert [s.media.path for s in samples] == ([] if name.isupper() else [f"videos/{name}"])
    assert left_out == ({ONE: "missing media"} if name.isupper() else {})


@pytest.mark.parametrize("name", [f"{TWO}.mp4", TWO, f"{TWO}mkv"])
def test_name_that_ends_in_a_dot(name, tmp_path):
    Tree(tmp_path).json("val_data.json", [row(TWO, "a flag")])
    touch(tmp_path, name)
    (sample,), _ = read("didemo", tmp_path)
    assert (sample.media.path, sample.media.kind, sample.media.id) == (name, "video", TWO)


def test_lists_go_before_the_names_of_the_files(tmp_path):
    Tree(tmp_path).json("train_data.json", [row(ONE, "a dog"), row(TWO, "a flag")])
    touch(tmp_path, f"{ONE}.mp4", f"{TWO}.mp4")
    assert {s.split for s in read("didemo", tmp_path)[0]} == {"train"}
    Tree(tmp_path).text("lists/test_list.txt", f"{TWO}\r\n")
    for mode in ("caption", "segment"):
        samples, left_out = read("didemo", tmp_path, **{"as": mode})
        assert [(s.media.id, s.split) for s in samples] == [(TWO, "test")]
        assert left_out == {ONE: "not in the lists of the split"}


def test_one_bad_row_takes_no_other_down(tmp_path):
    bad = [7, {"video": ONE}, {"description": "a"}, row(ONE, None), {"video": [ONE], "description": "a"}]
    bad_times = [row(ONE, "a", times) for times in (None, [], [[1]], [["1", "2"]], 5, [[0, [1]]])]
    Tree(tmp_path).json("train_data.json", [*bad, *bad_times, row(ONE, "fine", [[0, 0]])])
    touch(tmp_path, f"{ONE}.mp4")
    samples, left_out = read("didemo", tmp_path, **SEGMENT)
    assert [(s.key, s.caption) for s in samples] == [(make_key(f"{ONE}_6"), "fine")]
    assert left_out == {
        **{f"entry {n} of train_data.json": "an entry without the fields that it should have" for n in range(5)},
        **{f"{ONE}_{n}": "times are no pairs of chunks" for n in range(6)},
    }


def test_adaclip_form_has_no_windows(tmp_path):
    Tree(tmp_path).json("test.json", {ONE: {"extension": "", "sentences": ["a dog.", "it runs."]}, TWO: {}, "v": 1})
    touch(tmp_path, f"{ONE}.mp4")
    (sample,), left_out = read("didemo", tmp_path)
    assert (sample.caption, sample.split) == ("a dog. it runs.", "test")
    assert set(left_out.values()) == {"an entry without the fields that it should have"}
    assert set(read("didemo", tmp_path, **SEGMENT)[1].values()) > {"times are no pairs of chunks"}


def test_a_sentence_that_is_no_text_costs_only_itself(tmp_path):
    Tree(tmp_path).json("test.json", {ONE: {"sentences": ["a dog.", None]}, TWO: {"sentences": [7]}})
    touch(tmp_path, f"{ONE}.mp4", f"{TWO}.mp4")
    assert {s.media.id: s.caption for s in read("didemo", tmp_path)[0]} == {ONE: "a dog.", TWO: ""}


def test_splits_may_be_in_either_form(tmp_path):
    Tree(tmp_path).json("train_data.json", [row(ONE, "a dog")])
    Tree(tmp_path).json("adaclip/val.json", {TWO: {"sentences": ["a flag."]}})
    Tree(tmp_path).json("adaclip/train.json", {ONE: {"sentences": ["a dog."]}})
    touch(tmp_path, f"{ONE}.mp4", f"{TWO}.mp4")
    samples, left_out = read("didemo", tmp_path)
    assert [(s.media.id, s.split, s.caption) for s in samples] == [(ONE, "train", "a dog."), (TWO, "val", "a flag.")]
    assert left_out == {}


def test_files_of_another_dataset_with_the_names_of_adaclip(tmp_path):
    Tree(tmp_path).json("train_data.json", [row(ONE, "a dog")])
    Tree(tmp_path).json("msrvtt/val.json", {"video9": {"sentences": ["a man sings"], "timestamps": [[0, 1]]}})
    with pytest.raises(
        InputError, match=r"val\.json: expected Flickr videos.*found video9 with sentences \(1\), timestamps"
    ):
        read("didemo", tmp_path)
    Tree(tmp_path).json("didemo/val.json", {TWO: {"sentences": ["a flag."]}})
    with pytest.raises(InputError, match=r"expected one val\.json, found .*didemo/val\.json and .*msrvtt/val\.json"):
        read("didemo", tmp_path)


def test_video_in_two_lists_is_no_matter_of_order(tmp_path):
    Tree(tmp_path).json("train_data.json", [row(ONE, "a dog")])
    Tree(tmp_path).text("train_list.txt", f"{ONE}\n{ONE}\n")
    touch(tmp_path, f"{ONE}.mp4")
    assert len(read("didemo", tmp_path)[0]) == 1
    Tree(tmp_path).text("test_list.txt", f"{TWO}\n{ONE}\n")
    with pytest.raises(
        InputError, match=rf"test_list\.txt: expected .* in one list, found {ONE} in .*train_list\.txt too"
    ):
        read("didemo", tmp_path)


def test_another_tree(tmp_path):
    touch(tmp_path, "videos/a.mp4")
    with pytest.raises(
        InputError, match=r"(?s)found no train_data\.json.*expected in.*val_list\.txt.*found:\s+videos/"
    ):
        read("didemo", tmp_path)
    (tmp_path / "train_data.json").write_text("{}")
    with pytest.raises(InputError, match=r"train_data\.json is not the JSON that was expected"):
        read("didemo", tmp_path)
