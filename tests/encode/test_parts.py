"""Encoding in parts: the same parts whoever encodes them, nothing lost or twice when workers and runs die."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedshard.encode import parts as module
from embedshard.encode.clip import ModelOptions, save_random_model
from embedshard.encode.parts import Share, encode_in_parts
from embedshard.encode.run import encode
from embedshard.encode.units import UnitFolder
from embedshard.engine import WorkerDiedError
from embedshard.engine.local import run as local
from embedshard.errors import InputError
from embedshard.processed import read_failures, read_info
from embedshard.remote import Url
from embedshard.store import write_bytes
from embedshard.tar import read_members
from tests.encode.test_run import OPTIONS, manifest, raw_tree, sample

ONE = Share(partial(local, slots=1), ("cpu",), size=4)
TWO = replace(ONE, engine=partial(local, slots=2), devices=("cpu", "cpu"))


@pytest.fixture
def model(tiny_model) -> ModelOptions:
    return ModelOptions(str(tiny_model), device="cpu", batch_size=4)


@pytest.fixture
def rows(tmp_path):
    """Of 13 videos and 3 pictures, one that is missing and one that is no video."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/bad.mp4").write_bytes(b"no video")
    return manifest(tmp_path, [*raw_tree(tmp_path, videos=13), sample("gone.mp4"), sample("bad.mp4", "test")])


def triples(processed: Path) -> dict[str, bytes]:
    """Give the files of all triples, by split and name, whatever the layout."""
    found = {}
    for split in ("train", "val", "test"):
        for path in (processed / split).glob("*"):
            members = read_members(path.open("rb")) if path.suffix == ".tar" else [(path.name, path.read_bytes())]
            for name, data in members:
                assert f"{split}/{name}" not in found
                found[f"{split}/{name}"] = data
    return found


def part_bytes(processed: Path) -> dict[str, bytes]:
    return {str(path.relative_to(processed)): path.read_bytes() for path in processed.rglob("*.tar")}


def is_tidy(processed: Path) -> bool:
    names = [path.name for path in processed.rglob("*")]
    return not any(name.startswith(".tmp") or name.endswith(".claim") for name in names)


def test_parts_hold_the_triples_that_are_else_loose(tmp_path, encoder, model, rows):
    encode(rows, tmp_path / "loose", encoder, OPTIONS)
    (report,), profile = encode_in_parts(rows, {tmp_path / "parts": model}, OPTIONS, ONE)
    assert (report.samples, report.done, report.failed) == (18, 16, 2)
    assert report.reasons.pop("missing media") == 1
    assert list(report.reasons.values()) == [1]
    loose, parts = triples(tmp_path / "loose"), triples(tmp_path / "parts")
    assert loose.keys() == parts.keys()
    for name in loose:
        if name.endswith(".npy"):
            one, other = (np.load(io.BytesIO(data)) for data in (loose[name], parts[name]))
            np.testing.assert_allclose(one, other, atol=1e-5 * np.linalg.norm(one))
        else:
            assert loose[name] == parts[name]
    assert profile.shares().busy["encode"] > 0
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [
        "dataset.json", "failed.jsonl", "test", "train", "units", "val",
    ]  # fmt: skip
    assert {key: failure.stage for key, failure in read_failures(tmp_path / "parts").items()} == {
        "x--gone-2emp4": "decode",
        "x--bad-2emp4": "decode",
    }
    assert is_tidy(tmp_path / "parts")


def test_parts_follow_the_manifest(tmp_path, model, rows):
    encode_in_parts(rows, {tmp_path / "out": model}, replace(OPTIONS, workers=2), ONE)
    order = [sample.key for sample in rows.samples() if sample.split == "train"]
    found = []
    for path in sorted((tmp_path / "out/train").glob("*.tar")):
        with path.open("rb") as file:
            found += [name for name, _ in read_members(file)]
    keys = [key for key in order if key != "x--gone-2emp4"]
    assert found == [f"{key}.{part}" for key in keys for part in ("json", "npy", "txt")]


@pytest.mark.parametrize("shares", [[TWO], [replace(ONE, part=2, of=2), replace(ONE, part=1, of=2)]])
def test_whoever_encodes_gives_the_same_parts(tmp_path, model, rows, shares):
    encode_in_parts(rows, {tmp_path / "one": model}, OPTIONS, ONE)
    reports = [encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, share)[0][0] for share in shares]
    assert part_bytes(tmp_path / "out") == part_bytes(tmp_path / "one")
    assert sum(report.samples for report in reports) == 18
    assert sum(report.done for report in reports) == 16
    again = encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, replace(ONE, size=0))[0][0]
    assert (again.samples, again.done, again.done_before, again.failed_before) == (18, 0, 16, 2)


def test_another_engine_goes_on_with_what_one_began(tmp_path, model, rows):
    encode_in_parts(rows, {tmp_path / "one": model}, OPTIONS, ONE)

    def stops(units: Iterable[Any], make_worker: Any) -> Iterator[Any]:
        outcomes = local(units, make_worker, 1)
        yield next(outcomes)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, replace(ONE, engine=stops))
    begun = part_bytes(tmp_path / "out")
    assert 0 < len(begun) < 5
    (report,), _ = encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, TWO)
    assert report.done_before > 0
    assert report.done + report.done_before == 16
    assert part_bytes(tmp_path / "out") == part_bytes(tmp_path / "one")
    assert is_tidy(tmp_path / "out")


def test_what_failed_is_tried_again_when_asked(tmp_path, model, rows):
    raw_tree(tmp_path / "more", videos=1)
    encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, ONE)
    before = triples(tmp_path / "out")
    (tmp_path / "raw/gone.mp4").write_bytes((tmp_path / "more/raw/v0.mp4").read_bytes())
    (report,), _ = encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, ONE)
    assert (report.done, report.failed_before) == (0, 2)
    (report,), _ = encode_in_parts(rows, {tmp_path / "out": model}, replace(OPTIONS, retry_failed=True), ONE)
    assert (report.done, report.done_before, report.failed) == (1, 16, 1)
    after = triples(tmp_path / "out")
    assert {name: data for name, data in after.items() if "gone" not in name} == before
    assert after.keys() - before.keys() == {f"train/x--gone-2emp4.{part}" for part in ("json", "npy", "txt")}
    assert [failure.attempt for failure in read_failures(tmp_path / "out").values()] == [2]


def test_several_models_share_a_decode(tmp_path, model, rows):
    save_random_model(tmp_path / "second", embed_dim=32, seed=1)
    second = ModelOptions(str(tmp_path / "second"), device="cpu", batch_size=4)
    encode_in_parts(rows, {tmp_path / "a": model}, OPTIONS, ONE)
    encode_in_parts(rows, {tmp_path / "b": second}, OPTIONS, ONE)
    together = {tmp_path / "both/a": model, tmp_path / "both/b": second}
    reports, _ = encode_in_parts(rows, together, OPTIONS, TWO)
    assert [report.done for report in reports] == [16, 16]
    assert part_bytes(tmp_path / "both/a") == part_bytes(tmp_path / "a")
    assert part_bytes(tmp_path / "both/b") == part_bytes(tmp_path / "b")


def test_clips_and_captions_of_one_video_are_one_decode(tmp_path, encoder, model):
    raw_tree(tmp_path)
    samples = [sample("v1.mp4", key=f"a{n}", window=(n / 4, n / 4 + 0.5)) for n in range(5)]
    samples = [samples[0], sample("v2.mp4", key="b"), *samples[1:]]
    rows = manifest(tmp_path, samples)
    encode(rows, tmp_path / "loose", encoder, OPTIONS)
    (report,), _ = encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, replace(ONE, size=1))
    assert (report.done, report.media) == (6, 2)
    assert triples(tmp_path / "out").keys() == triples(tmp_path / "loose").keys()


def test_a_folder_is_of_one_manifest_setting_and_layout(tmp_path, encoder, model, rows):
    out = {tmp_path / "out": model}
    encode_in_parts(rows, out, OPTIONS, ONE)
    with pytest.raises(InputError, match="encoded with another setting:\n    dtype"):
        encode_in_parts(rows, out, replace(OPTIONS, dtype="float16", retry_failed=True), ONE)
    with pytest.raises(InputError, match="begun with --unit 4, found --unit 5"):
        encode_in_parts(rows, out, OPTIONS, replace(ONE, size=5))
    with pytest.raises(InputError, match="holds parts; go on with: --layout parts"):
        encode(rows, tmp_path / "out", encoder, OPTIONS)
    encode(rows, tmp_path / "loose", encoder, OPTIONS)
    with pytest.raises(InputError, match="holds loose triples"):
        encode_in_parts(rows, {tmp_path / "loose": model}, OPTIONS, ONE)
    with pytest.raises(InputError, match="begun with another manifest"):
        encode_in_parts(manifest(tmp_path, [sample("v1.mp4")]), out, OPTIONS, ONE)


def test_a_unit_that_workers_die_on_is_told_sample_by_sample(tmp_path, model, rows):
    def dies(units: Iterable[Any], make_worker: Any) -> Iterator[Any]:
        make_worker(0)  # claims the folder
        for unit in units:
            yield (unit, WorkerDiedError("died thrice")) if unit.number == 1 else (*local([unit], make_worker, 1),)[0]

    (report,), _ = encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, replace(ONE, engine=dies))
    failures = Counter(failure.reason for failure in read_failures(tmp_path / "out").values())
    assert failures["died thrice"] > 0
    assert report.done + sum(failures.values()) == report.done + report.failed == 18
    (report,), _ = encode_in_parts(rows, {tmp_path / "out": model}, replace(OPTIONS, retry_failed=True), ONE)
    assert (report.done + report.done_before, report.failed) == (16, 2)


def test_a_run_leaves_what_another_is_at_and_waits_for_it(tmp_path, model, rows, monkeypatch):
    encode_in_parts(rows, {tmp_path / "one": model}, OPTIONS, ONE)
    out = tmp_path / "out"
    monkeypatch.setattr(module, "_POLL", 0.05)
    given: list[int] = []

    def watched(units: Iterable[Any], make_worker: Any) -> Iterator[Any]:
        worker = make_worker(0)
        if not given:
            UnitFolder(out).claim(2)
            assert UnitFolder(out).owner(2)
        for unit in units:
            given.append(unit.number)
            yield from worker(iter([unit]))
        UnitFolder(out).release(2)  # the other run has died

    (report,), _ = encode_in_parts(rows, {out: model}, OPTIONS, replace(ONE, engine=watched))
    assert given[-1] == 2
    assert sorted(given) == list(range(len(given)))
    assert report.done == 16
    assert part_bytes(out) == part_bytes(tmp_path / "one")


@pytest.fixture(params=["local", "s3"])
def place_of_units(request, tmp_path) -> Path | Url:
    return tmp_path / "out" if request.param == "local" else Url(request.getfixturevalue("bucket") + "/out")


def test_a_claim_lives_as_long_as_it_changes(place_of_units, monkeypatch):
    """By the stopwatch of who looks: the clock of the one who claims may be hours off."""
    owner, watcher, clock = UnitFolder(place_of_units), UnitFolder(place_of_units), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    monkeypatch.setattr(time, "time", lambda: 1e9 + clock)
    owner.claim(7)
    assert watcher.claims() == {7}
    for _ in range(3):
        assert watcher.owner(7).startswith(f"process {os.getpid()} on ")
        clock += 100
        owner.beat()
    assert watcher.owner(7)
    clock += 100
    assert watcher.owner(7)
    clock += 100
    assert watcher.owner(7) == ""
    assert UnitFolder(place_of_units).owner(7), "who has not looked before cannot tell"
    owner.beat()
    assert watcher.owner(7)
    owner.release(7)
    owner.beat()
    assert watcher.owner(7) == ""
    assert watcher.claims() == set()


def test_a_claim_ends_with_its_process(place_of_units):
    folder, path = UnitFolder(place_of_units), place_of_units / "units" / "000007.claim"
    folder.claim(7)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    claim = json.loads(path.read_bytes())
    write_bytes(path, json.dumps({**claim, "pid": ended.pid}).encode())
    assert folder.owner(7) == ""
    write_bytes(path, json.dumps({**claim, "pid": ended.pid, "host": "elsewhere"}).encode())
    assert folder.owner(7) == f"process {ended.pid} on elsewhere"
    assert folder.owner_by_clock(7)
    write_bytes(path, json.dumps({**claim, "beat": claim["beat"] - 1000}).encode())
    assert folder.owner_by_clock(7) == ""
    assert folder.claim(7).tries == 2


def test_runs_that_are_killed_lose_nothing(tmp_path, model, rows):
    """Driver and workers are killed in the middle, again and again; what stands is whole, and the last run ends it."""
    encode_in_parts(rows, {tmp_path / "one": model}, OPTIONS, ONE)
    out = tmp_path / "out"
    words = ["encode", rows.path, out, "--model", model.model, "--device", "cpu", "--batch-size", 4, "--fps", 4]
    words += ["--dtype", "float32", "--unit", 4, "--slots", 2, "--workers", 1]
    command = [sys.executable, "-m", "embedshard", *map(str, words)]
    for kills in range(3):
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while len(part_bytes(out) if out.exists() else ()) <= kills and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert part_bytes(out) == part_bytes(tmp_path / "one")
    assert is_tidy(out)
    info = read_info(out)
    assert info
    assert UnitFolder(out).done() == set(range(info.units))
