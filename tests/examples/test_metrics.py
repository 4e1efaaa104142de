from __future__ import annotations

import itertools

import metrics
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def test_a_rank_is_that_of_the_best_relevant_candidate_among_the_others():
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]])
    relevant = torch.tensor([[False, True, True, False], [True, True, False, False]])
    assert metrics.find_ranks(similarity, relevant).tolist() == [2, 3]


def test_equal_similarities_count_against_the_query():
    relevant = torch.eye(4, dtype=torch.bool)
    assert metrics.find_ranks(torch.zeros(4, 4), relevant).tolist() == [4, 4, 4, 4]


def test_several_captions_of_a_clip_and_one_caption_of_several_clips():
    # Captions 0 and 1 are of clip 0, caption 2 is of clips 1 and 2.
    relevant = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 1]]).bool()
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.5, 0.2, 0.6]])
    scores = metrics.retrieval(similarity, relevant)
    assert scores["text_to_video"]["R@1"] == pytest.approx(2 / 3)  # all but caption 1
    assert scores["video_to_text"]["R@1"] == pytest.approx(2 / 3)  # all but clip 1, whose caption 1 is of clip 0
    assert (scores["text_to_video"]["queries"], scores["text_to_video"]["candidates"]) == (3, 3)
    assert scores["text_to_video"]["median rank"] == 1
    assert scores["text_to_video"]["R@5"] == scores["text_to_video"]["chance R@5"] == 1


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_chance_is_the_mean_over_all_orders(candidates, relevant, k):
    relevant = min(relevant, candidates)
    drawn = list(itertools.combinations(range(candidates), min(k, candidates)))
    hit = sum(min(found) < relevant for found in drawn) / len(drawn)
    assert metrics._chance(torch.tensor([relevant]), candidates, k) == pytest.approx(hit)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="finite"):
        metrics.find_ranks(torch.tensor([[float("nan"), 1.0]]), torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="relevant candidate"):
        metrics.find_ranks(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))


def test_accuracy():
    similarity = torch.eye(6)[[0, 1, 2, 2]]
    scores = metrics.accuracy(similarity, ["a", "b", "c", "d"], list("abcdef"))
    assert scores["top-1"] == 0.75
    assert scores["chance top-5"] == pytest.approx(5 / 6)
    assert (scores["samples"], scores["classes"]) == (4, 6)
