"""Samples per second of `embedshard.load` and of webdataset's own decoding, on one shard, in alternating rounds.

    python bench/load.py [--quick] [--json FILE]

The shard has the usual shape: 10 frames of 512 float16 values, a caption, metadata. Both read it in this process,
from the page cache. CPU time is what compares them; the wall clock also sees what else the machine does.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from embedshard import load
from embedshard.tar import write_members

ROUNDS = 5


def members(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield the members of `count` samples, in the order of the packer."""
    rng = np.random.default_rng(0)
    for i in range(count):
        key, buffer = f"vid_{i:09d}", io.BytesIO()
        np.save(buffer, rng.normal(size=(10, 512)).astype(np.float16))
        encoder = {"model": "ViT-B-32", "pretrained": "openai", "dtype": "float16", "normalized": False}
        meta = {"key": key, "split": "train", "frame_times": [float(t) for t in range(10)], "encoder": encoder}
        yield f"{key}.json", json.dumps(meta).encode()
        yield f"{key}.npy", buffer.getvalue()
        yield f"{key}.txt", b"a person is playing the guitar in a room"


def measure(make: Callable[[], Iterable[Any]], count: int) -> tuple[float, float]:
    """Read all once; gives samples per second of CPU and of wall-clock time."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = sum(1 for _ in make())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if found != count:
        raise SystemExit(f"expected {count} samples, found {found}")
    return count / cpu, count / wall


def compare(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Write a shard of `count` samples and read it with each reader in turn; gives each one's median rates."""
    tar = folder / "ds_00000.tar"
    with tar.open("wb") as file:
        write_members(file, members(count))
    (folder / "splits.csv").write_text("tar_file,split\nds_00000.tar,train\n")
    readers: dict[str, Callable[[], Iterable[Any]]] = {
        "embedshard.load": lambda: load(folder),
        "embedshard.load, batch_size=64": lambda: (
            key for batch in load(folder, batch_size=64) for key in batch["key"]
        ),
        "webdataset .decode().to_tuple()": lambda: (
            wds.WebDataset(str(tar), shardshuffle=False).decode().to_tuple("npy", "txt", "json")
        ),
    }
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for number in range(ROUNDS + 1):
        for name, make in readers.items():
            result = measure(make, count)
            if number:  # the first round imports
                rounds[name].append(result)
    return {
        name: {"cpu": statistics.median(cpu for cpu, _ in rows), "wall": statistics.median(wall for _, wall in rows)}
        for name, rows in rounds.items()
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1000 samples in place of 10000")
    parser.add_argument("--json", type=Path, help="write the result here too")
    arguments = parser.parse_args()
    count = 1000 if arguments.quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        samples_per_second = compare(Path(folder), count)
    versions = {name: version(name) for name in ("embedshard", "webdataset", "numpy", "torch")}
    result = {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "versions": versions,
        "samples": count,
        "rounds": ROUNDS,
        "samples_per_second": samples_per_second,
    }
    print(result["machine"], ", ".join(f"{name} {number}" for name, number in versions.items()), sep="; ")
    for name, rates in samples_per_second.items():
        print(f"{name:32} {rates['cpu']:8.0f} samples per CPU second, {rates['wall']:8.0f} per second")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
