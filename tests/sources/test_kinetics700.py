from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedshard.errors import InputError
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/kinetics700"
HEADER = "label,youtube_id,time_start,time_end,split\n"
CLIP = "abcdefghijk_000001_000011"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real heads of Kinetics-700 are not in ../shared/data")
def test_real_annotations(tmp_path):
    for path in REAL.iterdir():
        shutil.copy(path, tmp_path)
    touch(
        tmp_path,
        "validate/testifying/---QUuC4vJs_000084_000094.mp4",
        "validate/washing_feet/--GkrdYZ9Tc_000000_000010.mkv",
        "validate/--nQbRBEz2s_000104_000114.MP4",
        "test/air drumming/---v8pgm1eQ_000000_000010.mp4",
        "test/--0kKuQu4Gs_000000_000010.mp4",
    )
    samples, left_out = read("kinetics700", tmp_path)
    assert [(s.split, s.media.id, s.caption) for s in samples] == [
        ("val", "---QUuC4vJs", "testifying"),
        ("val", "--GkrdYZ9Tc", "washing feet"),
        ("val", "--nQbRBEz2s", "air drumming"),
        ("test", "---v8pgm1eQ", "air drumming"),
        ("test", "--0kKuQu4Gs", ""),
    ]
    meta = {"videoID": "--nQbRBEz2s", "start_time": "000104", "end_time": "000114"}
    assert samples[2].meta == {**meta, "label": "air drumming", "label_id": 3}
    assert (samples[2].media.start, samples[2].media.end) == (None, None)
    assert left_out["--rd8woSLiM_000041_000051"] == "missing media"


@pytest.mark.parametrize(
    "table",
    [
        HEADER + "l,abcdefghijk,1,11,train\n",
        HEADER + "l,abcdefghijk,1.0,1.1e1,train\n",
        "split,is_cc,time_end,time_start,youtube_id,label\ntrain,0,11,1,abcdefghijk,l\n",
        "video-id,start-time,end-time,label-name\nabcdefghijk,000001,000011,l\n",
    ],
)
def test_forms_of_csv(tmp_path, table):
    touch(tmp_path, f"train/l/{CLIP}.mp4")
    (tmp_path / "train.csv").write_text(table)
    samples, left_out = read("kinetics700", tmp_path)
    assert [(s.key, s.caption, left_out) for s in samples] == [(CLIP, "l", {})]


def test_annotation_json(tmp_path):
    entry = {"duration": 10.0, "subset": "validate", "url": "https://www.youtube.com/watch?v=abcdefghijk"}
    segment = {"segment": [1.0, 11.0]}
    table = {
        "abcdefghijk": {**entry, "annotations": {"label": "l", **segment}},
        "abcdefghijl": {**entry, "annotations": segment},
        "gone": {**entry, "annotations": {"label": "l", **segment}},
        "null": {"annotations": {"label": "l", "segment": None}},
        "list": [],
        "text": {"annotations": {"segment": ["soon", []]}},
    }
    touch(tmp_path, f"validate/{CLIP}.mp4", "validate/other_label/abcdefghijl_000001_000011.mp4", "kinetics700/.x")
    (tmp_path / "kinetics700/validate.json").write_text(json.dumps(table))
    samples, left_out = read("kinetics700", tmp_path)
    assert [(s.media.id, s.split, s.caption) for s in samples] == [
        ("abcdefghijk", "val", "l"),
        ("abcdefghijl", "val", "other label"),
    ]
    assert left_out == {
        "gone_000001_000011": "missing media",
        "a row of validate.json": "an entry without annotations that hold a segment",
        "text": "its times are no numbers",
    }


def test_csv_goes_before_json(tmp_path):
    touch(tmp_path, f"train/{CLIP}.mp4", "annotations/.x")
    (tmp_path / "annotations/train.csv").write_text(HEADER + "right,abcdefghijk,1,11,train\n")
    (tmp_path / "annotations/train.json").write_text("{}")
    assert [s.caption for s in read("kinetics700", tmp_path)[0]] == ["right"]


@pytest.mark.parametrize("place", ["train", "train/l", "training/any", "videos/train/l", "clips", "."])
def test_places_of_clips(tmp_path, place):
    (tmp_path / "train.csv").write_text(HEADER + "l,abcdefghijk,1,11,train\n")
    touch(tmp_path, f"{place}/{CLIP}.webm", f"{place}/{CLIP}.webm.part", f"{place}/{CLIP}.jpg", f"{place}/notes.txt")
    samples, left_out = read("kinetics700", tmp_path)
    assert ([Path(s.media.path) for s in samples], left_out) == ([Path(place, f"{CLIP}.webm")], {})


def test_clips_without_split_folders_are_shared_by_the_tables(tmp_path):
    for split, video in {"train": "abcdefghijk", "validate": "abcdefghijl"}.items():
        (tmp_path / f"{split}.csv").write_text(HEADER + f"l,{video},1,11,{split}\n")
    touch(tmp_path, *(f"clips/abcdefghij{letter}_000001_000011.mp4" for letter in "klm"))
    samples, left_out = read("kinetics700", tmp_path)
    assert [(s.media.id, s.split) for s in samples] == [("abcdefghijk", "train"), ("abcdefghijl", "val")]
    assert left_out == {"clips/abcdefghijm_000001_000011.mp4": "named by no row"}


def test_a_folder_is_a_label_only_below_its_split(tmp_path):
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nabcdefghijk,1,11,test\n")
    touch(tmp_path, f"clips/{CLIP}.mp4")
    assert [s.caption for s in read("kinetics700", tmp_path)[0]] == [""]


def test_folders_alone_say_it_all(tmp_path):
    touch(tmp_path, "train/tossing_salad/a_000001_00_000000_000010.mp4", "val/-bcdefghijk_000100_000110.webm")
    touch(tmp_path, "train/tossing_salad/odd.mp4", "train/tossing_salad/notes.txt")
    samples, left_out = read("kinetics700", tmp_path)
    assert [(s.media.id, s.meta["start_time"], s.meta["end_time"], s.caption) for s in samples] == [
        ("a_000001_00", "000000", "000010", "tossing salad"),
        ("-bcdefghijk", "000100", "000110", ""),
    ]
    assert samples[0].key == "a_000001_00_000000_000010"
    assert list(left_out) == ["train/tossing_salad/odd.mp4"]


def test_metadata_of_table_and_folders_agree(tmp_path):
    (tmp_path / "train.csv").write_text(HEADER + "a b,-_cdefghi_-,1,11,train\n")
    touch(tmp_path, "train/a_b/-_cdefghi_-_000001_000011.mp4")
    listed, _ = read("kinetics700", tmp_path)
    (tmp_path / "train.csv").unlink()
    assert read("kinetics700", tmp_path)[0] == listed


def test_a_bad_row_takes_no_other_row_down(tmp_path):
    touch(tmp_path, f"train/l/{CLIP}.mp4")
    rows = "l,x,soon,2,train\nl,y,nan,2,train\nl,z,inf,2,train\nl,short\nl,abcdefghijk,1.0,11,train\n"
    (tmp_path / "train.csv").write_text(HEADER + rows)
    samples, left_out = read("kinetics700", tmp_path)
    assert [s.media.id for s in samples] == ["abcdefghijk"]
    assert list(left_out) == ["x", "y", "z", "a row of train.csv"]


def test_clips_that_rows_and_files_do_not_share_are_counted(tmp_path):
    touch(tmp_path, f"train/l/{CLIP}.mp4", f"train/m/{CLIP}.mp4", "train/l/extra.mp4")
    (tmp_path / "train.csv").write_text(HEADER + "l,abcdefghijk,1,11,train\n" * 2)
    samples, left_out = read("kinetics700", tmp_path)
    assert [s.media.path for s in samples] == [f"train/l/{CLIP}.mp4"]
    assert left_out == {
        f"train/m/{CLIP}.mp4": "another media file of the same name is used",
        CLIP: "named by two rows",
        "train/l/extra.mp4": "named by no row",
    }


@pytest.mark.parametrize("name", [".", "gone"])
def test_another_tree(tmp_path, name):
    with pytest.raises(InputError, match=r"(?s)expected train\.csv.*YOUTUBEID"):
        read("kinetics700", tmp_path / name)


def test_another_csv(tmp_path):
    (tmp_path / "train.csv").write_text("path_to_video label\nl/a.mp4 3\n")
    with pytest.raises(InputError, match=r"train\.csv: expected the columns youtube_id, .*found path_to_video label"):
        read("kinetics700", tmp_path)
