from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedshard.encode.batch import Batcher
from embedshard.encode.preprocess import Preprocess


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
