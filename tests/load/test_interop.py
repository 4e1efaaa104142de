"""Other libraries read shards of the real packer, and torch's loaders read `embedshard.open`.

What is not installed skips; `make interop` installs webdataset 0.2.86 and Megatron-Energon, so that nothing does.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from inspect import signature
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from torch.utils.data import DataLoader

import embedshard
from embedshard.load.collate import collate
from embedshard.processed import DatasetInfo, write_info, write_triple
from embedshard.shard.pack import shard
from embedshard.shard.plan import ShardOptions

from .shards import CAPTIONS

README = Path(__file__).parents[2] / "README.md"
COUNTS = {"train": 23, "val": 4, "test": 3}
MAXCOUNT = 5


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars of at most 5 samples: five of train, one of val, one of test."""
    processed, folder = tmp_path_factory.mktemp("processed"), tmp_path_factory.mktemp("shards")
    encoder = {"model": "tiny", "pretrained": None, "embed_dim": 6, "fps": 1.0}
    write_info(processed, DatasetInfo(encoder, {"name": "interop"}))
    rng, number = np.random.default_rng(0), 0
    for split, count in COUNTS.items():
        (processed / split).mkdir()
        for _ in range(count):
            key, frames = f"vid_{number:03d}", 1 + number % 4
            meta = {
                "key": key,
                "media_id": f"m{number}",
                "start": None,
                "duration": frames * 1.0,
                "frame_times": [float(k) for k in range(frames)],
                "encoder": encoder,
                "label": f"größe {number}",
            }
            array = rng.normal(size=(frames, 6)).astype(np.float16)
            write_triple(processed / split, key, array, CAPTIONS[number % len(CAPTIONS)], meta)
            number += 1
    shard(processed, folder, ShardOptions(maxcount=MAXCOUNT), lambda samples: None)
    return folder


def expected(shards: Path, split: str) -> dict[str, dict[str, Any]]:
    found = {sample["key"]: sample for sample in embedshard.open(shards).split(split)}
    assert len(found) == COUNTS[split]
    return found


def tars(shards: Path, split: str) -> list[str]:
    rows = [line.split(",") for line in (shards / "splits.csv").read_text().split()[1:]]
    return [str(shards / name) for name, its in rows if its == split]


def test_webdataset(shards) -> None:
    """The stock pipeline, with its shuffling, batching and workers."""
    wanted = expected(shards, "train")
    pattern = str(shards / "ds_{00000..00004}.tar")
    dataset = wds.WebDataset(pattern, shardshuffle=5, nodesplitter=wds.split_by_node).shuffle(8).decode()
    seen = list(wds.WebLoader(dataset.to_tuple("__key__", "npy", "txt", "json"), batch_size=None, num_workers=2))
    assert sorted(key for key, *_ in seen) == sorted(wanted)
    for key, array, text, meta in seen:
        np.testing.assert_array_equal(array, wanted[key]["embeddings"])
        assert (text, meta) == (wanted[key]["text"], wanted[key]["meta"])


def test_wids(shards) -> None:
    """Random access by webdataset's own, which 1.x ships no more."""
    wids = pytest.importorskip("wids", reason="webdataset 1.x has no wids")
    wanted = expected(shards, "train")
    sizes = json.loads((shards / "sizes.json").read_bytes())
    its = [{"url": tar, "nsamples": sizes[Path(tar).name]} for tar in tars(shards, "train")]
    dataset = wids.ShardListDataset(its, keep=True)
    for number in (22, 0, 7):
        sample = dataset[number]
        ours = wanted[sample["__key__"]]
        np.testing.assert_array_equal(sample[".npy"], ours["embeddings"])
        assert (sample[".txt"], sample[".json"]) == (ours["text"], ours["meta"])


@pytest.fixture
def open_clip_data() -> ModuleType:
    data: ModuleType = pytest.importorskip("open_clip_train.data", reason="open_clip_train or pandas is not installed")
    if "eof_value" in signature(wds.tariterators.tar_file_expander).parameters:
        pytest.skip("open_clip's training reader reads no tar with webdataset 1.x (KeyError: 'fname')")
    return data


@pytest.mark.parametrize("resampled", [False, True])
def test_open_clip_training_reader(shards, open_clip_data, resampled) -> None:
    """Its urls, sizes, shuffles and tar reader; only its filter for pictures is left out, and what decodes them."""
    wanted = expected(shards, "train")
    data, urls = open_clip_data, str(shards / "ds_{00000..00004}.tar")
    assert data.expand_urls(urls)[0] == tars(shards, "train")
    assert data.get_dataset_size(urls) == (23, 5)
    epoch = data.SharedEpoch(0)
    order = [data.ResampledShards2(urls, nshards=5, deterministic=True, epoch=epoch)]
    if not resampled:
        shuffled = data.detshuffle2(bufsize=2000, initial=500, seed=0, epoch=epoch)
        order = [wds.SimpleShardList(urls), shuffled, wds.split_by_node, wds.split_by_worker]
    pipeline = wds.DataPipeline(
        *order,
        data.tarfile_to_samples_nothrow,
        wds.shuffle(bufsize=5000, initial=1000),
        wds.decode(handler=data.log_and_continue),
        wds.to_tuple("__key__", "npy", "txt"),
    )
    seen = list(wds.WebLoader(pipeline, batch_size=None, num_workers=0 if resampled else 2))
    for key, array, text in seen:
        np.testing.assert_array_equal(array, wanted[key]["embeddings"])
        assert text == wanted[key]["text"]
    assert seen
    assert resampled or sorted(key for key, *_ in seen) == sorted(wanted)


@pytest.fixture
def hf_datasets(monkeypatch) -> ModuleType:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets: ModuleType = pytest.importorskip("datasets", reason="datasets is not installed (pip install '.[dev]')")
    return datasets


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("by", ["urls", "folder"])
def test_hugging_face_datasets(shards, tmp_path, hf_datasets, by, streaming) -> None:
    """By lists of tars, and by the folder, whose card says the splits."""
    load = partial(hf_datasets.load_dataset, cache_dir=str(tmp_path), streaming=streaming)
    if by == "folder":
        splits = load(str(shards))
    else:
        splits = load("webdataset", data_files={split: tars(shards, split) for split in COUNTS})
    assert set(splits) == set(COUNTS)
    for split in COUNTS:
        wanted = expected(shards, split)
        seen = list(splits[split].with_format("numpy"))
        assert sorted(sample["__key__"] for sample in seen) == sorted(wanted)
        for sample in seen:
            ours = wanted[sample["__key__"]]
            np.testing.assert_array_equal(np.stack(sample["npy"]), ours["embeddings"])
            assert sample["txt"] == ours["text"]
            assert sample["json"]["label"] == ours["meta"]["label"]


def test_energon(shards, tmp_path) -> None:
    """`energon prepare`, then the split file by the README's lines, then all three splits through its loaders."""
    energon = pytest.importorskip("megatron.energon", reason="megatron-energon is not installed")
    folder = tmp_path / "shards"
    folder.mkdir()
    for path in shards.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    command, code = energon_of_the_readme(folder)
    subprocess.run([Path(sys.executable).with_name("energon"), *command.split()[1:]], check=True, capture_output=True)
    exec(code, {})

    @energon.stateless
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        return {**energon.basic_sample_keys(sample), **{name: sample[name] for name in ("npy", "txt", "json")}}

    class Encoder(energon.DefaultTaskEncoder):  # type: ignore[misc]
        cookers = (energon.Cooker(cook),)
        decoder = energon.SampleDecoder()

        @energon.stateless
        def batch(self, samples: list[Any]) -> list[Any]:
            return samples

    workers = energon.WorkerConfig(rank=0, world_size=1, num_workers=0)
    common = {"batch_size": 2, "worker_config": workers, "task_encoder": Encoder()}
    train = energon.get_train_dataset(
        str(folder), shuffle_buffer_size=4, max_samples_per_sequence=None, repeat=False, **common
    )
    other = {split: energon.get_val_dataset(str(folder), split_part=split, **common) for split in ("val", "test")}
    for split, dataset in {"train": train, **other}.items():
        wanted = expected(folder, split)
        seen = [sample for batch in energon.get_loader(dataset) for sample in batch]
        assert sorted(sample["__key__"] for sample in seen) == sorted(wanted)
        for sample in seen:
            ours = wanted[sample["__key__"]]
            np.testing.assert_array_equal(sample["npy"], ours["embeddings"])
            assert (sample["txt"], sample["json"]) == (ours["text"], ours["meta"])


def energon_of_the_readme(folder: Path) -> tuple[str, str]:
    text = README.read_text(encoding="utf-8").replace("out/shards", str(folder))
    (command,) = re.findall(r"^    (energon prepare .*)$", text, re.MULTILINE)
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "split.yaml" in block]
    return command, code


@pytest.mark.parametrize("workers", [0, 2])
def test_a_torch_data_loader(shards, workers) -> None:
    train = embedshard.open(shards).split("train")
    torch.manual_seed(0)
    loader = DataLoader(train, 4, shuffle=True, num_workers=workers, collate_fn=partial(collate, seq_len=3))
    epochs = [[batch["key"] for batch in loader] for _ in range(2)]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert sorted(chain.from_iterable(epoch)) == sorted(train.keys())
    assert next(iter(loader))["embeddings"].shape == (4, 3, 6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_data_loader_goes_on_where_it_was(shards, workers) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    train = embedshard.open(shards).split("train")

    def loader() -> Any:
        torch.manual_seed(0)
        return torchdata.StatefulDataLoader(train, 4, shuffle=True, num_workers=workers, collate_fn=collate)

    whole = [batch["key"] for batch in loader()]
    assert sorted(chain.from_iterable(whole)) == sorted(train.keys())
    stopped = loader()
    begun = iter(stopped)
    assert [next(begun)["key"] for _ in range(2)] == whole[:2]
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    assert [batch["key"] for batch in resumed] == whole[2:]
