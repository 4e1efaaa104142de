from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embedshard.errors import InputError
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/kinetics700"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real heads of Kinetics-700 are not in ../shared/data")
def test_real_annotations(tmp_path):
    for path in REAL.iterdir():
        shutil.copy(path, tmp_path)
    touch(
        tmp_path,
        "validate/testifying/---QUuC4vJs_000084_000094.mp4",
        "validate/washing_feet/--GkrdYZ9Tc_000000_000010.mkv",
        "validate/--nQbRBEz2s_000104_000114.mp4",
        "test/air drumming/---v8pgm1eQ_000000_000010.mp4",
        "test/--0kKuQu4Gs_000000_000010.mp4",
    )
    samples, left_out = read("kinetics700", tmp_path)
    val = [(s.split, s.media.id, s.caption) for s in samples[:3]]
    assert val == [
        ("val", "---QUuC4vJs", "testifying"),
        ("val", "--GkrdYZ9Tc", "washing feet"),
        ("val", "--nQbRBEz2s", "air drumming"),
    ]
    assert [(s.caption, s.split) for s in samples[3:]] == [("air drumming", "test"), ("", "test")]
    meta = {"videoID": "--nQbRBEz2s", "start_time": 104, "end_time": 114, "label": "air drumming", "label_id": 3}
    assert samples[2].meta == meta
    assert (samples[2].media.start, samples[2].media.end) == (None, None)
    assert "missing media" in left_out.values()


def test_folders_alone_say_it_all(tmp_path):
    touch(tmp_path, "train/tossing_salad/a_000001_00_000000_000010.mp4", "val/-bcdefghijk_000100_000110.webm")
    touch(tmp_path, "train/tossing_salad/odd.mp4", "train/tossing_salad/notes.txt")
    samples, left_out = read("kinetics700", tmp_path)
    assert [(s.media.id, s.meta["start_time"], s.caption) for s in samples] == [
        ("a_000001_00", 0, "tossing salad"),
        ("-bcdefghijk", 100, ""),
    ]
    assert samples[0].key == "a_000001_00_000000_000010"
    assert list(left_out) == ["train/tossing_salad/odd.mp4"]


def test_a_bad_time_takes_no_other_row_down(tmp_path):
    touch(tmp_path, "train/l/abcdefghijk_000001_000011.mp4")
    rows = "label,youtube_id,time_start,time_end\nl,x,soon,2\nl,abcdefghijk,1.0,11\n"
    (tmp_path / "train.csv").write_text(rows)
    samples, left_out = read("kinetics700", tmp_path)
    assert [s.media.id for s in samples] == ["abcdefghijk"]
    assert list(left_out) == ["x"]


@pytest.mark.parametrize("name", [".", "gone"])
def test_another_tree(tmp_path, name):
    with pytest.raises(InputError, match=r"(?s)expected train\.csv.*YOUTUBEID"):
        read("kinetics700", tmp_path / name)
