"""Frames from a decode process to the main one through shared memory. Imports nothing of ours."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Slots"]

Pixels = npt.NDArray[np.uint8]

_COUNT = 4


class Slots:
    """A few buffers that one process fills in turn and another gives back in the same order.

    Memory is taken only where it is written to, so that `size` is a limit and not a cost. It is no file of /dev/shm,
    which containers keep small. A pipe holds a byte for each free buffer; it also tells when the other side is gone.

    Attributes:
        size: Bytes of one buffer.
        descriptors: What the other process needs of this one: the memory, and the pipe's end to read from.
    """

    size = 1 << 26

    def __init__(self, memory: int | None = None, free: int | None = None) -> None:
        """Make buffers, or attach to those whose `descriptors` are given."""
        self._give = -1
        if memory is None or free is None:
            memory, (free, self._give) = _memory(self.size * _COUNT), os.pipe()
            os.write(self._give, bytes(_COUNT))
        self.descriptors = memory, free
        self._mapped = mmap.mmap(memory, self.size * _COUNT)
        self._next, self._closed, self._closing = 0, False, threading.Lock()

    def fill(self, layers: Sequence[Sequence[Pixels]]) -> tuple[int, list[tuple[int, ...]]]:
        """Wait for a free buffer and put frames there.

        Args:
            layers: Frames, those of a layer of one shape, `size` bytes at most in all.

        Returns:
            Number of the buffer and the shape (n, height, width, 3) of each layer.

        Raises:
            BrokenPipeError: The other process is gone.
        """
        if not os.read(self.descriptors[1], 1):
            raise BrokenPipeError
        number = self._next
        self._next = (number + 1) % _COUNT
        shapes = [(len(layer), *layer[0].shape) for layer in layers]
        for layer, view in zip(layers, self.views(number, shapes), strict=True):
            np.stack(layer, out=view)
        return number, shapes

    def views(self, number: int, shapes: Sequence[tuple[int, ...]]) -> list[Pixels]:
        """Give what lies in a buffer; the arrays are good until it is given back."""
        views, at = [], number * self.size
        for shape in shapes:
            count = int(np.prod(shape))
            views.append(np.frombuffer(self._mapped, np.uint8, count, at).reshape(shape))
            at += count
        return views

    def give_back(self) -> None:
        """Give the buffer back that was filled first of those that are out."""
        with self._closing:
            if not self._closed:
                os.write(self._give, b"\0")

    def close(self) -> None:
        """Close the descriptors; the memory lives on while an array of it does."""
        with self._closing:
            self._closed = True
            for descriptor in (*self.descriptors, self._give):
                os.close(descriptor)


def _memory(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("embedshard")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
