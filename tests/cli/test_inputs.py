"""`encode` on tables and tars: the manifest is prepared beside the output, and the triples are those of `prepare`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from embedshard.demo import Tree, video_bytes
from tests.cli.test_commands import run


@pytest.fixture
def encode(tiny_model):
    def encode(given: object, out: Path, *more: object, code: int = 0) -> str:
        return run(
            "encode", given, out, "--model", tiny_model, "--device", "cpu", "--workers", 0, *more, code=code
        ).output

    return encode


def tree_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for split in ("train", "val", "test")
        for p in folder.glob(f"{split}/*")
    }


@pytest.fixture
def raw(tmp_path) -> Path:
    """Three videos, a table of clip-video-encode over them and one that is gone, and two tars of them."""
    tree = Tree(tmp_path / "raw")
    rows = ["videoLoc,videoID,caption,label"]
    for number in range(3):
        tree.video(f"v{number}.mp4", str(number), seconds=1)
        rows.append(f'v{number}.mp4,id {number},"caption, {number}",{number}')
    tree.text("t.csv", "\n".join([*rows, "gone.mp4,gone,gone,3", "v0.mp4,mute,,4"]))
    for number in range(2):
        members = {"mp4": video_bytes(str(number), seconds=1), "txt": f"tar {number}".encode(), "json": b'{"n": 1}'}
        tree.tar(f"tars/0000{number}.tar", {f"{number}.{ending}": data for ending, data in members.items()})
    return tmp_path / "raw"


def test_a_table_of_clip_video_encode(tmp_path, raw, encode):
    output = encode(raw / "t.csv", tmp_path / "out")
    assert "left out: 1 x missing media (gone)" in output
    assert "left out: 1 x no caption (mute)" in output
    assert "they went to train" in output
    assert "3 samples: 3 encoded" in output
    assert (tmp_path / "out/train/x--id-201.txt").read_text() == "caption, 1"
    meta = json.loads((tmp_path / "out/train/x--id-201.json").read_text())
    assert (meta["id"], meta["label"], meta["media"], meta["source"]) == ("id 1", "1", "v1.mp4", "table")
    assert {"samples.parquet", "prepare.json", "left_out.jsonl", "dataset.json"} <= tree_of(tmp_path / "out")
    run("prepare", "table", raw / "t.csv", tmp_path / "samples.parquet")
    encode(tmp_path / "samples.parquet", tmp_path / "same")
    assert contents(tmp_path / "out") == contents(tmp_path / "same")
    assert "3 samples" in run("shard", tmp_path / "out", tmp_path / "shards").output
    assert "all right" in run("check", tmp_path / "out").output


@pytest.mark.parametrize("name", ["t.tsv", "t.parquet", "t.jsonl"])
def test_tables_of_other_kinds(tmp_path, raw, encode, name):
    table = pa_csv.read_csv(raw / "t.csv")
    if name == "t.parquet":
        pq.write_table(table, raw / name)
    elif name == "t.jsonl":
        (raw / name).write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    else:
        pa_csv.write_csv(table, raw / name, pa_csv.WriteOptions(delimiter="\t"))
    assert "3 samples: 3 encoded" in encode(raw / name, tmp_path / "out")


@pytest.mark.parametrize("given", ["tars", "tars/{00000..00001}.tar", "tars/00000.tar"])
def test_tars(tmp_path, raw, encode, given):
    count = 1 if given.endswith("0.tar") else 2
    assert f"{count} samples: {count} encoded" in encode(raw / given, tmp_path / "out")
    assert (tmp_path / "out/train/0.txt").read_text() == "tar 0"
    assert json.loads((tmp_path / "out/train/0.json").read_text())["n"] == 1


def test_a_folder_of_media_with_captions_beside_them(tmp_path, raw, encode):
    (raw / "tars").rename(tmp_path / "elsewhere")
    (raw / "v1.txt").write_text("beside it")
    assert "left out: 2 x no caption" in (output := encode(raw, tmp_path / "out"))
    assert "1 samples: 1 encoded" in output
    assert (tmp_path / "out/train/v1.txt").read_text() == "beside it"


def test_it_is_prepared_again_only_where_that_may_change_it(tmp_path, raw, encode):
    (raw / "t.csv").write_text("path,caption\nv0.mp4,a\nv1.mp4,b\n")
    os.utime(raw / "t.csv", ns=(1, 1))
    assert "2 samples: 2 encoded" in encode(raw / "t.csv", tmp_path / "out")
    before = (tmp_path / "out/samples.parquet").stat().st_mtime_ns
    again = encode(raw / "t.csv", tmp_path / "out")
    assert "was prepared from" in again
    assert "2 samples: 0 encoded, 2 were there" in again
    assert (tmp_path / "out/samples.parquet").stat().st_mtime_ns == before
    with (raw / "t.csv").open("a") as table:
        table.write("v2.mp4,c\nlate.mp4,d\n")
    assert "3 samples: 1 encoded, 2 were there" in encode(raw / "t.csv", tmp_path / "out")
    (raw / "v2.mp4").rename(raw / "late.mp4")
    (raw / "v0.mp4").with_name("v2.mp4").write_bytes((raw / "v0.mp4").read_bytes())
    assert "4 samples: 1 encoded, 3 were there" in encode(raw / "t.csv", tmp_path / "out")


def test_a_dry_run_prepares_but_writes_nothing(tmp_path, raw, encode):
    before = tree_of(tmp_path)
    output = encode(raw / "t.csv", tmp_path / "out", "--dry-run")
    assert "left out: 1 x missing media" in output
    assert "3 samples, 3 of them to encode" in output
    assert tree_of(tmp_path) == before


def test_another_input_does_not_take_the_place_of_the_first(tmp_path, raw, encode):
    encode(raw / "t.csv", tmp_path / "out")
    before = (tmp_path / "out/samples.parquet").read_bytes()
    assert "was prepared from" in (output := encode(raw / "tars", tmp_path / "out", code=1))
    assert "give another folder" in output
    assert (tmp_path / "out/samples.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("list.txt", "v0.mp4\n", "expected a column caption"),
        ("t2.csv", "path\nv0.mp4\n", "expected a column caption"),
        ("t2.csv", "path\nv0.mp4\n", "Media without captions get some by: embedshard caption"),
        ("t2.csv", "path,caption\ngone.mp4,a\n", "not one sample; left out: missing media 1"),
        ("t2.csv", "path,caption,split\nv0.mp4,a,train\nv0.mp4,b,val\n", "embedshard prepare table"),
        ("t2.parquet", "junk", "t2.parquet is not a parquet file"),
        ("gone.csv", "", "no file"),
        ("gone.tar", "", "no tar"),
        ("", "", "not one sample; left out: no caption 3"),
    ],
)
def test_what_is_no_input(tmp_path, raw, encode, name, text, said):
    if name == "":
        (raw / "tars").rename(tmp_path / "elsewhere")
    elif text:
        (raw / name).write_text(text)
    output = encode(raw / name, tmp_path / "out", code=1)
    assert said in output
    assert not list((tmp_path / "out").rglob("*.npy"))
