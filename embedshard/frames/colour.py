"""Frames as the decoder gives them, to be turned into RGB elsewhere, to the same bits. Imports nothing of ours.

libswscale turns 8-bit YUV with halved chroma into RGB by 16-bit integer arithmetic, each 2x2 block sharing its chroma.
`rgb` does the same on arrays or tensors; whether it does on this machine is asked of the library.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt

__all__ = ["Matrix", "Planes", "planes_of", "rgb"]

Pixels = npt.NDArray[np.uint8]

_POINT = 13  # bits after the point of a coefficient
_ROWS = 16  # of the frame that is compared
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_FORMATS = ("yuv420p", "yuvj420p")
# Of red from V, blue from U, green from U and V, in units of 1/65536: libswscale's ff_yuv2rgb_coeffs.
_BT601, _BT709 = (104597, 132201, -25675, -53279), (117489, 138438, -13975, -34925)
_BT709_NUMBER = 1  # ISO/IEC 23091-2, matrix coefficients


class Matrix(NamedTuple):
    """Coefficients with 13 bits after the point, and what is black in eighths of a grey level."""

    luma: int
    black: int
    red_v: int
    blue_u: int
    green_u: int
    green_v: int


class Planes(NamedTuple):
    """A frame of (height, width), both even.

    Attributes:
        pixels: (height * 3 / 2, width) uint8: Y, then U and V of half the height and width.
        matrix: How it becomes RGB.
    """

    pixels: Pixels
    matrix: Matrix


def planes_of(frame: av.VideoFrame) -> Planes | None:
    """Give a frame's planes; None where `rgb` would not give what libswscale does."""
    if frame.format.name not in _FORMATS or frame.height % 2 or frame.width % 2:
        return None
    matrix = _matrix(frame.format.name, int(frame.colorspace), int(frame.color_range), frame.width)
    return None if matrix is None else Planes(frame.to_ndarray().astype(np.uint8, copy=False), matrix)


@lru_cache(maxsize=256)
def _matrix(name: str, space: int, range_: int, width: int) -> Matrix | None:
    """Give libswscale's coefficients for frames of a kind; None where it does otherwise with one of noise."""
    red_v, blue_u, green_u, green_v = _BT709 if space == _BT709_NUMBER else _BT601
    full = name == "yuvj420p" or range_ == _FULL_RANGE
    luma, black, scale = (65536, 0, 224 / 255) if full else (76309, 128, 1.0)
    unit = 1 << (16 - _POINT)
    chroma = (round(value * scale / unit) for value in (red_v, blue_u, green_u, green_v))
    matrix = Matrix(round(luma / unit), black, *chroma)
    noise = np.random.default_rng(0).integers(0, 256, (_ROWS * 3 // 2, width), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format=name)
    frame.colorspace, frame.color_range = space, range_
    return matrix if np.array_equal(rgb(noise[None], matrix)[0], frame.to_ndarray(format="rgb24")) else None


def rgb(planes: Any, matrix: Matrix) -> Any:
    """Turn planes into RGB as libswscale does.

    Args:
        planes: (n, height * 3 / 2, width) uint8, an array or a tensor.
        matrix: Of all of them.

    Returns:
        (n, height, width, 3) uint8 of the same kind.
    """
    count, rows, width = planes.shape
    height = rows * 2 // 3
    wide = planes.astype(np.int32) if isinstance(planes, np.ndarray) else planes.int()
    luma = ((wide[:, :height] * 8 - matrix.black) * matrix.luma) >> (_POINT + 3)
    luma = luma.reshape(count, height // 2, 2, width // 2, 2)
    chroma = wide[:, height:].reshape(count, 2, height // 2, 1, width // 2, 1) * 8 - 1024
    u, v = chroma[:, 0], chroma[:, 1]

    def times(plane: Any, coefficient: int) -> Any:
        return (plane * coefficient) >> (_POINT + 3)

    red, blue = luma + times(v, matrix.red_v), luma + times(u, matrix.blue_u)
    green = luma + times(u, matrix.green_u) + times(v, matrix.green_v)
    flat = [plane.clip(0, 255).reshape(count, height, width) for plane in (red, green, blue)]
    if isinstance(planes, np.ndarray):
        return np.stack(flat, -1).astype(np.uint8)
    import torch

    return torch.stack(flat, -1).to(torch.uint8)
