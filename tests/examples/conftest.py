"""The scripts of `examples/train`, and shards of a small version of their clips."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TRAIN = Path(__file__).parents[2] / "examples/train"
sys.path.insert(0, str(TRAIN))  # the scripts import each other as they do when they are run

import toy  # noqa: E402

SHAPES = ("disc", "square")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower with more
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `raw`, `shards`, `texts.npz` and the CLIP model; nobody writes into it."""
    folder = tmp_path_factory.mktemp("toy")
    toy.make_raw_tree(folder / "raw", SHAPES, takes=2)
    for clip in sorted((folder / "raw/train").glob("*_1.mp4"))[:3]:  # two ranks get 89 and 88
        for path in (folder / "raw/train").glob(f"{clip.stem}.*"):
            path.unlink()
    toy.make_shards(folder)
    return folder
