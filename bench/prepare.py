"""Rows per CPU second and peak memory of `embedshard prepare`, and of plain readers of the same annotations.

    python bench/prepare.py [--quick] [--json FILE]

Three raw datasets with made-up rows and without content: InternVid's jsonl over empty videos, ten clips of each;
WebVid's tars, sparse files whose headers declare far more than the disk holds; Kinetics-700's csv over empty clips.
Every run is a process of its own, its start included. The plain readers only read the rows, by json, by tarfile and
json, and by csv.DictReader: they look for no video, check nothing and write nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

_CAPTION = "a man in a suit is talking to a crowd of people in front of a house"
_VIDEO_BYTES = 1_400_000
_READ_JSONL = "import json, sys\nfor line in open(sys.argv[1] + '/InternVid-10M-flt.jsonl'): json.loads(line)"
_READ_CSV = "import csv, sys\nfor row in csv.DictReader(open(sys.argv[1] + '/train.csv')): pass"
_READ_TARS = """
import glob, json, sys, tarfile
for path in glob.glob(sys.argv[1] + '/*.tar'):
    with tarfile.open(path, 'r:') as tar:
        while info := tar.next():
            tar.members.clear()
            if info.name.endswith('.json'):
                json.load(tar.extractfile(info))
"""


class Case(NamedTuple):
    """A raw dataset: its source, what lays out a number of rows and gives the bytes they declare, a plain reader."""

    source: str
    lay_out: Callable[[Path, int], int]
    reader: str
    rows: int
    quick_rows: int


def lay_out_internvid(raw: Path, count: int) -> int:
    """Write a jsonl whose rows are windows of empty videos, a thousand videos a folder."""
    videos = [f"{number:07d}-_aB" for number in range(count // 10)]
    touch(raw / "videos", [f"{video}.mp4" for video in videos])
    with (raw / "InternVid-10M-flt.jsonl").open("w") as file:
        for number in range(count):
            minute, row = number % 60, {"YoutubeID": videos[number * 7919 % len(videos)]}
            row |= {"Start_timestamp": f"00:{minute:02d}:07.689", "End_timestamp": f"00:{minute:02d}:24.085"}
            file.write(json.dumps({**row, "Caption": _CAPTION, "Aesthetic_Score": 4.2, "UMT_Score": 0.47}) + "\n")
    return 0


def lay_out_webvid(raw: Path, count: int) -> int:
    """Write tars of a thousand pairs each, with holes where the videos would be."""
    for begun in range(0, count, 1000):
        with (raw / f"{begun // 1000:08d}.tar").open("wb") as file:
            for number in range(begun, min(begun + 1000, count)):
                cuts = {"<SCENECUT_FRAMES>": [[0, 808]], "<SCENECUT_SECS>": [[0.0, 26.96]]}
                url = f"https://example.org/videos/{number}/preview/stock-footage.mp4"
                meta = json.dumps({"<ID>": str(number), **cuts, "<URL>": url, "text": _CAPTION}).encode()
                for name, size, data in ((f"{number}.mp4", _VIDEO_BYTES, b""), (f"{number}.json", len(meta), meta)):
                    info = tarfile.TarInfo(name)
                    info.size = size
                    file.write(info.tobuf(tarfile.USTAR_FORMAT) + data)
                    file.seek(-(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE - len(data), os.SEEK_CUR)
            file.truncate(file.tell() + 2 * tarfile.BLOCKSIZE)
    return sum(path.stat().st_size for path in raw.iterdir())


def lay_out_kinetics700(raw: Path, count: int) -> int:
    """Write a csv, and an empty clip for each of its rows."""
    touch(raw / "train", [f"{number:07d}-_aB_000084_000094.mp4" for number in range(count)])
    with (raw / "train.csv").open("w") as file:
        file.write("label,youtube_id,time_start,time_end,split\n")
        file.writelines(f"air drumming,{number:07d}-_aB,84,94,train\n" for number in range(count))
    return 0


def touch(folder: Path, names: Sequence[str]) -> None:
    """Make empty files, a thousand a folder."""
    for begun in range(0, len(names), 1000):
        below = folder / str(begun // 1000)
        below.mkdir(parents=True)
        for name in names[begun : begun + 1000]:
            os.close(os.open(below / name, os.O_CREAT))


def measure(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; gives its CPU seconds and the MiB of memory that it held at its peak."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def compare(case: Case, count: int, rounds: int) -> dict[str, float]:
    """Lay out a raw dataset and read it in both ways in turn; gives the rates and peaks, of the fastest rounds."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        declared = case.lay_out(raw, count)
        out = Path(folder) / "samples.parquet"
        ours = [sys.executable, "-m", "embedshard", "prepare", case.source, str(raw), str(out)]
        plain = [sys.executable, "-c", case.reader, str(raw)]
        measured = [(measure(ours), measure(plain)) for _ in range(rounds)]
        samples = sum(json.loads((Path(folder) / "prepare.json").read_text())["samples"].values())
    if samples != count:
        raise SystemExit(f"{case.source}: expected {count} samples, found {samples}")
    (seconds, peak), (plain_seconds, plain_peak) = (min(runs) for runs in zip(*measured, strict=True))
    result = {"rows": count, "declared_gb": declared / 1e9, "rows_per_cpu_second": count / seconds, "peak_mib": peak}
    return {**result, "plain_rows_per_cpu_second": count / plain_seconds, "plain_peak_mib": plain_peak}


CASES = (
    Case("internvid", lay_out_internvid, _READ_JSONL, 1_000_000, 100_000),
    Case("webvid", lay_out_webvid, _READ_TARS, 100_000, 10_000),
    Case("kinetics700", lay_out_kinetics700, _READ_CSV, 200_000, 50_000),
)


def main() -> None:
    """Print the rates; optionally write them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and one round, under a minute")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}; rows per CPU second, peak memory in MiB")
    print(f"{'':12}{'rows':>9}{'declared':>10}{'prepare':>10}{'memory':>8}{'plain':>10}{'memory':>8}{'ratio':>7}")
    results = {}
    for case in CASES:
        count, rounds = (case.quick_rows, 1) if arguments.quick else (case.rows, 3)
        results[case.source] = r = compare(case, count, rounds)
        print(
            f"{case.source:12}{count:9d}{r['declared_gb']:7.0f} GB{r['rows_per_cpu_second']:10.0f}{r['peak_mib']:8.0f}"
            f"{r['plain_rows_per_cpu_second']:10.0f}{r['plain_peak_mib']:8.0f}"
            f"{r['rows_per_cpu_second'] / r['plain_rows_per_cpu_second']:7.2f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "sources": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
