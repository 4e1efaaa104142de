"""Media that take the whole worker process with them: they fail, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from embedshard.encode import parts
from embedshard.encode.clip import ModelOptions
from embedshard.encode.parts import encode_in_parts
from embedshard.encode.pipeline import Pipeline
from embedshard.encode.worker import Decoder, Job, Opened
from embedshard.engine import MakeWorker, Worker
from embedshard.engine.local import run as local
from embedshard.manifest import Manifest, open_manifest
from embedshard.processed import read_failures
from embedshard.sample import make_key
from tests.encode.test_parts import ONE, TWO, is_tidy, model, triples  # noqa: F401
from tests.encode.test_run import OPTIONS, manifest, raw_tree, sample


def deadly(make_worker: MakeWorker, slot: int) -> Worker:
    """Dies on media of one name; those of another raise in the model, as a device does that they leave useless."""
    decode, open_ = Decoder.decode, Pipeline._open

    def dies(self: Decoder, job: Job) -> Iterator[Any]:
        if job.media.startswith("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, job)

    def breaks(self: Pipeline, media: Any, opened: Opened) -> None:
        if media.work.path.startswith("damages"):
            raise RuntimeError("device-side assert triggered")
        open_(self, media, opened)

    Decoder.decode, Pipeline._open = dies, breaks  # type: ignore[method-assign]
    return make_worker(slot)


def dying(units: Iterable[Any], make_worker: MakeWorker) -> Iterator[Any]:
    return local(units, partial(deadly, make_worker), 2)


def rows_of(folder: Path, *names: str) -> Manifest:
    """Of 4 videos and 3 pictures, and deadly media between them."""
    samples = raw_tree(folder)
    for number, name in enumerate(names):
        (folder / "raw" / name).write_bytes((folder / "raw/v0.mp4").read_bytes())
        samples.insert(2 * number, sample(name))
    return manifest(folder, samples)


@pytest.fixture(autouse=True)
def poll(monkeypatch) -> None:
    monkeypatch.setattr(parts, "_POLL", 0.1)


def is_right(out: Path, healthy: Path, *names: str) -> bool:
    """Tell whether all is there but what the deadly media would have given, and why."""
    failures = read_failures(out)
    assert failures.keys() == {make_key(name) for name in names}
    assert {failure.reason for failure in failures.values()} == {"the worker process died on it, 2 times"}
    assert triples(out) == {n: data for n, data in triples(healthy).items() if not n.split("/")[1].startswith("x--d")}
    assert len(triples(out)) == 3 * 7
    assert is_tidy(out)
    return True


def test_only_a_deadly_media_fails(tmp_path, model):  # noqa: F811
    """By the real engine, in real processes."""
    rows = rows_of(tmp_path, "dies.mp4")
    encode_in_parts(rows, {tmp_path / "healthy": model}, OPTIONS, ONE)
    (report,), _ = encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, replace(TWO, engine=dying))
    assert (report.samples, report.done, report.failed) == (8, 7, 1)
    assert is_right(tmp_path / "out", tmp_path / "healthy", "dies.mp4")


@pytest.mark.soak
def test_several_deadly_media_of_a_unit(tmp_path, model):  # noqa: F811
    names = ("dies.mp4", "damages.mp4", "dies2.mp4")
    rows = rows_of(tmp_path, *names)
    encode_in_parts(rows, {tmp_path / "healthy": model}, OPTIONS, replace(ONE, size=8))
    encode_in_parts(rows, {tmp_path / "out": model}, OPTIONS, replace(TWO, engine=dying, size=8))
    assert is_right(tmp_path / "out", tmp_path / "healthy", *names)


def go_on(path: str, out: str, folder: str) -> None:
    """Be a run in one process."""
    engine = lambda units, make_worker: local(units, partial(deadly, make_worker), 1)  # noqa: E731
    options = ModelOptions(folder, device="cpu", batch_size=4)
    encode_in_parts(open_manifest(path), {Path(out): options}, OPTIONS, replace(ONE, engine=engine))


@pytest.mark.soak
@pytest.mark.parametrize("name", ["dies.mp4", "damages.mp4"])
def test_a_run_in_one_process_gets_past_a_deadly_media(tmp_path, model, name):  # noqa: F811
    rows = rows_of(tmp_path, name)
    encode_in_parts(rows, {tmp_path / "healthy": model}, OPTIONS, ONE)
    words = (str(rows.path), str(tmp_path / "out"), model.model)
    code = f"from tests.encode.test_deadly import go_on; go_on(*{words})"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True).returncode for _ in range(5)]
    assert [code == 0 for code in runs] == [False, False, False, False, True]
    assert is_right(tmp_path / "out", tmp_path / "healthy", name)
