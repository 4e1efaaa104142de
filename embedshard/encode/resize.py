"""Resizing on tensors, on the device that will use them: as Pillow does it bit for bit, or by torch's uint8 kernel.

Pillow's resampling is integer arithmetic (its `Resample.c`): weights of 22 bits after the point, a pass along each
dimension, each rounded to uint8. A pass is a matrix product; split into limbs that a float32 sums without rounding,
it gives Pillow's very numbers on any device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

if TYPE_CHECKING:
    import torch

__all__ = ["Crop", "resize_exactly", "resize_fast"]

_POINT = 22  # bits of a weight after the point
_SIGNIFICANT = 24  # bits that a float32 holds exactly
_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}


class Crop(NamedTuple):
    """The picture is resized to (height, width), of which (rows, columns) from (top, left) on are kept."""

    height: int
    width: int
    top: int
    left: int
    rows: int
    columns: int


class _Weights(NamedTuple):
    """Of `kept` pixels from `first` on, when `size` pixels become `target` along a dimension."""

    dim: int
    size: int
    target: int
    first: int
    kept: int
    interpolation: str


def resize_exactly(frames: torch.Tensor, crop: Crop, interpolation: str) -> torch.Tensor:
    """Resize and crop as `PIL.Image.resize` and `crop` do, bit for bit.

    Args:
        frames: (n, height, width, 3) uint8.
        crop: Lies inside the resized picture.
        interpolation: `bicubic` or `bilinear`.

    Returns:
        (n, crop.rows, crop.columns, 3) uint8 on the same device.
    """
    passes = _passes(frames.shape[1], frames.shape[2], crop, interpolation)
    return _through(frames.permute(0, 3, 1, 2), passes).permute(0, 2, 3, 1)


def resize_fast(frames: torch.Tensor, crop: Crop, interpolation: str) -> torch.Tensor:
    """Do the same by torch's own uint8 kernel on the CPU: within 2 grey levels, several times faster.

    The kernel takes the frames as they lie in memory (channels last); it rounds its weights to 16 bits.
    """
    from torch.nn.functional import interpolate

    planes = frames.permute(0, 3, 1, 2)
    if planes.shape[2:] != (crop.height, crop.width):
        planes = interpolate(planes, (crop.height, crop.width), mode=interpolation, antialias=True)
    rows, columns = slice(crop.top, crop.top + crop.rows), slice(crop.left, crop.left + crop.columns)
    return planes[:, :, rows, columns].permute(0, 2, 3, 1)


@lru_cache(maxsize=256)
def _passes(height: int, width: int, crop: Crop, interpolation: str) -> tuple[_Weights, ...]:
    """Give the passes in the order that the installed Pillow takes for these sizes: its versions differ in it."""
    import torch

    across = _Weights(-1, width, crop.width, crop.left, crop.columns, interpolation)
    down = _Weights(-2, height, crop.height, crop.top, crop.rows, interpolation)
    if width == crop.width or height == crop.height:
        return across, down
    noise = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    filter_ = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    resized = np.asarray(Image.fromarray(noise).resize((crop.width, crop.height), filter_))
    expected = resized[crop.top : crop.top + crop.rows, crop.left : crop.left + crop.columns]
    for passes in ((across, down), (down, across)):
        if np.array_equal(_through(torch.from_numpy(noise), passes).numpy(), expected):
            return passes
    raise RuntimeError(f"Pillow {PIL.__version__} resizes in a way that is not known here; use preprocess=fast")


def _through(planes: torch.Tensor, passes: tuple[_Weights, ...]) -> torch.Tensor:
    """Take planes (..., height, width) through the passes."""
    for weights in passes:
        if weights.size == weights.target:
            planes = planes.narrow(weights.dim, weights.first, weights.kept)
        else:
            planes = _apply(planes, weights)
    return planes


def _apply(planes: torch.Tensor, weights: _Weights) -> torch.Tensor:
    """Multiply uint8 planes by integer weights, and round to uint8 as Pillow does."""
    import torch

    pixels = planes.to(torch.float32)
    total = torch.full((), 1 << (_POINT - 1), dtype=torch.int64, device=planes.device)
    for shift, limb in _limbs(weights, planes.device):
        product = pixels @ limb.T if weights.dim == -1 else limb @ pixels
        total = total + (product.to(torch.int64) << shift)
    return (total >> _POINT).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _limbs(weights: _Weights, device: torch.device) -> list[tuple[int, torch.Tensor]]:
    """Cut the weights into limbs so small that their sums with pixels are exact: (shift, (out, in) float32)."""
    import torch

    table = _table(weights)
    taps = int((table != 0).sum(1).max())
    bits = _SIGNIFICANT - 8 - (taps - 1).bit_length()
    limbs = []
    for shift in range(0, _POINT + 2, bits):
        limb = table >> shift
        if shift + bits < _POINT + 2:
            limb = limb & ((1 << bits) - 1)
        limbs.append((shift, torch.from_numpy(limb.astype(np.float32)).to(device)))
    return limbs


def _table(weights: _Weights) -> npt.NDArray[np.int64]:
    """Give Pillow's weights, (kept, size), 22 bits after the point."""
    scale = weights.size / weights.target
    stretch = max(scale, 1.0)
    support = _SUPPORT[weights.interpolation] * stretch
    table = np.zeros((weights.kept, weights.size), np.int64)
    for row in range(weights.kept):
        centre = (weights.first + row + 0.5) * scale
        low = max(0, int(centre - support + 0.5))
        high = min(weights.size, int(centre + support + 0.5))
        taps = [_filter((x - centre + 0.5) * (1.0 / stretch), weights.interpolation) for x in range(low, high)]
        total = sum(taps)
        scaled = [tap / total * (1 << _POINT) if total else 0.0 for tap in taps]
        table[row, low:high] = [int(value - 0.5) if value < 0 else int(value + 0.5) for value in scaled]
    return table


def _filter(x: float, interpolation: str) -> float:
    x = abs(x)
    if interpolation == "bilinear":
        return 1.0 - x if x < 1.0 else 0.0
    a = -0.5
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0
