"""Shards from parts, from loose triples and from both are the same."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedshard import processed as processed_module
from embedshard.errors import InputError
from embedshard.processed import Failure, write_failures, write_triple
from embedshard.shard.pack import ShardReport, shard
from embedshard.shard.plan import ShardOptions
from embedshard.tar import write_members

from .conftest import to_parts
from .test_pack import BAD


def pack(processed: Path, output: Path, **options: object) -> ShardReport:
    return shard(processed, output, ShardOptions(**options), lambda samples: None)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def copied(triples: Path, target: Path) -> Path:
    return Path(shutil.copytree(triples, target))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    lengths=st.lists(
        st.tuples(st.sampled_from(["train", "val", "test"]), st.integers(1, 40), st.booleans()), min_size=1
    ),
    size=st.integers(1, 5),
    options=st.fixed_dictionaries(
        {
            "maxcount": st.integers(1, 6),
            "shuffle": st.booleans(),
            "key_format": st.sampled_from([None, "vid_{index:09d}"]),
        }
    ),
)
def test_loose_parts_and_a_mix_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[tuple[str, int, bool]],
    size: int,
    options: dict[str, object],
) -> None:
    folder = tmp_path_factory.mktemp("three")
    for number, (split, frames, bad) in enumerate(lengths):
        meta = {"key": f"k{number}", "media_id": f"m{number}"}
        array = np.full((frames, 64), number, np.float32)
        write_triple(
            folder / "loose" / split, f"k {number}" if number % 3 == 0 else f"k{number}", array, "c " * frames, meta
        )
        if bad and number:
            (folder / "loose" / split / f"k{number}.json").unlink(missing_ok=True)
    in_parts = to_parts(copied(folder / "loose", folder / "parts"), size)
    mixed = to_parts(copied(folder / "loose", folder / "mixed"), size, lambda stem: int(stem.strip("k ")) % 2 == 0)
    reports = [pack(path, folder / f"{path.name}-out", **options) for path in (folder / "loose", in_parts, mixed)]
    assert reports[0] == reports[1] == reports[2]
    assert contents(folder / "loose-out") == contents(folder / "parts-out") == contents(folder / "mixed-out")


@pytest.mark.parametrize("run", [1, 3])
def test_what_is_spilled_changes_nothing(
    triples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: int
) -> None:
    pack(triples, tmp_path / "loose")
    monkeypatch.setattr(processed_module, "_RUN", run)
    pack(to_parts(triples, 3, lambda stem: stem != "k1"), tmp_path / "parts", workers=2)
    assert contents(tmp_path / "loose") == contents(tmp_path / "parts")


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_triple_of_a_part_is_left_out_as_a_loose_one(triples: Path, tmp_path: Path, reason: str) -> None:
    part, data = BAD[reason]
    path = triples / f"train/k2.{part}"
    path.unlink() if data is None else path.write_bytes(data)
    report = pack(triples, tmp_path / "loose")
    assert pack(to_parts(triples), tmp_path / "parts") == report
    assert contents(tmp_path / "loose") == contents(tmp_path / "parts")
    assert report.left_out == {reason: 1}


def test_a_key_that_is_loose_and_in_a_part_is_packed_once(triples: Path, tmp_path: Path) -> None:
    loose = copied(triples, tmp_path / "copy")
    to_parts(triples)
    for path in (loose / "train").glob("k0.*"):
        shutil.copy(path, triples / "test")
        shutil.copy(path, triples / "train")
    report = pack(triples, tmp_path / "out")
    assert (report.samples, report.left_out) == (7, {"same key as a triple of train": 2})
    assert sum(report.left_out.values()) + report.samples == 9


def test_what_failed_but_has_a_triple_in_a_part_did_not_fail(triples: Path, tmp_path: Path) -> None:
    to_parts(triples)
    write_failures(triples, [Failure(key, "train", "m", "decode", "why", 1) for key in ("k1", "k9")])
    assert pack(triples, tmp_path / "out").failed == {"why": 1}


@pytest.mark.parametrize("length", [0, 1200, 2048])
def test_a_cut_part_is_named(triples: Path, tmp_path: Path, length: int) -> None:
    to_parts(triples)
    part = triples / "train/part-000002.tar"
    with part.open("r+b") as file:
        file.truncate(length)
    after = {0: "", 1200: ", after k2.json", 2048: ", after k2.npy"}[length]
    with pytest.raises(
        InputError, match=rf"part-000002\.tar is damaged: .*byte \d+{after}\n  remove it and run"
    ) as found:
        pack(triples, tmp_path / "out")
    assert ("after" in str(found.value)) is bool(after)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_flipped_byte_in_a_header_is_named(triples: Path, tmp_path: Path) -> None:
    to_parts(triples)
    part = triples / "test/part-000000.tar"
    data = bytearray(part.read_bytes())
    data[1024] ^= 1
    part.write_bytes(data)
    with pytest.raises(
        InputError, match=r"test/part-000000\.tar is damaged: no intact tar header at byte 1024, after k5"
    ):
        pack(triples, tmp_path / "out")


def test_a_part_that_changes_meanwhile_gives_no_tar(triples: Path, tmp_path: Path) -> None:
    part = to_parts(triples) / "test/part-000000.tar"

    def change(stage: str, total: int | None) -> None:
        if stage == "packing":
            part.write_bytes(part.read_bytes())

    with pytest.raises(InputError, match=r"part-000000\.tar has changed\n  run the same command again"):
        shard(triples, tmp_path / "out", ShardOptions(), lambda samples: None, change)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".progress", "ds_00000.idx", "ds_00000.tar"]
    assert pack(triples, tmp_path / "out").reused == 1


def test_parts_of_another_writer_are_read_member_by_member(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "loose")
    files = sorted((triples / "train").iterdir(), reverse=True)
    with tarfile.open(triples / "train/part-000000.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for path in files:
            tar.add(path, path.name)
            path.unlink()
    pack(triples, tmp_path / "parts")
    assert contents(tmp_path / "loose") == contents(tmp_path / "parts")


def test_a_member_that_is_there_twice_is_left_out(triples: Path, tmp_path: Path) -> None:
    files = [path for _ in range(2) for path in sorted((triples / "test").glob("k5.*"))]
    with (triples / "test/part-000000.tar").open("wb") as file:
        write_members(file, [(path.name, path.read_bytes()) for path in files])
    for path in files[:3]:
        path.unlink()
    report = pack(triples, tmp_path / "out")
    assert report.left_out == {"a member is there twice": 1}
    assert json.loads((tmp_path / "out/left_out.jsonl").read_text())["triple"] == "test/k5"
