"""Time and peak memory of `shard`, `check` and `shard --append` as the number of samples grows (Linux).

    python bench/many.py [--quick] [--loose] [--samples N] [--json FILE]

The samples are tiny: (2, 8) float16, a caption, metadata; in parts of 1000, or loose files. After N are sharded and
checked, N / 10 more are encoded and appended. Each command is a process of its own; its memory is the largest resident
set of it and of its workers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import machine, parser, write

from embedshard.processed import DatasetInfo, json_bytes, npy_bytes, part_name, write_info
from embedshard.tar import write_members

UNIT = 1000
ARRAY = npy_bytes(np.random.default_rng(0).normal(size=(2, 8)).astype(np.float16))


def pieces(number: int) -> list[tuple[str, bytes]]:
    """Give the files of a sample."""
    key = f"vid_{number:09d}"
    meta = {"key": key, "split": "train", "media_id": f"m{number // 2}", "frame_times": [0.0, 1.0]}
    return [(f"{key}.json", json_bytes(meta)), (f"{key}.npy", ARRAY), (f"{key}.txt", b"a caption")]


def add(processed: Path, numbers: range, loose: bool) -> None:
    """Put samples into a processed dataset."""
    (processed / "train").mkdir(parents=True, exist_ok=True)
    write_info(processed, DatasetInfo({"embed_dim": 8}, {"name": "bench"}))
    for first in range(numbers.start, numbers.stop, UNIT):
        files = [file for number in range(first, min(first + UNIT, numbers.stop)) for file in pieces(number)]
        if loose:
            for name, data in files:
                (processed / "train" / name).write_bytes(data)
        else:
            with (processed / "train" / part_name(first // UNIT)).open("wb") as tar:
                write_members(tar, files)


def measured(*words: str | Path) -> dict[str, float]:
    """Run a command; gives its seconds and the peak of its memory in MB, with its workers."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "embedshard", *words], stdout=subprocess.DEVNULL)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in [process.pid, *_children(process.pid)]:
            peaks[pid] = max(peaks.get(pid, 0), _peak(pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed")
    return {"seconds": round(time.perf_counter() - begun, 1), "peak_mb": max(peaks.values()) // 1024}


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _peak(pid: int) -> int:
    try:
        _, found, size = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")
        return int(size.split()[0]) if found else 0
    except OSError:
        return 0


def run(samples: int, loose: bool) -> dict[str, dict[str, float]]:
    """Shard, check and append so many samples."""
    with tempfile.TemporaryDirectory() as name:
        processed, shards = Path(name) / "processed", Path(name) / "shards"
        add(processed, range(samples), loose)
        os.sync()
        found = {"shard": measured("shard", processed, shards), "check": measured("check", shards)}
        add(processed, range(samples, samples + samples // 10), loose)
        found["append a tenth"] = measured("shard", processed, shards, "--append")
        total = json.loads((shards / "index.json").read_text())["totals"]["samples"]
        if total != samples + samples // 10:
            raise SystemExit(f"expected {samples + samples // 10} samples in the tars, found {total}")
    return found


def main() -> None:
    """Print times and peaks; optionally write them as JSON."""
    options = parser(__doc__)
    options.add_argument("--loose", action="store_true", help="loose files in place of parts")
    options.add_argument("--samples", type=int, help="the most  [default: 1000000, with --quick 20000]")
    given = options.parse_args()
    most = given.samples or (20_000 if given.quick else 1_000_000)
    found = {count: run(count, given.loose) for count in (most // 10, most)}
    words = machine("numpy")
    print(f"{words}, {os.cpu_count()} cores; {'loose files' if given.loose else 'parts'}")
    for count, stages in found.items():
        for stage, row in stages.items():
            print(f"{count:9} samples  {stage:16}{row['seconds']:8.1f} s  peak {row['peak_mb']:5.0f} MB")
    write(given.json, {"machine": words, "loose": given.loose, "samples": found})


if __name__ == "__main__":
    main()
