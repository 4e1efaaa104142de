"""A model that costs next to nothing, so that what is measured is the way to it: a device of endless speed."""

from __future__ import annotations

import numpy as np
import torch

from embedshard.encode.clip import ClipEncoder, ModelOptions
from embedshard.encode.preprocess import Preprocess

__all__ = ["MEAN", "STD", "StubEncoder", "StubModel"]

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class StubModel(torch.nn.Module):
    """Projects the mean colour of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Give (n, 512) of (n, 3, height, width)."""
        return pixels.mean((2, 3)) @ self.weights


class StubEncoder(ClipEncoder):
    """The encoder of such a device.

    Args:
        preprocess: `exact` or `fast`.
        normalises: Whether colours are normalised here, on the CPU. Where a GPU would do it, a few pixels of each frame
            are enough.
    """

    def __init__(self, preprocess: str, normalises: bool = True) -> None:
        self._step = 1 if normalises else 16
        options = ModelOptions("stub", device="cpu", precision="fp32", preprocess=preprocess, batch_size=64)
        super().__init__(StubModel(), Preprocess((224, 224), MEAN, STD), options)

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Give (n, 512) of (n, height, width, 3)."""
        return super().encode(batch[:, :: self._step, :: self._step])
