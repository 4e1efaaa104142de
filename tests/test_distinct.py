from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard import distinct
from embedshard.distinct import DistinctIds, id_hash


@given(st.lists(st.tuples(st.text("abé猫", max_size=3), st.integers(0, 3))))
def test_equals_a_plain_computation(added):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct, "_BUFFER", 2)
        ids = DistinctIds()
        for text, tag in added:
            ids.add(text, tag)
    counts, tags = Counter(text for text, _ in added), defaultdict(set)
    for text, tag in added:
        tags[text].add(tag)
    assert ids.count == len(added)
    distinct_of = Counter(tag for tag, _ in {(tag, id_hash(text)) for text, tag in added})
    assert [int(count) for count in ids.totals()[:, 0]] == [distinct_of[tag] for tag in range(4)]
    assert ids.repeated() == {id_hash(text) for text, count in counts.items() if count > 1}
    assert ids.under_two_tags() == {id_hash(text) for text, seen in tags.items() if len(seen) > 1}


def test_ids_of_many_slices(monkeypatch):
    monkeypatch.setattr(distinct, "_SLICE", 64)
    ids = DistinctIds()
    for number in [*range(5000), 7, 4999]:
        ids.add(f"video{number}", number % 2)
    ids.add("video8", 1)
    assert ids.repeated() == {id_hash(f"video{number}") for number in (7, 8, 4999)}
    assert ids.under_two_tags() == {id_hash("video8")}


def test_the_first_amounts_of_an_id_are_summed(monkeypatch):
    monkeypatch.setattr(distinct, "_SLICE", 64)
    monkeypatch.setattr(distinct, "_BUFFER", 100)
    ids = DistinctIds(amounts=2)
    for number in range(1000):
        ids.add(f"video{number % 250}", number % 2, (1.5, number // 250 + 3))
    assert ids.totals()[:2].tolist() == [[125, 187.5, 375], [125, 187.5, 375]]


def test_slices_without_any_id(monkeypatch):
    monkeypatch.setattr(distinct, "_SLICE", 64)
    ids = DistinctIds()
    for _ in range(1000):
        ids.add("video")
    assert ids.totals()[:2, 0].tolist() == [1, 0]
    assert ids.repeated() == {id_hash("video")}
    assert DistinctIds().totals().sum() == 0
