"""Frames of many media to batches of one fixed shape on the device, and the embeddings back to their media.

On a GPU the copies there and back have streams of their own, and two batches are under way while a third is filled.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embedshard.encode.profile import Profile
from embedshard.frames import Pixels
from embedshard.frames.colour import Matrix
from embedshard.frames.plan import Indices

if TYPE_CHECKING:
    import torch

    from embedshard.encode.clip import ClipEncoder

__all__ = ["Batcher", "Embedded"]

Embedded = tuple[int, Indices, npt.NDArray[np.float32]]


class _Launched(NamedTuple):
    """A batch under way: what `fetch` gives its embeddings, and whose rows they are."""

    fetch: Callable[[], npt.NDArray[np.float32]]
    owners: list[tuple[int, Indices]]


class Batcher:
    """Fills batches across media.

    Args:
        encoder: The model.
        profile: Is told how long the device was busy.

    Attributes:
        seconds: That the last launch took of this thread.
    """

    def __init__(self, encoder: ClipEncoder, profile: Profile | None = None) -> None:
        self._encoder, self._profile = encoder, profile or Profile()
        self._stage = _CudaStage(encoder) if encoder.device.startswith("cuda") else _Stage(encoder)
        self.seconds = 0.0
        self._filled = 0
        self._owners: list[tuple[int, Indices]] = []
        self._launched: deque[_Launched] = deque()

    def add(
        self, owner: int, rows: Indices, pixels: Pixels, whole: bool = False, matrix: Matrix | None = None
    ) -> Iterator[Embedded]:
        """Add frames, of which a copy is taken; yields what has come back meanwhile.

        Args:
            owner: Number of the media.
            rows: (n,) which frames of it they are.
            pixels: (n, height, width, 3) RGB.
            whole: Whether they still have to be shrunk.
            matrix: Given for planes (n, height * 3 / 2, width) that have to be made RGB first.

        Yields:
            Owner, rows (m,) and embeddings (m, embed_dim).
        """
        frames = self._stage.frames(pixels, whole, matrix, self._profile)
        while len(rows):
            taken = min(self.room, len(rows))
            self._stage.put(self._filled, frames[:taken])
            self._owners.append((owner, rows[:taken]))
            self._filled += taken
            rows, frames = rows[taken:], frames[taken:]
            if not self.room:
                yield from self._launch()

    def flush(self) -> Iterator[Embedded]:
        """Encode what is left, in a batch filled up with what was there before, and yield all that is still out."""
        if self._filled:
            yield from self._launch()
        while self._launched:
            yield from self._fetch()

    @property
    def room(self) -> int:
        """Frames that the present batch still takes."""
        return self._encoder.batch_size - self._filled

    def _launch(self) -> Iterator[Embedded]:
        begun = time.perf_counter()
        self._launched.append(_Launched(self._stage.launch(self._profile), self._owners))
        self.seconds = time.perf_counter() - begun
        self._owners, self._filled = [], 0
        while len(self._launched) > self._stage.ahead:
            yield from self._fetch()

    def _fetch(self) -> Iterator[Embedded]:
        launched, first = self._launched.popleft(), 0
        embeddings = launched.fetch()
        for owner, rows in launched.owners:
            yield owner, rows, embeddings[first : first + len(rows)]
            first += len(rows)


class _Stage:
    """The batch of a model that runs where the frames are.

    Attributes:
        ahead: How many batches may be under way while the next is filled.
    """

    ahead = 0

    def __init__(self, encoder: ClipEncoder) -> None:
        import torch

        self._encoder = encoder
        self._batch = torch.zeros((encoder.batch_size, *encoder.preprocess.size, 3), dtype=torch.uint8)

    def frames(self, pixels: Pixels, whole: bool, matrix: Matrix | None, profile: Profile) -> torch.Tensor:
        """Give frames as a tensor, shrunk."""
        import torch

        frames = torch.from_numpy(pixels)
        if not whole:
            return frames
        with profile.spent("preprocess"):
            return self._encoder.shrink(frames, matrix)

    def put(self, at: int, frames: torch.Tensor) -> None:
        """Put frames into the batch from a place on."""
        self._batch[at : at + len(frames)] = frames

    def launch(self, profile: Profile) -> Callable[[], npt.NDArray[np.float32]]:
        """Run the model; the result is there when what is returned is called."""
        with profile.spent("encode"):
            embeddings: npt.NDArray[np.float32] = (
                self._encoder.encode(self._batch.to(self._encoder.device)).cpu().numpy()
            )
        return lambda: embeddings


class _CudaStage:
    """Batches on a GPU: one is filled by a copying stream while the model runs on others."""

    ahead = 2

    def __init__(self, encoder: ClipEncoder) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._encoder, self._device = encoder, torch.device(encoder.device)
        shape = (encoder.batch_size, *encoder.preprocess.size, 3)
        batches = [torch.zeros(shape, dtype=torch.uint8, device=self._device) for _ in range(self.ahead + 1)]
        self._copying, self._running = self._cuda.Stream(self._device), self._cuda.Stream(self._device)
        self._runs = [_graph(encoder, batch, self._running) for batch in batches]
        self._batches, self._current = batches, 0

    def frames(self, pixels: Pixels, whole: bool, matrix: Matrix | None, profile: Profile) -> torch.Tensor:
        """Give frames as a tensor on the device, shrunk; the copy runs while the next frames are fetched."""
        import torch

        with self._cuda.stream(self._copying):
            frames = torch.from_numpy(pixels).pin_memory().to(self._device, non_blocking=True)
            if not whole:
                return frames
            return self._encoder.shrink(frames, matrix)

    def put(self, at: int, frames: torch.Tensor) -> None:
        """Put frames into the batch from a place on."""
        with self._cuda.stream(self._copying):
            self._batches[self._current][at : at + len(frames)].copy_(frames, non_blocking=True)

    def launch(self, profile: Profile) -> Callable[[], npt.NDArray[np.float32]]:
        """Start the model and the copy of its result; what is returned waits for that."""
        import torch

        run, self._current = self._runs[self._current], (self._current + 1) % len(self._runs)
        begun, ended = (self._cuda.Event(enable_timing=True) for _ in range(2))
        self._running.wait_stream(self._copying)
        with self._cuda.stream(self._running):
            begun.record()
            embeddings = run()
            result = torch.empty(embeddings.shape, dtype=embeddings.dtype, pin_memory=True)
            result.copy_(embeddings, non_blocking=True)
            ended.record()

        def fetch() -> npt.NDArray[np.float32]:
            ended.synchronize()
            profile.add({"encode": begun.elapsed_time(ended) / 1000})
            embeddings: npt.NDArray[np.float32] = result.numpy()
            return embeddings

        return fetch


def _graph(encoder: ClipEncoder, batch: torch.Tensor, stream: Any) -> Callable[[], torch.Tensor]:
    """Record what the model does with a batch that stays in its place, so that a launch costs the CPU next to nothing.

    A model that cannot be recorded, or does something else when replayed, is run as it is.
    """
    import torch

    def plain() -> torch.Tensor:
        return encoder.encode(batch)

    try:
        with torch.cuda.stream(stream):
            for _ in range(3):
                expected = plain()
        torch.cuda.synchronize(batch.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            result = plain()
        with torch.cuda.stream(stream):
            graph.replay()
        torch.cuda.synchronize(batch.device)
    except RuntimeError:
        torch.cuda.synchronize(batch.device)
        return plain
    if not torch.allclose(result, expected, rtol=1e-2, atol=1e-3):
        return plain

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay
