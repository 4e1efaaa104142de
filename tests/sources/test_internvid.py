from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

NAME = "InternVid-10M-flt.jsonl"


def row(video: str, start: object = "00:07:33.689", end: object = "00:07:51.085", **fields: object) -> str:
    times = {"YoutubeID": video, "Start_timestamp": start, "End_timestamp": end}
    return json.dumps({**times, "Caption": " a dog runs ", "Aesthetic_Score": 4.2, "UMT_Score": 0.47, **fields})


def annotate(root: Path, *lines: str) -> None:
    (root / NAME).write_text("\n".join(lines) + "\n")


def test_windows_of_whole_videos_share_the_video(tmp_path):
    annotate(tmp_path, row("-aB3dE6gHi0"), row("-aB3dE6gHi0", "01:00:00.000", "01:00:01.500"))
    touch(tmp_path, "videos/-aB3dE6gHi0.webm")
    samples, left_out = read("internvid", tmp_path)
    assert [(s.media.id, s.media.path, s.split, s.caption) for s in samples] == [
        ("-aB3dE6gHi0", "videos/-aB3dE6gHi0.webm", "", "a dog runs")
    ] * 2
    assert (samples[1].media.start, samples[1].media.end) == (3600, 3601.5)
    assert samples[0].meta == {
        "id": "-aB3dE6gHi0_0",
        "youtube_id": "-aB3dE6gHi0",
        "Start_timestamp": "00:07:33.689",
        "End_timestamp": "00:07:51.085",
        "Aesthetic_Score": 4.2,
        "UMT_Score": 0.47,
    }
    assert not left_out


def test_a_short_clip_keeps_its_milliseconds_and_so_its_length(tmp_path):
    annotate(tmp_path, row("a0000000000", "00:00:07.100", "00:00:07.900"))
    touch(tmp_path, "a0000000000.mp4")
    (sample,) = read("internvid", tmp_path)[0]
    assert (sample.media.start, sample.media.end) == (7.1, 7.9)


def test_clips_that_were_cut_have_no_window_and_whole_videos_go_first(tmp_path):
    annotate(tmp_path, row("a0000000000"), row("b0000000000"), row("c0000000000"))
    touch(tmp_path, "videos/1.mp4", "videos/2.mp4", "videos/c0000000000.mp4")
    samples, left_out = read("internvid", tmp_path)
    assert [(s.key, s.media) for s in samples] == [
        ("b0000000000_1", ("b0000000000", "videos/1.mp4", "video", None, None, None)),
        ("c0000000000_2", ("c0000000000", "videos/c0000000000.mp4", "video", 453.689, 471.085, None)),
    ]
    assert samples[0].meta["Start_timestamp"] == "00:07:33.689"
    assert left_out == {"a0000000000_0": "missing media"}


def test_a_blank_line_counts_and_takes_no_other_down(tmp_path):
    annotate(tmp_path, row("a0000000000"), "", "  \r", row("b0000000000"))
    touch(tmp_path, "videos/0.mp4", "videos/3.mp4", "videos/2.mp4")
    samples, left_out = read("internvid", tmp_path)
    assert [(s.media.id, s.media.path) for s in samples] == [
        ("a0000000000", "videos/0.mp4"),
        ("b0000000000", "videos/3.mp4"),
    ]
    assert not left_out


def test_a_number_elsewhere_is_another_dataset_and_no_clip(tmp_path):
    annotate(tmp_path, *(row(f"{letter}0000000000") for letter in "abcd"))
    touch(tmp_path, "other_dataset/0.mp4", "1.mp4", "my_videos/1.mp4", "other/videos/2.mp4", "clips/2.mp4")
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.writestr("3.mp4", "clip")
    samples, left_out = read("internvid", tmp_path)
    assert samples[0].media.path == "clips/2.mp4"
    assert samples[1].media.path.startswith("videos.zip#3.mp4:")
    assert left_out == {"a0000000000_0": "missing media", "b0000000000_1": "missing media"}


def test_videos_of_a_file_as_raw_lie_in_its_own_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    annotate(tmp_path / "sub", row("a0000000000"))
    touch(tmp_path, "videos/a0000000000.mp4")
    assert read("internvid", tmp_path / "sub" / NAME)[1] == {"a0000000000_0": "missing media"}
    assert "videos are looked for in its own folder" in " ".join(get_source("internvid").expects.split())
    assert len(read("internvid", tmp_path)[0]) == 1


def test_rows_that_repeat_have_keys_of_their_own(tmp_path):
    annotate(tmp_path, row("a0000000000"), row("a0000000000"))
    touch(tmp_path, "a0000000000.mp4")
    report = prepare(get_source("internvid"), tmp_path, None, PrepareOptions(), lambda n: None)
    assert report.samples["train"] == 2


def test_one_bad_row_takes_no_other_down(tmp_path):
    bad_times = [(None, "00:00:01.000"), ("00:00:01.000", ["00:00:02", "000"]), ("soon", "later"), ("1:2:3:4", "5")]
    lines = ["{", "[1]", row("", Caption=None), json.dumps({"Caption": "whose"}), *(row("a", *t) for t in bad_times)]
    annotate(tmp_path, *lines, row("a", 1, "2.5", UMT_Score=float("nan")))
    touch(tmp_path, "a.mp4")
    samples, left_out = read("internvid", tmp_path)
    assert [(s.key, s.media.start, s.media.end) for s in samples] == [("a_8", 1, 2.5)]
    assert left_out == {
        "line 0": "a line that is no JSON object",
        "line 1": "a line that is no JSON object",
        "line 2": "a row without a YoutubeID and a Caption",
        "line 3": "a row without a YoutubeID and a Caption",
        **{f"a_{number}": "Start_timestamp or End_timestamp is no time" for number in (4, 5, 6, 7)},
    }


def test_a_byte_order_mark_and_clips_in_an_archive(tmp_path):
    (tmp_path / NAME).write_text(row("a0000000000") + "\n", encoding="utf-8-sig")
    touch(tmp_path, "0.mp4")
    with tarfile.open(tmp_path / "videos.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "0.mp4", "videos/0.mp4")
    (tmp_path / "0.mp4").unlink()
    (sample,) = read("internvid", tmp_path)[0]
    assert sample.media.path.startswith("videos.tar.gz#videos/0.mp4:")


def test_another_set_and_a_file_as_raw(tmp_path):
    touch(tmp_path, "a/videos/a0000000000.mp4")
    (tmp_path / "a/InternVid-18M-aes.jsonl").write_text(row("a0000000000"))
    assert len(read("internvid", tmp_path)[0]) == 1
    (tmp_path / "a" / NAME).write_text(row("a0000000000") + "\n" + row("a0000000000"))
    with pytest.raises(InputError, match=r"found a/InternVid-10M-flt\.jsonl, a/InternVid-18M-aes\.jsonl; give one"):
        read("internvid", tmp_path)
    assert len(read("internvid", tmp_path / "a" / NAME)[0]) == 2


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no InternVid\*\.jsonl.*expected in.*videos/12\.mp4.*found"):
        read("internvid", tmp_path)
