"""From media without a word to checked shards, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedshard.demo import Tree, video_bytes
from embedshard.manifest import open_manifest
from tests.cli.test_commands import run


@pytest.fixture
def raw(tmp_path) -> Path:
    """Three videos, one with a caption beside it, one broken."""
    tree = Tree(tmp_path / "raw")
    for number in range(2):
        tree.video(f"v{number}.mp4", str(number), seconds=1)
    tree.text("v1.txt", "written by hand")
    tree.text("broken.mp4", "junk")
    return tmp_path / "raw"


@pytest.fixture
def caption(tiny_coca):
    def caption(given: object, out: Path, *more: object, code: int = 0) -> str:
        words = (given, out, "--model", tiny_coca, "--device", "cpu", "--workers", 0)
        return run("caption", *words, *more, code=code).output

    return caption


def captions(folder: Path) -> dict[str, str]:
    return {sample.key: sample.caption for sample in open_manifest(folder / "samples.parquet").samples()}


def test_prepare_caption_encode_shard_check(tmp_path, raw, caption, tiny_model):
    prepared = run("prepare", "folder", raw, tmp_path / "samples.parquet", "--keep-uncaptioned").output
    assert "note: 2 samples have no caption, with which shard leaves them out" in prepared
    output = caption(tmp_path / "samples.parquet", tmp_path / "captioned")
    assert "3 samples: 1 captioned, 0 were captioned before, 1 had a caption, 1 failed" in output
    assert "1 x not a media file that FFmpeg can open" in output
    assert f"next: embedshard encode {tmp_path / 'captioned/samples.parquet'} PROCESSED" in output
    found = captions(tmp_path / "captioned")
    assert (set(found), found["v1"]) == ({"v0", "v1"}, "written by hand")
    assert found["v0"].strip()
    again = caption(tmp_path / "samples.parquet", tmp_path / "captioned")
    assert "3 samples: 0 captioned, 1 were captioned before, 1 had a caption, 1 failed" in again
    words = (tmp_path / "captioned/samples.parquet", tmp_path / "processed", "--model", tiny_model, "--device", "cpu")
    assert "2 samples: 2 encoded" in run("encode", *words, "--workers", 0).output
    assert (tmp_path / "processed/train/v0.txt").read_text() == found["v0"]
    meta = json.loads((tmp_path / "processed/train/v0.json").read_text())
    assert meta["generated_captions"] == [found["v0"]]
    assert meta["captioner"].startswith("coca ")
    assert "2 samples" in run("shard", tmp_path / "processed", tmp_path / "shards").output
    assert "all right" in run("check", tmp_path / "shards").output


def test_what_is_no_manifest_is_prepared_beside_it(tmp_path, raw, caption):
    (raw / "list.txt").write_text("v0.mp4\nv1.mp4\ngone.mp4\n")
    (raw / "t.csv").write_text("videoLoc,videoID,caption,label\nv0.mp4,a,,1\nv1.mp4,b,theirs,2\n")
    (raw / "bare.csv").write_text("videoLoc,videoID\nv0.mp4,a\n")
    Tree(tmp_path).tar("tars/00000.tar", {"x.mp4": video_bytes("x", seconds=1), "y.mp4": video_bytes("y", seconds=1)})
    cases = {
        raw / "list.txt": ({"x--v0-2emp4", "x--v1-2emp4"}, "left out: 1 x missing media (gone.mp4)"),
        raw / "t.csv": ({"a", "b"}, "1 captioned, 0 were captioned before, 1 had a caption"),
        raw / "bare.csv": ({"a"}, "1 samples: 1 captioned"),
        tmp_path / "tars": ({"x", "y"}, "2 samples: 2 captioned"),
        raw: ({"v0", "v1"}, "3 samples: 1 captioned"),
    }
    for given, (keys, said) in cases.items():
        out = tmp_path / f"out-{given.name}"
        assert said in caption(given, out)
        assert set(captions(out)) == keys
        assert (out / "prepared/samples.parquet").is_file()
    assert captions(tmp_path / "out-t.csv")["b"] == "theirs"


def test_more_frames_and_all_samples(tmp_path, raw, caption):
    output = caption(raw, tmp_path / "out", "--count", 3, "--all")
    assert "3 samples: 2 captioned, 0 were captioned before, 0 had a caption, 1 failed" in output
    assert "6 frames in" in output
    assert captions(tmp_path / "out")["v1"] != "written by hand"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--count", "2"), "count: 1 there, 2 asked for"),
        (("--decoder", "vlc"), "no decoder 'vlc'"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(tmp_path, raw, caption, more, said):
    caption(raw, tmp_path / "out")
    assert said in caption(raw, tmp_path / "out", *more, code=1)


def test_a_model_that_makes_no_captions(tmp_path, raw, tiny_model):
    output = run("caption", raw, tmp_path / "out", "--model", tiny_model, code=1).output
    assert "makes no captions; expected a CoCa model" in output


def test_nothing_at_all_is_an_error(tmp_path, caption):
    Tree(tmp_path).text("raw/broken.mp4", "junk")
    assert "not one sample could be captioned" in caption(tmp_path / "raw", tmp_path / "out", code=1)
