from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard.load.order import Order, Part, batches_of, cut, picks, runs

COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=8).map(tuple)
SHUFFLES = st.sampled_from([0, 1, 7, 1000])


def given_by(order: Order, part: Part, epoch: int = 0) -> list[tuple[int, int]]:
    return [(tar, row) for chunk in picks(order, part, epoch) for _, tar, row in chunk.tolist()]


def of_all(order: Order, world: int, workers: int, epoch: int = 0) -> list[list[list[tuple[int, int]]]]:
    return [[given_by(order, Part(r, world, w, workers), epoch) for w in range(workers)] for r in range(world)]


def flat(parts: list[list[list[tuple[int, int]]]]) -> list[tuple[int, int]]:
    return [sample for rank in parts for worker in rank for sample in worker]


@given(COUNTS, st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), SHUFFLES, st.integers(0, 3))
def test_every_sample_is_given_once_over_all_ranks_and_workers(counts, world, workers, batch, shuffle, epoch) -> None:
    order = Order(counts, batch, shuffle=shuffle)
    found = of_all(order, world, workers, epoch)
    assert sorted(flat(found)) == [(tar, row) for tar, count in enumerate(counts) for row in range(count)]
    for rank, parts in enumerate(found):
        sizes = [-(-len(samples) // batch) for samples in parts]
        assert sizes == sorted(sizes, reverse=True), "the first workers have the batches that do not come out even"
        assert sizes[0] - sizes[-1] <= 1
        assert sum(len(samples) % batch > 0 for samples in parts) <= 1, "one short batch a rank"
        assert sum(sizes) == batches_of(order, Part(rank, world))


@given(COUNTS, st.integers(1, 5), st.integers(1, 4), st.integers(1, 9), SHUFFLES, st.booleans())
def test_drop_and_pad_give_every_rank_as_many_batches(counts, world, workers, batch, shuffle, partial) -> None:
    total = sum(counts)
    for uneven, each in (("drop", total // world), ("pad", -(-total // world))):
        order = Order(counts, batch, shuffle=shuffle, uneven=uneven, partial=partial)
        found = of_all(order, world, workers)
        expected = each if partial else each - each % batch
        assert {sum(map(len, parts)) for parts in found} == {expected}
        times = Counter(flat(found))
        assert all(number <= 1 + (world > total or uneven == "pad") * world for number in times.values())
        if uneven == "drop":
            assert set(times.values()) <= {1}
        elif partial:
            assert len(times) == total


def test_ranks_that_are_dropped_from_change_with_the_epoch() -> None:
    order = Order((1,) * 7, shuffle=1, uneven="drop")
    lost = {frozenset(range(7)) - {tar for tar, _ in flat(of_all(order, 2, 1, epoch))} for epoch in range(20)}
    assert len(lost) > 1
    assert all(len(one) == 1 for one in lost)


@given(COUNTS, st.integers(0, 60), st.integers(0, 3))
def test_no_more_samples_wait_than_the_shuffle_says(counts, shuffle, epoch) -> None:
    places = [
        place for chunk in picks(Order(counts, shuffle=shuffle), Part(), epoch) for place in chunk["place"].tolist()
    ]
    read, given_ = 0, 0
    for place in places:
        read, given_ = max(read, place + 1), given_ + 1
        assert read - given_ <= max(shuffle, 0)
    if not shuffle:
        assert places == list(range(sum(counts)))


@given(COUNTS, st.integers(0, 60), st.integers(0, 200))
def test_what_was_read_long_before_was_given(counts, shuffle, given_) -> None:
    """`pipeline` begins to read there when it resumes."""
    places = [place for chunk in picks(Order(counts, shuffle=shuffle), Part(), 0) for place in chunk["place"].tolist()]
    assert set(range(min(given_, len(places)) - shuffle - 1)) <= set(places[:given_])


def test_shuffling_moves_samples_all_over_the_buffer_and_tars_over_the_epoch() -> None:
    order = Order((1000,) * 4, shuffle=200)
    first, again, other = (given_by(order, Part(), epoch) for epoch in (0, 0, 1))
    assert first == again != other
    shift = [row - place % 1000 for place, (_, row) in enumerate(first)]
    assert max(shift) > 120 > 0 > -120 > min(shift)
    firsts = {tuple(run.tar for run in runs(order, Part(), epoch)) for epoch in range(12)}
    assert len(firsts) > 6
    assert given_by(Order((1000,) * 4, shuffle=200, seed=1), Part()) != first


def test_a_run_is_part_of_a_tar() -> None:
    assert [tuple(run) for run in runs(Order((4, 0, 3), batch=2), Part(0, 1, 1, 2), 0)] == [(0, 2, 0, 3)]
    assert [tuple(run) for run in runs(Order((4, 0, 3)), Part(1, 2, 0, 1), 0)] == [(0, 2, 0, 3)]
    assert [tuple(run) for run in runs(Order((4, 0, 3)), Part(0, 2, 0, 1), 0)] == [(0, 0, 0, 4)]


@given(COUNTS.filter(sum), st.integers(1, 3), st.integers(1, 3), st.integers(1, 50), st.integers(1, 4), SHUFFLES)
def test_resampled_epochs_have_their_length_and_go_on(counts, world, workers, length, batch, shuffle) -> None:
    order = Order(counts, batch, shuffle=shuffle, resampled=True, length=length)
    epochs = [of_all(order, world, workers, epoch) for epoch in range(3)]
    assert [len(flat(parts)) for parts in epochs] == [length] * 3
    endless = Order(counts, batch, resampled=True)
    assert len(list(islice((tar for chunk in picks(endless, Part(), 0) for tar in chunk["tar"].tolist()), 200))) == 200
    in_order = Order(counts, batch, resampled=True, length=length)
    drawn = [sample for epoch in range(3) for sample in given_by(in_order, Part(), epoch)]
    for (tar, row), (next_tar, next_row) in pairwise(drawn):
        if row + 1 < counts[tar]:
            assert (next_tar, next_row) == (tar, row + 1)
        else:
            assert next_row == 0


def test_resampling_favours_no_sample() -> None:
    order = Order((10, 30), resampled=True, length=7)
    times = Counter(sample for epoch in range(4000) for sample in given_by(order, Part(), epoch))
    assert len(times) == 40
    assert min(times.values()) / max(times.values()) > 0.6


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 6), st.integers(1, 5), st.integers(0, 1))
def test_batches_of_like_length_hold_every_sample_once(lengths, batch, bucket, shuffle) -> None:
    order = Order((40,), batch, bucket, shuffle)
    lengths = lengths[: order.window]
    batches = [rows.tolist() for rows in cut(order, Part(), 0, 0, lengths)]
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert all(len(rows) == batch for rows in batches[:-1])
    if bucket > 1:
        padding = sum(max(lengths[row] for row in rows) * len(rows) for rows in batches)
        plain = [lengths[at : at + batch] for at in range(0, len(lengths), batch)]
        assert padding <= sum(max(rows) * len(rows) for rows in plain) or len(lengths) % batch
        spans = sorted((min(lengths[r] for r in rows), max(lengths[r] for r in rows)) for rows in batches)
        assert all(upper[0] >= lower[1] for lower, upper in pairwise(spans))


@pytest.mark.parametrize("seed", [0, 2**40])
def test_streams_of_random_numbers_differ(seed) -> None:
    order = Order((5000,), shuffle=5000, seed=seed)
    seen = {tuple(given_by(order, Part(), epoch)) for epoch in range(4)}
    ranks = [np.argsort([row for _, row in given_by(order, Part(r, 2), 0)]).tolist() for r in range(2)]
    assert len(seen) == 4
    assert ranks[0] != ranks[1]
