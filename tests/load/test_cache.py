from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from embedshard.errors import InputError
from embedshard.load import load

from .shards import write_shards
from .test_load import upload

BACKENDS = pytest.mark.parametrize("backend", ["webdataset", "native"])


def write_index(folder: Path) -> None:
    rows = [
        {"name": tar.name, "samples": 4, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for tar in sorted(folder.glob("*.tar"))
        for data in [tar.read_bytes()]
    ]
    (folder / "index.json").write_text(json.dumps({"tars": rows}))


def copies(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


@BACKENDS
@pytest.mark.parametrize("indexed", [False, True])
def test_tars_are_fetched_once(tmp_path, bucket, backend, indexed) -> None:
    folder, cache = tmp_path / "shards", tmp_path / "cache"
    expected = write_shards(folder, tars=3)
    if indexed:
        write_index(folder)
    address = upload(folder, bucket)
    stream = load(address, cache=cache, shuffle=3, backend=backend)
    assert sorted(sample["key"] for sample in stream) == expected
    first = {path: path.stat().st_ino for path in copies(cache)}
    loader = DataLoader(load(address, cache=str(cache), backend=backend), batch_size=None, num_workers=2)
    assert sorted(sample["key"] for sample in loader) == expected
    assert {path: path.stat().st_ino for path in copies(cache)} == first
    assert sorted(path.read_bytes() for path in first) == sorted(tar.read_bytes() for tar in folder.glob("*.tar"))


@BACKENDS
def test_a_tar_that_was_packed_anew_is_fetched_anew(tmp_path, backend) -> None:
    folder, cache = tmp_path / "shards", tmp_path / "cache"
    write_shards(folder, tars=2)
    write_index(folder)
    before = [sample["text"] for sample in load(folder, cache=cache, backend=backend)]
    (folder / "ds_00000.tar").write_bytes((folder / "ds_00001.tar").read_bytes())
    write_index(folder)
    after = [sample["text"] for sample in load(folder, cache=cache, backend=backend)]
    assert after == before[4:] * 2 != before


@BACKENDS
@pytest.mark.parametrize("wrong", [{"bytes": 1}, {"sha256": "0"}])
def test_what_is_not_as_the_index_says_is_not_kept(tmp_path, backend, wrong) -> None:
    folder, cache = tmp_path / "shards", tmp_path / "cache"
    write_shards(folder, tars=1)
    write_index(folder)
    index = json.loads((folder / "index.json").read_text())
    index["tars"][0].update(wrong)
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=rf"ds_00000\.tar: expected {next(iter(wrong))} .*, as index\.json says"):
        list(load(folder, cache=cache, backend=backend))
    assert copies(cache) == []


@BACKENDS
def test_a_cache_of_a_size_lets_the_oldest_go(tmp_path, backend) -> None:
    folder, cache = tmp_path / "shards", tmp_path / "cache"
    expected = write_shards(folder, tars=5)
    write_index(folder)
    size = (folder / "ds_00000.tar").stat().st_size
    (cache / "").mkdir()
    (cache / "mine.txt").write_text("stays")
    for _ in range(2):
        stream = load(folder, cache=cache, cache_size=2 * size + size // 2, backend=backend)
        assert [sample["key"] for sample in stream] == expected
        assert len(list(cache.glob("*.tar"))) == 2
    kept = {path.read_bytes() for path in cache.glob("*.tar")}
    assert kept == {(folder / f"ds_0000{number}.tar").read_bytes() for number in (3, 4)}
    assert (cache / "mine.txt").exists()
    assert not any(os.path.splitext(path)[1] == ".part" for path in copies(cache))
