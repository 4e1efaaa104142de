from __future__ import annotations

import metrics
import numpy as np
import pytest
import torch
from model import POOLINGS, VideoText
from torch.nn import functional

DIM, LENGTHS = 32, (1, 3, 5)
BOTH = pytest.mark.parametrize("pooling", POOLINGS)


def made(pooling: str, trained: bool = True) -> VideoText:
    torch.manual_seed(0)
    model = VideoText(pooling, 8, torch.randn(DIM) / 9, torch.randn(DIM) / 9)
    if trained:
        for weights in model.parameters():
            torch.nn.init.normal_(weights, std=0.2)
    return model.eval()


def clips(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    return torch.randn(3, 5, DIM, generator=rng), mask, torch.randn(3, DIM, generator=rng)


@BOTH
def test_untrained_it_is_clip_less_the_means(pooling):
    model = made(pooling, trained=False)
    frames, mask, texts = clips()
    videos, captions, scale = model(frames, mask, texts)
    rows = functional.normalize(functional.normalize(frames, dim=-1) - model.frame_mean, dim=-1)
    wanted = torch.stack([rows[n, :length].mean(0) for n, length in enumerate(LENGTHS)])
    assert torch.allclose(videos, functional.normalize(wanted, dim=-1), atol=1e-6)
    wanted = functional.normalize(functional.normalize(texts, dim=-1) - model.text_mean, dim=-1)
    assert torch.allclose(captions, wanted, atol=1e-6)
    assert scale.item() == pytest.approx(1 / 0.07)


@BOTH
def test_what_lies_behind_the_mask_does_not_matter(pooling):
    model = made(pooling)
    frames, mask, texts = clips()
    before = model(frames, mask, texts).videos
    frames = torch.where(mask[..., None], frames, 1e3)
    assert torch.allclose(model(frames, mask, texts).videos, before, atol=1e-6)
    assert torch.allclose(model(frames[1:2, :3], mask[1:2, :3], texts[1:2]).videos, before[1:2], atol=1e-5)


@BOTH
def test_only_attention_sees_order(pooling):
    model = made(pooling)
    frames, mask, _ = clips()
    there, back = (model.embed_videos(order, mask)[2] for order in (frames, frames.flip(1)))
    assert torch.allclose(there, back, atol=1e-5) == (pooling == "mean")


@BOTH
def test_every_weight_has_a_gradient_even_of_no_sample(pooling):
    for frames, mask, texts in (clips(), tuple(part[:0] for part in clips())):
        model = made(pooling)
        videos, captions, scale = model(frames, mask, texts)
        (scale * (videos * captions)).sum().backward()
        norms = {name: weights.grad.abs().sum().item() for name, weights in model.named_parameters()}
        assert all(norm == 0 for norm in norms.values()) == (len(frames) == 0)
        # A key's bias shifts all logits of a query alike.
        idle = {name for name, norm in norms.items() if norm < 1e-6 and "to_key.bias" not in name}
        assert not idle or len(frames) == 0, idle


def test_untrained_it_classifies_real_embeddings(shared_data):
    """Pictures and class names by OpenAI's ViT-B/32; the names are those of LVIS."""
    files = (np.load(shared_data / f"golden_clip/clip_vitb32_{name}.npz") for name in ("images", "lvis_text"))
    pictures, classes = files
    frames, texts = (torch.from_numpy(found).float() for found in (pictures["image_embs"], classes["text_embs"]))
    means = (functional.normalize(rows, dim=-1).mean(0) for rows in (frames, texts))
    model = VideoText("attention", 8, *means)
    videos, captions, _ = model(frames[:, None], torch.ones(len(frames), 1, dtype=torch.bool), texts)
    shown = {"cr_123_456.jpg": "kitten", "cr_456_123.jpg": "kitten", "cr_321_421.jpg": "coconut"}
    rows = [list(pictures["files"]).index(file) for file in shown]
    scores = metrics.accuracy(videos[rows] @ captions.T, list(shown.values()), [str(name) for name in classes["names"]])
    assert scores["top-5"] == 1
    assert scores["top-1"] == pytest.approx(2 / 3)
    assert scores["chance top-5"] < 0.005
