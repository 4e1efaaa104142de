from __future__ import annotations

import pytest

from embedshard.errors import InputError
from tests.sources.rows import read, touch


def test_natural_order_and_splits(tmp_path):
    for name in ("clip10", "clip2", "training/deep/er/v", "dev/v"):
        touch(tmp_path, f"{name}.mp4")
        (tmp_path / f"{name}.txt").write_text(name)
    samples, left_out = read("folder", tmp_path)
    assert [(s.caption, s.split) for s in samples] == [
        ("clip2", ""),
        ("clip10", ""),
        ("dev/v", "val"),
        ("training/deep/er/v", "train"),
    ]
    assert len({s.key for s in samples}) == 4
    assert not left_out


def test_sidecars(tmp_path):
    touch(tmp_path, *(f"{name}.mp4" for name in ("both", "json", "list", "bytes", "bom")))
    (tmp_path / "both.txt").write_bytes("文\r\n".encode())
    (tmp_path / "both.json").write_text('{"caption": "other", "score": NaN}')
    (tmp_path / "json.json").write_text('{"text": "from json"}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfx")
    (tmp_path / "README.txt").write_text("about")
    samples, left_out = read("folder", tmp_path)
    assert {s.key: s.caption for s in samples} == {"both": "文\r\n", "json": "from json", "bom": "x"}
    assert samples[1].meta == {"caption": "other", "score": None}
    assert left_out.pop("README") == "missing media"
    assert set(left_out) == {"list", "bytes"}


def test_a_thumbnail_does_not_take_the_name_of_its_video(tmp_path):
    touch(tmp_path, "v.jpg", "v.mp4", "v.txt")
    samples, left_out = read("folder", tmp_path)
    assert [s.media.path for s in samples] == ["v.mp4"]
    assert list(left_out) == ["v.jpg"]


@pytest.mark.parametrize(("caption", "text"), [("folder", "Apply Makeup"), ("stem", "v_1.a")])
def test_captions_from_names(tmp_path, caption, text):
    touch(tmp_path, "train/Apply Makeup/v_1.a.avi", "classes.txt")
    samples, left_out = read("folder", tmp_path, caption=caption)
    assert [s.caption for s in samples] == [text]
    assert not left_out


def test_folders_of_frames(tmp_path):
    touch(tmp_path, "train/v1/c01_1.jpeg", "train/v1/c01_2.jpeg", "train/mixed/a.mp4", "train/mixed/a.jpg")
    (tmp_path / "train/v1.txt").write_text("frames")
    (tmp_path / "train/mixed/a.txt").write_text("video")
    samples, left_out = read("folder", tmp_path, frames="true")
    assert [(s.media.path, s.media.kind) for s in samples] == [("train/v1", "frames"), ("train/mixed/a.mp4", "video")]
    assert list(left_out) == ["train/mixed/a.jpg"]


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "disk", "v.mp4")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/train").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/loop").symlink_to(tmp_path / "disk")
    samples, left_out = read("folder", tmp_path / "raw", caption="stem")
    assert [s.media.path for s in samples] == ["train/v.mp4"]
    assert not left_out


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"(?s)expected a folder.*NAME\.mp4.*nothing of that name"):
        read("folder", tmp_path / "gone")
