"""Triples to tars: `embedshard shard` from loose files and from parts, ShardWriter, `tar cf`, `cp`, in turn.

    python bench/pack.py [--quick] [--json FILE]

The triples are (10, 512) float32, a caption, metadata. What each contender includes, all on the same disk and from the
page cache:

- `shard, loose` and `shard, parts`: the whole command in this process: listing, looking at every triple, the plan, the
  tars with their hashes, synced, and the tables.
- `packing, loose` and `packing, parts`: of these, only the tars with their hashes, synced.
- `ShardWriter`: webdataset's, with its defaults, given an array, a dict and a text for every sample, as users do; they
  are in memory already, nothing is read, checked, hashed or synced.
- `our writer`: the same arrays, dicts and texts through the tar writer that `encode` and `shard` use, hashed.
- `tar cf`: GNU tar over the loose files' folder; nothing is sorted, checked, hashed or synced.
- `cp`: of the parts; the same.
- `cp, synced, hashed`: of the parts, then each synced and hashed, by `cp`, `sync` and `sha256sum`, as `packing` is.

The ratios that begin with `packing_` are of the packing alone, the others of the whole command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from measure import Round, alternate, cpu_seconds, machine, median, parser, ratio, write

from embedshard.processed import DatasetInfo, json_bytes, npy_bytes, write_info, write_triple
from embedshard.shard.pack import shard
from embedshard.shard.plan import ShardOptions
from embedshard.tar import write_members

ARRAY = np.random.default_rng(0).normal(size=(10, 512)).astype(np.float32)
META = {"frame_times": [float(k) for k in range(10)], "encoder": {"model": "ViT-B-32", "fps": 1.0}}
CAPTION = "a person plays the guitar"
UNIT = 1000


def make(folder: Path, count: int) -> None:
    """Write the triples loose, and the same in parts."""
    keys = [f"vid_{number:09d}" for number in range(count)]
    for name in ("loose", "parts"):
        write_info(folder / name, DatasetInfo({"embed_dim": ARRAY.shape[1]}, {"name": "bench"}))
        (folder / name / "train").mkdir(parents=True)
    for key in keys:
        write_triple(folder / "loose/train", key, ARRAY, CAPTION, META)
    for number in range(0, count, UNIT):
        names = [f"{key}.{part}" for key in keys[number : number + UNIT] for part in ("json", "npy", "txt")]
        with (folder / f"parts/train/part-{number // UNIT:06d}.tar").open("wb") as file:
            write_members(file, ((name, (folder / "loose/train" / name).read_bytes()) for name in names))


def ours(processed: Path, output: Path, packing: list[Round]) -> None:
    """Shard as the command does, and note what the packing took of it."""
    begun: list[tuple[float, float]] = []

    def begin(stage: str, total: int | None) -> None:
        if stage == "packing":
            begun.append((time.perf_counter(), cpu_seconds()))

    def progress(samples: int) -> None:
        if begun:
            packing.append(Round(time.perf_counter() - begun[0][0], cpu_seconds() - begun[0][1]))

    shard(processed, output, ShardOptions(maxcount=1 << 30), progress, begin)


def shard_writer(output: Path, count: int) -> None:
    """Write samples as a user of webdataset does."""
    with wds.ShardWriter(str(output / "ds_%05d.tar"), verbose=0) as writer:
        for number in range(count):
            writer.write({"__key__": f"vid_{number:09d}", "npy": ARRAY, "json": META, "txt": CAPTION})


def our_writer(output: Path, count: int) -> None:
    """Write the same samples with the writer of `encode` and `shard`."""

    def members() -> Iterator[tuple[str, bytes]]:
        for number in range(count):
            key = f"vid_{number:09d}"
            yield f"{key}.json", json_bytes(META)
            yield f"{key}.npy", npy_bytes(ARRAY)
            yield f"{key}.txt", CAPTION.encode()

    with (output / "ds_00000.tar").open("wb") as file:
        write_members(file, members())


def copy_like_packing(parts: Path, output: Path) -> None:
    """Copy parts, have them on the disk, and hash them."""
    subprocess.run(["cp", "-r", parts, output], check=True)
    copies = sorted((output / parts.name).iterdir())
    subprocess.run(["sync", *copies], check=True)
    subprocess.run(["sha256sum", *copies], check=True, stdout=subprocess.DEVNULL)


def fresh(output: Path, run: Callable[[], Any]) -> Callable[[], Round]:
    """Give a contender that begins with an empty folder and a quiet disk."""

    def timed() -> Round:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        os.sync()
        wall, cpu = time.perf_counter(), cpu_seconds()
        run()
        return Round(time.perf_counter() - wall, cpu_seconds() - cpu)

    return timed


def main() -> None:
    """Print rates and ratios; optionally write them as JSON."""
    arguments = parser(__doc__).parse_args()
    count, rounds = (2000, 3) if arguments.quick else (10000, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, count)
        out, loose, parts = folder / "out", list[Round](), list[Round]()
        contenders = {
            "shard, loose": lambda: ours(folder / "loose", out, loose),
            "tar cf": lambda: subprocess.run(["tar", "cf", out / "a.tar", "-C", folder / "loose", "train"], check=True),
            "shard, parts": lambda: ours(folder / "parts", out, parts),
            "cp": lambda: subprocess.run(["cp", "-r", folder / "parts/train", out], check=True),
            "cp, synced, hashed": lambda: copy_like_packing(folder / "parts/train", out),
            "ShardWriter": lambda: shard_writer(out, count),
            "our writer": lambda: our_writer(out, count),
        }
        found = alternate({name: fresh(out, run) for name, run in contenders.items()}, rounds)
    found |= {"packing, loose": loose[1:], "packing, parts": parts[1:]}  # the first is the round that warms up
    ratios = {
        "vs_webdataset_shardwriter": ratio(found["ShardWriter"], found["our writer"]),
        "packing_parts_vs_webdataset_shardwriter": ratio(found["ShardWriter"], found["packing, parts"]),
        "shard_vs_webdataset_shardwriter": ratio(found["ShardWriter"], found["shard, loose"]),
        "packing_vs_tar": ratio(found["tar cf"], found["packing, loose"]),
        "shard_vs_tar": ratio(found["tar cf"], found["shard, loose"]),
        "packing_parts_vs_cp": ratio(found["cp"], found["packing, parts"]),
        "packing_parts_vs_cp_synced_hashed": ratio(found["cp, synced, hashed"], found["packing, parts"]),
        "shard_parts_vs_cp": ratio(found["cp"], found["shard, parts"]),
    }
    words = machine("webdataset", "numpy")
    print(f"{words}; {count} triples of (10, 512) float32, median of {rounds} alternating rounds")
    for name, took in found.items():
        wall, cpu = median(took)
        print(f"{name:20}{count / wall:10.0f} samples/s{count / cpu:10.0f} samples per CPU second")
    for name, value in ratios.items():
        print(f"{name:42}{value:8.2f}")
    rates = {name: count / median(took).wall for name, took in found.items()}
    write(arguments.json, {"machine": words, "samples": count, "samples_per_second": rates, "ratios": ratios})


if __name__ == "__main__":
    main()
