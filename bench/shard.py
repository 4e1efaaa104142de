"""Samples per second from loose triples to tars: `embedshard shard` and webdataset's TarWriter, alternating.

    python bench/shard.py [--quick] [--json FILE]

The triples have the usual shape: 10 frames of 512 float16 values, a caption, metadata. Both read the same files from
the page cache and write to the same disk, in this process. Ours also looks at every triple, hashes every tar and
syncs it.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import webdataset as wds

from embedshard.processed import DatasetInfo, write_info, write_triple
from embedshard.shard.pack import shard
from embedshard.shard.plan import ShardOptions


def ours(processed: Path, output: Path) -> None:
    """Shard as the command does."""
    shard(processed, output, ShardOptions(), lambda samples: None)


def webdatasets(processed: Path, output: Path) -> None:
    """Write the same members with webdataset's writer, mtime 0, the bytes unchanged."""
    with wds.TarWriter(str(output / "ds_00000.tar"), mtime=0, encoder=False) as writer:
        for npy in sorted((processed / "train").glob("*.npy")):
            parts = {part: npy.with_suffix(f".{part}").read_bytes() for part in ("json", "npy", "txt")}
            writer.write({"__key__": npy.stem, **parts})


def measure(pack: Callable[[Path, Path], None], processed: Path, output: Path) -> float:
    """Give the CPU seconds of one run into an empty folder."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    begun = time.process_time()
    pack(processed, output)
    return time.process_time() - begun


def main() -> None:
    """Print the rates; optionally write them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds, under a minute")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    count, rounds = (2000, 3) if arguments.quick else (10000, 5)
    packers = {"embedshard shard": ours, "webdataset TarWriter": webdatasets}
    spent: dict[str, list[float]] = {name: [] for name in packers}
    with tempfile.TemporaryDirectory() as folder:
        processed = Path(folder) / "processed"
        array = np.random.default_rng(0).normal(size=(10, 512)).astype(np.float16)
        write_info(processed, DatasetInfo({"embed_dim": array.shape[1]}, {"name": "bench"}))
        for number in range(count):
            meta = {"frame_times": [float(k) for k in range(10)], "encoder": {"model": "ViT-B-32", "fps": 1.0}}
            write_triple(processed / "train", f"vid_{number:09d}", array, "a person plays the guitar", meta)
        for _ in range(rounds):
            for name, pack in packers.items():
                spent[name].append(measure(pack, processed, Path(folder) / "shards"))
    rates = {name: count / statistics.median(times) for name, times in spent.items()}
    machine = f"{platform.machine()}, Python {platform.python_version()}, webdataset {version('webdataset')}"
    print(f"{machine}; {count} triples of (10, 512) float16, median of {rounds} alternating rounds")
    for name, rate in rates.items():
        print(f"{name:24}{rate:10.0f} samples per CPU second")
    print(f"{'ratio':24}{rates['embedshard shard'] / rates['webdataset TarWriter']:10.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "samples_per_cpu_second": rates}, indent=2))


if __name__ == "__main__":
    main()
