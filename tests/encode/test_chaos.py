"""What nights on a cluster bring: kills at random, a full disk, media that hang the decoder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedshard.encode.parts import encode_in_parts
from embedshard.encode.units import UnitFolder
from embedshard.processed import read_failures, read_info
from tests.encode.test_parts import ONE, is_tidy, model, part_bytes, triples  # noqa: F401
from tests.encode.test_run import OPTIONS, manifest, raw_tree, sample

KILLS = 50


def command(rows, out: Path, model, *more: object) -> list[str]:  # noqa: F811
    words = [sys.executable, "-m", "embedshard", "encode", rows.path, out, "--model", model.model, "--device", "cpu"]
    words += ["--batch-size", 4, "--fps", 4, "--dtype", "float32", "--unit", 4, "--layout", "parts", *more]
    return [str(word) for word in words]


def descendants(pid: int) -> list[int]:
    """Give a process and all that it has started, directly or not."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(path.parent.name)] = int(fields[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


@pytest.mark.soak
def test_fifty_kills_of_drivers_workers_and_decoders_lose_nothing(tmp_path, model):  # noqa: F811
    samples = raw_tree(tmp_path, videos=40)
    (tmp_path / "raw/bad.mp4").write_bytes(b"no video")
    os.mkfifo(tmp_path / "raw/hangs.mp4")  # whoever opens it waits for ever
    samples += [sample("gone.mp4"), sample("bad.mp4", "test"), sample("hangs.mp4")]
    rows = manifest(tmp_path, samples)
    healthy = manifest(tmp_path / "raw", samples[:-1], tmp_path / "raw")
    encode_in_parts(healthy, {tmp_path / "one": model}, OPTIONS, ONE)
    out, rng, killed, runs = tmp_path / "out", random.Random(0), 0, 0
    words = command(rows, out, model, "--slots", 2, "--workers", 1, "--timeout", 2)
    while killed < KILLS:
        runs += 1
        more = ["--retry-failed"] if runs % 2 else []
        process = subprocess.Popen([*words, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and killed < KILLS:
            time.sleep(rng.uniform(0.2, 2.0))
            if process.poll() is None:
                victims = descendants(process.pid)
                os.kill(rng.choice(victims), signal.SIGKILL)
                killed += 1
        process.kill()
        process.wait()
    subprocess.run([*words, "--retry-failed"], check=True, capture_output=True, timeout=300)
    found, failures = triples(out), read_failures(out)
    assert found == triples(tmp_path / "one")
    assert failures.keys() == {"x--gone-2emp4", "x--bad-2emp4", "x--hangs-2emp4"}
    assert failures["x--hangs-2emp4"].reason == "the decoder gave no frame for 2 s"
    assert len(found) == 3 * (len(samples) - 3)
    info = read_info(out)
    assert info
    assert UnitFolder(out).done() == set(range(info.units))
    assert is_tidy(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_the_run_and_leaves_what_is_whole(tmp_path, model, small_disk):  # noqa: F811
    rows = manifest(tmp_path, raw_tree(tmp_path, videos=24))
    encode_in_parts(rows, {tmp_path / "one": model}, OPTIONS, ONE)
    out = small_disk / "out"
    stopped = subprocess.run(command(rows, out, model, "--workers", 0), capture_output=True, text=True, timeout=120)
    assert stopped.returncode == 1
    assert "No space left on device" in stopped.stderr
    assert "the same command goes on" in stopped.stderr
    whole = part_bytes(tmp_path / "one")
    begun = part_bytes(out)
    assert 0 < len(begun) < len(whole)
    assert begun.items() <= whole.items()
    assert not list(out.rglob(".tmp*"))
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    subprocess.run(command(rows, out, model, "--workers", 0), check=True, capture_output=True, timeout=120)
    assert part_bytes(out) == whole
    assert is_tidy(out)
