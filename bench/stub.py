"""A model that costs next to nothing, so that what is measured is the way to it: a device of endless speed."""

from __future__ import annotations

import numpy as np
import torch

from embedshard.encode.clip import ClipEncoder, ModelOptions
from embedshard.encode.preprocess import Preprocess
from embedshard.frames.colour import Matrix

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
        free: Whether shrinking and normalising cost next to nothing too, as for the cores beside a GPU: it takes planes
            as a GPU does, copies them, and looks at a few pixels.
    """

    def __init__(self, preprocess: str, free: bool = False) -> None:
        self._free = free
        options = ModelOptions("stub", device="cpu", precision="fp32", preprocess=preprocess, batch_size=64)
        super().__init__(StubModel(), Preprocess((224, 224), MEAN, STD), options)

    @property
    def shrinks(self) -> bool:
        """Whether it takes whole frames."""
        return self._free or super().shrinks

    @property
    def converts(self) -> bool:
        """Whether it takes planes."""
        return self._free

    def shrink(self, frames: torch.Tensor, matrix: Matrix | None = None) -> torch.Tensor:
        """Give (n, 224, 224, 3)."""
        if not self._free:
            return super().shrink(frames, matrix)
        copied = frames.clone().flatten(1)[:, : 224 * 224]
        return copied.reshape(len(frames), 224, 224, 1).expand(-1, -1, -1, 3)

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Give (n, 512) of (n, height, width, 3)."""
        step = 16 if self._free else 1
        return super().encode(batch[:, ::step, ::step])
