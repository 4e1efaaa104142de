from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from embedshard.check import check
from embedshard.errors import InputError
from embedshard.processed import DatasetInfo, write_info, write_triple
from embedshard.shard import sorter
from embedshard.shard.pack import shard
from embedshard.shard.plan import ShardOptions
from embedshard.shard.reshard import ReshardOptions, ReshardReport, reshard
from embedshard.shard.table import read_splits
from embedshard.tar import write_members

Members = list[tuple[str, bytes]]


def make(output: Path, *folders: Path, **options: object) -> ReshardReport:
    report = reshard(folders, output, ReshardOptions(**options), lambda samples: None)  # type: ignore[arg-type]
    assert report.found == report.shards.samples + report.same + sum(report.shards.left_out.values())
    lines = (output / "left_out.jsonl").read_text().splitlines() if report.shards.left_out else []
    assert len(lines) == sum(report.shards.left_out.values())
    return report


def pack(processed: Path, output: Path, **options: object) -> Path:
    shard(processed, output, ShardOptions(**options), lambda samples: None)  # type: ignore[arg-type]
    return output


def contents(folder: Path, pattern: str = "*") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as file:
            found.update({info.name: (file.extractfile(info) or io.BytesIO()).read() for info in file})
    return found


def keys(folder: Path) -> list[str]:
    return [name.removesuffix(".npy") for name in members(folder) if name.endswith(".npy")]


def npy(array: object, dtype: type = np.float16) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array, dtype))
    return file.getvalue()


def sample(key: str, number: float = 0, meta: Mapping[str, object] | None = None, dim: int = 4) -> Members:
    data = json.dumps(meta or {"media_id": f"m{key}"}).encode()
    return [(f"{key}.json", data), (f"{key}.npy", npy(np.full((2, dim), number))), (f"{key}.txt", b"a caption")]


def tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_members(file, members)
    return path.parent


def left_out(folder: Path) -> dict[str, str]:
    lines = map(json.loads, (folder / "left_out.jsonl").read_text().splitlines())
    return {line["triple"]: line["reason"] for line in lines}


def clean(folder: Path) -> bool:
    return check(folder, False, lambda samples: None).problems == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.sampled_from([None, "vid_{index:09d}"]))
def test_cut_anew_is_as_if_cut_so_at_first(
    triples: Path, tmp_path_factory: pytest.TempPathFactory, before: int, after: int, shuffle: bool, form: str | None
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    old = pack(triples, folder / "old", maxcount=before, seed=1)
    pack(triples, folder / "new", maxcount=after, shuffle=shuffle, key_format=form)
    untouched = contents(old)
    report = make(folder / "out", old, maxcount=after, shuffle=shuffle, key_format=form)
    assert (report.found, report.same, report.shards.left_out) == (7, 0, {})
    for pattern in ("*.tar", "splits.csv", "sizes.json"):
        assert contents(folder / "out", pattern) == contents(folder / "new", pattern)
    assert clean(folder / "out")
    assert contents(old) == untouched
    index = [json.loads((folder / name / "index.json").read_text()) for name in ("new", "out")]
    for name in ("provenance", "totals", "embed_dim", "dtype", "failed"):
        assert index[0][name] == index[1][name]


def test_merged_parts_are_the_whole(triples: Path, tmp_path: Path) -> None:
    whole = pack(triples, tmp_path / "whole", maxcount=3)
    shutil.copytree(triples, tmp_path / "half")
    for number in (0, 1, 5):
        for path in list(triples.glob(f"*/k{number}.*")):
            path.unlink()
        for path in list((tmp_path / "half").glob("*/*")) if number == 0 else []:
            if path.name[:2] not in ("k0", "k1", "k5"):
                path.unlink()
    parts = [pack(triples, tmp_path / "a"), pack(tmp_path / "half", tmp_path / "b")]
    make(tmp_path / "out", *parts, maxcount=3)
    assert contents(tmp_path / "out", "*.tar") == contents(whole, "*.tar")


def test_the_result_does_not_depend_on_workers_or_folder(triples: Path, tmp_path: Path) -> None:
    old = pack(triples, tmp_path / "old", maxcount=2)
    make(tmp_path / "one", old, maxcount=3)
    moved = Path(shutil.copytree(old, tmp_path / "elsewhere/old"))
    make(tmp_path / "three", moved, maxcount=3, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_a_spilled_plan_is_the_same(triples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = pack(triples, tmp_path / "old")
    make(tmp_path / "a", old, maxcount=2)
    monkeypatch.setattr(sorter, "_RUN", 2)
    monkeypatch.setattr(sorter, "_FILES", 2)
    make(tmp_path / "b", old, maxcount=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_tars_like_those_of_clip_kinetics700(tmp_path: Path) -> None:
    old = tar(tmp_path / "old/ds_000000.tar", [(n.replace(".txt", ".cap"), d) for n, d in sample("vid_000000000")])
    tar(old / "ds_000001.tar", sample("vid_000000001", 1))
    (old / "splits.csv").write_text("tar_file,split\nds_000000,train\nds_000001.tar,validation\n")
    assert make(tmp_path / "out", old).shards.tars == {"train": 1, "val": 1}
    assert members(tmp_path / "out") == dict([*sample("vid_000000000"), *sample("vid_000000001", 1)])
    assert read_splits(tmp_path / "out") == {"train": ["ds_00000.tar"], "val": ["ds_00001.tar"]}


def test_tars_of_clip_video_encode_without_an_end_mark(tmp_path: Path) -> None:
    bare = [member for key in "012" for member in sample(key) if not member[0].endswith(".json")]
    path = tar(tmp_path / "old/00000_clip_embeddings.tar", bare) / "00000_clip_embeddings.tar"
    path.write_bytes(path.read_bytes()[: 3 * (2 * 512 + 2 * 512)].rstrip(b"\0").ljust(3 * 2048, b"\0"))
    with pytest.raises(InputError, match=r"expected .*splits\.csv to say the split of 1 tars.*\n.*--split-as train"):
        make(tmp_path / "out", tmp_path / "old")
    report = make(tmp_path / "out", tmp_path / "old", split_as="test")
    assert report.shards.tars == {"test": 1}
    assert sorted(keys(tmp_path / "out")) == ["0", "1", "2"]
    assert members(tmp_path / "out")["1.json"] == b"{}"
    assert "no end mark" in report.notes[0]


def test_loose_files_of_clip_video_encode(tmp_path: Path) -> None:
    for name, data in [*sample("a b.c", 1), *sample("d", 2), ("e.mp4", b""), ("e.json", b"{}")]:
        (tmp_path / "old").mkdir(exist_ok=True)
        (tmp_path / f"old/{name}").write_bytes(data)
    report = make(tmp_path / "out", tmp_path / "old", split_as="val")
    assert left_out(tmp_path / "out") == {"old/e": "no npy"}
    assert report.foreign == {".mp4": 1}
    assert sorted(keys(tmp_path / "out")) == ["d", "x--a-20b-2ec"]
    assert clean(tmp_path / "out")


def test_bad_samples_and_foreign_members_take_no_other_down(tmp_path: Path) -> None:
    bad = [("b.npy", b"junk"), ("b.txt", b"x"), ("c.npy", npy(np.zeros((1, 4)))), ("d.npy", npy(np.zeros((1, 9))))]
    bad += [("d.txt", b"x"), ("e.json", b"["), *sample("e")[1:], ("f.jpg", b"x"), ("f.png", b"x"), ("LICENSE", b"")]
    old = tar(tmp_path / "old/a.tar", [*sample("a"), *bad, *sample("g"), ("g.jpg", b"x")])
    report = make(tmp_path / "out", old, split_as="train")
    assert left_out(tmp_path / "out") == {
        "old/a.tar/b": "npy has no readable head",
        "old/a.tar/c": "no caption",
        "old/a.tar/d": "embed_dim is 9, expected 4",
        "old/a.tar/e": "json cannot be read",
    }
    assert report.foreign == {".jpg": 2, ".png": 1, "LICENSE": 1}
    assert sorted(keys(tmp_path / "out")) == ["a", "g"]
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["resharded"] == {"found": 6, "same": 0, "foreign": {".jpg": 2, ".png": 1, "LICENSE": 1}}


@pytest.mark.parametrize("member", range(9))
def test_a_broken_header_costs_its_sample_only(tmp_path: Path, member: int) -> None:
    path = tar(tmp_path / "old/a.tar", [*sample("a"), *sample("b"), *sample("c")]) / "a.tar"
    data = bytearray(path.read_bytes())
    data[member * 1024 + 3] ^= 1
    path.write_bytes(data)
    make(tmp_path / "out", path.parent, split_as="train")
    assert sorted(keys(tmp_path / "out")) == sorted({"a", "b", "c"} - {"abc"[member // 3]})
    reasons = list(left_out(tmp_path / "out").values())
    assert reasons.count("a damaged spot in a tar; what lay there is lost") == 1
    assert len(reasons) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@example(1289, 1280, b"")  # the header stays intact, and its size reaches into the next sample
@given(st.integers(0, 12000), st.integers(0, 3000), st.binary(max_size=1500) | st.just(bytes(1024)))
def test_damage_costs_no_sample_that_it_does_not_touch(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, junk: bytes
) -> None:
    folder, whole = tmp_path_factory.mktemp("damage"), [sample(key, number) for number, key in enumerate("abcd")]
    path = tar(folder / "old/a.tar", [member for members in whole for member in members]) / "a.tar"
    data = path.read_bytes()
    path.write_bytes(data[:start] + junk + data[start + length :])
    touched = {i for i in range(4) if i * 3072 < start + length and start < (i + 1) * 3072}
    touched |= {i for i in range(4) if i * 3072 < start < (i + 1) * 3072}
    try:
        make(folder / "out", folder / "old", split_as="train")
        found = members(folder / "out")
    except InputError:
        found = {}
    for number, members_ in enumerate(whole):
        if number not in touched and touched != {0, 1, 2, 3}:
            assert dict(members_).items() <= found.items(), number


def test_a_key_that_comes_twice(tmp_path: Path) -> None:
    first = tar(tmp_path / "a/old/0.tar", [*sample("x"), *sample("y")])
    second = tar(tmp_path / "b/old/0.tar", [*sample("y", 5), *sample("x"), *sample("z"), *sample("z")])
    report = make(tmp_path / "out", first, second, split_as="train")
    assert report.same == 2
    assert left_out(tmp_path / "out") == {"old#2/0.tar/y": "same key as an earlier sample, but other content"}
    assert members(tmp_path / "out") == dict([*sample("x"), *sample("y"), *sample("z")])


def test_keys_of_two_folders_can_be_kept_apart(tmp_path: Path) -> None:
    folders = [tar(tmp_path / f"{name}/0.tar", sample("0", number)) for number, name in enumerate("ab")]
    report = make(tmp_path / "out", *folders, split_as="train", prefix=True, shuffle=False)
    assert (keys(tmp_path / "out"), report.same) == (["1_0", "2_0"], 0)


def test_arrays_are_converted_and_metadata_says_so(triples: Path, tmp_path: Path) -> None:
    big = {"encoder": {"dtype": "float32"}, "media_id": "m"}
    write_triple(triples / "train", "big", np.full((1, 4), 1e6, np.float32), "c", big)
    write_triple(triples / "train", "fine", np.full((1, 4), 0.1, np.float32), "c", {**big, "media_id": "n"})
    old = pack(triples, tmp_path / "old")
    note = "arrays are float16 and float32; --dtype float16 makes them one"
    assert make(tmp_path / "kept", old).notes == [note]
    report = make(tmp_path / "out", old, dtype="float16")
    assert report.shards.left_out == {"npy has values that are too large for float16": 1}
    found = members(tmp_path / "out")
    assert found["fine.npy"] == npy(np.full((1, 4), np.float32(0.1)))
    assert json.loads(found["fine.json"])["encoder"] == {"dtype": "float16"}
    assert found["k3.npy"] == (triples / "train/k3.npy").read_bytes()
    assert json.loads((tmp_path / "out/index.json").read_text())["dtype"] == "float16"
    make(tmp_path / "wide", old, dtype="float32", workers=2)
    assert np.load(io.BytesIO(members(tmp_path / "wide")["k3.npy"])).dtype == np.float32
    assert json.loads((tmp_path / "wide/index.json").read_text())["provenance"]["encoder"]["dtype"] == "float32"
    assert clean(tmp_path / "wide")


def test_splits_are_made_anew_by_media(tmp_path: Path) -> None:
    rows = [sample(f"k{i}", i, {"media_id": f"m{i % 3}", "split": "train"}) for i in range(9)]
    old = tar(tmp_path / "old/a.tar", [member for row in rows for member in row])
    assign = {"m0": "train", "m1": "test"}.get
    report = make(tmp_path / "out", old, assign=assign, shuffle=False)
    assert report.shards.left_out == {"the split recipe does not list its media": 3}
    assert keys(tmp_path / "out") == ["k0", "k3", "k6", "k1", "k4", "k7"]
    assert json.loads(members(tmp_path / "out")["k1.json"]) == {"media_id": "m1", "split": "test"}
    assert clean(tmp_path / "out")


def test_without_media_samples_can_be_split_by_key(tmp_path: Path) -> None:
    old = tar(tmp_path / "old/a.tar", [*sample("a", 0, {"label": 1}), *sample("b", 0, {"label": 1})])
    assign = {"a": "val", "b": "test"}.get
    with pytest.raises(InputError, match=r"expected metadata with one of media_id.* old/a.tar/a .*\n.*--split-by key"):
        make(tmp_path / "out", old, assign=assign)
    assert make(tmp_path / "out", old, assign=assign, split_by="key").shards.tars == {"val": 1, "test": 1}


def test_media_in_two_splits_are_noted(tmp_path: Path) -> None:
    folders = [tar(tmp_path / f"{key}/0.tar", sample(key, 0, {"media_id": "m"})) for key in "ab"]
    make(tmp_path / "c", folders[1], split_as="val")
    assert (
        "1 media are in more than one split"
        in make(tmp_path / "out", folders[0], tmp_path / "c", split_as="test").notes[0]
    )


def test_other_encoders_are_not_mixed(triples: Path, tmp_path: Path) -> None:
    first = pack(triples, tmp_path / "a")
    write_info(triples, DatasetInfo({"model": "ViT-L-14", "embed_dim": 4}, {"name": "demo"}))
    second = pack(triples, tmp_path / "b")
    with pytest.raises(InputError, match=r"model: 'ViT-B-32' in .*, 'ViT-L-14' in"):
        make(tmp_path / "out", first, second)


def test_a_second_run_changes_nothing_and_another_plan_is_refused(triples: Path, tmp_path: Path) -> None:
    old = pack(triples, tmp_path / "old")
    make(tmp_path / "out", old, maxcount=2)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert make(tmp_path / "out", old, maxcount=2).shards.unchanged
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(InputError, match="--overwrite"):
        make(tmp_path / "out", old)
    make(tmp_path / "out", old, overwrite=True)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2


def test_errors(triples: Path, tmp_path: Path) -> None:
    old = pack(triples, tmp_path / "old")
    with pytest.raises(InputError, match="apart from"):
        make(old / "new", old)
    with pytest.raises(InputError, match="embedshard shard"):
        make(tmp_path / "out", triples)
    with pytest.raises(InputError, match="no such folder"):
        make(tmp_path / "out", tmp_path / "none")
    tar(tmp_path / "empty/a.tar", [("a.npy", b""), ("b.jpg", b"")])
    with pytest.raises(InputError, match=r"found none to shard\n  1 left out: no caption\n  1 members \.jpg"):
        make(tmp_path / "out", tmp_path / "empty", split_as="train")
    (old / "ds_00001.tar").unlink()
    with pytest.raises(InputError, match=r"names ds_00001\.tar, but it is not there\n.*check --repair"):
        make(tmp_path / "out", old)
    assert list((tmp_path / "out").iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from embedshard.shard.reshard import ReshardOptions, reshard
if __name__ == "__main__":
    reshard([Path(sys.argv[1])], Path(sys.argv[2]), ReshardOptions(maxcount=100), lambda samples: None)
"""


@pytest.mark.parametrize("moment", [".progress/rows-*", ".progress/plan.json", "ds_00003.tar"])
def test_kill_and_run_again_gives_the_same_bytes(linked: Callable[..., Path], tmp_path: Path, moment: str) -> None:
    old = pack(linked(train=1000, val=500), tmp_path / "old", maxcount=400)
    make(tmp_path / "whole", old, maxcount=100)
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    run = subprocess.Popen([sys.executable, script, old, tmp_path / "out"])
    deadline = time.monotonic() + 20
    while not any((tmp_path / "out").glob(moment)):
        assert run.poll() is None
        assert time.monotonic() < deadline
    run.kill()
    assert run.wait() == -signal.SIGKILL
    make(tmp_path / "out", old, maxcount=100)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


MEASURED = """
import resource, sys
from pathlib import Path
from embedshard.repair import repair
from embedshard.shard import sorter
from embedshard.shard.reshard import ReshardOptions, reshard
sorter._RUN = 2000
folder, output = map(Path, sys.argv[1:])
options = ReshardOptions(maxcount=1000, dtype="float32", key_format="vid_{index:09d}")
reshard([folder], output, options, lambda samples: None)
assert repair(output, lambda samples: None).rewritten == []
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.soak
def test_memory_does_not_grow_with_the_samples(linked: Callable[..., Path], tmp_path: Path) -> None:
    peaks = []
    for number, folder in enumerate((linked(train=2000), linked(train=10001, val=0, test=9999))):
        old = pack(folder, tmp_path / f"old{number}")
        command = [sys.executable, "-c", MEASURED, old, tmp_path / str(number)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 8 * 1024, f"{peaks} KiB"
