"""Triples and shards on a real S3 server, before which a proxy fails as networks do."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from embedshard.check import check
from embedshard.cli import main
from embedshard.errors import InputError
from embedshard.remote import RemoteError, Url
from embedshard.shard.job import Share
from embedshard.shard.offsets import read_offsets
from embedshard.shard.pack import ShardReport, shard
from embedshard.shard.plan import ShardOptions
from embedshard.shard.status import shard_status
from embedshard.shard.survey import Lot, make_surveyor

from ..s3 import FaultyProxy
from .conftest import to_parts
from .test_append import add, contents

OPTIONS = ShardOptions(maxcount=2)


def pack(processed: Any, output: Any, share: Share | None = None, **options: Any) -> ShardReport:
    return shard(processed, output, ShardOptions(maxcount=2, **options), lambda samples: None, share=share)


def stored(folder: Url) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def remote(triples: Path, bucket: str) -> Url:
    """The triples, in parts, on the server."""
    import s3fs

    to_parts(triples)
    s3fs.S3FileSystem().put(str(triples), f"{bucket}/processed", recursive=True)
    return Url(f"{bucket}/processed")


def test_shards_on_a_storage_are_those_of_a_disk(
    triples: Path, remote: Url, bucket: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    pack(triples, tmp_path / "disk")
    proxy.unavailable, proxy.cut_down, proxy.cut_up = 0.05, 0.03, 0.03
    out = Url(f"{bucket}/shards")
    assert pack(remote, out).samples == 7
    assert stored(out) == contents(tmp_path / "disk")
    assert proxy.counts["unavailable"] > 3
    assert pack(remote, out).unchanged
    pack(remote, tmp_path / "from storage")
    assert contents(tmp_path / "from storage") == contents(tmp_path / "disk")
    assert (check(out, False, lambda n: None).problems, check(remote, False, lambda n: None).problems) == ([], [])


@pytest.mark.parametrize("key_format", [None, "vid_{index:09d}"])
def test_shares_and_appended_triples(
    triples: Path, remote: Url, bucket: str, tmp_path: Path, key_format: str | None
) -> None:
    out = Url(f"{bucket}/shards")
    assert pack(remote, out, Share(part=2, of=2), key_format=key_format).missing == 2
    assert (shard_status(out).packed, shard_status(out).tars) == (2, 4)
    assert pack(remote, out, Share(part=1, of=2), key_format=key_format).missing == 0
    add(triples, "train", range(10, 13))
    pack(triples, out, append=True, key_format=key_format)
    pack(triples, tmp_path / "disk", key_format=key_format)
    assert pack(triples, out, append=True, key_format=key_format).unchanged
    assert check(out, False, lambda n: None).problems == []
    assert check(out, False, lambda n: None).counts["samples"] == 10


def test_damage_on_a_storage_is_named(remote: Url, bucket: str, tmp_path: Path) -> None:
    import s3fs

    pack(remote, Url(f"{bucket}/shards"))
    fs = s3fs.S3FileSystem()
    fs.pipe_file(f"{bucket}/shards/ds_00001.idx", fs.cat_file(f"{bucket}/shards/ds_00000.idx"))
    fs.pipe_file(f"{bucket}/shards/ds_00000.tar", fs.cat_file(f"{bucket}/shards/ds_00000.tar")[:3000])
    found = [
        f"{problem.where}: {problem.what}" for problem in check(Url(f"{bucket}/shards"), False, lambda n: None).problems
    ]
    assert any("ds_00000.tar: the tar ends inside a member" in text for text in found)
    assert any("ds_00001.idx: does not say where" in text for text in found)
    part = f"{remote}/train/part-000002.tar"
    fs.pipe_file(part, fs.cat_file(part)[:700])
    with pytest.raises(InputError, match=r"part-000002\.tar is damaged"):
        pack(remote, tmp_path / "out")


@pytest.mark.parametrize("key_format", [None, "vid_{index:09d}"])
def test_a_part_that_is_replaced_meanwhile_gives_no_tar(
    triples: Path, remote: Url, bucket: str, key_format: str | None
) -> None:
    import s3fs

    def begin(stage: str, total: int | None) -> None:
        if stage == "packing":
            fs = s3fs.S3FileSystem()
            fs.pipe_file(f"{remote}/test/part-000000.tar", bytes(512) + fs.cat_file(f"{remote}/test/part-000000.tar"))

    options = ShardOptions(maxcount=2, key_format=key_format)
    with pytest.raises(InputError, match=r"part-000000\.tar has changed\n  run the same command again"):
        shard(remote, Url(f"{bucket}/shards"), options, lambda n: None, begin)


def test_an_outage_ends_the_run_and_the_next_goes_on(remote: Url, bucket: str, proxy: FaultyProxy) -> None:
    out = Url(f"{bucket}/shards")
    pack(remote, out, Share(part=1, of=2))
    proxy.unavailable = 1.0
    with pytest.raises(RemoteError, match="run the same command again"):
        pack(remote, out)
    proxy.unavailable = 0.0
    assert pack(remote, out).reused == 2


def test_an_outage_is_not_told_as_damage(remote: Url, bucket: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    pack(remote, Url(f"{bucket}/shards"))
    proxy.unavailable = 1.0
    lot = Lot(remote / "train", "part-000000.tar")
    tar = Url(f"{bucket}/shards/ds_00000.tar")
    for read in (lambda: next(iter(make_surveyor(OPTIONS, 0)(iter([lot]))))[1], lambda: read_offsets(tar)):
        try:
            found = read()
        except RemoteError as error:
            found = error
        assert isinstance(found, RemoteError)
        assert "damaged" not in str(found)


def test_loose_triples_of_a_storage_are_refused(triples: Path, bucket: str, tmp_path: Path) -> None:
    import s3fs

    s3fs.S3FileSystem().put(str(triples), f"{bucket}/loose", recursive=True)
    with pytest.raises(InputError, match=r"to be in parts, found s3://.*\.npy\n  copy them to a disk"):
        pack(Url(f"{bucket}/loose"), tmp_path / "out")


def test_the_commands_take_urls(remote: Url, bucket: str) -> None:
    from click.testing import CliRunner

    run = CliRunner().invoke(main, ["shard", str(remote), f"{bucket}/shards"], catch_exceptions=False)
    assert (run.exit_code, f"wrote {bucket}/shards" in run.output) == (0, True)
    assert "tars: 2 of 2 packed" in CliRunner().invoke(main, ["status", f"{bucket}/shards"]).output
    assert "all right" in CliRunner().invoke(main, ["check", f"{bucket}/shards"]).output
    assert "copy it to one" in CliRunner().invoke(main, ["check", "--repair", f"{bucket}/shards"]).output
