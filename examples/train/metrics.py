"""Scores of retrieval and classification, from a matrix of similarities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["accuracy", "find_ranks", "retrieval"]

KS = (1, 5, 10)


def retrieval(similarity: Tensor, relevant: Tensor) -> dict[str, dict[str, float]]:
    """Score text-to-video and video-to-text retrieval.

    The protocol is the one for several captions per video (MSVD, ActivityNet, Flickr30k, COCO; multi-sentence
    evaluation in Luo et al. 2022, CLIP4Clip): every caption is a query over the clips, each clip there once, and
    every clip is a query over the captions, which finds what the best placed of its captions does. Equal captions are
    one caption, which belongs to all clips that have it, and is found with the best placed of them; where all captions
    differ (MSR-VTT 1k-A) this is the usual score. Equal similarities count against the query.

    Args:
        similarity: (captions, clips), higher is nearer.
        relevant: (captions, clips) bool, True where they belong together; at least once in each row and column.

    Returns:
        `text_to_video` and `video_to_text`: `R@1`, `R@5`, `R@10`, each with what chance gives (`chance R@1`, ...),
        in 0 to 1; `median rank`, from 1; and how many `queries` and `candidates` there were.
    """
    return {
        "text_to_video": _recalls(similarity, relevant),
        "video_to_text": _recalls(similarity.T, relevant.T),
    }


def _recalls(similarity: Tensor, relevant: Tensor) -> dict[str, float]:
    places = find_ranks(similarity, relevant)
    queries, candidates = similarity.shape
    scores = {f"R@{k}": (places <= k).double().mean().item() for k in KS}
    chances = {f"chance R@{k}": _chance(relevant.sum(1), candidates, k) for k in KS}
    middle = places.double().quantile(0.5).item()
    return {**scores, **chances, "median rank": middle, "queries": queries, "candidates": candidates}


def find_ranks(similarity: Tensor, relevant: Tensor) -> Tensor:
    """Give each query's rank (n,), from 1: of its best placed relevant candidate, among that and the others.

    Args:
        similarity: (n, candidates).
        relevant: (n, candidates) bool, at least one in each row.
    """
    if not similarity.isfinite().all() or not relevant.any(1).all():
        raise ValueError("expected finite similarities and a relevant candidate for every query")
    best = similarity.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    return 1 + ((similarity >= best) & ~relevant).sum(1)


def _chance(relevant: Tensor, candidates: int, k: int) -> float:
    """Give the mean probability that one of `relevant` (n,) is among k candidates drawn at random."""
    missed = torch.ones(len(relevant), dtype=torch.float64)
    for drawn in range(min(k, candidates)):
        missed *= ((candidates - drawn - relevant) / (candidates - drawn)).clamp(min=0)
    return 1 - missed.mean().item()


def accuracy(similarity: Tensor, labels: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Score a classification by the nearest class.

    Args:
        similarity: (samples, classes), higher is nearer.
        labels: The right class of each sample.
        classes: Their names, each once.

    Returns:
        `top-1` and `top-5` in 0 to 1, with `chance top-1` and `chance top-5`; how many `samples` and `classes`.
    """
    right = torch.tensor([[name == label for name in classes] for label in labels])
    places = find_ranks(similarity, right)
    scores = {f"top-{k}": (places <= k).double().mean().item() for k in (1, 5)}
    chances = {f"chance top-{k}": min(1.0, k / len(classes)) for k in (1, 5)}
    return {**scores, **chances, "samples": len(labels), "classes": len(classes)}
