"""Shards laid out by hand, so that loading is tested without the packer."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np

CAPTIONS = ["一只猫在睡觉", "two\nlines\n", "a dog 🐕 runs", " spaced  ", "naïve; second"]


def triple(index: int) -> dict[str, bytes]:
    """Make the parts of a sample of 1 + index % 7 frames whose values tell frame and sample."""
    buffer = io.BytesIO()
    frames = 1 + index % 7
    np.save(buffer, (np.arange(frames)[:, None] + 100 * np.ones((1, 4)) * (index % 600)).astype(np.float16))
    meta = json.dumps({"index": index, "frame_times": [float(t) for t in range(frames)], "start": None})
    return {"json": meta.encode(), "npy": buffer.getvalue(), "txt": CAPTIONS[index % len(CAPTIONS)].encode()}


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, parts in samples.items():
            for field, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{field}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_shards(folder: Path, tars: int, each: int = 4, split: str = "train") -> list[str]:
    """Write tars `ds_00000.tar` ... of `each` samples and `splits.csv`; returns the keys in order."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["tar_file,split"]
    for number in range(tars):
        numbers = range(number * each, (number + 1) * each)
        write_tar(folder / f"ds_{number:05d}.tar", {f"vid_{i:09d}": triple(i) for i in numbers})
        rows.append(f"ds_{number:05d}.tar,{split}")
    (folder / "splits.csv").write_text("\n".join(rows) + "\n")
    return [f"vid_{i:09d}" for i in range(tars * each)]
