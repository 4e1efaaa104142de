from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedshard.check import check
from embedshard.errors import InputError
from embedshard.processed import write_triple
from embedshard.shard import pack as pack_module
from embedshard.shard.pack import ShardReport, shard
from embedshard.shard.plan import ShardOptions

from .conftest import to_parts
from .test_pack import keys


def pack(processed: Path, output: Path, **options: object) -> ShardReport:
    return shard(processed, output, ShardOptions(**options), lambda samples: None)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def add(processed: Path, split: str, numbers: range, dtype: type[np.floating] = np.float16, **meta: str) -> None:
    for number in numbers:
        fields = {"key": f"k{number}", "media_id": f"m{number}", **meta}
        write_triple(processed / split, f"k{number}", np.zeros((2, 4), dtype), f"caption {number}", fields)


def tars(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}


@pytest.mark.parametrize("key_format", [None, "vid_{index:09d}"])
@pytest.mark.parametrize("parts", [False, True])
def test_new_triples_come_behind_the_old_tars(
    triples: Path, tmp_path: Path, key_format: str | None, parts: bool
) -> None:
    out, options = tmp_path / "out", {"maxcount": 3, "key_format": key_format}
    pack(triples, out, **options)
    before = tars(out)
    add(triples, "train", range(10, 14))
    add(triples, "val", range(14, 15))
    if parts:
        to_parts(triples)
    report = pack(triples, out, append=True, **options)
    assert (report.appended, report.samples, report.reused) == (5, 12, 3)
    assert report.tars == {"train": 4, "test": 1, "val": 1}
    assert tars(out).items() >= before.items()
    assert json.loads((out / "sizes.json").read_text()) == {
        f"ds_0000{number}.tar": count for number, count in enumerate((3, 2, 2, 3, 1, 1))
    }
    found = [key for number in range(6) for key in keys(out / f"ds_0000{number}.tar")]
    assert len(set(found)) == 12
    if key_format:
        assert found == [f"vid_{index:09d}" for index in range(12)]
    checked = check(out, False, lambda samples: None)
    assert (checked.problems, checked.notes) == ([], [])
    again = contents(out)
    report = pack(triples, out, append=True, **options)
    assert (report.unchanged, report.appended) == (True, 0)
    assert contents(out) == again
    add(triples, "test", range(20, 21))
    assert pack(triples, out, append=True, **options).samples == 13
    assert check(out, False, lambda samples: None).problems == []


def test_appending_to_nothing_is_sharding(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "a", append=True)
    pack(triples, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_triples_that_are_gone_stay_in_the_tars(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "out")
    shutil.rmtree(triples / "train")
    shutil.rmtree(triples / "test")
    add(triples, "train", range(10, 11))
    assert pack(triples, tmp_path / "out", append=True).samples == 8


def test_media_of_another_split_are_refused(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "out")
    before = contents(tmp_path / "out")
    add(triples, "val", range(10, 11), media_id="m1")
    with pytest.raises(InputError, match=r"found 1 that are:\n.*'m1': val/k10 would join ds_00000\.tar/k1 of train"):
        pack(triples, tmp_path / "out", append=True)
    assert contents(tmp_path / "out") == before
    assert pack(triples, tmp_path / "out", append=True, allow_leak=True).appended == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [({"name": "x"}, "name: 'ds' there, 'x' asked for"), ({"key_format": "v{index}"}, "key_format: None there")],
)
def test_other_options_are_refused(triples: Path, tmp_path: Path, options: dict[str, object], said: str) -> None:
    pack(triples, tmp_path / "out")
    with pytest.raises(InputError, match=said):
        pack(triples, tmp_path / "out", append=True, **options)


def test_another_encoder_dtype_or_embed_dim_is_refused(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "out")
    add(triples, "train", range(10, 11), np.float32)
    with pytest.raises(InputError, match="expected arrays in float16 as in the shards, found float32"):
        pack(triples, tmp_path / "out", append=True)
    info = json.loads((triples / "dataset.json").read_text())
    (triples / "dataset.json").write_text(json.dumps({**info, "encoder": {**info["encoder"], "embed_dim": 5}}))
    with pytest.raises(InputError, match="embed_dim: 4 there, 5 asked for"):
        pack(triples, tmp_path / "out", append=True)


@pytest.mark.parametrize("stop_at", ["ds_00003.tar", "index.json", "sizes.json", "README.md", "splits.csv"])
@pytest.mark.parametrize("more", [False, True])
def test_a_stopped_append_is_finished(
    triples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: str, more: bool
) -> None:
    out = tmp_path / "out"
    pack(triples, out, maxcount=3)
    shutil.copytree(out, tmp_path / "whole")
    before = tars(out)
    add(triples, "train", range(10, 15))

    def stopping(path: Path, data: bytes, write: object = pack_module.write_changed) -> bool:
        if path.name == stop_at:
            raise KeyboardInterrupt
        return write(path, data)  # type: ignore[operator, no-any-return]

    def stopping_publish(path: Path, publish: object = pack_module.publish, **options: bool) -> object:
        if path.name == "ds_00004.tar" and stop_at == "ds_00003.tar":
            raise KeyboardInterrupt
        return publish(path, **options)  # type: ignore[operator]

    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "write_changed", stopping)
        patch.setattr(pack_module, "publish", stopping_publish)
        with pytest.raises(KeyboardInterrupt):
            pack(triples, out, maxcount=3, append=True)
    assert (out / ".progress/plan.json").exists()
    if more:
        add(triples, "val", range(20, 22))
    assert pack(triples, out, maxcount=3, append=True).samples == 12 + 2 * more
    assert tars(out).items() >= before.items()
    assert check(out, False, lambda samples: None).problems == []
    if not more:
        pack(triples, tmp_path / "whole", maxcount=3, append=True)
        assert contents(out) == contents(tmp_path / "whole")


def test_a_tar_that_is_lost_or_a_stranger_is_named(triples: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(triples, out)
    add(triples, "train", range(10, 11))
    (out / "ds_00002.tar").touch()
    with pytest.raises(InputError, match=r"and no others, found ds_00002\.tar"):
        pack(triples, out, append=True)
    (out / "ds_00002.tar").unlink()
    os.truncate(out / "ds_00001.tar", 512)
    with pytest.raises(InputError, match=r"ds_00001\.tar cannot be read: expected \d+ bytes"):
        pack(triples, out, append=True)
