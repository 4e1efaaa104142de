from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedshard.check import Report, check
from embedshard.errors import InputError
from embedshard.processed import DatasetInfo, Failure, write_failures, write_info, write_triple
from embedshard.shard.pack import shard
from embedshard.shard.plan import ShardOptions

from .shard.conftest import to_parts


def checked(folder: Path, allow_leak: bool = False) -> Report:
    return check(folder, allow_leak, lambda samples: None)


def found(folder: Path) -> dict[str, str]:
    report = checked(folder)
    json.dumps(report.to_json(), allow_nan=False)
    assert report.total == len(report.problems)
    assert report.ok is not bool(report.problems)
    return {problem.where: problem.what for problem in report.problems}


@pytest.fixture
def processed(tmp_path: Path) -> Path:
    """Give 5 train, 1 val and 2 test triples."""
    folder = tmp_path / "processed"
    for number in range(8):
        split = "train" if number < 5 else "val" if number < 6 else "test"
        meta = {"media_id": f"m{number}", "frame_times": [0.0, 1.0]}
        write_triple(folder / split, f"k{number}", np.full((2, 4), number, np.float16), f"c {number}", meta)
    write_info(folder, DatasetInfo({"model": "ViT-B-32", "embed_dim": 4}, {"name": "demo"}))
    return folder


@pytest.fixture
def shards(processed: Path, tmp_path: Path) -> Path:
    """Give them as ds_00000 (k0 k1), ds_00001 (k2 k3), ds_00002 (k4), ds_00003 (k5), ds_00004 (k6 k7)."""
    shard(processed, tmp_path / "shards", ShardOptions(maxcount=2, shuffle=False), lambda samples: None)
    return tmp_path / "shards"


def npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def rewrite(tar: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """Write a tar anew with other members."""
    with tarfile.open(tar) as file:
        members = [(info.name, (file.extractfile(info) or io.BytesIO()).read()) for info in file]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def replaced(name: str, data: bytes) -> Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]:
    return lambda members: [(member, data if member == name else old) for member, old in members]


def test_what_is_whole_has_no_problem(processed: Path, shards: Path) -> None:
    for folder, kind in ((processed, "processed"), (shards, "shards")):
        report = checked(folder)
        assert (report.kind, report.problems, report.notes) == (kind, [], [])
        assert {"samples": 8, "frames": 16, "train": 5, "val": 1, "test": 2}.items() <= report.counts.items()


def test_what_is_neither_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a processed dataset"):
        checked(tmp_path)


BROKEN = [
    ("npy", npy(np.zeros(4, np.float16)), "npy has 1 dimensions, expected 2"),
    ("npy", npy(np.full((2, 4), np.nan, np.float16)), "8 of 8 values are not finite"),
    ("npy", npy(np.full((2, 4), np.inf, np.float32)), "8 of 8 values are not finite"),
    ("npy", npy(np.zeros((2, 5), np.float16)), "embed_dim is 5, expected 4"),
    ("npy", npy(np.zeros((2, 4), np.int16)), "npy is <i2, expected float16 or float32"),
    ("npy", npy(np.zeros((2, 4), np.float16))[:-1], "npy has another size than its head says"),
    ("npy", b"junk", "npy has no readable head"),
    ("npy", b"", "npy has no readable head"),
    ("npy", npy(np.zeros((3, 4), np.float16)), "2 frame_times, but the npy has 3 rows"),
    ("txt", b" \n", "caption is blank"),
    ("txt", b"\xff", "caption is not UTF-8"),
    ("json", b"{", "json cannot be read"),
    ("json", b"[" * 100000, "json cannot be read"),
    ("json", b"[]", "json is not an object"),
]


@pytest.mark.parametrize(("part", "data", "what"), BROKEN)
def test_a_broken_piece_is_named(processed: Path, shards: Path, part: str, data: bytes, what: str) -> None:
    named = "json" if "frame_times" in what else part
    (processed / f"train/k2.{part}").write_bytes(data)
    assert found(processed) == {f"train/k2.{named}": what}
    rewrite(shards / "ds_00001.tar", replaced(f"k2.{part}", data))
    assert found(shards)[f"ds_00001.tar/k2.{named}"] == what


@pytest.mark.parametrize("part", ["npy", "txt", "json"])
def test_a_missing_piece_is_named(processed: Path, shards: Path, part: str) -> None:
    (processed / f"train/k2.{part}").unlink()
    assert found(processed) == ({} if part == "json" else {"train/k2": f"no {part}"})
    rewrite(shards / "ds_00001.tar", lambda members: [row for row in members if row[0] != f"k2.{part}"])
    problems = found(shards)
    assert problems["ds_00001.tar/k2"] == f"no {part}"
    assert "sha256" in problems["index.json: ds_00001.tar"]


def test_a_key_in_two_splits_is_named(processed: Path, shards: Path) -> None:
    for part in ("npy", "txt", "json"):
        shutil.copy(processed / f"train/k0.{part}", processed / f"test/k0.{part}")
    assert found(processed)["test/k0"] == "key is there 2 times: train, test"
    shutil.copy(shards / "ds_00000.tar", shards / "ds_00004.tar")
    assert found(shards)["ds_00004.tar/k1"] == "key is there 2 times: ds_00000.tar, ds_00004.tar"


def test_a_leak_is_named_or_allowed(processed: Path, tmp_path: Path) -> None:
    (processed / "test/k7.json").write_text(json.dumps({"media_id": "m1"}))
    shard(processed, tmp_path / "leaky", ShardOptions(), lambda samples: None)
    assert found(processed) == {"train/k1, test/k7": "media 'm1' is in the splits train, test"}
    assert found(tmp_path / "leaky") == {"ds_00000.tar/k1, ds_00002.tar/k7": "media 'm1' is in the splits train, test"}
    allowed = checked(processed, allow_leak=True)
    assert (allowed.ok, allowed.notes) == (True, ["1 media are in more than one split"])


def test_two_clips_of_one_video_in_a_split_are_no_leak(processed: Path) -> None:
    (processed / "test/k7.json").write_text(json.dumps({"media_id": "m6"}))
    assert checked(processed).ok


def test_leftovers_and_strangers_are_named(processed: Path, shards: Path) -> None:
    (processed / "train/.tmp-k9.npy").touch()
    (processed / "train/k0.mp4").touch()
    (shards / ".tmp-ds_00001.tar").touch()
    (shards / ".progress").mkdir()
    unfinished = "left by a run that did not finish; run the same command again"
    assert found(processed) == {"train/.tmp-k9.npy": unfinished, "train/k0.mp4": "no part of a triple"}
    assert found(shards) == {".progress": unfinished, ".tmp-ds_00001.tar": unfinished}


def test_a_failure_that_has_a_triple_is_named(processed: Path) -> None:
    failures = [Failure(key, "train", "m", "decode", "why", 1) for key in ("k1", "k100")]
    write_failures(processed, failures)
    assert found(processed) == {"train/k1": "failed.jsonl names it, but it has a triple"}


def test_what_failed_to_encode_is_noted_of_the_shards_too(processed: Path, tmp_path: Path) -> None:
    write_failures(processed, [Failure("k100", "train", "m", "decode", "why", 1)])
    shard(processed, tmp_path / "out", ShardOptions(), lambda samples: None)
    report = checked(tmp_path / "out")
    assert (report.ok, report.notes) == (True, ["1 samples failed to encode, so no tar has them; index.json says why"])


def test_without_a_dataset_json_only_the_odd_dim_is_named(processed: Path) -> None:
    (processed / "dataset.json").unlink()
    (processed / "train/k0.npy").write_bytes(npy(np.zeros((2, 9), np.float16)))
    assert found(processed) == {"train/k0.npy": "embed_dim is 9, expected 4"}
    for number in (1, 2, 3):
        (processed / f"train/k{number}.npy").write_bytes(npy(np.zeros((2, 9), np.float16)))
    assert "found 4 of 4, 4 of 9" in found(processed)[str(processed)]


def test_the_number_of_samples_is_known_at_the_beginning(processed: Path, shards: Path) -> None:
    def totals(folder: Path) -> list[tuple[str, int | None]]:
        stages: list[tuple[str, int | None]] = []
        check(folder, False, lambda samples: None, lambda *stage: stages.append(stage))
        return stages

    assert totals(processed) == [("checking", None)]
    assert totals(shards) == [("checking", 8)]
    (shards / "sizes.json").unlink()
    assert totals(shards) == [("checking", 8)]
    (shards / "index.json").write_text('{"totals": {"samples": "x"}}')
    assert totals(shards) == [("checking", None)]


def test_a_name_that_is_no_text_can_be_printed(processed: Path) -> None:
    (processed / "train" / os.fsdecode(b"\xff")).touch()
    (processed / "train" / os.fsdecode(b"\xff.npy")).touch()
    report = checked(processed)
    assert report.problems[0].where == "train/\\udcff"
    assert "no part" in json.dumps(report.to_json(), ensure_ascii=False).encode().decode()


@pytest.mark.parametrize(
    "index",
    [
        {"tars": 1},
        {"tars": [1], "totals": []},
        {"tars": [{"name": [1]}], "totals": {}},
        {"tars": [], "totals": [], "provenance": [], "options": [], "embed_dim": "x"},
        {"tars": [], "totals": {"samples": 8}, "provenance": {"encoder": []}, "options": {"maxcount": "x"}},
    ],
)
def test_an_index_of_another_shape_is_named(shards: Path, index: object) -> None:
    (shards / "index.json").write_text(json.dumps(index))
    assert "expected tars, totals and left_out" in found(shards)["index.json"]


@pytest.mark.parametrize("line", ['{"key": [], "split": 1, "media": 1, "stage": 1, "reason": 1, "attempt": 1}'])
def test_a_failed_jsonl_of_another_shape_is_named(processed: Path, line: str) -> None:
    (processed / "failed.jsonl").write_text(line)
    assert "is damaged" in found(processed)["failed.jsonl"]


@pytest.mark.parametrize("text", ["{", "[]", '{"encoder": [], "source": {}}'])
def test_a_damaged_dataset_json_is_named(processed: Path, text: str) -> None:
    (processed / "dataset.json").write_text(text)
    assert "dataset.json" in found(processed)


def test_a_cut_tar_is_named(shards: Path) -> None:
    os.truncate(shards / "ds_00001.tar", 1800)
    first, *others = checked(shards).problems
    assert first.where == "ds_00001.tar"
    assert first.what.startswith("the tar ends inside a member that begins at byte 1024; the samples from k2 on")
    assert "sizes.json: ds_00001.tar" in {problem.where for problem in others}


def test_a_flipped_header_byte_is_named(shards: Path) -> None:
    data = bytearray((shards / "ds_00001.tar").read_bytes())
    data[1024] ^= 1
    (shards / "ds_00001.tar").write_bytes(data)
    assert "no intact tar header at byte 1024" in checked(shards).problems[0].what


def test_any_flipped_byte_is_found(shards: Path) -> None:
    tar = shards / "ds_00002.tar"
    whole = tar.read_bytes()
    for position in range(0, len(whole), 397):
        data = bytearray(whole)
        data[position] ^= 16
        tar.write_bytes(data)
        assert "ds_00002.tar" in str(found(shards)), position


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_damage_is_never_raised(shards: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(shards.iterdir())))
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    junk = data.draw(st.binary(max_size=600) | st.sampled_from([b"null", b"[]", b"1", b'"', b"NaN", b"\0" * 512]))
    path.write_bytes(whole[:start] + junk + whole[start + data.draw(st.integers(0, 600)) :])
    try:
        changed = path.read_bytes() != whole
        assert not (found(shards) == {} and changed and path.suffix == ".tar")
    finally:
        path.write_bytes(whole)


def test_members_apart_or_strange_are_named(shards: Path) -> None:
    rewrite(shards / "ds_00000.tar", lambda members: [*members[1:], members[0]])
    rewrite(shards / "ds_00001.tar", lambda members: [*members, ("k9.mp4", b"")])
    problems = found(shards)
    assert problems["ds_00000.tar/k0.json"] == "is apart from the other members of its key, or there twice"
    assert problems["ds_00001.tar/k9.mp4"] == "expected members <key>.json, .npy, .txt, .cap"


def test_tables_that_disagree_are_named(shards: Path) -> None:
    sizes = json.loads((shards / "sizes.json").read_text())
    (shards / "sizes.json").write_text(json.dumps({**sizes, "ds_00000.tar": 3, "ds_00009.tar": 1}))
    table = (shards / "splits.csv").read_text().replace("ds_00003.tar,val", "ds_00003.tar,test")
    (shards / "splits.csv").write_text(table)
    problems = found(shards)
    assert problems["sizes.json: ds_00000.tar"] == "says 3, found 2"
    assert problems["sizes.json: ds_00009.tar"] == "says 1, found no tar"
    assert problems["index.json: ds_00003.tar"] == "split: says val, found test"
    assert "only the last tar of a split is short" in problems["ds_00003.tar"]


def test_tars_that_tables_and_folder_do_not_share_are_named(shards: Path) -> None:
    (shards / "ds_00003.tar").rename(shards / "other.tar")
    problems = found(shards)
    assert problems["ds_00003.tar"] == "splits.csv names it, but it is not there"
    assert problems["other.tar"] == "splits.csv does not name it"
    assert problems["index.json: ds_00003.tar"] == "no such tar"


def test_an_empty_tar_and_an_overfull_one_are_named(shards: Path) -> None:
    rewrite(shards / "ds_00003.tar", lambda members: [])
    more = [("k9.json", b"{}"), ("k9.npy", npy(np.zeros((1, 4), np.float16))), ("k9.txt", b"c")]
    rewrite(shards / "ds_00004.tar", lambda members: members + more)
    problems = found(shards)
    assert problems["ds_00003.tar"] == "has no samples"
    assert problems["ds_00004.tar"] == "has 3 samples, expected at most 2"


def test_shards_of_other_tools_are_checked_without_our_tables(shards: Path) -> None:
    for name in ("index.json", "sizes.json", "README.md"):
        (shards / name).unlink(missing_ok=True)
    rewrite(shards / "ds_00004.tar", lambda members: [(n.replace(".txt", ".cap"), data) for n, data in members])
    table = (shards / "splits.csv").read_text().replace(".tar", "")
    (shards / "splits.csv").write_text(table)
    report = checked(shards)
    assert {problem.what for problem in report.problems} == {
        "has 2 samples, expected 10000: only the last tar of a split is short"
    }
    assert len(report.notes) == 2


def test_no_splits_csv_is_a_problem(shards: Path) -> None:
    (shards / "splits.csv").unlink()
    assert "expected a folder that embedshard shard wrote to the end" in found(shards)["splits.csv"]


def test_many_problems_are_counted_and_1000_kept(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number in range(1200):
        (tmp_path / f"train/k{number}.mp4").touch()
    report = checked(tmp_path)
    assert (len(report.problems), report.total) == (1000, 1201)


def test_a_dataset_in_parts_is_checked(processed: Path) -> None:
    to_parts(processed)
    report = checked(processed)
    assert (report.problems, report.notes) == ([], [])
    assert {"samples": 8, "frames": 16, "train": 5, "val": 1, "test": 2}.items() <= report.counts.items()


@pytest.mark.parametrize(("piece", "data", "what"), BROKEN)
def test_a_broken_piece_of_a_part_is_named(processed: Path, piece: str, data: bytes, what: str) -> None:
    named = "json" if "frame_times" in what else piece
    (processed / f"train/k2.{piece}").write_bytes(data)
    to_parts(processed)
    assert found(processed) == {f"train/part-000002.tar/k2.{named}": what}


def test_damage_and_strangers_in_a_part_are_named(processed: Path) -> None:
    to_parts(processed)
    os.truncate(processed / "train/part-000000.tar", 5000)
    rewrite(processed / "train/part-000002.tar", lambda members: [*members, ("k9.mp4", b""), members[0]])
    problems = found(processed)
    assert problems["train/part-000000.tar"].startswith("is damaged: the tar ends inside a member that begins at byte ")
    assert problems["train/part-000000.tar"].endswith(", after k1.json; what follows is not checked")
    assert problems["train/part-000002.tar/k9.mp4"] == "no part of a triple"
    assert problems["train/part-000002.tar/k2.json"] == "is there twice"


def test_keys_and_media_are_compared_over_both_layouts(processed: Path) -> None:
    for part in ("npy", "txt", "json"):
        shutil.copy(processed / f"train/k0.{part}", processed / f"test/k0.{part}")
    to_parts(processed, only=lambda key: key in ("k6", "k7"))
    shutil.copy(processed / "test/k0.json", processed / "val/k5.json")
    to_parts(processed, 9, lambda key: key == "k5")
    problems = found(processed)
    assert problems["test/k0"] == "key is there 2 times: train, test"
    assert problems["train/k0, val/part-000000.tar/k5, test/k0"] == "media 'm0' is in the splits train, val, test"
