from __future__ import annotations

import io
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

import embedshard
from embedshard import load, remote
from embedshard.errors import InputError
from embedshard.load import access
from embedshard.load.collate import collate
from embedshard.remote import Url
from embedshard.shard.offsets import offsets_bytes, offsets_path, read_offsets
from embedshard.tar import padded_size

from .shards import triple, write_shards, write_tar


def write_idx(folder: Path) -> None:
    for tar in folder.glob("*.tar"):
        offsets_path(tar).write_bytes(offsets_bytes(read_offsets(tar).tolist()))


def same(one: dict, other: dict) -> bool:
    array, wanted = one["embeddings"], other["embeddings"]
    rest = [{name: value for name, value in sample.items() if name != "embeddings"} for sample in (one, other)]
    return array.dtype == wanted.dtype and np.array_equal(array, wanted) and rest[0] == rest[1]


def keys(samples) -> list[str]:
    return [sample["key"] for sample in samples]


@pytest.fixture(params=["idx", "headers"])
def folder(tmp_path, request) -> Path:
    """Five tars: eight samples of train, eight of val, four of test."""
    write_shards(tmp_path, tars=5)
    rows = zip(range(5), ["train", "train", "val", "val", "test"], strict=True)
    (tmp_path / "splits.csv").write_text("tar_file,split\n" + "".join(f"ds_{n:05d}.tar,{s}\n" for n, s in rows))
    if request.param == "idx":
        write_idx(tmp_path)
    return tmp_path


def test_samples_are_those_that_load_yields(folder) -> None:
    shards = embedshard.open(folder)
    streamed = [sample for split in shards.splits for sample in load(folder, split)]
    assert len(shards) == len(streamed) == 20
    assert all(same(shards[i], sample) for i, sample in enumerate(streamed))
    assert all(same(shards[sample["key"]], sample) for sample in streamed)
    assert all(map(same, shards, streamed))
    assert list(shards.keys()) == keys(streamed)
    assert shards.frames.tolist() == [len(sample["embeddings"]) for sample in streamed]


def test_numbers_slices_and_lists(folder) -> None:
    shards = embedshard.open(str(folder))
    names = list(shards.keys())
    for item in (slice(3, 9), slice(None, None, -3), slice(-2, 100), slice(5, 5)):
        assert keys(shards[item]) == names[item]
    assert keys(shards[[3, 1, 3, -1]]) == [names[i] for i in (3, 1, 3, -1)]
    assert keys(shards[np.array([7, 8])]) == keys(shards[7, 8]) == keys(shards[range(7, 9)]) == names[7:9]
    assert keys(shards[[names[4], 0]]) == [names[4], names[0]]
    assert shards[np.int32(-20)]["key"] == shards[torch.tensor(0)]["key"] == names[0]
    for wrong in (20, -21):
        with pytest.raises(IndexError, match=rf"no sample {wrong} in .*train: 8, val: 8, test: 4"):
            shards[wrong]
    for wrong in (1.0, None, True, b"vid_000000001", [None], np.array([True])):
        with pytest.raises(TypeError):
            shards[wrong]


def test_a_split_is_a_dataset_of_its_own(folder) -> None:
    shards = embedshard.open(folder)
    val = shards.split("val")
    assert (len(val), shards.splits, val.splits) == (8, ["train", "val", "test"], ["val"])
    assert keys(val) == keys(val[:]) == list(val.keys()) == list(shards.keys())[8:16]
    assert val[0]["key"] in val
    assert shards[0]["key"] in shards
    assert shards[0]["key"] not in val
    assert 0 not in val
    with pytest.raises(InputError, match="no split 'dev'; take one of: train, val, test"):
        shards.split("dev")
    with pytest.raises(KeyError, match=r"no sample of key 'vid_000000000' in .*val: 8\)>; close to it: vid_0000000"):
        val["vid_000000000"]


def test_a_key_that_is_not_there_shows_similar_ones_or_how_keys_look(folder, monkeypatch) -> None:
    shards = embedshard.open(folder)
    with pytest.raises(KeyError, match=r"close to it: .*vid_000000007"):
        shards["vid_00000007.npy"]
    monkeypatch.setattr(access, "_FEW", 5)
    with pytest.raises(KeyError, match=r"its keys are like vid_000000000, vid_000000001"):
        shards[[0, "vid_00000007"]]


def test_what_is_read_may_be_changed_and_stays_as_it_is_on_disk(folder) -> None:
    shards = embedshard.open(folder)
    shards[1]["embeddings"][:] = 7
    shards.frames[:] = 7
    assert shards[1]["embeddings"].tolist() == [[100.0] * 4, [101.0] * 4]
    assert shards.frames[1] == 2


def test_keys_are_found_by_their_names_not_only_by_their_hashes(folder, monkeypatch) -> None:
    monkeypatch.setattr(access, "hash", lambda key: hash(key) % 2, raising=False)
    shards = embedshard.open(folder)
    for number, key in enumerate(shards.keys()):
        assert key in shards
        assert same(shards[key], shards[number])
    assert "nobody" not in shards
    with pytest.raises(KeyError, match="nobody"):
        shards["nobody"]


def test_a_key_of_two_samples_is_an_error_but_in_the_split_that_has_one(tmp_path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"ds_{number}.tar", {"a": triple(number), f"b{number}": triple(3)})
    (tmp_path / "splits.csv").write_text("tar_file,split\nds_0.tar,train\nds_1.tar,val\n")
    shards = embedshard.open(tmp_path)
    assert "a" in shards
    with pytest.raises(InputError, match=r"one sample of key 'a' .*the numbers 0, 2"):
        shards["a"]
    assert shards.split("val")["a"]["meta"]["index"] == 1


def test_tars_of_other_writers_are_read_too(tmp_path) -> None:
    """PAX headers, names of over 100 bytes, files that are no piece, captions as `.cap`, folders in the tar."""
    long = "k" * 120
    with tarfile.open(tmp_path / "ds_0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for key in ("x/a", f"x/{long}", "b"):
            parts = {**triple(len(key) % 5), "cap": key.encode(), "mp4": b"0" * 3000, "png": b""}
            for field, data in parts.items():
                if field != "txt":
                    member = tarfile.TarInfo(f"{key}.{field}")
                    member.size, member.mtime = len(data), 1.5
                    tar.addfile(member, io.BytesIO(data))
    (tmp_path / "splits.csv").write_text("tar_file,split\nds_0,train\n")
    shards = embedshard.open(tmp_path)
    assert keys(shards) == [sample["text"] for sample in shards] == ["x/a", f"x/{long}", "b"]
    assert [shards[key]["meta"]["index"] for key in shards.keys()] == [3, 2, 1]  # noqa: SIM118


def test_an_idx_is_read_in_place_of_the_headers(tmp_path) -> None:
    write_shards(tmp_path, tars=1)
    offsets = read_offsets(tmp_path / "ds_00000.tar")
    offsets["frames"] = 9
    (tmp_path / "ds_00000.idx").write_bytes(offsets_bytes(offsets.tolist()))
    shards = embedshard.open(tmp_path)
    assert shards.frames.tolist() == [9] * 4
    with pytest.raises(InputError, match=r"ds_00000\.idx or its headers .* vid_000000002 with 3 frames, not 9"):
        shards[2]


@given(data=st.data())
def test_a_wrong_idx_gives_an_error_or_the_right_sample(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("wrong")
    expected = write_shards(folder, tars=1, each=6)
    right = dict(zip(expected, load(folder), strict=True))
    offsets = read_offsets(folder / "ds_00000.tar")
    end = offsets[-1].copy()
    for _ in range(data.draw(st.integers(1, 3))):
        row, other = (data.draw(st.integers(0, 5)) for _ in range(2))
        piece = data.draw(st.sampled_from(["key", "json", "npy", "txt", "row", "cut"]))
        if piece == "row":
            offsets[[row, other]] = offsets[[other, row]]
        elif piece == "cut":
            offsets["txt"][row] += np.array([512 * data.draw(st.integers(-4, 4)), 0], np.int64).astype(np.uint64)
        else:
            offsets[piece][row] = offsets[piece][other]
    offsets[-1] = end  # it fits the size of the tar still
    (folder / "ds_00000.idx").write_bytes(offsets_bytes(offsets.tolist()))
    (folder / "sizes.json").write_text('{"ds_00000.tar": 6}')
    shards = embedshard.open(folder)
    for item in (*range(6), *expected, *offsets["key"].astype(str)):
        try:
            sample = shards[item]
        except (InputError, KeyError):
            continue
        assert same(sample, right[sample["key"]])
        assert not isinstance(item, str) or sample["key"] == item


def test_an_idx_in_another_order_is_an_error(tmp_path) -> None:
    write_shards(tmp_path, tars=1)
    rows = read_offsets(tmp_path / "ds_00000.tar").tolist()
    (tmp_path / "ds_00000.idx").write_bytes(offsets_bytes([rows[1], rows[0], *rows[2:]]))
    with pytest.raises(InputError, match=r"ds_00000\.idx to have the samples in the order of the tar"):
        embedshard.open(tmp_path)[0]


def test_sizes_json_gives_the_length_without_a_look_at_the_tars(tmp_path) -> None:
    write_shards(tmp_path, tars=2)
    (tmp_path / "ds_00001.tar").write_bytes(b"damaged")
    (tmp_path / "sizes.json").write_text('{"ds_00000.tar": 4, "ds_00001.tar": 5}')
    shards = embedshard.open(tmp_path)
    assert len(shards) == 9
    assert shards[3]["key"] == "vid_000000003"
    with pytest.raises(InputError, match=r"ds_00001\.tar: expected a whole tar .*embedshard check --repair"):
        shards[4]
    shutil.copy(tmp_path / "ds_00000.tar", tmp_path / "ds_00001.tar")
    with pytest.raises(InputError, match=r"ds_00001\.tar: expected the 5 samples that sizes\.json says, found 4"):
        shards[4]


@pytest.mark.parametrize("sizes", ["{", "[1]", '{"ds_00000.tar": "4"}'])
def test_a_damaged_sizes_json_is_an_error(tmp_path, sizes) -> None:
    write_shards(tmp_path, tars=1)
    (tmp_path / "sizes.json").write_text(sizes)
    with pytest.raises(InputError, match=r"sizes\.json.*embedshard check --repair"):
        embedshard.open(tmp_path)


def test_a_tar_that_changes_after_opening_is_an_error(folder) -> None:
    shards = embedshard.open(folder)
    assert (len(shards.frames), shards[0]["key"]) == (20, "vid_000000000")
    tar = folder / "ds_00001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:5000])
    with pytest.raises(InputError, match=r"ds_00001\.tar.*the tar ends at byte 5000\n.*open the folder again"):
        shards[4:8]
    tar.write_bytes(whole[:1024] + whole[:1024] + whole[2048:])
    with pytest.raises(InputError, match=r"ds_00001\.tar"):
        shards[4]
    (folder / "ds_00002.tar").unlink()
    with pytest.raises(InputError, match=r"No such file or directory.*ds_00002\.tar"):
        shards[8]
    with pytest.raises(InputError, match=r"1 of them missing; .*ds_00002\.tar"):
        embedshard.open(folder)
    with pytest.raises(InputError, match=r"no .*splits\.csv"):
        embedshard.open(folder / "nowhere")


def test_a_sample_without_a_piece_is_an_error_only_where_it_is_asked_for(tmp_path) -> None:
    write_tar(tmp_path / "ds_0.tar", {"a": triple(0), "b": {"npy": triple(1)["npy"], "txt": b"x"}, "c": triple(2)})
    (tmp_path / "splits.csv").write_text("tar_file,split\nds_0.tar,train\n")
    shards = embedshard.open(tmp_path)
    assert [shards[0]["key"], shards["c"]["key"]] == ["a", "c"]
    with pytest.raises(InputError, match=r"ds_0\.tar, key b: .* found no json"):
        shards["b"]


def test_neighbours_are_read_at_once_but_not_without_bound(folder, monkeypatch) -> None:
    shards = embedshard.open(folder)
    reads = []
    exact = shards._tars.read
    monkeypatch.setattr(shards._tars, "read", lambda *place: reads.append(place) or exact(*place))
    assert len(shards[2:11]) == 9
    assert [tar.name for tar, _, _ in reads] == ["ds_00000.tar", "ds_00001.tar", "ds_00002.tar"]
    monkeypatch.setattr(access, "_READ", 1)
    assert len(list(shards)) == 20
    assert len(reads) == 3 + 20


def test_pickled_it_reads_on_in_a_process_of_its_own(folder, tmp_path) -> None:
    shards = embedshard.open(folder)
    key = shards[19]["key"]
    assert key in shards
    (tmp_path / "pickled").write_bytes(pickle.dumps(shards))
    code = (
        "import pickle, sys; shards = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(shards[sys.argv[2]]['meta']['index'], shards[0]['key'])"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "pickled", key], check=True, capture_output=True)
    assert ran.stdout.decode().split() == ["19", "vid_000000000"]


def _read_all(order: list[int]) -> list[str]:
    return [SHARED[number]["key"] for number in order]


def test_threads_and_forked_processes_read_through_few_open_files(folder, monkeypatch) -> None:
    monkeypatch.setattr(access, "_OPEN_FILES", 2)
    global SHARED
    SHARED = embedshard.open(folder)
    names = list(SHARED.keys())
    orders = [np.random.default_rng(seed).permutation(np.repeat(np.arange(20), 50)).tolist() for seed in range(4)]
    expected = [[names[number] for number in order] for order in orders]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(_read_all, orders)) == expected
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.map(_read_all, orders) == expected


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_data_loader_shuffles_it(folder, context) -> None:
    shards = embedshard.open(folder)
    loader = DataLoader(shards, 3, shuffle=True, num_workers=2, collate_fn=collate, multiprocessing_context=context)
    batches = list(loader)
    assert [len(batch["key"]) for batch in batches] == [3] * 6 + [2]
    assert sorted(key for batch in batches for key in batch["key"]) == sorted(shards.keys())
    for batch in batches:
        assert batch["mask"].sum(1).tolist() == [1 + meta["index"] % 7 for meta in batch["meta"]]


def test_ranks_get_disjoint_samples(folder) -> None:
    train = embedshard.open(folder).split("train")
    samplers = [DistributedSampler(train, num_replicas=2, rank=rank, shuffle=True) for rank in range(2)]
    seen = [key for s in samplers for batch in DataLoader(train, 2, sampler=s, collate_fn=keys) for key in batch]
    assert sorted(seen) == sorted(train.keys())


def test_memory_is_a_few_bytes_a_sample(tmp_path) -> None:
    """Idx files of many samples beside tars that have the size but no content."""
    each, tars = 10_000, 20
    names = [f"ds_{number:05d}.tar" for number in range(tars)]
    for number, name in enumerate(names):
        begins = np.arange(each) * 14336 + 512
        rows = [
            (b"vid_%09d" % (number * each + i), (at, 400), (at + 1024, 10368), (at + 12288, 40), 10)
            for i, at in enumerate(begins.tolist())
        ]
        (tmp_path / name).with_suffix(".idx").write_bytes(offsets_bytes(rows))
        with (tmp_path / name).open("wb") as file:
            file.truncate(padded_size(int(begins[-1]) + 12288 + 40))
    (tmp_path / "splits.csv").write_text("tar_file,split\n" + "".join(f"{name},train\n" for name in names))
    (tmp_path / "sizes.json").write_text(str(dict.fromkeys(names, each)).replace("'", '"'))
    tracemalloc.start()
    shards = embedshard.open(tmp_path)
    assert len(shards) == tars * each
    opened = tracemalloc.get_traced_memory()[0]
    assert shards._find("vid_000123456") == 123456
    by_key = tracemalloc.get_traced_memory()[0]
    assert int(shards.frames.sum()) == 10 * len(shards)
    everything = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert opened < 1 * len(shards)
    assert by_key - opened < 13 * len(shards)
    assert everything - by_key < 9 * len(shards)


def upload(folder: Path, bucket: str) -> str:
    for path in sorted(folder.iterdir()):
        Url(f"{bucket}/shards/{path.name}").upload(path)
    return f"{bucket}/shards"


def test_on_a_storage_a_sample_is_one_request(tmp_path, bucket, proxy) -> None:
    write_shards(tmp_path, tars=3)
    write_idx(tmp_path)
    (tmp_path / "sizes.json").write_text(str({f"ds_{n:05d}.tar": 4 for n in range(3)}).replace("'", '"'))
    local, shards = embedshard.open(tmp_path), embedshard.open(upload(tmp_path, bucket))
    assert all(map(same, shards, local))
    for items, requests in (([5], 1), ([0, 11, 5], 3), (slice(2, 10), 3), (["vid_000000007"], 1)):
        assert "vid_000000001" in shards
        before = proxy.counts["requests"]
        assert all(map(same, shards[items], local[items]))
        assert proxy.counts["requests"] - before == requests


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_read_from_a_faulty_storage(tmp_path, bucket, proxy, monkeypatch) -> None:
    monkeypatch.setattr(remote, "_ATTEMPTS", 20)
    expected = write_shards(tmp_path, tars=3)
    write_idx(tmp_path)
    shards = embedshard.open(upload(tmp_path, bucket))
    assert list(shards.keys()) == expected
    proxy.unavailable = proxy.cut_down = 0.2
    loader = DataLoader(shards, 4, shuffle=True, num_workers=2, collate_fn=keys)
    assert sorted(key for batch in loader for key in batch) == expected
    proxy.denied = True
    with pytest.raises(InputError, match=r"ds_00000\.tar cannot be read: Access Denied"):
        shards[0]


def test_a_storage_without_idx_is_read_whole_with_a_warning(tmp_path, bucket) -> None:
    expected = write_shards(tmp_path, tars=1)
    address = upload(tmp_path, bucket)
    with pytest.warns(UserWarning, match=r"tars without an idx beside them are read whole"):
        shards = embedshard.open(address)
    assert keys(shards) == expected
