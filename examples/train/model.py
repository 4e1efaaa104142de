"""What is trained: a temporal head over the frames of a clip, and a projection of the caption.

The CLIP model itself is not part of it: frames and captions come as its embeddings. An untrained model is plain CLIP,
which compares the mean of the frames with the caption; training moves it away from there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["POOLINGS", "AttentionPooling", "Features", "MeanPooling", "VideoText"]

_FIRST_SCALE, _LARGEST_SCALE = 1 / 0.07, 100.0  # CLIP's
_HEADS = 8


class Features(NamedTuple):
    """Of n samples: `videos` and `texts` (n, dim) of length 1, and the factor that makes logits of their cosines."""

    videos: Tensor
    texts: Tensor
    scale: Tensor


class VideoText(nn.Module):
    """Maps clips and captions to one space.

    Args:
        pooling: A name in `POOLINGS`.
        seq_len: Most frames of a clip.
        frame_mean: (dim,), mean of the frames of the train split.
        text_mean: (dim,), mean of its captions. Embeddings of CLIP lie in a narrow cone for each modality (Liang et
            al. 2022, Mind the Gap); without its mean, what differs between samples is what the head sees.
    """

    frame_mean: Tensor
    text_mean: Tensor

    def __init__(self, pooling: str, seq_len: int, frame_mean: Tensor, text_mean: Tensor) -> None:
        super().__init__()
        dim = len(frame_mean)
        self.register_buffer("frame_mean", frame_mean.clone())
        self.register_buffer("text_mean", text_mean.clone())
        self.pool = POOLINGS[pooling](dim, seq_len)
        self.project = _identity(dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))

    def forward(self, frames: Tensor, mask: Tensor, texts: Tensor) -> Features:
        """Give the features of n samples; see `embed_videos` and `embed_texts`."""
        scale = self.log_scale.clamp(max=math.log(_LARGEST_SCALE)).exp()
        return Features(self.embed_videos(frames, mask), self.embed_texts(texts), scale)

    def embed_videos(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Give (n, dim) of the frames' CLIP embeddings (n, t, dim) and the mask (n, t), True on frames."""
        pooled: Tensor = self.pool(_centred(frames, self.frame_mean), mask)
        return functional.normalize(pooled.float(), dim=-1)

    def embed_texts(self, texts: Tensor) -> Tensor:
        """Give (n, dim) of captions' CLIP embeddings (n, dim)."""
        projected: Tensor = self.project(_centred(texts, self.text_mean))
        return functional.normalize(projected.float(), dim=-1)


class MeanPooling(nn.Module):
    """The mean of the frames, projected: it sees no order."""

    def __init__(self, dim: int, seq_len: int) -> None:
        super().__init__()
        self.project = _identity(dim)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Give (n, dim) of frames (n, t, dim) and their mask (n, t)."""
        total = (frames * mask[..., None]).sum(1)
        pooled: Tensor = self.project(total / mask.sum(1, keepdim=True))
        return pooled


class AttentionPooling(nn.Module):
    """`MeanPooling` plus what a learned query finds in frames that have seen their positions and each other."""

    def __init__(self, dim: int, seq_len: int) -> None:
        super().__init__()
        self.mean = MeanPooling(dim, seq_len)
        self.positions = nn.Parameter(0.1 * torch.randn(seq_len, dim))
        self.enter = nn.Linear(dim, dim)
        self.mix = _Attention(dim)
        self.widen = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.ask = _Attention(dim)
        nn.init.zeros_(self.ask.leave.weight)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Give (n, dim) of frames (n, t, dim) and their mask (n, t)."""
        # Frames have length 1; times sqrt(dim), an entry is about 1, as a linear layer expects.
        tokens = self.enter(frames * frames.shape[-1] ** 0.5) + self.positions[: frames.shape[1]]
        tokens = tokens + self.mix(tokens, tokens, mask)
        tokens = tokens + self.widen(tokens)
        found: Tensor = self.ask(self.query.expand(len(frames), -1, -1), tokens, mask)
        pooled: Tensor = self.mean(frames, mask)
        return pooled + found[:, 0]


class _Attention(nn.Module):
    """Multi-head attention of queries (n, q, dim) to tokens (n, t, dim) where the mask (n, t) is True."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = _HEADS if dim % _HEADS == 0 else 1
        self.query_norm, self.token_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query, self.to_key, self.to_value = (nn.Linear(dim, dim) for _ in range(3))
        self.leave = nn.Linear(dim, dim, bias=False)

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        queries, tokens = self.query_norm(queries), self.token_norm(tokens)
        rows = (self.to_query(queries), self.to_key(tokens), self.to_value(tokens))
        query, key, value = (row.unflatten(2, (self.heads, -1)).transpose(1, 2) for row in rows)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        joined: Tensor = self.leave(found.transpose(1, 2).flatten(2))
        return joined


POOLINGS: dict[str, type[MeanPooling] | type[AttentionPooling]] = {"mean": MeanPooling, "attention": AttentionPooling}


def _identity(dim: int) -> nn.Linear:
    layer = nn.Linear(dim, dim)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _centred(embeddings: Tensor, mean: Tensor) -> Tensor:
    return functional.normalize(functional.normalize(embeddings.float(), dim=-1) - mean, dim=-1)
