"""A run in parts on a storage: the same as on a disk, whatever the network does and whoever is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedshard import remote
from embedshard.encode import parts, units
from embedshard.encode.clip import ModelOptions
from embedshard.encode.parts import encode_in_parts
from embedshard.encode.status import status
from embedshard.encode.units import UnitFolder, open_plan
from embedshard.engine.local import run as local
from embedshard.errors import InputError
from embedshard.manifest import Manifest
from embedshard.processed import read_failures, read_info
from embedshard.remote import OutageError, RemoteError, Url
from tests.encode.test_chaos import command
from tests.encode.test_parts import ONE, TWO
from tests.encode.test_run import OPTIONS, manifest, raw_tree, sample

SPLITS = ("train", "val", "test")


def files(folder: Path | Url, *names: str) -> dict[str, bytes]:
    """Give the files of some folders in a dataset, by name."""
    found = (path for name in names for path in (folder / name).glob("*"))
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}


def records(folder: Path | Url) -> dict[int, dict[str, Any]]:
    """Give the records of all units but for where and when."""
    found = (json.loads(data) for name, data in files(folder, "units").items() if name.endswith(".json"))
    return {
        record["unit"]: {n: v for n, v in record.items() if n not in ("began", "seconds", "host")} for record in found
    }


def same(one: Path | Url, other: Path | Url) -> bool:
    assert files(one, *SPLITS) == files(other, *SPLITS)
    assert records(one) == records(other)
    assert read_failures(one) == read_failures(other)
    return True


@pytest.fixture
def out(bucket) -> Url:
    return Url(f"{bucket}/processed")


@pytest.fixture(scope="module")
def model(tiny_model) -> ModelOptions:
    return ModelOptions(str(tiny_model), device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Manifest:
    """Of 6 videos and 3 pictures, one that is missing and one that is no video."""
    folder = tmp_path_factory.mktemp("rows")
    samples = [*raw_tree(folder, videos=6), sample("gone.mp4"), sample("bad.mp4", "test")]
    (folder / "raw/bad.mp4").write_bytes(b"no video")
    return manifest(folder, samples)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, rows) -> Path:
    """What is encoded to a disk."""
    folder = tmp_path_factory.mktemp("whole")
    encode_in_parts(rows, {folder: model}, OPTIONS, ONE)
    return folder


@pytest.fixture(autouse=True)
def poll(monkeypatch) -> None:
    monkeypatch.setattr(parts, "_POLL", 0.1)


@pytest.mark.parametrize("share", [ONE, TWO], ids=["one process", "two"])
def test_a_storage_has_what_a_disk_has(out, model, rows, whole, share):
    (report,), _ = encode_in_parts(rows, {out: model}, OPTIONS, share)
    assert (report.samples, report.done, report.failed) == (11, 9, 2)
    assert same(out, whole)
    assert {name for name in files(out, "units") if not name.endswith(".json")} == {
        name for name in files(whole, "units") if not name.endswith(".json")
    }, "the plan, and no claim"
    assert files(out, "units").items() >= {n: d for n, d in files(whole, "units").items() if "plan" in n}.items()
    assert (out / "failed.jsonl").read_bytes() == (whole / "failed.jsonl").read_bytes()
    assert read_info(out) == read_info(whole)
    found = status(out)
    assert (found.done, found.encoded, found.failed, found.running) == (found.units, 9, 2, {})


def test_no_part_is_fetched_to_find_out_what_is_done(out, proxy, model, rows, whole):
    half = replace(ONE, part=1, of=2)
    encode_in_parts(rows, {out: model}, OPTIONS, half)
    proxy.asked.clear()
    (report,), _ = encode_in_parts(rows, {out: model}, OPTIONS, ONE)
    assert report.done > 0
    assert report.done_before > 0
    assert not [line for line in proxy.asked if line.startswith("GET") and ".tar" in line]
    assert same(out, whole)


@pytest.mark.parametrize("fault", ["unavailable", "cut_down", "cut_up"])
def test_faults_of_the_network_change_nothing(out, proxy, model, rows, whole, monkeypatch, fault):
    monkeypatch.setattr(remote, "_ATTEMPTS", 30)
    setattr(proxy, fault, 0.25)
    raw = out.parent / "raw"
    for path in filter(Path.is_file, rows.root.rglob("*")):
        (raw / path.relative_to(rows.root).as_posix()).create(path.read_bytes())
    encode_in_parts(rows, {out: model}, replace(OPTIONS, media_root=raw), ONE)
    assert proxy.counts[fault.replace("_", " ")] > 2
    proxy.unavailable = proxy.cut_down = proxy.cut_up = 0.0
    assert same(out, whole)


def started(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # type: ignore[call-overload]


def test_a_run_that_is_killed_goes_on(out, model, rows, whole):
    words = command(rows, out, model, "--slots", 2, "--workers", 1)
    for kills in range(2):
        process, deadline = started(*words), time.monotonic() + 90
        while len(UnitFolder(out).done()) <= kills and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(UnitFolder(out).done()) > 0
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    assert same(out, whole)
    assert not UnitFolder(out).claims()


def test_two_runs_at_once_share_a_bucket(out, model, rows, whole):
    """Two parts, and a third run that does whatever it finds free; all begin at the same moment."""
    shares = (("--part", "1/2"), ("--part", "2/2"), ("--slots", 2))
    runs = [started(*command(rows, out, model, "--workers", 0, *share)) for share in shares]
    for one in runs:
        assert one.wait(200) == 0, one.communicate()[1]
    assert same(out, whole)
    assert not UnitFolder(out).claims()


def test_an_outage_ends_the_run_and_loses_no_unit(out, proxy, model, rows, whole, monkeypatch):
    def breaks(given: Iterable[Any], make_worker: Any) -> Iterator[Any]:
        for number, outcome in enumerate(local(given, make_worker, 1)):
            yield outcome
            proxy.unavailable = float(number == 0)

    with pytest.raises(OutageError, match=r"cannot be (written|looked up|read)(?s:.*)run the same command again"):
        encode_in_parts(rows, {out: model}, OPTIONS, replace(ONE, engine=breaks))
    proxy.unavailable = 0.0
    monkeypatch.setattr(units, "_STALE", 0.5)  # of the claims that could not be taken away
    begun = records(out)
    assert 0 < len(begun) < len(records(whole))
    assert begun.items() <= records(whole).items()
    (report,), _ = encode_in_parts(rows, {out: model}, OPTIONS, ONE)
    assert report.done_before > 0
    assert same(out, whole)


def test_media_whose_storage_is_gone_have_not_failed(tmp_path, bucket, proxy, model, monkeypatch):
    raw_tree(tmp_path, videos=1)
    video = (tmp_path / "raw/v0.mp4").read_bytes()
    for number in range(30):
        Url(f"{bucket}/raw/v{number}.mp4").create(video)
    rows = manifest(tmp_path, [sample(f"v{number}.mp4") for number in range(30)], Url(f"{bucket}/raw"))

    def breaks(given: Iterable[Any], make_worker: Any) -> Iterator[Any]:
        for outcome in local(given, make_worker, 1):
            yield outcome
            proxy.unavailable = 1.0

    share = replace(ONE, engine=breaks)
    with pytest.raises(OutageError, match="the last 8 media could not be fetched: s3://"):
        encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, share)
    proxy.unavailable = 0.0
    assert len(read_failures(tmp_path / "out")) <= 8
    (report,), _ = encode_in_parts(rows, {tmp_path / "out": model}, replace(OPTIONS, retry_failed=True), ONE)
    assert (report.done + report.done_before, report.failed) == (30, 0)


def test_a_dataset_is_of_one_manifest_and_setting(out, tmp_path, model, rows):
    encode_in_parts(rows, {out: model}, OPTIONS, replace(ONE, part=1, of=2))
    with pytest.raises(InputError, match="encoded with another setting:\n    dtype"):
        encode_in_parts(rows, {out: model}, replace(OPTIONS, dtype="float16"), ONE)
    (tmp_path / "other").mkdir()
    other = manifest(tmp_path / "other", [sample("v1.mp4")], rows.root)
    with pytest.raises(InputError, match="begun with another manifest"):
        encode_in_parts(other, {out: model}, OPTIONS, ONE)
    plan = open_plan(out)
    assert plan
    (out / "units/plan-1-0123.parquet").create(plan.path.read_bytes())
    with pytest.raises(InputError, match="expected one plan, found plan-1-0123"):
        encode_in_parts(rows, {out: model}, OPTIONS, ONE)


def test_triples_without_a_setting_are_refused(out, model, rows):
    (out / "train/part-000000.tar").create(b"")
    with pytest.raises(InputError, match=r"holds files, but no dataset\.json"):
        encode_in_parts(rows, {out: model}, OPTIONS, ONE)


def test_what_is_denied_is_said(out, proxy, model, rows):
    proxy.denied = True
    with pytest.raises(RemoteError, match="Check the address, your right to it, the credentials"):
        encode_in_parts(rows, {out: model}, OPTIONS, ONE)
