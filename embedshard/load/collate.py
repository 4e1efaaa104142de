"""Samples to a padded batch with its mask. Imports numpy and torch, not webdataset; of ours only `errors`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError

__all__ = ["Crop", "Tokenizer", "collate", "crop_frames"]

Crop = Literal["head", "uniform", "random"]
Tokenizer = Callable[[list[str]], Any]


def collate(
    samples: Sequence[Mapping[str, Any]],
    seq_len: int | None = None,
    crop: Crop = "head",
    seed: int | str = 0,
    tokenizer: Tokenizer | None = None,
) -> dict[str, Any]:
    """Make a batch of samples; B samples of at most T frames.

    Args:
        samples: At least one, as `embedshard.load` yields them.
        seq_len: T; None takes the longest sample's length.
        crop: Which frames to keep of a sample that has more; see `crop_frames`.
        seed: Of the random crop; the same seed and key give the same window.
        tokenizer: Makes `tokens` of the captions.

    Returns:
        `embeddings` (tensor (B, T, dim), stored dtype, zeros after the last frame), `mask` (bool tensor (B, T), True
        on frames), `text`, `meta` and `key` (lists of B), and `tokens` where there is a tokenizer.

    Raises:
        InputError: The samples differ in dim or dtype.
    """
    import torch

    arrays = [crop_frames(sample["embeddings"], seq_len, crop, f"{seed} {sample['key']}") for sample in samples]
    first = arrays[0]
    for sample, array in zip(samples, arrays, strict=True):
        if array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
            raise InputError(
                f"expected embeddings of one dim and dtype in a batch, found {first.dtype} of dim {first.shape[1]} "
                f"(key {samples[0]['key']}) and {array.dtype} of dim {array.shape[1]} (key {sample['key']})\n"
                "Load shards of different encoders one by one"
            )
    lengths = np.array([len(array) for array in arrays])
    embeddings = np.zeros((len(arrays), seq_len or lengths.max(), first.shape[1]), first.dtype)
    for row, array in zip(embeddings, arrays, strict=True):
        row[: len(array)] = array
    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in ("key", "text", "meta")}
    batch["embeddings"] = torch.from_numpy(embeddings)
    batch["mask"] = torch.from_numpy(np.arange(embeddings.shape[1]) < lengths[:, None])
    if tokenizer is not None:
        batch["tokens"] = tokenizer(batch["text"])
    return batch


def crop_frames(frames: npt.NDArray[Any], seq_len: int | None, crop: Crop, seed: str) -> npt.NDArray[Any]:
    """Keep at most `seq_len` rows of `frames`, in their order.

    Args:
        frames: Array (frames, dim).
        seq_len: None keeps all.
        crop: `head` keeps the first rows, `uniform` rows spread evenly over all, `random` a window.
        seed: Any text; decides the random window and nothing else does.

    Returns:
        `frames` itself if short enough, else a copy of shape (seq_len, dim).
    """
    count = len(frames)
    if seq_len is None or count <= seq_len:
        return frames
    if crop == "uniform":
        kept: npt.NDArray[Any] = frames[(2 * np.arange(seq_len) + 1) * count // (2 * seq_len)]
        return kept
    start = 0
    if crop == "random":
        digest = hashlib.blake2b(seed.encode(), digest_size=8).digest()
        start = int.from_bytes(digest, "little") % (count - seq_len + 1)
    return frames[start : start + seq_len].copy()
