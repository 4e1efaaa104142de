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
