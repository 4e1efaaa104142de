"""Frames of many media to batches of one fixed shape, and the embeddings back to the media they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedshard.encode.clip import ClipEncoder
from embedshard.frames import Pixels
from embedshard.frames.plan import Indices

if TYPE_CHECKING:
    import torch

__all__ = ["Batcher", "Embedded"]

Embedded = tuple[int, Indices, npt.NDArray[np.float32]]


class Batcher:
    """Fills batches across media; the result of a batch is fetched when the next one has been launched."""

    def __init__(self, encoder: ClipEncoder) -> None:
        self._encoder = encoder
        self._buffer = np.empty((encoder.batch_size, *encoder.preprocess.size, 3), np.uint8)
        self._filled = 0
        self._owners: list[tuple[int, Indices]] = []
        self._launched: tuple[torch.Tensor, list[tuple[int, Indices]]] | None = None

    def add(self, owner: int, rows: Indices, pixels: Pixels) -> Iterator[Embedded]:
        """Add frames; yields what has come back meanwhile.

        Args:
            owner: Number of the media.
            rows: (n,) which frames of it they are.
            pixels: (n, height, width, 3).

        Yields:
            Owner, rows (m,) and embeddings (m, embed_dim).
        """
        while len(rows):
            room = self.room
            taken = pixels[:room]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._owners.append((owner, rows[:room]))
            self._filled += len(taken)
            rows, pixels = rows[room:], pixels[room:]
            if not self.room:
                yield from self._launch()

    def flush(self) -> Iterator[Embedded]:
        """Encode what is left, in a batch filled up with blank frames, and yield all that has not come back."""
        if self._filled:
            yield from self._launch()
        yield from self._fetch()

    @property
    def room(self) -> int:
        """Frames that the present batch still takes."""
        return len(self._buffer) - self._filled

    def _launch(self) -> Iterator[Embedded]:
        launched = self._encoder.launch(self._buffer[: self._filled]), self._owners
        yield from self._fetch()
        self._launched = launched
        self._owners, self._filled = [], 0

    def _fetch(self) -> Iterator[Embedded]:
        if self._launched:
            embeddings, owners = self._launched
            result, first = self._encoder.fetch(embeddings), 0
            self._launched = None
            for owner, rows in owners:
                yield owner, rows, result[first : first + len(rows)]
                first += len(rows)
