"""Random access to shards: `embedshard.open` and webdataset's `wids` in turn, and memory with ten million samples.

    python bench/access.py [--quick] [--json FILE]

The shards are four tars of triples: (10, 512) float16, a caption, metadata; each contender reads all of them once in
the same random order, in this process, from the page cache, and decodes all three pieces:

- `by number`: `shards[i]`. `lists of 64`: `shards[[...]]`, as a DataLoader's workers do. `by key`: `shards["vid_..."]`.
- `wids`: `wids.ShardListDataset` of webdataset 0.2.86; left out where that is not installed (`make interop` has it).
- `loose files`: the same triples unpacked, by `numpy.load`, `json.loads` and `Path.read_text`.

The ten million samples are idx files beside tars of the right size with nothing in them: their first lookup by a key
reads all idx files.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from load import make as make_shards
from measure import alternate, machine, median, parser, ratio, write

import embedshard
from embedshard.shard.offsets import read_offsets
from embedshard.tar import read_members

TARS, EACH = 4, 10_000


def make(folder: Path, count: int) -> None:
    """Write the shards with their idx files, and the triples loose."""
    tars = make_shards(folder, count, 10, TARS)
    (folder / "loose").mkdir()
    for tar in tars:
        with open(tar, "rb") as file:
            for name, data in read_members(file):
                (folder / "loose" / name).write_bytes(data)


def write_tables(folder: Path, tars: int, each: int) -> None:
    """Write `splits.csv` and `sizes.json`."""
    names = [f"ds_{number:05d}.tar" for number in range(tars)]
    (folder / "splits.csv").write_text("tar_file,split\n" + "".join(f"{name},train\n" for name in names))
    (folder / "sizes.json").write_text(json.dumps(dict.fromkeys(names, each)))


def contenders(folder: Path, count: int) -> dict[str, Callable[[], object]]:
    """Give what reads all samples in one random order."""
    order = random.Random(0).sample(range(count), count)
    keys = [f"vid_{number:09d}" for number in order]
    lists = [order[at : at + 64] for at in range(0, count, 64)]
    shards = embedshard.open(folder)
    runs: dict[str, Callable[[], object]] = {
        "by number": lambda: [shards[number]["text"] for number in order],
        "lists of 64": lambda: [sample["text"] for some in lists for sample in shards[some]],
        "by key": lambda: [shards[key]["text"] for key in keys],
        "loose files": lambda: [loose(folder / "loose", key)["text"] for key in keys],
    }
    if find_spec("wids"):
        import wids  # type: ignore[import-not-found]

        tars = [{"url": str(folder / f"ds_{number:05d}.tar"), "nsamples": count // TARS} for number in range(TARS)]
        others = wids.ShardListDataset(tars, keep=True)
        runs["wids"] = lambda: [others[number][".txt"] for number in order]
    return runs


def loose(folder: Path, key: str) -> dict[str, Any]:
    """Read an unpacked triple."""
    return {
        "key": key,
        "embeddings": np.load(folder / f"{key}.npy"),
        "text": (folder / f"{key}.txt").read_text(encoding="utf-8"),
        "meta": json.loads((folder / f"{key}.json").read_bytes()),
    }


def memory(folder: Path, tars: int) -> Mapping[str, float]:
    """Open shards of which only the idx files are real; gives seconds and what the process grew by, in MiB."""
    model = Path(make_shards(folder / "model", EACH, 10, 1)[0])
    offsets, size = read_offsets(model), model.stat().st_size
    for number in range(tars):
        offsets["key"] = np.char.mod(b"vid_%09d", np.arange(EACH) + number * EACH)
        with (folder / f"ds_{number:05d}.idx").open("wb") as file:
            np.save(file, offsets)
        with (folder / f"ds_{number:05d}.tar").open("wb") as file:
            file.truncate(size)
    write_tables(folder, tars, EACH)
    found: dict[str, float] = {"samples": tars * EACH}
    before, begun = resident(), time.perf_counter()

    def note(what: str) -> None:
        nonlocal begun
        found[f"{what}_s"] = round(time.perf_counter() - begun, 3)
        found[f"{what}_MiB"] = round(resident() - before, 1)
        begun = time.perf_counter()

    shards = embedshard.open(folder)
    note("open")
    _ = "vid_x" in shards
    note("first_key")
    _ = shards.frames
    note("all_tars")
    return found


def resident() -> float:
    """Give the memory of this process in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def main() -> None:
    """Print rates, ratios and memory; optionally write them as JSON."""
    arguments = parser(__doc__).parse_args()
    count, rounds, tars = (2000, 3, 20) if arguments.quick else (10_000, 7, 1000)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        grown = memory(Path(other), tars) if Path("/proc/self/status").exists() else {}
        shards = Path(name) / "shards"
        make(shards, count)
        found = alternate(contenders(shards, count), rounds)
    others = {"wids": "wids", "loose_files": "loose files"}
    ratios = {
        f"{ours.replace(' ', '_')}_vs_{name}": ratio(found[theirs], found[ours], "cpu")
        for ours in ("by number", "lists of 64", "by key")
        for name, theirs in others.items()
        if theirs in found
    }
    words = machine("webdataset", "numpy")
    print(f"{words}; {count} samples of (10, 512) float16, median of {rounds} alternating rounds")
    rates = {name: count / median(took).cpu for name, took in found.items()}
    for name, rate in rates.items():
        print(f"{name:20}{rate:10.0f} samples per CPU second")
    for what, figure in {**ratios, **grown}.items():
        print(f"{what:30}{figure:12.2f}")
    write(
        arguments.json,
        {"machine": words, "samples": count, "samples_per_cpu_second": rates, "ratios": ratios, "memory": grown},
    )


if __name__ == "__main__":
    main()
