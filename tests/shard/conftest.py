"""Processed datasets made fast: every triple of a dataset is a hard link to one prebuilt triple."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from embedshard.processed import DatasetInfo, write_info, write_triple
from embedshard.shard.pack import ShardReport, shard
from embedshard.shard.plan import ShardOptions
from embedshard.tar import write_members

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Give `make(train=3, val=0, ...)`: a processed dataset with that many triples, shared by all tests that ask."""
    made: dict[tuple[tuple[str, int], ...], Path] = {}
    seed = tmp_path_factory.mktemp("seed")
    write_triple(seed, "seed", np.arange(8, dtype=np.float16).reshape(2, 4), "a caption", {"media_id": "m"})

    def make(**counts: int) -> Path:
        if (name := tuple(counts.items())) not in made:
            made[name] = folder = tmp_path_factory.mktemp("processed")
            splits = [split for split, count in counts.items() for _ in range(count)]
            for split in counts:
                (folder / split).mkdir()
            for index, split in enumerate(splits):
                for part in ("json", "npy", "txt"):
                    os.link(f"{seed}/seed.{part}", f"{folder}/{split}/v{index:06d}.{part}")
        return made[name]

    return make


@dataclass(frozen=True)
class Full:
    """Shards of 10001 train, no val and 9999 test triples, and the user time it took to pack them."""

    folder: Path
    report: ShardReport
    seconds: float


@pytest.fixture(scope="session")
def full(linked: Make, tmp_path_factory: pytest.TempPathFactory) -> Full:
    processed, folder = linked(train=10001, val=0, test=9999), tmp_path_factory.mktemp("full")
    before = os.times().user
    report = shard(processed, folder, ShardOptions(), lambda samples: None)
    return Full(folder, report, os.times().user - before)


@pytest.fixture
def triples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a small processed dataset, to be changed by the test: 5 train and 2 test triples, all different."""
    folder = tmp_path_factory.mktemp("triples") / "processed"
    for number in range(7):
        split = "train" if number < 5 else "test"
        array = np.full((number + 1, 4), number, np.float16)
        meta = {"key": f"k{number}", "media_id": f"m{number}", "frame_times": list(range(number + 1))}
        write_triple(folder / split, f"k{number}", array, f"caption {number}", meta)
    write_info(
        folder,
        DatasetInfo({"model": "ViT-B-32", "embed_dim": 4, "dtype": "float16"}, {"name": "demo", "title": "Demo: a|b"}),
    )
    return folder


def to_parts(folder: Path, size: int = 2, only: Callable[[str], bool] = lambda key: True) -> Path:
    """Put the loose triples of a processed dataset into parts of `size`, those that `only` picks by key."""
    for split in (path for path in folder.iterdir() if path.is_dir()):
        stems = sorted({path.stem for path in split.iterdir() if only(path.stem)})
        for number in range(0, len(stems), size):
            files = [
                path for stem in stems[number : number + size] for path in sorted(split.glob(f"{glob.escape(stem)}.*"))
            ]
            with (split / f"part-{number:06d}.tar").open("wb") as file:
                write_members(file, [(path.name, path.read_bytes()) for path in files])
            for path in files:
                path.unlink()
    return folder
