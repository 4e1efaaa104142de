from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedshard.encode.batch import Batcher
from embedshard.encode.clip import ModelOptions, load_encoder
from embedshard.encode.preprocess import Preprocess

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Echo:
    """Stands for the model only in that it hands each frame's first pixel back as its embedding."""

    batch_size = 4
    device = "cpu"
    preprocess = Preprocess((2, 2), (0.0,) * 3, (1.0,) * 3)

    def __init__(self) -> None:
        self.batches = 0

    def encode(self, batch):
        assert batch.shape == (4, 2, 2, 3)
        self.batches += 1
        return batch[:, 0, 0, :1].float()


@given(st.lists(st.integers(0, 11), max_size=12))
def test_every_row_comes_back_once_to_its_owner(lengths):
    encoder = Echo()
    batcher = Batcher(encoder)
    back: dict[tuple[int, int], float] = {}

    def take(results):
        for owner, rows, embeddings in results:
            assert len(rows) == len(embeddings)
            for row, value in zip(rows.tolist(), embeddings[:, 0], strict=True):
                assert (owner, row) not in back
                back[owner, row] = value

    for owner, length in enumerate(lengths):
        pixels = np.full((length, 2, 2, 3), 0, np.uint8)
        pixels[:, 0, 0, 0] = [(owner * 16 + row) % 256 for row in range(length)]
        take(batcher.add(owner, np.arange(length), pixels))
    take(batcher.flush())
    assert back == {(o, r): (o * 16 + r) % 256 for o, length in enumerate(lengths) for r in range(length)}
    assert encoder.batches == -(-sum(lengths) // 4)


def through(batcher: Batcher, clips: list[np.ndarray], whole: bool) -> dict[int, np.ndarray]:
    back: dict[int, dict[int, np.ndarray]] = {}
    results = [
        result for owner, clip in enumerate(clips) for result in batcher.add(owner, ROWS[: len(clip)], clip, whole)
    ]
    for owner, rows, embeddings in (*results, *batcher.flush()):
        back.setdefault(owner, {}).update(zip(rows.tolist(), embeddings, strict=True))
    return {owner: np.stack([rows[row] for row in sorted(rows)]) for owner, rows in back.items()}


ROWS = np.arange(100)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
def test_whole_and_shrunk_frames_give_what_the_model_gives_alone(tiny_model, encoder, device):
    """On a GPU: copies, shrinking and model on streams of their own, three batches in turn, a recorded graph."""
    options = ModelOptions(str(tiny_model), device=device, precision="fp32", batch_size=8)
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (length, 256, 340, 3), np.uint8) for length in (3, 17, 1, 30)]
    shrunk = [np.stack([encoder.preprocess.shrink(frame) for frame in clip]) for clip in clips]
    chosen = load_encoder(options)
    expected = [np.concatenate([chosen.embed(frame[None]) for frame in clip]) for clip in shrunk]
    for found in (through(Batcher(chosen), shrunk, False), through(Batcher(chosen), clips, True)):
        for owner, rows in enumerate(expected):
            assert np.allclose(found[owner], rows, atol=1e-4)
