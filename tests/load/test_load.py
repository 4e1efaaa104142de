from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from embedshard import remote
from embedshard.errors import InputError
from embedshard.load import load
from embedshard.load import tars as tars_module
from embedshard.remote import Url

from .shards import CAPTIONS, triple, write_shards, write_tar

BACKENDS = pytest.mark.parametrize("backend", ["webdataset", "native"])
WRONG: tuple[dict[str, object], ...] = (
    {"seq_len": 0},
    {"crop": "tail"},
    {"dtype": "int8"},
    {"shuffle": -1},
    {"seed": -1},
    {"batch_size": 0},
    {"bucket": 0},
    {"bucket": 2},
    {"captions": "last"},
    {"fields": "label"},
    {"fields": ("label", "key")},
    {"mode": "forever"},
    {"uneven": "mend"},
    {"missing": "keep"},
    {"backend": "tarfile"},
    {"rank": 2, "world_size": 2},
    {"rank": 0},
    {"cache_size": 0, "cache": "c"},
)


def keys(stream) -> list[str]:
    return [sample["key"] for sample in stream]


@BACKENDS
def test_samples_come_in_order_as_they_were_packed(tmp_path, backend) -> None:
    expected = write_shards(tmp_path, tars=2)
    samples = list(load(tmp_path, backend=backend))
    assert keys(samples) == expected
    for i, sample in enumerate(samples):
        assert sample["embeddings"].dtype == np.float16
        assert sample["embeddings"][:, 0].tolist() == [100 * i + frame for frame in range(1 + i % 7)]
        assert sample["text"] == CAPTIONS[i % len(CAPTIONS)]
        assert sample["meta"]["index"] == i
        assert sample["meta"]["start"] is None


@BACKENDS
def test_batches_hold_every_sample_once(tmp_path, backend) -> None:
    expected = write_shards(tmp_path, tars=2)
    batches = list(load(str(tmp_path), batch_size=3, seq_len=5, tokenizer=len, backend=backend))
    assert [len(batch["key"]) for batch in batches] == [3, 3, 2]
    assert [key for batch in batches for key in batch["key"]] == expected
    assert [batch["tokens"] for batch in batches] == [3, 3, 2]
    assert batches[2]["embeddings"].dtype == torch.float16
    assert batches[2]["mask"].sum(1).tolist() == [5, 1]
    assert [len(batch["key"]) for batch in load(tmp_path, batch_size=3, partial=False, backend=backend)] == [3, 3]


@BACKENDS
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("tars", [1, 2, 5])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_every_sample_comes_once_over_all_workers(tmp_path, tars, workers, backend) -> None:
    expected = write_shards(tmp_path, tars)
    loader = DataLoader(load(tmp_path, batch_size=3, shuffle=5, backend=backend), batch_size=None, num_workers=workers)
    assert sorted(key for batch in loader for key in batch["key"]) == expected


@BACKENDS
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_know_the_epoch_whether_they_live_on_or_not(tmp_path, persistent, backend) -> None:
    write_shards(tmp_path, tars=1, each=20)
    here, pipeline = (load(tmp_path, shuffle=8, seq_len=2, crop="random", backend=backend) for _ in range(2))
    loader = DataLoader(pipeline, batch_size=None, num_workers=2, persistent_workers=persistent)
    epochs = set()
    for _ in range(3):
        expected, found = ([(s["key"], float(s["embeddings"][0, 0])) for s in stream] for stream in (here, loader))
        assert sorted(found) == sorted(expected)
        epochs.add(tuple(expected))
    assert len(epochs) == 3


@BACKENDS
def test_a_left_loop_and_other_workers_after_it_lose_nothing(tmp_path, backend) -> None:
    expected = write_shards(tmp_path, tars=5)
    pipeline = load(tmp_path, shuffle=3, backend=backend)
    next(iter(pipeline))
    next(iter(DataLoader(pipeline, batch_size=None, num_workers=1)))
    assert sorted(keys(DataLoader(pipeline, batch_size=None, num_workers=2))) == expected


@BACKENDS
def test_spawned_workers_read_too(tmp_path, backend) -> None:
    expected = write_shards(tmp_path, tars=2)
    loader = DataLoader(
        load(tmp_path, backend=backend), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    assert keys(loader) == expected


NODES = {
    "torchrun": ("RANK", "WORLD_SIZE", {}),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", {"SLURM_NTASKS": "64"}),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", {}),
}


@BACKENDS
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("node", NODES)
def test_ranks_get_disjoint_samples(tmp_path, monkeypatch, world, node, backend) -> None:
    expected = write_shards(tmp_path, tars=2)
    rank_name, world_name, more = NODES[node]
    for name, value in {**more, world_name: str(world)}.items():
        monkeypatch.setenv(name, value)
    stream, seen = load(tmp_path, shuffle=3, backend=backend), []
    for rank in range(world):
        monkeypatch.setenv(rank_name, str(rank))
        stream.set_epoch(0)
        seen += keys(stream)
        assert keys(load(tmp_path, shuffle=3, rank=rank, world_size=world)) == seen[-len(stream) :]
    assert sorted(seen) == expected


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("x", "2"), ("0", "")])
def test_an_environment_that_makes_no_sense_is_an_error(tmp_path, monkeypatch, rank, world) -> None:
    write_shards(tmp_path, tars=1)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(InputError, match="expected RANK to be a number below WORLD_SIZE, found"):
        load(tmp_path)


def test_a_spawned_worker_has_the_rank_of_its_process(tmp_path) -> None:
    expected = write_shards(tmp_path, tars=1)
    code = (
        "import sys, torch, embedshard; from torch.utils.data import DataLoader\n"
        "if __name__ == '__main__':\n"
        "    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)\n"
        "    torch.distributed.get_rank, torch.distributed.get_world_size = lambda: 1, lambda: 2\n"
        "    data = embedshard.load(sys.argv[1], batch_size=2, backend='native')\n"
        "    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context='spawn')\n"
        "    print(*(key for batch in loader for key in batch['key']))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    found = subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True, text=True)
    assert found.stdout.split() == expected[2:]


@BACKENDS
def test_order_follows_from_seed_and_epoch(tmp_path, backend) -> None:
    expected = write_shards(tmp_path, tars=4, each=6)
    first, again, other = (load(tmp_path, shuffle=8, seed=seed, backend=backend) for seed in (1, 1, 2))
    epochs = [keys(first), keys(first), keys(other)]
    assert [keys(again), keys(again)] == epochs[:2]
    assert all(sorted(order) == expected for order in epochs)
    assert len({tuple(order) for order in (*epochs, expected)}) == 4


@BACKENDS
def test_shuffling_orders_the_tars_anew_every_epoch(tmp_path, backend) -> None:
    expected = write_shards(tmp_path, tars=5, each=2)
    pipeline = load(tmp_path, shuffle=1, backend=backend)
    first_keys = [keys(pipeline)[::2] for _ in range(3)]
    assert all(sorted(order) == expected[::2] for order in first_keys)
    assert len({tuple(order) for order in first_keys}) == 3


@BACKENDS
def test_random_windows_change_with_the_epoch_and_come_back_with_the_seed(tmp_path, backend) -> None:
    write_shards(tmp_path, tars=3, each=7)
    first, again = (load(tmp_path, batch_size=21, seq_len=2, crop="random", backend=backend) for _ in range(2))
    epochs = [[next(iter(pipeline))["embeddings"] for _ in range(2)] for pipeline in (first, again)]
    assert torch.equal(epochs[0][0], epochs[1][0])
    assert torch.equal(epochs[0][1], epochs[1][1])
    assert not torch.equal(epochs[0][0], epochs[0][1])


def test_pipeline_takes_more_stages_and_repeats(tmp_path) -> None:
    expected = write_shards(tmp_path, tars=2)
    pipeline = load(tmp_path).compose(wds.map(lambda sample: sample["key"]), wds.batched(5, collation_fn=list))
    assert list(pipeline) == [expected[:5], expected[5:]]
    assert keys(load(tmp_path).repeat(2)) == expected * 2


@BACKENDS
def test_published_variants_are_read(tmp_path, backend) -> None:
    parts = {"CAP" if field == "txt" else field: data for field, data in triple(1).items()}
    write_tar(tmp_path / "ds_000000.tar", {"vid_1": parts})
    (tmp_path / "splits.csv").write_bytes(b"tar_file,split\r\nds_000000,val\r\n")
    assert [sample["text"] for sample in load(tmp_path, "val", backend=backend)] == [CAPTIONS[1]]


@BACKENDS
def test_one_bad_sample_is_an_error_in_a_worker_too(tmp_path, backend) -> None:
    write_shards(tmp_path, tars=1)
    write_tar(tmp_path / "ds_00000.tar", {"a": triple(0), "b": {"npy": b"", "txt": b"x", "json": b"{}"}})
    stream = iter(load(tmp_path, backend=backend))
    assert next(stream)["key"] == "a"
    with pytest.raises(InputError, match=r"ds_00000\.tar, key b: npy is damaged"):
        next(stream)
    with pytest.raises(InputError, match="key b: npy is damaged"):
        list(DataLoader(load(tmp_path, backend=backend), batch_size=None, num_workers=1))


@BACKENDS
@pytest.mark.parametrize("cut", [512, 10 * 512, 12 * 512, 30 * 512 + 5])
def test_a_tar_that_was_cut_off_is_an_error_wherever_the_cut_is(tmp_path, cut, backend) -> None:
    write_shards(tmp_path, tars=1, each=8)
    tar = tmp_path / "ds_00000.tar"
    tar.write_bytes(tar.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"ds_00000\.tar"):
        list(load(tmp_path, backend=backend))


@BACKENDS
def test_two_samples_of_one_key_are_an_error(tmp_path, backend) -> None:
    write_shards(tmp_path, tars=1)
    tar = tmp_path / "ds_00000.tar"
    write_tar(tar, {"a": {**triple(0), "TXT": b"another"}})
    with pytest.raises(InputError, match=r"two members a\.TXT"):
        list(load(tmp_path, backend=backend))


def test_wrong_calls_say_what_there_is(tmp_path) -> None:
    write_shards(tmp_path, tars=2)
    with pytest.raises(InputError, match=r"no split 'val'; load one of: train"):
        load(tmp_path, "val")
    with pytest.raises(InputError, match=r"splits\.csv"):
        load(tmp_path / "nowhere")
    with pytest.raises(TypeError, match=r"no option seqlen; its options are seq_len, crop, dtype"):
        load(tmp_path, seqlen=3)
    for wrong in WRONG:
        with pytest.raises(InputError, match=f"{next(iter(wrong))}.*found"):
            load(tmp_path, **wrong)
    (tmp_path / "ds_00001.tar").unlink()
    with pytest.raises(InputError, match=r"2 tars .* found 1; .*ds_00001\.tar"):
        load(tmp_path)


def test_importing_load_imports_neither_torch_nor_webdataset() -> None:
    code = "import sys, embedshard.load; assert not {'torch', 'webdataset'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stock_webdataset_reads_our_layout(tmp_path) -> None:
    write_shards(tmp_path, tars=1)
    stock = wds.WebDataset(str(tmp_path / "ds_00000.tar"), shardshuffle=False).decode().to_tuple("npy", "txt", "json")
    for (array, text, meta), ours in zip(stock, load(tmp_path), strict=True):
        np.testing.assert_array_equal(array, ours["embeddings"])
        assert (text, meta) == (ours["text"], ours["meta"])


def test_open_clip_training_reader_takes_our_tars(tmp_path: Path) -> None:
    data = pytest.importorskip("open_clip_train.data", reason="open_clip_train is not installed")
    if "eof_value" in signature(wds.tariterators.tar_file_expander).parameters:
        pytest.skip("open_clip_train reads no tar with this webdataset (KeyError: 'fname'); it needs 0.2.86")
    write_shards(tmp_path, tars=1)
    samples = data.tarfile_to_samples_nothrow([{"url": str(tmp_path / "ds_00000.tar")}])
    assert [sample["txt"].decode() for sample in samples] == CAPTIONS[:4]


@BACKENDS
def test_memory_does_not_grow_with_the_samples(tmp_path, backend) -> None:
    peaks = []
    for tars in (10, 60):
        write_shards(tmp_path / str(tars), tars, each=100)
        stream = load(tmp_path / str(tars), batch_size=8, shuffle=50, backend=backend)
        for batch in stream:  # what is loaded once stays loaded
            assert batch
        tracemalloc.start()
        assert sum(len(batch["key"]) for batch in stream) == 100 * tars
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def upload(folder: Path, bucket: str) -> str:
    for path in sorted(folder.iterdir()):
        Url(f"{bucket}/shards/{path.name}").upload(path)
    return f"{bucket}/shards"


@BACKENDS
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_on_a_storage_stream_as_from_a_disk(tmp_path, bucket, workers, backend) -> None:
    expected = write_shards(tmp_path, tars=3)
    loader = DataLoader(
        load(upload(tmp_path, bucket), shuffle=4, backend=backend), batch_size=None, num_workers=workers
    )
    for _ in range(2):
        assert sorted(keys(loader)) == expected


def test_the_next_tar_of_a_storage_is_fetched_meanwhile_and_no_other(tmp_path, bucket, monkeypatch) -> None:
    expected, fetched = write_shards(tmp_path, tars=4), []

    def noting(tar, file, copy=tars_module.copy_blocks):
        fetched.append(tar.name)
        return copy(tar, file)

    monkeypatch.setattr(tars_module, "copy_blocks", noting)
    data = load(upload(tmp_path, bucket), backend="native")
    fetched.clear()  # without tables, all were counted
    stream = iter(data)
    found = [next(stream)["key"]]
    until = time.monotonic() + 20
    while len(fetched) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    assert fetched == ["ds_00000.tar", "ds_00001.tar"]
    assert found + keys(stream) == expected
    assert fetched == [f"ds_{number:05d}.tar" for number in range(4)]


@BACKENDS
def test_shards_come_whole_through_a_faulty_network(tmp_path, bucket, proxy, monkeypatch, backend) -> None:
    monkeypatch.setattr(remote, "_ATTEMPTS", 20)
    monkeypatch.setattr(remote, "_BLOCK", 1024)
    expected = write_shards(tmp_path, tars=3)
    address = upload(tmp_path, bucket)
    proxy.unavailable = proxy.cut_down = 0.3
    assert keys(load(address, backend=backend)) == expected
    assert min(proxy.counts["unavailable"], proxy.counts["cut down"]) > 1
    proxy.denied = True
    with pytest.raises(InputError, match=r"splits\.csv cannot be looked up: Forbidden"):
        load(address)


def test_what_a_storage_lacks_is_named(tmp_path, bucket) -> None:
    write_shards(tmp_path, tars=2)
    (tmp_path / "ds_00001.tar").unlink()
    with pytest.raises(InputError, match=r"2 tars .* found 1; .*ds_00001\.tar"):
        load(upload(tmp_path, bucket))
    with pytest.raises(InputError, match=rf"no {bucket}/none/splits\.csv"):
        load(f"{bucket}/none")
