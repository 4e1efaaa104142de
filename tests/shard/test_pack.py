from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
import yaml

from embedshard.errors import InputError
from embedshard.processed import Failure, write_failures, write_triple
from embedshard.shard.pack import ShardReport, shard
from embedshard.shard.plan import ShardOptions
from embedshard.shard.table import read_splits

from .conftest import Full

Make = Callable[..., Path]

CAPTIONS = ["一只猫在跳舞。", "two\nlines\r\n", "🤗 emoji 👩‍👩‍👧", "\"quotes\" 'and' \\ | , ;", " blanks ", "ع"]


def pack(processed: Path, output: Path, **options: object) -> ShardReport:
    return shard(processed, output, ShardOptions(**options), lambda samples: None)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def keys(tar: Path) -> list[str]:
    with tarfile.open(tar) as file:
        names = file.getnames()
    assert [name.rpartition(".")[2] for name in names] == ["json", "npy", "txt"] * (len(names) // 3)
    found = [name.rpartition(".")[0] for name in names]
    assert found[::3] == found[1::3] == found[2::3]
    return found[::3]


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as file:
        return {info.name: (file.extractfile(info) or io.BytesIO()).read() for info in file}


def test_full_tars_and_an_empty_split(full: Full) -> None:
    report, folder = full.report, full.folder
    assert (report.tars, report.samples, report.frames) == ({"train": 2, "test": 1}, 20000, 40000)
    sizes = {"ds_00000.tar": 10000, "ds_00001.tar": 1, "ds_00002.tar": 9999}
    assert json.loads((folder / "sizes.json").read_text()) == sizes
    table = b"tar_file,split\nds_00000.tar,train\nds_00001.tar,train\nds_00002.tar,test\n"
    assert (folder / "splits.csv").read_bytes() == table
    found = {name: keys(folder / name) for name in sizes}
    assert {name: len(names) for name, names in found.items()} == sizes
    assert len({key for names in found.values() for key in names}) == 20000
    assert {int(key[1:]) for key in found["ds_00002.tar"]} == set(range(10001, 20000))
    listed = subprocess.run(["tar", "tf", folder / "ds_00000.tar"], capture_output=True, text=True, check=True)
    assert (len(listed.stdout.split()), listed.stderr) == (30000, "")


@pytest.mark.soak
def test_25000_samples(linked: Make, tmp_path: Path) -> None:
    assert pack(linked(train=0, val=25000, test=1), tmp_path).tars == {"val": 3, "test": 1}


@pytest.mark.parametrize("counts", [(0, 1, 0), (9, 10, 11), (20, 0, 0), (0, 0, 25)])
def test_counts_agree_everywhere(linked: Make, tmp_path: Path, counts: tuple[int, int, int]) -> None:
    report = pack(linked(**dict(zip(("train", "val", "test"), counts, strict=True))), tmp_path, maxcount=10)
    index = json.loads((tmp_path / "index.json").read_text())
    on_disk = {path.name: len(keys(path)) for path in sorted(tmp_path.glob("*.tar"))}
    assert 0 not in on_disk.values()
    assert on_disk == json.loads((tmp_path / "sizes.json").read_text())
    assert on_disk == {tar["name"]: tar["samples"] for tar in index["tars"]}
    with (tmp_path / "splits.csv").open(newline="") as file:
        assert [row["tar_file"] for row in csv.DictReader(file)] == list(on_disk)
    for tar in index["tars"]:
        data = (tmp_path / tar["name"]).read_bytes()
        assert (tar["bytes"], tar["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert tuple(index["totals"]["splits"][split]["samples"] for split in ("train", "val", "test")) == counts
    assert sum(counts) == report.samples == index["totals"]["samples"]
    assert sum(tar["frames"] for tar in index["tars"]) == report.frames == 2 * sum(counts)


def test_webdataset_reads_it(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "out", shuffle=False)
    samples = wds.WebDataset(str(tmp_path / "out/ds_00000.tar"), shardshuffle=False).decode()
    rows = list(samples.to_tuple("__key__", "npy", "txt", "json"))
    assert [row[0] for row in rows] == [f"k{number}" for number in range(5)]
    for number, (_, array, caption, meta) in enumerate(rows):
        np.testing.assert_array_equal(array, np.full((number + 1, 4), number, np.float16))
        assert (caption, meta["media_id"]) == (f"caption {number}", f"m{number}")


def test_captions_come_back_unchanged(tmp_path: Path) -> None:
    for number, caption in enumerate(CAPTIONS):
        write_triple(tmp_path / "in/val", f"k{number}", np.zeros((1, 4), np.float32), caption, {"a": caption})
    pack(tmp_path / "in", tmp_path / "out", shuffle=False)
    found = members(tmp_path / "out/ds_00000.tar")
    assert [found[f"k{number}.txt"].decode() for number in range(len(CAPTIONS))] == CAPTIONS
    assert [json.loads(found[f"k{number}.json"])["a"] for number in range(len(CAPTIONS))] == CAPTIONS


def test_npy_bytes_are_copied(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "out")
    assert members(tmp_path / "out/ds_00000.tar")["k3.npy"] == (triples / "train/k3.npy").read_bytes()


def test_same_bytes_from_any_folder_day_and_number_of_workers(linked: Make, tmp_path: Path) -> None:
    processed = linked(train=25, val=3)
    first = pack(processed, tmp_path / "a", maxcount=5)
    copy = tmp_path / "copy"
    shutil.copytree(processed, copy)
    for path in copy.rglob("*.npy"):
        os.utime(path, (0, 0))
    assert pack(copy, tmp_path / "b", maxcount=5, workers=4) == first
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_keys_can_be_numbered_over_all_splits(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path, key_format="vid_{index:09d}")
    assert keys(tmp_path / "ds_00000.tar") == [f"vid_{index:09d}" for index in range(5)]
    assert keys(tmp_path / "ds_00001.tar") == ["vid_000000005", "vid_000000006"]


def test_a_second_run_changes_nothing_and_says_so(triples: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert not pack(triples, output, maxcount=2).unchanged
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    again = pack(triples, output, maxcount=2)
    assert (again.unchanged, again.reused) == (True, 4)
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before


def test_a_touched_source_packs_its_tar_again_to_the_same_bytes(triples: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    pack(triples, output, maxcount=2, shuffle=False)
    before = contents(output)
    os.utime(triples / "train/k2.npy")
    again = pack(triples, output, maxcount=2, shuffle=False)
    assert (again.unchanged, again.reused) == (False, 3)
    assert contents(output) == before


def test_a_lost_tar_or_table_comes_back(triples: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    pack(triples, output, maxcount=2)
    before = contents(output)
    for name in ("ds_00001.tar", "sizes.json", "README.md"):
        (output / name).unlink()
        assert not pack(triples, output, maxcount=2).unchanged
        assert contents(output) == before


def test_shards_of_another_plan_are_kept_unless_overwritten(triples: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    pack(triples, output, maxcount=2)
    (output / "mine.txt").write_text("keep")
    before = contents(output)
    with pytest.raises(InputError, match="--overwrite"):
        pack(triples, output)
    assert contents(output) == before
    pack(triples, output, overwrite=True)
    pack(triples, tmp_path / "fresh")
    assert contents(output) == contents(tmp_path / "fresh") | {"mine.txt": hashlib.sha256(b"keep").hexdigest()}


def test_tars_that_no_table_names_are_never_removed(triples: Path, tmp_path: Path) -> None:
    (tmp_path / "ds_00000.tar").write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"found ds_00000\.tar"):
            pack(triples, tmp_path, overwrite=overwrite)
    assert (tmp_path / "ds_00000.tar").read_bytes() == b"mine"


def test_another_encoder_is_another_plan(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "out")
    info = json.loads((triples / "dataset.json").read_text())
    info["encoder"]["model"] = "ViT-B-16"
    (triples / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="of another run"):
        pack(triples, tmp_path / "out")


def test_a_changed_value_is_noticed(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "out")
    path = triples / "train/k1.npy"
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-2] + b"\1\1")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match="of another run"):
        pack(triples, tmp_path / "out")


@pytest.mark.parametrize("loss", ["unlink", "shorten"])
def test_a_source_that_changes_meanwhile_gives_no_short_tar(triples: Path, tmp_path: Path, loss: str) -> None:
    path = triples / "test/k6.npy"

    def change(stage: str, total: int | None) -> None:
        if stage == "packing" and loss == "unlink":
            path.unlink()
        elif stage == "packing":
            path.write_bytes(path.read_bytes()[:-2])

    with pytest.raises(InputError, match="run the same command again"):
        shard(triples, tmp_path / "out", ShardOptions(), lambda samples: None, change)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".progress", "ds_00000.idx", "ds_00000.tar"]
    with pytest.raises(InputError, match="of another run"):  # which takes up no plan of what was there before
        pack(triples, tmp_path / "out")
    assert pack(triples, tmp_path / "out", overwrite=True).samples == 6


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train/, val/ or test/.*no such folder"):
        pack(tmp_path / "none", tmp_path / "out")
    (tmp_path / "in/train").mkdir(parents=True)
    with pytest.raises(InputError, match="found none to shard"):
        pack(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/train/a.npy").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"1 left out: no caption\n.*remove those files and run embedshard encode again"
    ):
        pack(tmp_path / "in", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


BAD = {
    "no npy": ("npy", None),
    "no caption": ("txt", None),
    "caption is blank": ("txt", b" \n\t"),
    "caption is not UTF-8": ("txt", b"\xff\xfe"),
    "json is not an object": ("json", b"[]"),
    "json cannot be read": ("json", b"{"),
    "npy has no readable head": ("npy", b"\x93NUMPY\1\0junk"),
    "npy has 1 dimensions, expected 2": ("npy", npy(np.zeros(4, np.float16))),
    "npy has no rows": ("npy", npy(np.zeros((0, 4), np.float16))),
    "npy is <f8, expected float16 or float32": ("npy", npy(np.zeros((1, 4)))),
    "npy has another size than its head says": ("npy", npy(np.zeros((2, 4), np.float16))[:-1]),
    "embed_dim is 5, expected 4": ("npy", npy(np.zeros((2, 5), np.float16))),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_triple_is_left_out_and_named(triples: Path, tmp_path: Path, reason: str) -> None:
    part, data = BAD[reason]
    path = triples / f"train/k2.{part}"
    path.unlink() if data is None else path.write_bytes(data)
    report = pack(triples, tmp_path / "out", shuffle=False)
    assert (report.samples, report.left_out) == (6, {reason: 1})
    assert keys(tmp_path / "out/ds_00000.tar") == ["k0", "k1", "k3", "k4"]
    line = {"triple": "train/k2", "reason": reason}
    assert [json.loads(row) for row in (tmp_path / "out/left_out.jsonl").read_text().splitlines()] == [line]
    left_out = json.loads((tmp_path / "out/index.json").read_text())["left_out"]
    assert left_out == {"total": 1, "reasons": {reason: 1}, "first": [line]}
    assert pack(triples, tmp_path / "out", shuffle=False).unchanged


def test_a_key_in_two_splits_is_packed_once(triples: Path, tmp_path: Path) -> None:
    for part in ("npy", "txt", "json"):
        shutil.copy(triples / f"train/k0.{part}", triples / f"test/k0.{part}")
    report = pack(triples, tmp_path / "out")
    assert (report.samples, report.left_out) == (7, {"same key as a triple of train": 1})
    assert sorted(keys(tmp_path / "out/ds_00001.tar")) == ["k5", "k6"]


def foreign(folder: Path, dims: list[int]) -> Path:
    """Write triples of these dims, sorted by key as given, without a dataset.json."""
    for number, dim in enumerate(dims):
        write_triple(folder / "train", f"k{number:02d}", np.zeros((1, dim), np.float16), "c", {})
    return folder


def test_one_odd_triple_is_left_out_wherever_it_stands(tmp_path: Path) -> None:
    for number, odd in enumerate((0, 1, 4)):
        folder = foreign(tmp_path / f"in{number}", [9 if at == odd else 8 for at in range(5)])
        report = pack(folder, tmp_path / f"out{number}", shuffle=False)
        assert (report.samples, report.left_out) == (4, {"embed_dim is 9, expected 8": 1})


def test_as_many_triples_of_another_dim_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found 2 of 8, 2 of 9, 1 of 7\n  remove the triples"):
        pack(foreign(tmp_path / "in", [9, 8, 7, 8, 9]), tmp_path / "out")


def test_the_dim_of_dataset_json_counts_more_than_the_most(triples: Path, tmp_path: Path) -> None:
    for number in range(6):
        write_triple(triples / "val", f"n{number}", np.zeros((1, 5), np.float16), "c", {})
        write_triple(triples / "val", f"o{number}", np.zeros((1, 5), np.float16), "c", {})
    report = pack(triples, tmp_path / "out")
    assert (report.samples, report.left_out) == (7, {"embed_dim is 5, expected 4": 12})


@pytest.mark.parametrize(
    ("place", "where"), [("", "itself"), ("shards", "in it"), ("train/a/b", "in it"), ("..", "around")]
)
def test_the_output_lies_apart_from_the_processed_dataset(triples: Path, place: str, where: str) -> None:
    before = sorted(triples.parent.rglob("*"))
    with pytest.raises(InputError, match=rf"apart from .* which is .*{where}.*\n  try: .*/processed-shards$"):
        pack(triples, triples / place, overwrite=True)
    assert sorted(triples.parent.rglob("*")) == before


def test_an_output_that_links_to_the_processed_dataset_is_refused(triples: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(triples)
    with pytest.raises(InputError, match="that folder itself"):
        pack(triples, tmp_path / "link")


def failures(count: int, reason: str, first: int = 100) -> list[Failure]:
    return [Failure(f"k{number}", "train", "m", "decode", reason, 1) for number in range(first, first + count)]


def test_what_failed_to_encode_is_counted(triples: Path, tmp_path: Path) -> None:
    write_failures(triples, [*failures(2, "no frame"), *failures(1, "cut", 200), *failures(1, "has a triple", 1)])
    report = pack(triples, tmp_path / "out")
    assert report.failed == {"cut": 1, "no frame": 2}
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["failed"] == {"total": 3, "reasons": {"cut": 1, "no frame": 2}}
    assert "3 samples of the dataset are not in the tars" in (tmp_path / "out/README.md").read_text()
    pack(triples, tmp_path / "again", workers=2)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_other_failures_change_the_tables_but_pack_no_tar_again(triples: Path, tmp_path: Path) -> None:
    plans = []
    for count in (0, 2):
        write_failures(triples, failures(count, "no frame"))
        report = pack(triples, tmp_path / "out")
        assert not report.unchanged
        plans.append(json.loads((tmp_path / "out/index.json").read_text())["plan"])
    assert (report.reused, report.failed) == (2, {"no frame": 2})
    assert plans[0] == plans[1]


def test_reasons_beyond_1000_are_counted_as_one(triples: Path, tmp_path: Path) -> None:
    many = [failure for number in range(1002) for failure in failures(1, f"why {number:04d}", 1000 + number)]
    write_failures(triples, [*many, *failures(2, "usual", 5000)])
    report = pack(triples, tmp_path / "out")
    assert (len(report.failed), report.failed["usual"], report.failed["other reasons"]) == (1001, 2, 3)


def test_where_all_failed_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "in/train").mkdir(parents=True)
    write_failures(tmp_path / "in", failures(2, "no frame"))
    with pytest.raises(InputError, match=r"2 failed to encode: .*failed\.jsonl says why; .*--retry-failed"):
        pack(tmp_path / "in", tmp_path / "out")


def test_nothing_of_the_machine_is_in_the_tables(triples: Path, tmp_path: Path) -> None:
    info = json.loads((triples / "dataset.json").read_text())
    (triples / "dataset.json").write_text(json.dumps({**info, "root": "/here", "manifest": "5ha"}))
    pack(triples, tmp_path / "out")
    provenance = json.loads((tmp_path / "out/index.json").read_text())["provenance"]
    assert provenance == {"encoder": info["encoder"], "source": info["source"]}
    assert "/here" not in (tmp_path / "out/README.md").read_text()


def test_each_stage_says_how_many_samples_it_has(triples: Path, tmp_path: Path) -> None:
    stages: list[list[object]] = []

    def run() -> list[list[object]]:
        stages.clear()
        options = ShardOptions(maxcount=2)
        shard(
            triples, tmp_path / "out", options, lambda n: stages[-1].append(n), lambda *stage: stages.append([*stage])
        )
        return [[name, total, sum(done)] for name, total, *done in stages]  # type: ignore[arg-type]

    plan = [["planning", 7, 7], ["sorting", 7, 7]]
    assert run() == [*plan, ["packing", 7, 7]]
    (tmp_path / "out/ds_00000.tar").unlink()
    assert run() == [*plan, ["packing", 2, 2]]
    assert run() == plan
    (triples / "dataset.json").unlink()
    (tmp_path / "out/index.json").unlink()
    with pytest.raises(InputError, match="of another run"):
        run()


def test_what_other_tools_wrote_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "in/train"
    write_triple(folder, "-od d.1", np.zeros((1, 4), np.float16), "猫", {})
    (folder / "-od d.1.json").unlink()
    (folder / "-od d.1.txt").rename(folder / "-od d.1.cap")
    pack(tmp_path / "in", tmp_path / "out")
    found = members(tmp_path / "out/ds_00000.tar")
    assert list(found) == [f"x---2dod-20d-2e1.{part}" for part in ("json", "npy", "txt")]
    assert (found["x---2dod-20d-2e1.json"], found["x---2dod-20d-2e1.txt"].decode()) == (b"{}", "猫")


def test_the_card_is_one_a_hub_can_read(triples: Path, tmp_path: Path) -> None:
    pack(triples, tmp_path / "out", maxcount=3)
    card = (tmp_path / "out/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pretty_name"] == "Demo: a|b"
    assert front["size_categories"] == ["n<1K"]
    files = front["configs"][0]["data_files"]
    assert {item["split"]: item["path"] for item in files} == read_splits(tmp_path / "out")
    assert "| test | 1 | 2 | 13 |" in card
    assert "ViT-B-32" in card


KILLED = """
import sys
from pathlib import Path
from embedshard.shard.pack import shard
from embedshard.shard.plan import ShardOptions
if __name__ == "__main__":
    options = ShardOptions(maxcount=100, workers=int(sys.argv[3]))
    shard(Path(sys.argv[1]), Path(sys.argv[2]), options, lambda samples: None)
"""


@pytest.fixture(scope="module")
def uninterrupted(linked: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("uninterrupted")
    pack(linked(train=1000, val=500), output, maxcount=100)
    return contents(output)


@pytest.mark.parametrize(
    ("moment", "workers"),
    [
        (".tmp-spill-*", 1),
        (".progress/rows-*", 1),
        (".progress/plan.json", 1),
        (".tmp-*-ds_00003.tar", 1),
        ("ds_00007.tar", 1),
        (".progress/ds_00009.json", 1),
        ("ds_00002.tar", 2),
    ],
)
def test_kill_and_run_again_gives_the_same_bytes(
    linked: Make, uninterrupted: dict[str, str], tmp_path: Path, moment: str, workers: int
) -> None:
    processed, output = linked(train=1000, val=500), tmp_path / "out"
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    run = subprocess.Popen([sys.executable, script, processed, output, str(workers)])
    deadline = time.monotonic() + 20
    while not any(output.glob(moment)):
        assert run.poll() is None
        assert time.monotonic() < deadline
    run.kill()
    assert run.wait() == -signal.SIGKILL
    assert not (output / "index.json").exists()
    time.sleep(0.2 * (workers > 1))  # its workers end with it
    again = pack(processed, output, maxcount=100)
    assert again.reused < 15
    assert contents(output) == uninterrupted


MEASURED = """
import resource, sys
from pathlib import Path
from embedshard import processed
from embedshard.check import check
from embedshard.shard.pack import shard
from embedshard.shard import sorter
from embedshard.shard.plan import ShardOptions
processed._RUN = sorter._RUN = 2000
folder, output = map(Path, sys.argv[1:])
shard(folder, output, ShardOptions(), lambda samples: None)
assert check(output, True, lambda samples: None).ok
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.soak
def test_memory_does_not_grow_with_the_samples(linked: Make, tmp_path: Path) -> None:
    peaks = []
    for number, folder in enumerate((linked(train=2000), linked(train=10001, val=0, test=9999))):
        command = [sys.executable, "-c", MEASURED, folder, tmp_path / str(number)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 8 * 1024, f"{peaks} KiB"
