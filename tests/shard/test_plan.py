from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard.errors import InputError
from embedshard.shard.plan import ShardOptions, order_of, plan_tars, triple_key


@given(st.tuples(*[st.integers(0, 400)] * 3), st.integers(1, 50))
def test_tars_partition_the_samples_in_order(counts: tuple[int, int, int], maxcount: int) -> None:
    wanted = dict(zip(("train", "val", "test"), counts, strict=True))
    tars = plan_tars(wanted, ShardOptions(maxcount=maxcount))
    assert [tar.first for tar in tars] == [sum(t.count for t in tars[:i]) for i in range(len(tars))]
    for split, count in wanted.items():
        sizes = [tar.count for tar in tars if tar.split == split]
        assert sum(sizes) == count
        assert all(size == maxcount for size in sizes[:-1])
        assert all(0 < size <= maxcount for size in sizes)
    assert [tar.split for tar in tars] == sorted((tar.split for tar in tars), key=list(wanted).index)
    assert len({tar.name for tar in tars}) == len(tars)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, [1]), (9999, [9999]), (10000, [10000]), (10001, [10000, 1]), (25000, [10000, 10000, 5000])],
)
def test_a_split_beside_an_empty_one(count: int, sizes: list[int]) -> None:
    tars = plan_tars({"train": 1, "val": 0, "test": count}, ShardOptions())
    assert [(tar.name, tar.split, tar.count) for tar in tars] == [
        ("ds_00000.tar", "train", 1),
        *((f"ds_{number:05d}.tar", "test", size) for number, size in enumerate(sizes, 1)),
    ]


def test_clip_kinetics700_has_65_tars() -> None:
    tars = plan_tars({"train": 536489, "val": 33966, "test": 64532}, ShardOptions())
    assert [sum(tar.split == split for tar in tars) for split in ("train", "val", "test")] == [54, 4, 7]


def test_digits_grow_with_the_count() -> None:
    tars = plan_tars({"train": 100001}, ShardOptions(maxcount=1))
    assert (tars[0].name, tars[-1].name) == ("ds_000000.tar", "ds_100000.tar")
    assert plan_tars({"train": 100000}, ShardOptions(maxcount=1))[-1].name == "ds_99999.tar"


@pytest.mark.parametrize(
    "options",
    [
        {"maxcount": 0},
        {"name": "a.b"},
        {"name": "../a"},
        *({"key_format": text} for text in ("vid", "{}", "{index", "{index}.x", "{index:s}", "{index}{x}", "/{index}")),
        {"key_format": "{index.real.x}"},
        {"key_format": "{index!s:.1}"},
        {"key_format": "{index:090d}"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected"):
        ShardOptions(**options)  # type: ignore[arg-type]


@given(st.sets(st.text(min_size=1), min_size=2, max_size=5), st.booleans())
def test_order_tells_stems_apart(stems: set[str], shuffle: bool) -> None:
    options = ShardOptions(shuffle=shuffle)
    assert len({order_of(stem, options) for stem in stems}) == len({triple_key(stem) for stem in stems})


def test_a_made_key_stays_as_it_is() -> None:
    assert triple_key(triple_key("-odd id.1")) == triple_key("-odd id.1") != "-odd id.1"
