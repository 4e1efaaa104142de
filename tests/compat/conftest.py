from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from embedshard.compat import Report, clip_video_encode
from embedshard.demo import Tree


@pytest.fixture
def call(tiny_model) -> Callable[..., Report]:
    """The function with the tiny model, decoding in this process."""
    return partial(clip_video_encode, model_name=str(tiny_model), device="cpu", frame_workers=0)


@pytest.fixture
def videos(tmp_path) -> list[Path]:
    """Four videos of 1, 2, 3 and 4 seconds, 10 frames a second."""
    tree = Tree(tmp_path / "raw")
    for number in range(4):
        tree.video(f"v{number}.mp4", f"video {number}", seconds=1 + number)
    return [tmp_path / f"raw/v{number}.mp4" for number in range(4)]
