"""A stream goes on after any batch as if it had never stopped."""

from __future__ import annotations

import json
import pickle
from itertools import islice

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from embedshard.errors import InputError
from embedshard.load import load

from .shards import write_shards

BACKENDS = pytest.mark.parametrize("backend", ["webdataset", "native"])
ONE_FOLDER = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def seen(batches) -> list[tuple[list[str], torch.Tensor]]:
    return [(batch["key"], batch["embeddings"].sum().item()) for batch in batches]


def saved(state: dict[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(state))


@BACKENDS
@ONE_FOLDER
@given(
    st.fixed_dictionaries(
        {
            "batch_size": st.integers(1, 6),
            "bucket": st.integers(1, 3),
            "shuffle": st.sampled_from([0, 2, 9, 60]),
            "crop": st.just("random"),
            "seq_len": st.just(3),
            "uneven": st.sampled_from(["keep", "drop", "pad"]),
        }
    ),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 40),
    st.booleans(),
)
def test_what_follows_a_resume_follows_without_one(tmp_path, backend, options, world, epoch, steps, resampled) -> None:
    if not (tmp_path / "splits.csv").exists():
        write_shards(tmp_path, tars=4, each=11)
    more = {"mode": "resampled", "epoch_length": 37} if resampled else {}
    options |= {**more, "rank": world - 1, "world_size": world, "backend": backend}
    whole, first, second = (load(tmp_path, **options) for _ in range(3))
    for stream in (whole, first):
        stream.set_epoch(epoch)
    steps = min(steps, len(whole))
    expected = [seen(whole), seen(whole)]
    begun = iter(first)
    assert seen(islice(begun, steps)) == expected[0][:steps]
    second.load_state_dict(saved(first.state_dict()))
    rest = expected[0][steps:]
    assert seen(second) == (rest or expected[1]), "after the last batch comes the next epoch"
    if rest:
        assert seen(second) == expected[1]


@BACKENDS
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("workers", "persistent"), [(1, False), (3, False), (3, True)])
def test_a_plain_dataloader_goes_on_after_any_step(tmp_path, backend, workers, persistent) -> None:
    write_shards(tmp_path, tars=2, each=11)

    def loader() -> tuple[object, DataLoader]:
        data = load(tmp_path, batch_size=3, shuffle=9, backend=backend)
        return data, DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=persistent)

    _, whole = loader()
    expected = [seen(whole) for _ in range(3)]
    for steps in (1, 5, 8):
        data, first = loader()
        assert seen(first) == expected[0]
        assert seen(islice(first, steps)) == expected[1][:steps]
        with pytest.raises(InputError, match=r"state_dict\(batches=\.\.\.\)"):
            data.state_dict()
        state = saved(data.state_dict(batches=steps))
        assert (state["epoch"], state["batches"], state["workers"]) == (1, steps, workers)
        other, second = loader()
        other.load_state_dict(state)
        if steps < 8:
            assert other.state_dict() == state, "before it begins"
            assert seen(second) == expected[1][steps:]
            assert other.state_dict(batches=8)["epoch"] == 1
        assert seen(second) == expected[2]


@BACKENDS
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_torchdatas_loader_saves_and_resumes(tmp_path, backend, workers, persistent) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="pip install '.[dev]'").StatefulDataLoader
    write_shards(tmp_path, tars=2, each=11)

    def loader():
        data = load(tmp_path, batch_size=3, shuffle=9, bucket=2, backend=backend)
        return stateful(data, batch_size=None, num_workers=workers, persistent_workers=persistent and workers > 0)

    whole = loader()
    expected = [seen(whole) for _ in range(3)]
    for steps in (0, 3, 8):
        first = loader()
        assert seen(first) == expected[0]
        running = iter(first)
        assert seen(islice(running, steps)) == expected[1][:steps]
        if steps == 8:
            assert next(running, None) is None
        state = saved(first.state_dict())
        second = loader()
        second.load_state_dict(state)
        if steps < 8:
            assert seen(second) == expected[1][steps:]
        assert seen(second) == expected[2]


@BACKENDS
def test_single_samples_resume_too(tmp_path, backend) -> None:
    keys = write_shards(tmp_path, tars=2, each=5)
    first, second = (load(tmp_path, backend=backend) for _ in range(2))
    begun = iter(first)
    assert [next(begun)["key"] for _ in range(7)] == keys[:7]
    second.load_state_dict(first.state_dict())
    assert [sample["key"] for sample in second] == keys[7:]


def test_what_was_given_is_not_read_again(tmp_path) -> None:
    write_shards(tmp_path, tars=5, each=10)
    first, second = (load(tmp_path, batch_size=5) for _ in range(2))
    begun = iter(first)
    for _ in range(8):
        next(begun)
    for number in range(3):
        (tmp_path / f"ds_{number:05d}.tar").write_bytes(b"")
    second.load_state_dict(first.state_dict())
    assert [len(batch["key"]) for batch in second] == [5, 5]


def test_a_state_is_of_one_order(tmp_path) -> None:
    write_shards(tmp_path, tars=2)
    data = load(tmp_path, batch_size=2, shuffle=3, rank=0, world_size=2)
    iterator = iter(data)
    next(iterator)
    state = data.state_dict()
    for options in ({"seed": 1}, {"shuffle": 4}, {"uneven": "pad"}):
        other = load(tmp_path, batch_size=2, **{"shuffle": 3, "rank": 1, "world_size": 2, **options})
        with pytest.raises(InputError, match=r"shards, split, batch_size and options.*\nBegin the epoch anew"):
            other.load_state_dict(state)
    write_shards(tmp_path / "others", tars=2)
    (tmp_path / "others/ds_00001.tar").rename(tmp_path / "others/ds_00002.tar")
    (tmp_path / "others/splits.csv").write_text("tar_file,split\nds_00000.tar,train\nds_00002.tar,train\n")
    with pytest.raises(InputError, match="expected the shards, split"):
        load(tmp_path / "others", batch_size=2, shuffle=3, rank=0, world_size=2).load_state_dict(state)
    with pytest.raises(InputError, match=r"expected the ranks that this state was saved with, 2, found 1"):
        load(tmp_path, batch_size=2, shuffle=3).load_state_dict(state)
    with pytest.raises(InputError, match="expected what state_dict"):
        data.load_state_dict({"epoch": 1})
    other = load(tmp_path, batch_size=2, shuffle=3, rank=1, world_size=2)
    other.load_state_dict(state)
    with pytest.raises(InputError, match=r"expected 1 workers, as when this state was saved, found 2"):
        list(DataLoader(other, batch_size=None, num_workers=2))
    with pytest.raises(InputError, match="epoch of at least 0"):
        data.set_epoch(-1)


@BACKENDS
def test_set_epoch_reaches_workers_that_live_on(tmp_path, backend) -> None:
    write_shards(tmp_path, tars=2, each=11)
    data, plain = (load(tmp_path, batch_size=3, shuffle=9, backend=backend) for _ in range(2))
    loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
    reference = DataLoader(plain, batch_size=None, num_workers=2)
    epochs = [seen(reference) for _ in range(4)]
    for epoch in (2, 0, 3):
        data.set_epoch(epoch)
        assert seen(loader) == epochs[epoch]
    data.set_epoch(1)
    assert [seen(loader), seen(loader)] == epochs[1:3]


@BACKENDS
def test_a_copy_by_pickle_reads_the_same(tmp_path, backend) -> None:
    write_shards(tmp_path, tars=2)
    data = load(tmp_path, batch_size=3, shuffle=5, backend=backend)
    assert seen(pickle.loads(pickle.dumps(data))) == seen(data)
