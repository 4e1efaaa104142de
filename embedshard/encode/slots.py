"""Frames from a decode process to the main one through shared memory. Imports nothing of ours."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.context import SpawnContext
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Slots"]

Pixels = npt.NDArray[np.uint8]

_COUNT = 4
_PATIENCE = 2.0  # seconds between two looks at whether the main process still lives


class Slots:
    """A few buffers that one process fills in turn and another gives back in the same order.

    Memory is taken only where it is written to, so that `size` is a limit and not a cost. It is no file of /dev/shm,
    which containers keep small.

    Attributes:
        size: Bytes of one buffer.
    """

    size = 1 << 26

    def __init__(self, context: SpawnContext) -> None:
        self._descriptor = _memory(self.size * _COUNT)
        self._memory = mmap.mmap(self._descriptor, self.size * _COUNT)
        self._free = context.Semaphore(_COUNT)
        self._next = 0

    def __reduce__(self) -> Any:
        return _attached, (DupFd(self._descriptor), self._free)

    def fill(self, frames: Sequence[Sequence[Pixels]]) -> tuple[int, list[tuple[int, ...]]]:
        """Wait for a free buffer and put frames there.

        Args:
            frames: Layers of frames of one shape each, `size` bytes at most in all.

        Returns:
            Number of the buffer and the shape (n, height, width, 3) of each layer.
        """
        while not self._free.acquire(timeout=_PATIENCE):
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                raise BrokenPipeError("the main process is gone")
        number = self._next
        self._next = (number + 1) % _COUNT
        shapes = [(len(layer), *layer[0].shape) for layer in frames]
        for layer, view in zip(frames, self.views(number, shapes), strict=True):
            np.stack(layer, out=view)
        return number, shapes

    def views(self, number: int, shapes: Sequence[tuple[int, ...]]) -> list[Pixels]:
        """Give what lies in a buffer; the arrays are good until it is given back."""
        views, at = [], number * self.size
        for shape in shapes:
            count = int(np.prod(shape))
            views.append(np.frombuffer(self._memory, np.uint8, count, at).reshape(shape))
            at += count
        return views

    @property
    def give_back(self) -> Callable[[], None]:
        """Gives the buffer back that was filled first of those that are out."""
        return self._free.release

    def close(self) -> None:
        """Close the descriptor; the memory lives on while an array of it does."""
        os.close(self._descriptor)


def _memory(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("embedshard")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _attached(descriptor: Any, free: Any) -> Slots:
    slots = Slots.__new__(Slots)
    slots._descriptor = descriptor.detach()
    slots._memory = mmap.mmap(slots._descriptor, Slots.size * _COUNT)
    slots._free, slots._next = free, 0
    return slots
