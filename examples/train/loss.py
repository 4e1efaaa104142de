"""CLIP's contrastive loss over the batches of all ranks."""

from __future__ import annotations

import ranks
import torch
from model import Features

__all__ = ["contrastive_loss", "positives"]


def contrastive_loss(features: Features, ids: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Give this rank's share of the loss of the global batch, which is the mean of the shares over all ranks.

    Each row of the global similarity matrix belongs to the rank that its video (its caption) is of, so the gradients
    that DistributedDataParallel averages are those of the global loss, whatever number of samples each rank has.

    It is CLIP's symmetric cross-entropy (Radford et al. 2021, Learning Transferable Visual Models From Natural Language
    Supervision), except that all pairs which belong together count as such, with equal weight (UniCL: Yang et al.
    2022, Unified Contrastive Learning in Image-Text-Label Space): captions that are equal, as a class's name is, and
    several captions of one clip. Without such pairs in a batch it is CLIP's.

    Args:
        features: Of this rank's samples.
        ids: (n, 2) int64, caption and clip of each.
        sizes: The number of samples of each rank.
    """
    videos, texts, all_ids = (ranks.gather(rows, sizes) for rows in (features.videos, features.texts, ids))
    targets = positives(ids, all_ids)
    targets = targets / targets.sum(1, keepdim=True)
    to_texts = _cross_entropy(features.scale * features.videos @ texts.T, targets)
    to_videos = _cross_entropy(features.scale * features.texts @ videos.T, targets)
    return (to_texts + to_videos) / 2 * len(sizes) / sum(sizes)


def positives(ids: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Tell, as 1.0 or 0.0 in (n, m), which of the samples `ids` (n, 2) and `others` (m, 2) share caption or clip."""
    return (ids[:, None] == others[None]).any(2).float()


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -(targets * logits.log_softmax(1)).sum()
