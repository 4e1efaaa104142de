"""Tars in, as video2dataset writes them: what comes out of them, and under which names."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedshard.demo import Tree, video_bytes
from embedshard.errors import InputError
from tests.compat.test_clip_video_encode import failed, samples, written

META = {"key": "1", "url": "https://example.org/1", "id": 7, "clips": [[0, 1.5]]}


def shards(tree: Tree) -> dict[str, bytes]:
    """Two tars of two videos each; in the second one texts and videos do not lie together."""
    videos = {str(n): video_bytes(str(n), seconds=1) for n in range(4)}
    texts = {"1.txt": "một con mèo".encode(), "1.json": json.dumps(META).encode()}
    tree.tar("00000.tar", {"0.mp4": videos["0"], "0.txt": b"a dog", "1.mp4": videos["1"], **texts})
    tree.tar(
        "00001.tar", {"2.txt": b"two", "3.json": b"{}", "3.thumb.jpg": b"", "2.mp4": videos["2"], "3.mp4": videos["3"]}
    )
    return videos


def test_each_tar_gives_one_with_its_members(tmp_path, call):
    videos = shards(Tree(tmp_path / "raw"))
    src, out = str(tmp_path / "raw/{00000..00001}.tar"), tmp_path / "out"
    report = call(src, out, "webdataset", 5, input_format="webdataset", caption_similarity=True)
    assert (report.done, report.failed) == (4, 0)
    assert set(written(out)) == {"00000_clip_embeddings.tar", "00001_clip_embeddings.tar"}
    zero, one = samples(out / "00000_clip_embeddings.tar")
    two, three = samples(out / "00001_clip_embeddings.tar")
    assert [sample["__key__"] for sample in (zero, one, two, three)] == ["0", "1", "2", "3"]
    assert [sample["mp4"] for sample in (zero, one, two, three)] == list(videos.values())
    assert (zero["txt"], one["txt"], two["txt"]) == (b"a dog", "một con mèo".encode(), b"two")
    assert "txt" not in three
    meta = json.loads(one["json"])
    assert len(meta.pop("clip_frame_similarity")) == 2
    assert meta == META
    assert json.loads(three["json"]) == {"clip_frame_similarity": None}
    assert call(src, out, "webdataset", 5, input_format="webdataset", caption_similarity=True).done_before == 4


def test_only_what_is_named_passes_through(tmp_path, call):
    shards(Tree(tmp_path / "raw"))
    tars = [tmp_path / "raw/00000.tar", tmp_path / "raw/00001.tar"]
    call(tars, tmp_path / "t", "webdataset", 5, input_format="webdataset", pass_through_keys="txt", oom_shard_count=7)
    assert set(written(tmp_path / "t")) == {"0000000_clip_embeddings.tar", "0000001_clip_embeddings.tar"}
    assert samples(tmp_path / "t/0000000_clip_embeddings.tar")[1].keys() & {"npy", "txt", "json", "mp4"} == {
        "npy",
        "txt",
    }
    call(tars, tmp_path / "f", take_every_nth=5, input_format="webdataset", pass_through_keys=["json", "mp4"])
    names = {f"{n}.{ending}" for n in range(4) for ending in ("npy", "json", "mp4")}
    assert set(written(tmp_path / "f")) == names
    assert json.loads((tmp_path / "f/1.json").read_text()) == META
    assert np.load(tmp_path / "f/3.npy").shape == (2, 64)


def test_keys_repeat_in_several_tars_but_not_among_files(tmp_path, call):
    tree = Tree(tmp_path / "raw")
    for number in range(2):
        tree.tar(f"part-{number}.tar", {"a.mp4": video_bytes(str(number), seconds=1), "a.txt": str(number).encode()})
    src = str(tmp_path / "raw/part-{0,1}.tar")
    call(src, tmp_path / "out", "webdataset", 5, input_format="webdataset")
    assert [samples(path)[0]["txt"] for path in sorted((tmp_path / "out").glob("*.tar"))] == [b"0", b"1"]
    assert set(written(tmp_path / "out")) == {"part-0_clip_embeddings.tar", "part-1_clip_embeddings.tar"}
    with pytest.raises(InputError, match="found 1 more than once: a "):
        call(src, tmp_path / "files", input_format="webdataset")


def test_what_gives_no_sample_is_recorded(tmp_path, call):
    tree = Tree(tmp_path / "raw")
    lost = json.dumps({"status": "failed_to_download"}).encode()
    good = video_bytes("good", seconds=1)
    tree.tar("00000.tar", {"a.mp4": good, "b.json": lost, "c.txt": b"no video", "d.mp4": good, "d.json": b"[]"})
    tree.tar("00001.tar", {"e.mp4": good, "e.webm": video_bytes("e", ".webm", 1), "f.mp4": good})
    cut = tmp_path / "raw/00001.tar"
    data = cut.read_bytes()
    cut.write_bytes(data[: data.index(b"f.mp4") + 1000])
    with pytest.warns(UserWarning, match="5 of 7 videos came to nothing"):
        report = call(
            str(tmp_path / "raw/{00000..00001}.tar"), tmp_path / "out", "webdataset", input_format="webdataset"
        )
    assert (report.rows, report.done) == (7, 2)
    assert {key: reason.partition(" (")[0] for key, (_, reason, _) in failed(tmp_path / "out").items()} == {
        "00000_clip_embeddings/b": "status 'failed_to_download' in its json",
        "00000_clip_embeddings/c": "missing media",
        "00000_clip_embeddings/d": "a text that is not UTF-8, or a json that is no object: expected an object",
        "00001_clip_embeddings/e": "another video of the same name is used",
        "00001_clip_embeddings/00001.tar": "the tar is damaged or cut off from here on",
    }


@pytest.mark.parametrize(
    ("src", "said"),
    [
        ("gone.tar", "1 are not there, the first: .*gone.tar"),
        ("{00..zz", "expected a pattern"),
        ("s3://bucket/00000.tar", "expected tars on a disk"),
    ],
)
def test_tars_that_are_not_there(tmp_path, monkeypatch, call, src, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        call(src, tmp_path / "out", input_format="webdataset")
