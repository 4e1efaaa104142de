"""Reading shards in one process: `embedshard.load` by both backends, webdataset, `datasets`, a bare read; in turn.

    python bench/load.py [--quick] [--json FILE]

Two kinds of samples, each in two tars with their idx, from the page cache: `short`, 10 frames of 512 float16 values,
and `long`, an hour at one frame a second. What each contender includes:

- `native`, `native, shuffled`, `native, no idx`: batches of 64 (short) or 8 (long) with masks, captions and metadata.
- `load`: the same batches by the default backend.
- `webdataset`: its stock pipeline `.decode().to_tuple("npy", "txt", "json")`, single samples, no batches.
- `datasets`: `load_dataset("webdataset", streaming=True)`, single samples.
- `read`: the bytes of the tars in blocks of 1 MiB, nothing else.

The ratios are of wall clock time, and say how many times as long the other takes. `memory` is what a process grows by
(anonymous memory, in MiB) over an epoch of so many short samples, and of four times as many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from measure import alternate, machine, median, parser, ratio, write

from embedshard import load
from embedshard.processed import json_bytes, npy_bytes
from embedshard.shard.offsets import offsets_bytes, offsets_path, read_offsets
from embedshard.tar import write_members

CAPTION = "a person is playing the guitar in a room"
MEMORY = """
import re, sys
from embedshard import load

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

peak = start = 0.0
for number, batch in enumerate(load(sys.argv[1], batch_size=64, shuffle=2000, backend="native")):
    if number == 5:
        start = anonymous()
    if number % 20 == 0:
        peak = max(peak, anonymous())
print(peak - start)
"""


def make(folder: Path, count: int, frames: int, tars: int = 2) -> list[str]:
    """Write `count` samples in tars with all their tables; gives the tars."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    array = rng.normal(size=(frames, 512)).astype(np.float16)
    encoder = {"model": "ViT-B-32", "pretrained": "openai", "dtype": "float16", "normalized": False}
    each = count // tars

    def members(numbers: Iterable[int]) -> Iterator[tuple[str, bytes]]:
        for number in numbers:
            key = f"vid_{number:09d}"
            meta = {"key": key, "split": "train", "frame_times": [float(t) for t in range(frames)], "encoder": encoder}
            yield f"{key}.json", json_bytes(meta)
            yield f"{key}.npy", npy_bytes(array + np.float16(number % 7))
            yield f"{key}.txt", CAPTION.encode()

    names = [f"ds_{number:05d}.tar" for number in range(tars)]
    for number, name in enumerate(names):
        with (folder / name).open("wb") as file:
            write_members(file, members(range(number * each, number * each + each)))
        offsets_path(folder / name).write_bytes(offsets_bytes(read_offsets(folder / name).tolist()))
    (folder / "splits.csv").write_text("tar_file,split\n" + "".join(f"{name},train\n" for name in names))
    (folder / "sizes.json").write_text(json.dumps(dict.fromkeys(names, each)))
    return [str(folder / name) for name in names]


def without_idx(folder: Path) -> Path:
    """Give a folder of the same tars by links, without the idx files."""
    other = folder.with_name(f"{folder.name}-no-idx")
    other.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".idx":
            os.link(path, other / path.name)
    return other


def batched(folder: Path, batch_size: int, **options: Any) -> int:
    """Count the samples that `load` gives."""
    return sum(len(batch["key"]) for batch in load(folder, batch_size=batch_size, **options))


def stock(tars: list[str]) -> int:
    """Count the samples that webdataset's decoding gives."""
    return sum(1 for _ in wds.WebDataset(tars, shardshuffle=False).decode().to_tuple("npy", "txt", "json"))


def streamed(tars: list[str]) -> int:
    """Count the samples that `datasets` gives."""
    from datasets import load_dataset

    return sum(1 for _ in load_dataset("webdataset", data_files={"train": tars}, split="train", streaming=True))


def read(tars: list[str]) -> None:
    """Read the bytes."""
    for tar in tars:
        with open(tar, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def contenders(folder: Path, tars: list[str], count: int, batch_size: int) -> dict[str, Callable[[], object]]:
    """Name what is compared."""
    bare = without_idx(folder)

    def counted(run: Callable[[], int]) -> Callable[[], None]:
        def check() -> None:
            if (found := run()) != count:
                raise SystemExit(f"expected {count} samples, found {found}")

        return check

    return {
        "native": counted(lambda: batched(folder, batch_size, backend="native")),
        "webdataset": counted(lambda: stock(tars)),
        "native, shuffled": counted(lambda: batched(folder, batch_size, backend="native", shuffle=2000)),
        "native, no idx": counted(lambda: batched(bare, batch_size, backend="native")),
        "load": counted(lambda: batched(folder, batch_size)),
        "datasets": counted(lambda: streamed(tars)),
        "read": lambda: read(tars),
    }


def memory(folder: Path) -> float:
    """Give the MiB that a process of its own grows by while it reads a folder."""
    return float(subprocess.run([sys.executable, "-c", MEMORY, folder], check=True, capture_output=True).stdout)


def main() -> None:
    """Print rates and ratios; optionally write them as JSON."""
    arguments = parser(__doc__).parse_args()
    rounds = 3 if arguments.quick else 7
    kinds = {"short": (10, 64, 2000 if arguments.quick else 10_000), "long": (3600, 8, 40 if arguments.quick else 200)}
    words = machine("webdataset", "datasets", "numpy", "torch")
    print(f"{words}; median of {rounds} alternating rounds")
    rates: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        os.environ.update(HF_HOME=name, HF_HUB_OFFLINE="1")
        for kind, (frames, batch_size, count) in kinds.items():
            tars = make(Path(name) / kind, count, frames)
            found = alternate(contenders(Path(name) / kind, tars, count, batch_size), rounds)
            rates[kind] = {contender: count / median(took).wall for contender, took in found.items()}
            before = "" if kind == "short" else f"{kind}_"
            for contender in ("webdataset", "datasets", "load", "read"):
                ratios[f"{before}vs_{contender}"] = ratio(found[contender], found["native"])
            ratios[f"{before}load_vs_webdataset"] = ratio(found["webdataset"], found["load"])
            ratios[f"{before}no_idx_vs_webdataset"] = ratio(found["webdataset"], found["native, no idx"])
            for contender, rate in rates[kind].items():
                print(f"{kind:8}{contender:20}{rate:10.0f} samples/s")
        small = kinds["short"][2]
        make(Path(name) / "more", 4 * small, 10, tars=8)
        grown = {str(count): memory(Path(name) / part) for count, part in ((small, "short"), (4 * small, "more"))}
    for title, value in ratios.items():
        print(f"{title:32}{value:8.2f}")
    print("memory grows by", ", ".join(f"{mib:.1f} MiB over {count} samples" for count, mib in grown.items()))
    content = {"machine": words, "rounds": rounds, "samples_per_second": rates, "ratios": ratios, "memory": grown}
    write(arguments.json, content)


if __name__ == "__main__":
    main()
