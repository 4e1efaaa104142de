"""open_clip's picture preprocessing in two halves: a uint8 one that shrinks, and a float one for the device.

Together they give what `open_clip.image_transform` (evaluation form) gives, bit for bit. The first half is there twice:
`shrink` for the decode workers needs no torch, so that they start in a fraction of a second; `shrink_on_device` takes
whole frames where they will be encoded, either with the very same result or (`fast`) within 2 grey levels of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from embedshard.encode.resize import Crop, resize_exactly, resize_fast

if TYPE_CHECKING:
    import torch

__all__ = ["Preprocess"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocess:
    """What a model wants of a picture; the fields of open_clip's `PreprocessCfg`.

    Attributes:
        size: (height, width) of the model's input in pixels.
        mean: Per channel, of values from 0 to 1.
        std: Per channel.
        interpolation: `bicubic` or `bilinear`; both with antialiasing, as Pillow does it.
        resize_mode: `shortest` side fits and the middle is cut out, `longest` side fits and the rest is filled, or
            `squash`: both sides fit.
        fill_color: Grey level of the filling.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    def shrink(self, frame: Pixels) -> Pixels:
        """Resize and crop a frame.

        Args:
            frame: (height, width, 3) RGB of any size.

        Returns:
            (size[0], size[1], 3) RGB.
        """
        picture = Image.fromarray(frame)
        filter_ = Image.Resampling.BILINEAR if self._bilinear else Image.Resampling.BICUBIC
        target = self._resized(picture.height, picture.width)
        if target != (picture.height, picture.width):
            picture = picture.resize(target[::-1], filter_)
        return np.asarray(self._centre(picture))

    def shrink_on_device(self, frames: torch.Tensor, fast: bool) -> torch.Tensor:
        """Resize and crop frames of one size on their device.

        Args:
            frames: (n, height, width, 3) uint8 RGB.
            fast: Whether 2 grey levels of difference to `shrink` are allowed for speed; none are on a GPU.

        Returns:
            (n, size[0], size[1], 3) uint8 on the same device.
        """
        from torch.nn.functional import pad

        height, width = self._resized(frames.shape[1], frames.shape[2])
        rows, columns = min(height, self.size[0]), min(width, self.size[1])
        crop = Crop(height, width, round((height - rows) / 2), round((width - columns) / 2), rows, columns)
        interpolation = "bilinear" if self._bilinear else "bicubic"
        resize = resize_fast if fast and frames.device.type == "cpu" else resize_exactly
        shrunk = resize(frames, crop, interpolation)
        down, across = self.size[0] - rows, self.size[1] - columns
        if not (down or across):
            return shrunk
        border = (0, 0, across // 2, (across + 1) // 2, down // 2, (down + 1) // 2)
        return pad(shrunk, border, value=self._fill)

    def normalise(self, frames: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
        """Turn (n, height, width, 3) uint8 into (n, 3, height, width) float32 on the same device.

        With `into` the result is put there: memory that is new each time costs a CPU more than the arithmetic.
        """
        import torch

        mean, std = _constants(self.mean, frames.device), _constants(self.std, frames.device)
        count, height, width, channels = frames.shape
        pixels = torch.empty((count, channels, height, width), device=frames.device) if into is None else into
        step = 1 if frames.device.type == "cpu" else max(1, count)  # a frame stays in the CPU's cache
        for part, place in zip(torch.split(frames, step), torch.split(pixels, step), strict=True):
            place.copy_(part.permute(0, 3, 1, 2)).div_(255).sub_(mean).div_(std)
        return pixels

    @property
    def geometry(self) -> Preprocess:
        """What decides the result of `shrink`: models that have it in common share the shrunk frames."""
        return replace(self, mean=(), std=())

    @property
    def _fill(self) -> int:
        return self.fill_color if self.resize_mode == "longest" else 0

    @property
    def _bilinear(self) -> bool:
        """open_clip forgets the interpolation where the shortest side must fit a target that is not square."""
        oblong = self.resize_mode == "shortest" and self.size[0] != self.size[1]
        return self.interpolation == "bilinear" and not oblong

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Give (height, width) after resizing, rounded as torchvision and open_clip round."""
        if self.resize_mode == "squash":
            return self.size
        if self.resize_mode == "shortest" and self.size[0] == self.size[1]:
            short, long = self.size[0], int(self.size[0] * max(height, width) / min(height, width))
            return (short, long) if height <= width else (long, short)
        ratios = height / self.size[0], width / self.size[1]
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return round(height / ratio), round(width / ratio)

    def _centre(self, picture: Image.Image) -> Image.Image:
        height, width = self.size
        down, across = max(0, height - picture.height), max(0, width - picture.width)
        if down or across:
            border = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
            picture = ImageOps.expand(picture, border, (self._fill,) * 3)
        left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
        return picture.crop((left, top, left + width, top + height))


@lru_cache(maxsize=16)
def _constants(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Give a value per channel as (1, channels, 1, 1) on a device, copied there once."""
    import torch

    return torch.tensor(values, device=device).view(1, -1, 1, 1)
