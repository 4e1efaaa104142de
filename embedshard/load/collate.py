"""Samples to a padded batch with its mask. Imports numpy and torch, not webdataset; of ours `errors` and this room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError
from embedshard.load.decode import draw

__all__ = ["Crop", "Dtype", "Tokenizer", "collate", "crop_frames"]

Crop = Literal["head", "uniform", "random"]
Dtype = Literal["float16", "float32"]
Tokenizer = Callable[[list[str]], Any]
Array = npt.NDArray[Any]


def collate(
    samples: Sequence[Mapping[str, Any]],
    seq_len: int | None = None,
    crop: Crop = "head",
    seed: int | str = 0,
    tokenizer: Tokenizer | None = None,
    dtype: Dtype | None = None,
) -> dict[str, Any]:
    """Make a batch of samples; B samples of at most T frames.

    Args:
        samples: At least one, as `embedshard.load` yields them.
        seq_len: T; None takes the longest sample's length.
        crop: Which frames to keep of a sample that has more; see `crop_frames`.
        seed: Of the random crop; the same seed and key give the same window.
        tokenizer: Makes `tokens` of the captions.
        dtype: Of the embeddings; None keeps the stored one.

    Returns:
        `embeddings` (tensor (B, T, dim), zeros after the last frame), `mask` (bool tensor (B, T), True on frames),
        `key`, `text` and whatever else the samples have (lists of B), and `tokens` where there is a tokenizer.
        Where samples have the embeddings of several models, `embeddings` and `mask` are dicts of these by model. Where
        they have lists of captions, `tokens` has a row for each of all captions, and `token_rows` (tensor) tells the
        sample that it is of.

    Raises:
        InputError: The samples differ in dim, or in dtype where none is given.
    """
    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
    keys, arrays = batch["key"], batch["embeddings"]

    def pad(arrays: list[Array]) -> tuple[Any, Any]:
        if seq_len is not None:
            arrays = [
                crop_frames(array, seq_len, crop, f"{seed} {key}") if len(array) > seq_len else array
                for array, key in zip(arrays, keys, strict=True)
            ]
        return _pad(keys, arrays, seq_len, dtype)

    if isinstance(arrays[0], Mapping):
        padded = {model: pad([array[model] for array in arrays]) for model in arrays[0]}
        batch["embeddings"] = {model: embeddings for model, (embeddings, _) in padded.items()}
        batch["mask"] = {model: mask for model, (_, mask) in padded.items()}
    else:
        batch["embeddings"], batch["mask"] = pad(arrays)
    if tokenizer is not None:
        batch.update(_tokens(batch["text"], tokenizer))
    return batch


def crop_frames(frames: Array, seq_len: int | None, crop: Crop, seed: str) -> Array:
    """Keep at most `seq_len` rows of `frames`, in their order.

    Args:
        frames: Array (frames, dim).
        seq_len: None keeps all.
        crop: `head` keeps the first rows, `uniform` rows spread evenly over all, `random` a window.
        seed: Any text; decides the random window and nothing else does.

    Returns:
        `frames` itself if short enough, else an array (seq_len, dim); a view of it but for `uniform`.
    """
    count = len(frames)
    if seq_len is None or count <= seq_len:
        return frames
    if crop == "uniform":
        kept: Array = frames[(2 * np.arange(seq_len) + 1) * count // (2 * seq_len)]
        return kept
    start = draw(seed, count - seq_len + 1) if crop == "random" else 0
    return frames[start : start + seq_len]


def _pad(keys: Sequence[str], arrays: list[Array], seq_len: int | None, dtype: Dtype | None) -> tuple[Any, Any]:
    """Copy arrays into one, once; gives it and its mask as tensors."""
    import torch

    kinds = [(array.shape[1], dtype or array.dtype) for array in arrays]
    if kinds.count(kinds[0]) < len(kinds):
        other = next(number for number, kind in enumerate(kinds) if kind != kinds[0])
        raise InputError(
            f"expected embeddings of one dim and dtype in a batch, found {arrays[0].dtype} of dim {kinds[0][0]} "
            f"(key {keys[0]}) and {arrays[other].dtype} of dim {kinds[other][0]} (key {keys[other]})\n"
            "Load shards of different encoders one by one"
        )
    lengths = [len(array) for array in arrays]
    width = seq_len or max(lengths)
    embeddings = np.empty((len(arrays), width, kinds[0][0]), np.dtype(kinds[0][1]).newbyteorder("="))
    if min(lengths) == width:
        np.concatenate(arrays, out=embeddings.reshape(-1, kinds[0][0]), casting="unsafe")
    else:
        for row, array, length in zip(embeddings, arrays, lengths, strict=True):
            row[:length] = array
            row[length:] = 0
    mask = np.arange(width) < np.array(lengths)[:, None]
    return torch.from_numpy(embeddings), torch.from_numpy(mask)


def _tokens(texts: list[Any], tokenizer: Tokenizer) -> dict[str, Any]:
    import torch

    if isinstance(texts[0], str):
        return {"tokens": tokenizer(texts)}
    rows = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor([len(captions) for captions in texts]))
    return {"tokens": tokenizer([caption for captions in texts for caption in captions]), "token_rows": rows}
