from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from embedshard.address import AddressOpener
from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sources import get_source
from tests.sources.rows import read, touch

LONG = "vript_captions/vript_long_videos_captions.jsonl"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("vript")
    get_source("vript").demo(Tree(path))
    return path


def clip(video: str, number: int, **fields: object) -> dict[str, Any]:
    caption = {"shot_type": "Close-up", "camera_movement": "Static", "content": f"Scene {number}.", "scene_title": "x"}
    meta = {"video_id": video, "video_title": "t", "num_clips": 2, "integrity": True}
    own = {"clip_id": f"{video}-Scene-00{number}", "caption": caption, "voiceover": ["Hey."]}
    return {"meta": meta, **own, **fields}


def file(*clips: dict[str, Any]) -> str:
    data = {row["clip_id"]: {name: row[name] for name in ("clip_id", "caption", "voiceover")} for row in clips}
    return json.dumps({"meta": clips[0]["meta"], "data": data})


def table(root: Path, *clips: object) -> None:
    Tree(root).text(LONG, "".join(json.dumps(row) + "\n" for row in clips))


def pack(path: Path, **members: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)


def test_clips_and_whole_videos(demo):
    samples, left_out = read("vript", demo)
    assert [(s.key, s.caption, s.media.start, s.media.end) for s in samples] == [
        ("007EvOaWFOA-Scene-001", "A dog runs.", None, None),
        ("x---2db1cD_e2F3g-2dScene-2d001", "A cat sleeps.", 0.0, 1.5),
        ("x---2db1cD_e2F3g-2dScene-2d002", "它醒了。", 1.0, 2.5),
        ("02toZL7p4_0-Scene-001", "A boat sails.", None, None),
    ]
    assert [s.media.id for s in samples] == ["007EvOaWFOA", "-b1cD_e2F3g", "-b1cD_e2F3g", "02toZL7p4_0"]
    assert samples[1].media.path == samples[2].media.path == "vript_long_videos/video_1_of_1095/-b1cD_e2F3g.mp4"
    assert left_out == {"007EvOaWFOA-Scene-002": "no caption", "007EvOaWFOA-Scene-003": "missing media"}


def test_content_is_the_caption_and_the_shot_type_is_not(demo):
    sample = read("vript", demo)[0][0]
    assert sample.caption == "A dog runs."
    assert sample.meta == {
        "id": "007EvOaWFOA-Scene-001",
        "video_id": "007EvOaWFOA",
        "video_title": "Animals",
        "num_clips": 3,
        "integrity": False,
        "clip_id": "007EvOaWFOA-Scene-001",
        "voiceover": ["Look at that!"],
        "shot_type": "Close-up",
        "camera_movement": "Static",
        "scene_title": "An animal",
        "cut_meta": {"start": 0, "end": 1.5},
    }


def test_clips_without_a_caption_are_left_out_where_integrity_is_false(tmp_path):
    silent = {"shot_type": "Close-up", "content": None}
    table(tmp_path, clip("a", 1, caption=None), clip("a", 2, caption=silent), clip("a", 3))
    touch(tmp_path, *(f"a-Scene-00{number}.mp4" for number in (1, 2, 3)))
    samples, left_out = read("vript", tmp_path)
    assert [s.key for s in samples] == ["a-Scene-003"]
    assert left_out == {"a-Scene-001": "no caption", "a-Scene-002": "no caption"}


def test_clip_ids_that_end_in_mp4(tmp_path):
    table(tmp_path, clip("a", 1, clip_id="a-Scene-001.mp4"), clip("b", 1, clip_id="b-Scene-001.mp4"))
    cut = {"clip_id": "b-Scene-001.mp4", "start": 1, "end": 2.5}
    Tree(tmp_path).json("b/b_cut_meta.json", {"clips": [cut]})
    touch(tmp_path, "a-Scene-001.mp4", "b.mp4")
    samples, left_out = read("vript", tmp_path)
    assert [(s.key, s.media.path, s.media.end) for s in samples] == [
        ("a-Scene-001", "a-Scene-001.mp4", None),
        ("b-Scene-001", "b.mp4", 2.5),
    ]
    assert not left_out


def test_outer_blanks_are_not_in_captions(tmp_path):
    table(tmp_path, *(clip("a", n, caption={"content": text}) for n, text in ((1, "\n A dog. "), (2, " \n"))))
    touch(tmp_path, "a-Scene-001.mp4", "a-Scene-002.mp4")
    samples, left_out = read("vript", tmp_path)
    assert [s.caption for s in samples] == ["A dog."]
    assert left_out == {"a-Scene-002": "no caption"}


def test_everything_in_zips_as_published(tmp_path):
    pack(tmp_path / "vript_captions/vript_long_videos_captions.zip", **{"x/a_caption.json": file(clip("a", 1))})
    pack(tmp_path / "vript_captions/vript_short_videos_captions.zip", **{"b_0_caption.json": file(clip("b_0", 1))})
    cut = json.dumps({"clips": [{"clip_id": "a-Scene-001.mp4", "start": "00:00:01.500", "end": 3}]})
    pack(
        tmp_path / "vript_long_videos_clips/clips_1_of_1095.zip",
        **{"clips_1_of_1095/a/a-Scene-001.mp4": "the clip", "clips_1_of_1095/a/a_cut_meta.json": cut},
    )
    pack(tmp_path / "vript_long_videos_clips/clips_2_of_1095.zip", **{"clips_2_of_1095/empty/": ""})
    pack(tmp_path / "vript_short_videos_clips/shorts_clips_1_of_42.zip", **{"b_0/b_0-Scene-001.mp4": "another"})
    samples, left_out = read("vript", tmp_path)
    with AddressOpener() as opener:
        found = [opener.open(s.media.path, tmp_path) for s in samples]
    assert [place.read() for place in found if not isinstance(place, Path)] == [b"the clip", b"another"]
    assert [(s.key, s.caption) for s in samples] == [("a-Scene-001", "Scene 1."), ("b_0-Scene-001", "Scene 1.")]
    assert samples[0].meta["cut_meta"] == {"start": "00:00:01.500", "end": 3}
    assert left_out == {}


def test_video_in_a_table_and_in_a_file_is_read_once(tmp_path):
    table(tmp_path, clip("a", 1))
    Tree(tmp_path).text("x/a_caption.json", file(clip("a", 1), clip("a", 2)))
    Tree(tmp_path).text("x/b_caption.json", file(clip("b", 1)))
    touch(tmp_path, "a-Scene-001.mp4", "a-Scene-002.mp4", "b-Scene-001.mp4")
    assert [s.key for s in read("vript", tmp_path)[0]] == ["a-Scene-001", "b-Scene-001"]


@pytest.mark.parametrize("names", [("start", "end"), ("start_time", "end_time")])
def test_whole_video_needs_the_times_of_the_clip(tmp_path, names):
    table(tmp_path, clip("a", 1), clip("a", 2))
    Tree(tmp_path).json("a/a_cut_meta.json", {"clips": [{"clip_id": "a-Scene-001.mp4", names[0]: 1, names[1]: 2.5}]})
    touch(tmp_path, "videos/a.webm")
    samples, left_out = read("vript", tmp_path)
    assert [s.media for s in samples] == [("a", "videos/a.webm", "video", 1.0, 2.5, None)]
    assert "cut_meta" not in samples[0].meta
    assert left_out == {"a-Scene-002": "only the whole video is there, and no times of the clip"}


def test_one_bad_entry_takes_no_other_down(tmp_path):
    rows = [{"meta": {}}, clip("a", 1, meta=None), clip("a", 2, caption="text"), clip("a", 3, caption={"content": 5})]
    table(tmp_path, *rows, 7, clip("a", 4))
    Tree(tmp_path).text("b_caption.json", "{")
    Tree(tmp_path).json("c_caption.json", {"meta": clip("c", 1)["meta"], "data": {"c-Scene-001": 5, "x": {}}})
    Tree(tmp_path).text("a_cut_meta.json", "[]")
    touch(tmp_path, "a-Scene-004.mp4")
    samples, left_out = read("vript", tmp_path)
    assert [s.key for s in samples] == ["a-Scene-004"]
    unreadable = "an entry without the fields that it should have"
    bad = ("row 0 of vript_long_videos_captions.jsonl", "a-Scene-001", "a-Scene-002", "a-Scene-003")
    assert left_out == {
        **dict.fromkeys((*bad, "b_caption.json", "c-Scene-001", "x"), unreadable),
        "row 4 of vript_long_videos_captions.jsonl": "a line that is no JSON object",
    }


def test_damaged_zip_is_named_once(tmp_path):
    table(tmp_path, clip("a", 1))
    touch(tmp_path, "a-Scene-001.mp4", "clips_1_of_1095.zip")
    source = get_source("vript")
    rows = list(source.samples(tmp_path, source.options()))
    assert [getattr(found, "id", "") for found in rows] == ["", "clips_1_of_1095.zip"]


def test_another_tree(tmp_path):
    touch(tmp_path, "vript_long_videos/a.mp4")
    with pytest.raises(
        InputError, match=r"(?s)no vript_long_videos_captions\.jsonl and no VIDEO_caption\.json.*found:"
    ):
        read("vript", tmp_path)
