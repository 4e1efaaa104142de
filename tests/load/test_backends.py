"""Both backends give the same, whatever the options and the tars."""

from __future__ import annotations

import io
import json
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedshard.errors import InputError
from embedshard.load import load
from embedshard.shard.offsets import offsets_bytes, offsets_path, walk_offsets

from .shards import triple, write_shards, write_tar

ONE_FOLDER = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
OPTIONS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 7),
        "seq_len": st.none() | st.integers(1, 8),
        "crop": st.sampled_from(["head", "uniform", "random"]),
        "dtype": st.sampled_from([None, "float16", "float32"]),
        "bucket": st.integers(1, 4),
        "captions": st.sampled_from(["first", "random", "all"]),
        "fields": st.sampled_from([None, (), ("index",), ("index", "start")]),
        "shuffle": st.sampled_from([0, 3, 100]),
        "seed": st.integers(0, 3),
        "mode": st.sampled_from(["epoch", "resampled"]),
        "uneven": st.sampled_from(["keep", "drop", "pad"]),
        "partial": st.booleans(),
    }
)


def write_mixed(folder) -> list[str]:
    """Shards of several captions a sample, one tar with an idx and one with folders and captions in .cap."""
    keys = write_shards(folder, tars=3, each=9)
    for number in range(3):
        samples = {key: triple(int(key[4:])) for key in keys[number * 9 : number * 9 + 9]}
        for i, (key, parts) in enumerate(samples.items()):
            meta = json.loads(parts["json"]) | {"captions": [f"{key} {n}" for n in range(i % 4)] + [" "]}
            parts["json"] = json.dumps(meta).encode()
        if number == 1:
            samples = {
                f"sub/{key}": {"Cap" if f == "txt" else f: d for f, d in p.items()} for key, p in samples.items()
            }
        write_tar(folder / f"ds_{number:05d}.tar", samples)
    tar = folder / "ds_00000.tar"
    offsets_path(tar).write_bytes(offsets_bytes(walk_offsets(tar.read_bytes()).tolist()))
    return [f"sub/{key}" if 9 <= i < 18 else key for i, key in enumerate(keys)]


def same(first: object, second: object) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return list(first) == list(second) and all(same(first[name], second[name]) for name in first)
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    return first == second


@ONE_FOLDER
@given(OPTIONS, st.integers(1, 3), st.integers(0, 2))
def test_batches_are_the_same(tmp_path, options, world, epoch) -> None:
    if not (tmp_path / "splits.csv").exists():
        write_mixed(tmp_path)
    length = {"epoch_length": 20} if options["mode"] == "resampled" else {}
    for rank in range(world):
        streams = [
            load(tmp_path, **options, **length, rank=rank, world_size=world, backend=backend)
            for backend in ("webdataset", "native")
        ]
        for stream in streams:
            stream.set_epoch(epoch)
        found, others = map(list, streams)
        assert len(found) == len(others) == len(streams[0]) == len(streams[1])
        assert all(map(same, found, others))


@pytest.mark.parametrize("options", [{}, {"seq_len": 3, "crop": "random", "dtype": "float32"}, {"shuffle": 20}])
def test_samples_are_the_same_and_ones_own(tmp_path, options) -> None:
    write_mixed(tmp_path)
    found, others = (list(load(tmp_path, backend=backend, **options)) for backend in ("webdataset", "native"))
    assert all(map(same, found, others))
    for sample in found + others:
        assert sample["embeddings"].flags.writeable
        assert sample["embeddings"].base is None


@pytest.mark.parametrize("backend", ["webdataset", "native"])
def test_captions_by_policy(tmp_path, backend) -> None:
    keys = write_mixed(tmp_path)
    own = {s["key"]: s["text"] for s in load(tmp_path, backend=backend)}
    every = {s["key"]: s["text"] for s in load(tmp_path, captions="all", backend=backend)}
    for i, key in enumerate(keys):
        several = [f"{key.removeprefix('sub/')} {n}" for n in range(i % 9 % 4)]
        assert every[key] == (several or [own[key]])
    stream = load(tmp_path, captions="random", backend=backend)
    drawn = [{s["key"]: s["text"] for s in stream} for _ in range(20)]
    assert all({one[key] for one in drawn} == set(every[key]) for key in keys)
    again = load(tmp_path, captions="random", backend=backend)
    again.set_epoch(7)
    assert {s["key"]: s["text"] for s in again} == drawn[7]


@pytest.mark.parametrize("backend", ["webdataset", "native"])
def test_tokens_of_all_captions_know_their_sample(tmp_path, backend) -> None:
    import open_clip

    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    write_mixed(tmp_path)
    batch = next(iter(load(tmp_path, batch_size=9, captions="all", tokenizer=tokenizer, backend=backend)))
    texts = [caption for captions in batch["text"] for caption in captions]
    assert torch.equal(batch["tokens"], tokenizer(texts))
    assert [batch["text"][row] for row in batch["token_rows"].tolist()] == [c for c in batch["text"] for _ in c]
    first = next(iter(load(tmp_path, batch_size=9, tokenizer=tokenizer, backend=backend)))
    assert first["tokens"].shape == (9, 77)


@pytest.mark.parametrize("backend", ["webdataset", "native"])
def test_fields_stand_under_their_names(tmp_path, backend) -> None:
    write_mixed(tmp_path)
    batch = next(iter(load(tmp_path, batch_size=4, fields=("index", "start"), backend=backend)))
    assert (batch["index"], batch["start"], "meta" in batch) == ([0, 1, 2, 3], [None] * 4, False)
    with pytest.raises(InputError, match=r"ds_00000\.tar, key vid_000000000: expected the field lable in its json"):
        next(iter(load(tmp_path, fields=("lable",), backend=backend)))
    write_tar(tmp_path / "ds_00000.tar", {"a": {**triple(0), "json": b"{"}})
    offsets_path(tmp_path / "ds_00000.tar").unlink()
    assert next(iter(load(tmp_path, fields=(), backend=backend)))["key"] == "a", "no json is read"


@pytest.mark.parametrize("backend", ["webdataset", "native"])
@pytest.mark.parametrize("captions", ['"one"', '["one", 2]'])
def test_captions_that_are_no_list_of_texts_are_an_error(tmp_path, backend, captions) -> None:
    write_shards(tmp_path, tars=1)
    write_tar(tmp_path / "ds_00000.tar", {"a": {**triple(0), "json": b'{"captions": %s}' % captions.encode()}})
    with pytest.raises(InputError, match=r"ds_00000\.tar, key a: expected its json to have a list of texts"):
        list(load(tmp_path, captions="random", backend=backend))


@pytest.mark.parametrize("backend", ["webdataset", "native"])
def test_bucketing_saves_padding_and_loses_nothing(tmp_path, backend) -> None:
    keys = write_shards(tmp_path, tars=4, each=30)
    padding = []
    for bucket in (1, 10):
        batches = list(load(tmp_path, batch_size=6, bucket=bucket, shuffle=60, backend=backend))
        assert sorted(key for batch in batches for key in batch["key"]) == keys
        padding.append(sum(int((~batch["mask"]).sum()) for batch in batches))
    assert padding[1] < 0.4 * padding[0]


@pytest.mark.parametrize("backend", ["webdataset", "native"])
def test_resampled_is_endless_or_of_a_length(tmp_path, backend) -> None:
    keys = write_shards(tmp_path, tars=3)
    endless = load(tmp_path, mode="resampled", shuffle=4, backend=backend)
    assert {sample["key"] for sample in islice(endless, 200)} == set(keys)
    with pytest.raises(TypeError, match="no end"):
        len(endless)
    fixed = load(tmp_path, "train", 4, mode="resampled", epoch_length=10, backend=backend)
    assert [[len(batch["key"]) for batch in fixed] for _ in range(2)] == [[4, 4, 2]] * 2


@pytest.mark.parametrize("backend", ["webdataset", "native"])
@pytest.mark.parametrize(("said", "found"), [(3, "more"), (5, "4")])
@pytest.mark.parametrize("table", ["sizes.json", "index.json"])
def test_a_table_that_counts_wrongly_is_an_error(tmp_path, backend, said, found, table) -> None:
    write_shards(tmp_path, tars=1)
    row = {"name": "ds_00000.tar", "samples": said}
    (tmp_path / table).write_text(json.dumps({"ds_00000.tar": said} if table == "sizes.json" else {"tars": [row]}))
    with pytest.raises(InputError, match=rf"ds_00000\.tar: expected {said} samples, .* found {found}"):
        list(load(tmp_path, backend=backend))


def test_a_stale_idx_gives_no_wrong_sample(tmp_path) -> None:
    """Other contents of the same sizes in blocks, so that the idx seems to be that of the tar."""
    write_shards(tmp_path, tars=1)
    tar = tmp_path / "ds_00000.tar"
    samples = {f"vid_{i:09d}": triple(i) for i in range(4)}
    offsets_path(tar).write_bytes(offsets_bytes(walk_offsets(tar.read_bytes()).tolist()))
    for others in (
        {("other" if i == 2 else key): parts for i, (key, parts) in enumerate(samples.items())},
        {key: {**parts, "txt": parts["txt"] + b"!" * (i == 2)} for i, (key, parts) in enumerate(samples.items())},
        dict(reversed(samples.items())),
        {key: dict(reversed(parts.items())) for key, parts in samples.items()},
    ):
        write_tar(tar, others)
        with pytest.raises(InputError, match=r"ds_00000\.idx says, found another member; .*rm .*ds_00000\.idx"):
            list(load(tmp_path, backend="native"))
        assert len(list(load(tmp_path, backend="webdataset"))) == 4


def test_views_outlive_their_tars(tmp_path) -> None:
    """Many tars, few of which stay open, and batches that are kept."""
    keys = write_shards(tmp_path, tars=80, each=40)
    batches = list(load(tmp_path, batch_size=33, shuffle=500, seq_len=3, backend="native"))
    for batch in batches:
        for key, rows, mask in zip(batch["key"], batch["embeddings"], batch["mask"], strict=True):
            index = int(key[4:])
            expected = np.load(io.BytesIO(triple(index)["npy"]))[:3]
            assert torch.equal(rows[mask], torch.from_numpy(expected))
    assert sorted(key for batch in batches for key in batch["key"]) == keys
