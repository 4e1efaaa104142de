"""What a training step takes: batches of the shards, with the embeddings of their captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from embedshard import load
from embedshard.errors import InputError

__all__ = ["Batch", "Reading", "Texts", "batches", "clip_of", "empty_batch", "read_texts"]

_SHUFFLE = 5000
_SEEDS = 1 << 20  # more than epochs


@dataclass(frozen=True)
class Reading:
    """How shards are read.

    Attributes:
        shards: Folder or URL.
        batch_size: Samples of a batch on each rank.
        seq_len: Frames of a clip that are used: of a longer one a random window in training, else evenly spread ones.
        workers: Processes that read, beside this one; each takes tars of its own.
        seed: Of order and windows.
    """

    shards: str
    batch_size: int = 256
    seq_len: int = 32
    workers: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Texts:
    """What `texts.py` found: every caption once with its embedding by CLIP, and numbers of the train split.

    Attributes:
        rows: The row of each caption.
        embeddings: (captions, dim).
        counts: The number of samples of each split.
        frame_mean: (dim,), mean of the frames of the train split, each scaled to length 1.
        text_mean: (dim,), the same of its samples' captions.
        encoder: Which model it was.
    """

    rows: Mapping[str, int]
    embeddings: torch.Tensor
    counts: Mapping[str, int]
    frame_mean: torch.Tensor
    text_mean: torch.Tensor
    encoder: dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Of n samples.

    Attributes:
        frames: (n, t, dim), zeros after the last frame.
        mask: (n, t), True on frames.
        texts: (n, dim), CLIP embeddings of the captions.
        ids: (n, 2) int64: the row of the caption, and a number that is one clip's.
        clips: Name of the clip of each.
        meta: Metadata of each.
    """

    frames: torch.Tensor
    mask: torch.Tensor
    texts: torch.Tensor
    ids: torch.Tensor
    clips: Sequence[str]
    meta: Sequence[Mapping[str, Any]]

    def to(self, device: torch.device) -> Batch:
        """Give it with its tensors on a device."""
        tensors = (self.frames, self.mask, self.texts, self.ids)
        frames, mask, texts, ids = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return Batch(frames, mask, texts, ids, self.clips, self.meta)


def batches(reading: Reading, texts: Texts, split: str, epoch: int | None = None) -> Iterator[Batch]:
    """Read a split once: on each rank its own share of the tars.

    Args:
        reading: How.
        texts: Has the captions.
        split: Which.
        epoch: Given for training: the samples come in another order in each epoch, which only seed and epoch decide.
    """
    training = epoch is not None
    pipeline = load(
        reading.shards,
        split=split,
        batch_size=reading.batch_size,
        seq_len=reading.seq_len,
        crop="random" if training else "uniform",
        shuffle=_SHUFFLE if training else 0,
        seed=reading.seed * _SEEDS + (epoch or 0),
    )
    for found in DataLoader(pipeline, batch_size=None, num_workers=reading.workers):
        yield _batch(found, texts)


def _batch(found: Mapping[str, Any], texts: Texts) -> Batch:
    missing = next((text for text in found["text"] if text not in texts.rows), None)
    if missing is not None:
        raise InputError(
            f"expected every caption among the embedded ones, found another: {missing!r}; run texts.py again"
        )
    rows = torch.tensor([texts.rows[text] for text in found["text"]])
    clips = [clip_of(key, meta) for key, meta in zip(found["key"], found["meta"], strict=True)]
    ids = torch.stack([rows, torch.tensor([_number(clip) for clip in clips])], 1)
    return Batch(found["embeddings"].float(), found["mask"], texts.embeddings[rows], ids, clips, found["meta"])


def empty_batch(reading: Reading, texts: Texts) -> Batch:
    """Give a batch of no samples: the share of a rank that has read all of its own when others have not."""
    dim = texts.embeddings.shape[1]
    frames, mask = torch.zeros(0, reading.seq_len, dim), torch.zeros(0, reading.seq_len, dtype=torch.bool)
    return Batch(frames, mask, torch.zeros(0, dim), torch.zeros(0, 2, dtype=torch.int64), [], [])


def clip_of(key: str, meta: Mapping[str, Any]) -> str:
    """Name the clip of a sample: media and window, which several samples may share; the key where they are not told."""
    if "media" not in meta:
        return key
    return json.dumps([meta["media"], meta.get("start"), meta.get("end")], ensure_ascii=False)


def _number(clip: str) -> int:
    return int.from_bytes(hashlib.blake2b(clip.encode(), digest_size=8).digest(), "little", signed=True)


def read_texts(path: str | Path) -> Texts:
    """Read what `texts.py` wrote.

    Raises:
        InputError: There is no such file, or it is another kind of file.
    """
    try:
        with np.load(path) as file:
            about = json.loads(file["about"].tobytes())
            names = ("embeddings", "frame_mean", "text_mean")
            embeddings, frame_mean, text_mean = (torch.from_numpy(file[name]).float() for name in names)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"expected the file of texts.py, found {path}: {error}; make it: python texts.py -h"
        ) from error
    rows = {caption: row for row, caption in enumerate(about["captions"])}
    return Texts(rows, embeddings, about["counts"], frame_mean, text_mean, about["encoder"])
