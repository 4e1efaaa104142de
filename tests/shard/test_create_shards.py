"""Each bug of clip-video-encode's `dataset/create_shards.py`, the script that first wrote this format."""

from __future__ import annotations

import csv
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedshard.processed import write_triple
from embedshard.shard.pack import ShardReport, shard
from embedshard.shard.plan import ShardOptions

from .conftest import Full

Make = Callable[..., Path]


def pack(processed: Path, output: Path, **options: object) -> ShardReport:
    return shard(processed, output, ShardOptions(**options), lambda samples: None)  # type: ignore[arg-type]


def rows(output: Path) -> list[list[str]]:
    with (output / "splits.csv").open(newline="") as file:
        return list(csv.reader(file))


def names(tar: Path) -> list[str]:
    with tarfile.open(tar) as file:
        return file.getnames()


def test_create_shards_bug_a_captions_are_read_at_all(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path)
    with tarfile.open(tmp_path / "ds_00000.tar") as tar:
        member = tar.extractfile("k1.txt")
        assert member
        assert member.read() == b"caption 1"


def test_create_shards_bug_b_row_names_are_real_file_names(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path, maxcount=2)
    assert {row[0] for row in rows(tmp_path)[1:]} == {path.name for path in tmp_path.glob("*.tar")}


def test_create_shards_bug_c_a_given_maxcount_works(triples: Path, tmp_path: Path) -> None:
    assert pack(triples, tmp_path, maxcount=3).tars == {"train": 2, "test": 1}


def test_create_shards_bug_d_no_empty_tar_at_the_end(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path, maxcount=1)
    assert [len(names(path)) for path in sorted(tmp_path.glob("*.tar"))] == [3] * 7


def test_create_shards_bug_e_an_empty_split_shifts_no_row(triples: Path, tmp_path: Path) -> None:
    (triples / "val").mkdir()
    pack(triples, tmp_path)
    assert rows(tmp_path)[1:] == [["ds_00000.tar", "train"], ["ds_00001.tar", "test"]]
    assert {name[:2] for name in names(tmp_path / "ds_00001.tar")} == {"k5", "k6"}


@pytest.mark.parametrize("megabytes", [1, pytest.param(40, marks=pytest.mark.soak)])
def test_create_shards_bug_f_bytes_never_cut_a_tar(tmp_path: Path, megabytes: int) -> None:
    folder = tmp_path / "in/train"
    write_triple(folder, "k0", np.zeros((megabytes * 512, 1024), np.float16), "c", {})
    for number in range(1, 30):
        for part in ("npy", "txt", "json"):
            os.link(folder / f"k0.{part}", folder / f"k{number}.{part}")
    report = pack(tmp_path / "in", tmp_path / "out")
    assert report.tars == {"train": 1}
    assert report.bytes > 30 * megabytes * 1024**2


def test_create_shards_bug_g_a_second_run_doubles_no_row(triples: Path, tmp_path: Path) -> None:
    for _ in range(2):
        pack(triples, tmp_path)
        assert rows(tmp_path) == [["tar_file", "split"], ["ds_00000.tar", "train"], ["ds_00001.tar", "test"]]


def test_create_shards_bug_h_20000_keys_take_no_square_of_time(full: Full, linked: Make, tmp_path: Path) -> None:
    before = os.times().user
    pack(linked(train=2000), tmp_path)
    assert full.seconds < 25 * (os.times().user - before)


def test_create_shards_bug_i_the_shuffle_has_a_seed(triples: Path, tmp_path: Path) -> None:
    orders = []
    for number, seed in enumerate((0, 0, 1)):
        pack(triples, tmp_path / str(number), seed=seed)
        orders.append(names(tmp_path / str(number) / "ds_00000.tar"))
    assert orders[0] == orders[1] != orders[2]
    assert set(orders[0]) == set(orders[2])


def test_create_shards_bug_j_a_corrupt_json_takes_no_other_sample_with_it(triples: Path, tmp_path: Path) -> None:
    (triples / "train/k1.json").write_text('{"cut": ')
    assert pack(triples, tmp_path).samples == 6
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["left_out"]["first"] == [{"triple": "train/k1", "reason": "json cannot be read"}]


def test_no_triple_vanishes_without_a_word(triples: Path, tmp_path: Path) -> None:
    (triples / "train/k1.txt").unlink()
    (triples / "train/k2.npy").unlink()
    report = pack(triples, tmp_path)
    assert report.samples + sum(report.left_out.values()) == 7


def test_every_sample_has_its_json(triples: Path, tmp_path: Path) -> None:
    (triples / "train/k1.json").unlink()
    pack(triples, tmp_path)
    assert "k1.json" in names(tmp_path / "ds_00000.tar")


def test_the_table_has_plain_line_ends_and_whole_names(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path)
    assert (tmp_path / "splits.csv").read_bytes() == b"tar_file,split\nds_00000.tar,train\nds_00001.tar,test\n"
