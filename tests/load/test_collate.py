from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedshard.errors import InputError
from embedshard.load.collate import collate, crop_frames


def sample(key: str, frames: int, dim: int = 3, dtype: type = np.float16) -> dict[str, object]:
    rows = 1 + np.arange(frames, dtype=dtype)[:, None] * np.ones((1, dim), dtype)
    return {"key": key, "embeddings": rows, "text": f"caption of {key}", "meta": {"frames": frames}}


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.none() | st.integers(1, 35),
    st.sampled_from(["head", "uniform", "random"]),
)
def test_mask_is_true_on_the_kept_frames_and_on_nothing_else(lengths, seq_len, crop) -> None:
    samples = [sample(f"k{i}", frames) for i, frames in enumerate(lengths)]
    batch = collate(samples, seq_len, crop, seed=7)
    width = seq_len or max(lengths)
    assert batch["embeddings"].shape == (len(lengths), width, 3)
    assert batch["embeddings"].dtype == torch.float16
    assert batch["mask"].dtype == torch.bool
    for i, frames in enumerate(lengths):
        kept = min(frames, width)
        assert batch["mask"][i].tolist() == [True] * kept + [False] * (width - kept)
        assert not batch["embeddings"][i, kept:].any()
        rows = batch["embeddings"][i, :kept, 0].int().tolist()
        assert rows == sorted(set(rows))
        assert set(rows) <= set(range(1, frames + 1))
        if crop != "uniform":
            assert rows == list(range(rows[0], rows[0] + kept))
        if crop == "head" or kept == frames:
            assert rows[0] == 1
    assert batch["key"] == [f"k{i}" for i in range(len(lengths))]
    assert batch["meta"] == [{"frames": frames} for frames in lengths]


def test_uniform_takes_the_middle_of_equal_parts() -> None:
    frames = np.arange(10)[:, None]
    assert crop_frames(frames, 5, "uniform", "").ravel().tolist() == [1, 3, 5, 7, 9]
    assert crop_frames(frames, 3, "uniform", "").ravel().tolist() == [1, 5, 8]
    assert crop_frames(frames, 1, "uniform", "").ravel().tolist() == [5]


def test_random_window_follows_from_seed_and_key_and_reaches_every_start() -> None:
    frames = np.arange(6)[:, None]
    starts = [int(crop_frames(frames, 4, "random", f"0 {key}")[0, 0]) for key in range(60)]
    assert starts == [int(crop_frames(frames, 4, "random", f"0 {key}")[0, 0]) for key in range(60)]
    assert set(starts) == {0, 1, 2}
    same = [sample(key, 20) for key in "abcdef"]
    assert not torch.equal(*(collate(same, 2, "random", seed)["embeddings"] for seed in (0, 1)))


def test_batch_does_not_share_memory_with_the_samples() -> None:
    one = sample("a", 3)
    collate([one])["embeddings"].zero_()
    assert one["embeddings"].all()


def test_tokenizer_sees_the_captions() -> None:
    batch = collate([sample("a", 1), sample("b", 2)], tokenizer=lambda texts: torch.tensor([len(t) for t in texts]))
    assert batch["tokens"].tolist() == [12, 12]
    assert "tokens" not in collate([sample("a", 1)])


@pytest.mark.parametrize("other", [sample("b", 2, dim=5), sample("b", 2, dtype=np.float32)])
def test_mixed_encoders_are_an_error_that_names_both_keys(other) -> None:
    with pytest.raises(InputError, match=r"key a.*key b"):
        collate([sample("a", 1), other])
