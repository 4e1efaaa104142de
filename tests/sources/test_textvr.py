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

REAL = Path(__file__).parents[2] / "../shared/data/annotations/textvr"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real head of TextVR is not in ../shared/data")

NAME = "textvr"


def row(path: object, *captions: object, duration: object = 10.0) -> dict[str, Any]:
    infos = [{"caption": text, "caption_info": {"duration": duration, "desc_id": n}} for n, text in enumerate(captions)]
    return {"path": path, "captions_info": infos, "videos_info": {"source": "demo", "split": "train"}}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp(NAME)
    get_source(NAME).demo(Tree(path))
    return path


@real
def test_real_captions_and_durations(tmp_path):
    shutil.copytree(REAL, tmp_path, dirs_exist_ok=True)
    table = json.loads((REAL / "TextVR_test.json").read_text())
    touch(tmp_path, *(f"Videos/{row['path']}" for row in table))
    samples, left_out = read(NAME, tmp_path)
    assert left_out == {}
    infos = [row["captions_info"][0] for row in table]
    assert [s.caption for s in samples] == [info["caption"].strip() for info in infos]
    assert [s.media.duration for s in samples] == [info["caption_info"]["duration"] or None for info in infos]
    for sample, row in zip(samples, table, strict=True):
        assert (sample.media.id, sample.media.path) == (row["path"], f"Videos/{row['path']}")
        assert sample.meta["Kwai_OCR"] == row["videos_info"]["Kwai_OCR"]
        assert (sample.split, sample.meta["desc_ids"]) == ("test", [row["captions_info"][0]["caption_info"]["desc_id"]])


def test_captions_of_a_video(raw):
    texts = {way: {s.meta["id"]: s.caption for s in read(NAME, raw, captions=way)[0]} for way in ("first", "join")}
    assert texts["first"] == {
        "Activity/v_aB3-E6gHi0_1.mp4": "A man holds a sign that says OPEN.",
        "Sports/v_aB3-E6gHi0_1.mp4": "The score is 2:0",
        "Driving/road_00010_00020.mp4": "The car passes EXIT 12.",
        "Sports/run_1.mp4": "Lap 3.",
    }
    assert texts["join"]["Sports/v_aB3-E6gHi0_1.mp4"] == "The score is 2:0. HOME leads 2:0."
    each = [s for s in read(NAME, raw, captions="each")[0] if s.media.id == "Activity/v_aB3-E6gHi0_1.mp4"]
    assert [s.caption for s in each] == ["A man holds a sign that says OPEN.", "The sign says OPEN"]
    assert each[0].media == each[1].media


def test_videos_of_one_name_in_two_folders_are_two(raw):
    samples, _ = read(NAME, raw)
    paths = [s.media.path for s in samples if "v_aB3" in s.media.path]
    assert paths == ["Videos/Activity/v_aB3-E6gHi0_1.mp4", "Videos/Sports/v_aB3-E6gHi0_1.mp4"]


def test_duration_of_0_is_none(raw):
    assert [s.media.duration for s in read(NAME, raw)[0][:2]] == [None, 2.0]


def test_what_is_left_out(raw):
    assert read(NAME, raw)[1] == {
        "Cooking/gone_00200_00210.mp4": "missing media",
        "Cooking/blank_00200_00210.mp4": "no caption",
    }


def test_scrambled_test_captions_are_never_used(raw, tmp_path):
    texts = {s.meta["id"]: s.caption for s in read(NAME, raw)[0] if s.split == "test"}
    assert texts["Sports/run_1.mp4"] == "Lap 3."
    shutil.copytree(raw, tmp_path, dirs_exist_ok=True)
    (tmp_path / "TextVR_test.json").unlink()
    assert {s.split for s in read(NAME, tmp_path)[0]} == {"train"}
    (tmp_path / "TextVR_train.json").unlink()
    with pytest.raises(InputError, match="found no TextVR_train"):
        read(NAME, tmp_path)


def test_videos_in_a_zip_and_in_other_containers(tmp_path):
    Tree(tmp_path).json("TextVR_train.json", [row("Activity/a_1.mp4", "one"), row("Sports/a_1.mp4", "two")])
    with zipfile.ZipFile(tmp_path / "TextVR_data.zip", "w") as archive:
        archive.writestr("TextVR/Videos/Activity/a_1.mp4", b"video")
    touch(tmp_path, "resized/Sports/a_1.webm")
    samples, _ = read(NAME, tmp_path)
    assert samples[0].media.path.startswith("TextVR_data.zip#")
    assert samples[1].media.path == "resized/Sports/a_1.webm"


@pytest.mark.parametrize("ending", ["mp4", "webm"])
def test_videos_of_another_folder_do_not_go_before_those_of_videos(tmp_path, ending):
    Tree(tmp_path).json("TextVR_train.json", [row("X/a.mp4", "one"), row("X/b.mp4", "two")])
    touch(tmp_path, "OCRvideos/X/a.mp4", "OCRvideos/X/b.mp4", f"deep/TextVR/Videos/X/a.{ending}")
    with zipfile.ZipFile(tmp_path / "TextVR.zip", "w") as archive:
        archive.writestr(f"Videos/X/b.{ending}", b"video")
    first, second = (s.media.path for s in read(NAME, tmp_path)[0])
    assert first == f"deep/TextVR/Videos/X/a.{ending}"
    assert second.startswith(f"TextVR.zip#Videos/X/b.{ending}:")


def test_damaged_archive_is_counted(tmp_path):
    Tree(tmp_path).json("TextVR_train.json", [row("Activity/a_1.mp4", "one")])
    (tmp_path / "Videos.zip").write_bytes(b"PK cut off")
    assert set(read(NAME, tmp_path)[1]) == {"Activity/a_1.mp4", "Videos.zip"}


def test_one_bad_row_takes_no_other_down(tmp_path):
    table: list[object] = [row("A/0.mp4", "fine", 5, None), 7, {"path": "A/2.mp4"}, row(3, "whose"), row("", "whose")]
    table += [{**row("A/5.mp4"), "captions_info": "text"}, row("A/6.mp4"), row("A/7.mp4", "fine", duration="long")]
    table.append({"path": "A/8.mp4", "captions_info": ["x", {"caption": "fine", "caption_info": 3}], "videos_info": 4})
    Tree(tmp_path).json("TextVR_train.json", table)
    touch(tmp_path, *(f"A/{number}.mp4" for number in range(9)))
    samples, left_out = read(NAME, tmp_path)
    assert [(s.meta["id"], s.caption) for s in samples] == [(f"A/{n}.mp4", "fine") for n in (0, 7, 8)]
    assert samples[0].meta["captions"] == ["fine", "", ""]
    unreadable = "an entry without the fields that it should have"
    assert left_out == {
        "entry 1 of TextVR_train.json": "an entry that is no JSON object",
        **{f"entry {number} of TextVR_train.json": unreadable for number in (2, 3, 4, 5)},
        "A/6.mp4": "no caption",
    }


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no TextVR_train\.json.*expected in.*Videos/Activity.*found"):
        read(NAME, tmp_path)
