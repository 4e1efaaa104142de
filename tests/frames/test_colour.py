from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from embedshard.frames import open_reader
from embedshard.frames.colour import Planes, planes_of, rgb

BT601, BT709, BT2020 = 5, 1, 9
LIMITED, FULL = 1, 2


def noise(size: tuple[int, int], name: str = "yuv420p", space: int = 2, range_: int = 0) -> av.VideoFrame:
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height * 3 // 2, width), np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format=name)
    frame.colorspace, frame.color_range = space, range_
    return frame


@pytest.mark.parametrize("size", [(64, 48), (340, 256), (130, 90), (2, 2), (1920, 1080)])
@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize(("space", "range_"), [(2, 0), (BT601, LIMITED), (BT709, LIMITED), (BT709, FULL)])
def test_planes_become_the_rgb_of_libswscale_to_the_bit(size, name, space, range_):
    frame = noise(size, name, space, range_)
    planes = planes_of(frame)
    expected = frame.to_ndarray(format="rgb24")
    assert planes is not None
    assert np.array_equal(rgb(planes.pixels[None], planes.matrix)[0], expected)
    assert np.array_equal(rgb(torch.from_numpy(planes.pixels)[None], planes.matrix)[0].numpy(), expected)


def test_what_is_of_another_kind_is_left_to_libswscale():
    assert planes_of(noise((64, 48), space=BT2020)) is None
    odd = av.VideoFrame.from_ndarray(np.zeros((47, 63, 3), np.uint8), format="rgb24")
    assert planes_of(odd) is None
    assert planes_of(odd.reformat(format="yuv420p")) is None
    assert planes_of(odd.reformat(format="yuv444p")) is None


def test_real_clips_give_the_same_rgb_either_way(shared_data: Path):
    kinds = set()
    for path in sorted(p for p in (shared_data / "videos").iterdir() if p.suffix != ".jsonl" and "audio" not in p.name):
        plain, planar = (open_reader(path, "video", planes=planes) for planes in (False, True))
        wanted = np.arange(0, len(plain.timeline.pts), 37)
        for (_, expected), (_, frame) in zip(plain.read(wanted), planar.read(wanted), strict=True):
            kinds.add(type(frame))
            found = rgb(frame.pixels[None], frame.matrix)[0] if isinstance(frame, Planes) else frame
            assert np.array_equal(found, expected), path.name
    assert kinds == {Planes, np.ndarray}
