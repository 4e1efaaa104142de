from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from embedshard.address import AddressOpener
from embedshard.demo import Tree
from embedshard.errors import InputError
from tests.sources.rows import read


def pair(key: str, data: bytes = b"media", extension: str = "mp4") -> dict[str, bytes]:
    return {f"{key}.{extension}": data, f"{key}.txt": f"caption of {key}".encode()}


def media_bytes(sample, root: Path) -> bytes:
    opened = AddressOpener().open(sample.media.path, root)
    assert not isinstance(opened, Path)
    return opened.read()


def test_media_bytes_are_found_again(tmp_path):
    tree = Tree(tmp_path)
    tree.tar("val/0.tar", {**pair("a", b"1" * 1000), **pair("d/" + "long" * 40, b"2"), **pair("c#1", b"3", "JPG")})
    samples, left_out = read("webdataset", tmp_path)
    assert [(media_bytes(s, tmp_path)[:1], s.media.kind) for s in samples] == [
        (b"1", "video"),
        (b"2", "video"),
        (b"3", "image"),
    ]
    assert {s.split for s in samples} == {"val"}
    assert not left_out


def test_a_compressed_tar_is_read_where_it_lies(tmp_path):
    Tree(tmp_path).tar("0.tar", {**pair("a", b"1" * 1000), **pair("b", b"2")})
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress((tmp_path / "0.tar").read_bytes()))
    (tmp_path / "0.tar").unlink()
    samples, left_out = read("webdataset", tmp_path)
    assert [(s.caption, media_bytes(s, tmp_path)[:1]) for s in samples] == [
        ("caption of a", b"1"),
        ("caption of b", b"2"),
    ]
    assert not left_out


def test_a_tar_or_a_pattern(tmp_path):
    for number in range(3):
        Tree(tmp_path).tar(f"test/{number}.tar", pair(f"k{number}"))
    samples, _ = read("webdataset", tmp_path / "test/1.tar")
    assert [(s.key, s.split) for s in samples] == [("k1", "test")]
    assert media_bytes(samples[0], tmp_path / "test") == b"media"
    samples, _ = read("webdataset", tmp_path / "test/{0..1}.tar")
    assert [s.key for s in samples] == ["k0", "k1"]
    Tree(tmp_path).tar("train/2.tar", pair("k3"))
    samples, _ = read("webdataset", tmp_path / "{train,test}/2.tar")
    assert [(s.split, media_bytes(s, Path("/none"))) for s in samples] == [("train", b"media"), ("test", b"media")]
    with pytest.raises(InputError, match=r"no tar .*3\.tar"):
        read("webdataset", tmp_path / "test/{2..3}.tar")


def test_captions_and_metadata(tmp_path):
    meta = {"status": "success", "url": "https://x.org/v", "caption": "from json", "clip": [0, 1.5]}
    members = {"a_0.mp4": b"m", "a_0.json": json.dumps(meta).encode(), "b.cap": b"cap", "b.png": b"m", "c.png": b"m"}
    members |= {"d.txt": b"\xff", "d.mp4": b"m", "e.txt": b"x", "f.mp4": b"m", "f.jpg": b"m", "f.txt": b"x"}
    Tree(tmp_path).tar("0.tar", members)
    samples, left_out = read("webdataset", tmp_path)
    assert [(s.key, s.caption) for s in samples] == [("a_0", "from json"), ("b", "cap"), ("c", ""), ("f", "x")]
    assert (samples[0].media.id, samples[0].meta["clip"]) == ("https://x.org/v", [0, 1.5])
    assert left_out.pop("e") == "missing media"
    assert set(left_out) == {"d", "f.jpg"}


def test_keys_that_repeat_in_every_tar(tmp_path):
    for name in ("0", "1"):
        Tree(tmp_path).tar(f"train/{name}.tar", pair("a"))
    assert [s.key for s in read("webdataset", tmp_path)[0]] == ["a", "a"]
    samples, _ = read("webdataset", tmp_path, tar_in_key="true")
    assert [s.meta["id"] for s in samples] == ["train/0/a", "train/1/a"]


@pytest.mark.parametrize("damage", [lambda data: data[:2500], lambda data: data[:2048] + b"?" * len(data[2048:])])
def test_a_damaged_tar_is_told_and_keeps_its_good_samples(tmp_path, damage):
    Tree(tmp_path).tar("0.tar", {**pair("a"), **pair("b")})
    (tmp_path / "0.tar").write_bytes(damage((tmp_path / "0.tar").read_bytes()))
    samples, left_out = read("webdataset", tmp_path)
    assert [s.key for s in samples][:1] == ["a"]
    assert "damaged" in left_out["0.tar"]


def test_a_tar_without_its_end_blocks_is_whole(tmp_path):
    Tree(tmp_path).tar("0.tar", pair("a"))
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:2048])
    samples, left_out = read("webdataset", tmp_path)
    assert [s.key for s in samples] == ["a"]
    assert not left_out


def test_media_are_not_read(tmp_path):
    Tree(tmp_path).tar("0.tar", pair("a", bytes(20_000_000)))
    tracemalloc.start()
    read("webdataset", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_an_empty_file_is_told(tmp_path):
    (tmp_path / "0.tar").touch()
    assert read("webdataset", tmp_path)[1]["0.tar"].startswith("an empty file")


def test_an_id_in_the_json_does_not_hide_the_raw_id(tmp_path):
    Tree(tmp_path).tar("0.tar", {**pair("a"), "a.json": b'{"id": 5}'})
    (sample,), _ = read("webdataset", tmp_path)
    assert (sample.meta["id"], sample.meta["raw_id"]) == ("a", 5)


def test_a_pattern_that_is_none(tmp_path):
    with pytest.raises(InputError, match="Unbalanced braces"):
        read("webdataset", tmp_path / "x{0..")


def test_no_tars(tmp_path):
    with pytest.raises(InputError, match=r"expected at least one \.tar"):
        read("webdataset", tmp_path)
