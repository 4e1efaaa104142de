from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from embedshard.errors import InputError
from tests.sources.rows import read, touch

ID = "-aB3dE6gHi0"


def row(video: str = f"{ID}.mp4", caption: object = "a dog runs", **fields: object) -> dict[str, object]:
    times = {"duration": 212.3, "start_sec": 12.1, "end_sec": 17.9, "neg_start_sec": 0, "neg_end_sec": 61.0}
    scenes = {"start_scene": 3, "end_scene": 4, "neg_start_scene": None, "neg_end_scene": 9}
    return {"video": video, **times, "caption": caption, **scenes, **fields}


def write(path: Path, *rows: object) -> None:
    text = json.dumps(rows) if path.suffix == ".json" else "".join(f"{json.dumps(row)}\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_segments_of_a_video(tmp_path):
    write(tmp_path / "train.jsonl", row(), row(caption="a dog sits.", start_sec=20, end_sec=21.5))
    write(tmp_path / "test.jsonl", row("c0000000000.mp4"))
    touch(tmp_path, f"videos/{ID}.mkv", "videos/c0000000000.mp4")
    samples, left_out = read("internvid_g", tmp_path)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("x---2daB3dE6gHi0_0", "train", "a dog runs"),
        ("x---2daB3dE6gHi0_1", "train", "a dog sits."),
        ("c0000000000_0", "test", "a dog runs"),
    ]
    assert samples[0].media == (ID, f"videos/{ID}.mkv", "video", 12.1, 17.9, 212.3)
    assert samples[1].media[3:] == (20, 21.5, 212.3)
    assert samples[0].meta == {
        "id": f"{ID}_0",
        "youtube_id": ID,
        "segment_index": 0,
        "neg_start_sec": 0,
        "neg_end_sec": 61.0,
        "start_scene": 3,
        "end_scene": 4,
        "neg_start_scene": None,
        "neg_end_scene": 9,
    }
    assert not left_out


def test_a_list_in_json_and_a_val_split(tmp_path):
    write(tmp_path / "InternVid-G/train.json", row("b0000000000.mp4"))
    write(tmp_path / "InternVid-G/val.json", row("c0000000000"))
    touch(tmp_path, "b0000000000.mp4", "c0000000000.mp4")
    assert [(s.key, s.split) for s in read("internvid_g", tmp_path)[0]] == [
        ("b0000000000_0", "train"),
        ("c0000000000_0", "val"),
    ]


def test_ids_with_a_dash_find_files_by_stem_and_folders_do_not_matter(tmp_path):
    write(tmp_path / "train.jsonl", row(f"videos/{ID}.mp4"), row(f"{ID}.f137.webm"), row(ID))
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.writestr(f"v/{ID}.mkv", "of dogs")
    samples, left_out = read("internvid_g", tmp_path)
    assert [s.meta["youtube_id"] for s in samples] == [ID] * 3
    assert samples[0].media.path.startswith(f"videos.zip#v/{ID}.mkv:")
    assert not left_out


def pipeline_row(*captions: object) -> dict[str, object]:
    return {"video_fname": "c0000000000.mp4", "start_sec": 0.5, "end_sec": 1.5, "captions": captions}


def test_files_of_the_pipeline(tmp_path):
    write(tmp_path / "temp/scenes-blip2.jsonl", pipeline_row("a dog", "a cat", " "), pipeline_row(), pipeline_row(7))
    touch(tmp_path, "videos/c0000000000.mp4")
    samples, left_out = read("internvid_g", tmp_path)
    assert [(s.key, s.split, s.caption, s.meta["captions"]) for s in samples] == [
        ("c0000000000_0", "", "a dog", ["a dog", "a cat", ""])
    ]
    assert left_out == {"c0000000000_1": "no caption", "c0000000000_2": "no caption"}
    each = read("internvid_g", tmp_path, captions="each")[0]
    assert [(s.key, s.caption) for s in each][:2] == [("c0000000000_0_0", "a dog"), ("c0000000000_0_1", "a cat")]
    write(tmp_path / "temp/final_dataset.jsonl", row("c0000000000.mp4"))
    assert [s.caption for s in read("internvid_g", tmp_path)[0]] == ["a dog runs"]
    assert len(read("internvid_g", tmp_path / "temp/scenes-blip2.jsonl")[0]) == 0  # its videos lie in another folder


def test_a_file_as_raw(tmp_path):
    write(tmp_path / "validation.jsonl", row())
    touch(tmp_path, f"{ID}.mp4")
    assert [s.split for s in read("internvid_g", tmp_path / "validation.jsonl")[0]] == ["val"]


def test_one_bad_row_takes_no_other_down(tmp_path):
    bad = [row(video=""), row(caption=None), row(start_sec="soon"), row(end_sec=None), row(duration="long"), [1]]
    write(tmp_path / "train.jsonl", {"caption": "whose"}, *bad, row("gone0000000.mp4"), row(duration=None))
    touch(tmp_path, f"{ID}.mp4")
    samples, left_out = read("internvid_g", tmp_path)
    assert [(s.media.start, s.media.end, s.media.duration) for s in samples] == [(12.1, 17.9, None)]
    unreadable = "a row without a video, its times and a caption"
    assert left_out == {
        "row 0 of train.jsonl": unreadable,
        "row 1 of train.jsonl": unreadable,
        "row 6 of train.jsonl": "a line that is no JSON object",
        **{f"{ID}_{number}": unreadable for number in range(4)},
        "gone0000000_0": "missing media",
    }


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no train\.jsonl.*expected in.*neg_start_sec.*found"):
        read("internvid_g", tmp_path)
