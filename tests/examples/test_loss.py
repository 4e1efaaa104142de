"""On one rank; `test_train.py` has two."""

from __future__ import annotations

import math

import pytest
import torch
from loss import contrastive_loss, positives
from model import Features
from torch.nn import functional


def features(count: int, seed: int = 0) -> Features:
    rng = torch.Generator().manual_seed(seed)
    videos, texts = (functional.normalize(torch.randn(count, 16, generator=rng), dim=-1) for _ in range(2))
    return Features(videos, texts, torch.tensor(10.0))


def test_of_different_pairs_it_is_clips():
    from open_clip.loss import ClipLoss

    found = features(7)
    ids = torch.arange(14).view(7, 2)
    wanted = ClipLoss()(found.videos, found.texts, found.scale)
    assert contrastive_loss(found, ids, [7]).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_what_belongs_together_is_no_negative():
    ids = torch.tensor([[0, 5], [0, 6], [1, 6], [2, 7]])  # caption, clip
    wanted = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert positives(ids, ids).tolist() == wanted


def test_equal_captions_can_reach_the_least_loss():
    one = torch.eye(16)[[0, 0, 1]]
    found = Features(one, one, torch.tensor(1000.0))
    ids = torch.tensor([[0, 1], [0, 2], [3, 4]])
    assert contrastive_loss(found, ids, [3]).item() == pytest.approx(2 / 3 * math.log(2), abs=1e-6)
