"""Several devices: two processes on the CPU stand for two GPUs; all but the device's name is the same."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest

from embedshard.encode import devices as module
from embedshard.encode.clip import ModelOptions
from embedshard.encode.devices import encode_on
from embedshard.encode.run import encode
from embedshard.errors import InputError
from tests.encode.test_run import OPTIONS, contents, manifest, raw_tree, sample

TWO = ("cpu", "cpu")


@pytest.fixture
def model(tiny_model) -> ModelOptions:
    return ModelOptions(str(tiny_model), device="cpu")


@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen]:
    """Gives the devices' processes that are started."""
    processes: list[subprocess.Popen] = []
    real = module.start_process

    def start(*given):
        connection, process = real(*given)
        processes.append(process)
        return connection, process

    monkeypatch.setattr(module, "start_process", start)
    return processes


def test_two_devices_give_the_files_of_one(tmp_path, encoder, model, started):
    rows = manifest(tmp_path, [*raw_tree(tmp_path, videos=12), sample("gone.mp4")])
    encode(rows, tmp_path / "one", encoder, OPTIONS)
    (report,), profile = encode_on(rows, {tmp_path / "two": model}, TWO, replace(OPTIONS, workers=2))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert (report.samples, report.done, report.failed, report.media) == (16, 15, 1, 15)
    assert profile.shares().busy["encode"] > 0
    assert len(started) == 2
    again, _ = encode_on(rows, {tmp_path / "two": model}, TWO, replace(OPTIONS, workers=2))
    assert (again[0].done, again[0].done_before, again[0].failed_before) == (0, 15, 1)


@pytest.mark.parametrize("kills", [1, 2])
def test_a_device_that_dies_costs_no_sample(tmp_path, encoder, model, started, kills):
    rows = manifest(tmp_path, raw_tree(tmp_path, videos=20))
    encode(rows, tmp_path / "one", encoder, OPTIONS)
    killed = []

    def kill(reports, profile) -> None:
        if len(killed) < kills and reports[0].done >= 4 * (len(killed) + 1):
            killed.append(started[-1].kill())

    (report,), _ = encode_on(rows, {tmp_path / "two": model}, TWO, OPTIONS, kill)
    assert len(killed) == kills
    assert 2 < len(started) <= 2 + kills  # one that dies when all is handed out is not missed
    assert (report.done, report.failed) == (23, 0)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_devices_that_all_die_for_good_leave_what_is_done(tmp_path, encoder, model, started, monkeypatch):
    rows = manifest(tmp_path, raw_tree(tmp_path, videos=12))

    def kill(reports, profile) -> None:
        if reports[0].done >= 3 and len(started) == 2:
            monkeypatch.setattr(module, "serve", os._exit)  # what is started anew ends at once
            for process in started:
                process.kill()

    with pytest.raises(InputError, match="no device is left of cpu, cpu; what is done stays"):
        encode_on(rows, {tmp_path / "out": model}, TWO, OPTIONS, kill)
    report = encode(rows, tmp_path / "out", encoder, OPTIONS)
    assert report.done_before >= 3
    assert report.done_before + report.done == 15


def test_what_a_device_cannot_load_is_told_as_by_one(tmp_path, model):
    rows = manifest(tmp_path, raw_tree(tmp_path, videos=1))
    with pytest.raises(InputError, match="cannot use --device tpu"):
        encode_on(rows, {tmp_path / "out": model}, ("cpu", "tpu"), OPTIONS)
    assert not (tmp_path / "out").exists()
