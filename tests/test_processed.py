from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard import processed
from embedshard.errors import InputError
from embedshard.processed import (
    DatasetInfo,
    Entry,
    Failure,
    FailureLog,
    Place,
    count_triples,
    encoded,
    entries,
    has_triple,
    read_failures,
    read_info,
    read_npy_header,
    remove_triple,
    require_processed,
    write_failures,
    write_info,
    write_triple,
)
from embedshard.tar import write_members


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_triple_comes_back(tmp_path: Path, dtype: type[np.floating]) -> None:
    array = np.arange(8, dtype=dtype).reshape(2, 4)
    write_triple(tmp_path, "k", array[:, ::-1], '猫\n"🤗"', {"a": [1, "é"]})
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), array[:, ::-1])
    assert np.load(tmp_path / "k.npy").dtype == dtype
    assert (tmp_path / "k.txt").read_bytes().decode() == '猫\n"🤗"'
    assert json.loads((tmp_path / "k.json").read_bytes()) == {"a": [1, "é"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.json", "k.npy", "k.txt"]


def test_a_triple_is_there_once_its_npy_is(tmp_path: Path) -> None:
    write_triple(tmp_path, "k", np.zeros((1, 4), np.float16), "c", {})
    assert has_triple(tmp_path, "k")
    (tmp_path / "k.npy").unlink()
    assert not has_triple(tmp_path, "k")
    remove_triple(tmp_path, "k")
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_is_no_json_leaves_no_npy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_triple(tmp_path, "k", np.zeros((1, 4), np.float16), "c", {"a": float("nan")})
    assert not (tmp_path / "k.npy").exists()


@pytest.mark.parametrize("run", [1, 4, 1000])
def test_entries_are_sorted_whatever_is_spilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: int) -> None:
    monkeypatch.setattr(processed, "_RUN", run)
    for name in ("b.npy", "b.txt", "a.b.npy", "a.b.cap", "c.json", "猫.txt", ".tmp-b.npy", "b.mp4", "readme", ".npy"):
        (tmp_path / name).touch()
    found = [("a.b", ("cap", "npy")), ("b", ("npy", "txt")), ("c", ("json",)), ("猫", ("txt",))]
    assert list(entries(tmp_path)) == [Entry(*row) for row in found]
    backwards = [entry.key for entry in entries(tmp_path, lambda key: f"{0xFFFF - ord(key[0]):04x}")]
    assert backwards == ["猫", "c", "b", "a.b"]


def part(path: Path, names: list[str]) -> None:
    with path.open("wb") as file:
        write_members(file, [(name, name.encode()) for name in names])


@pytest.mark.parametrize("run", [1, 4, 1000])
def test_entries_of_parts_and_loose_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: int) -> None:
    monkeypatch.setattr(processed, "_RUN", run)
    folder = tmp_path / "train"
    folder.mkdir()
    for name in ("b.npy", "b.txt", "part-1.tar", ".tmp-part-000003.tar"):
        (folder / name).touch()
    part(folder / "part-000001.tar", ["c.json", "c.npy", "c.txt", "a.npy", "readme"])
    part(folder / "part-1000000.tar", ["b.json", "b.npy"])
    found = list(entries(folder))
    assert found == [
        Entry("a", ("npy",), "part-000001.tar", (Place(3584, 5, True),)),
        Entry("b", ("npy", "txt")),
        Entry("b", ("json", "npy"), "part-1000000.tar", (Place(512, 6, True), Place(1536, 5, True))),
        Entry(
            "c",
            ("json", "npy", "txt"),
            "part-000001.tar",
            tuple(Place(512 + 1024 * n, 5 + (n == 0), True) for n in range(3)),
        ),
    ]
    for entry in found:
        for name, place in zip(entry.parts, entry.places, strict=bool(entry.tar)):
            data = (folder / entry.tar).read_bytes()
            assert data[place.offset :][: place.size] == f"{entry.key}.{name}".encode()
    assert count_triples(tmp_path) == 4


def test_which_samples_are_encoded(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    part(tmp_path / "train/part-000000.tar", ["a.json", "a.npy", "b.json"])
    (tmp_path / "val/c.npy").write_bytes(b"x")
    asked = {(split, key) for split in ("train", "val", "test") for key in "abc"}
    assert encoded(tmp_path, asked) == {("train", "a"), ("val", "c")}


def test_a_damaged_part_is_an_error_or_reported(tmp_path: Path) -> None:
    part(tmp_path / "part-000000.tar", ["a.npy", "b.npy"])
    part(tmp_path / "part-000001.tar", ["c.npy"])
    with (tmp_path / "part-000000.tar").open("r+b") as file:
        file.truncate(1600)
    said = "the tar ends inside a member that begins at byte 1024, after a.npy"
    with pytest.raises(InputError, match=rf"part-000000\.tar is damaged: {said}\n"):
        list(entries(tmp_path))
    reported: list[tuple[str, str]] = []
    found = list(entries(tmp_path, damaged=lambda path, what: reported.append((path.name, what))))
    assert ([entry.key for entry in found], reported) == (["a", "c"], [("part-000000.tar", said)])


def test_a_folder_that_is_not_there_has_no_entries(tmp_path: Path) -> None:
    assert list(entries(tmp_path / "val")) == []


@pytest.mark.parametrize(
    ("parts", "caption"), [(("cap", "npy"), "cap"), (("cap", "npy", "txt"), "txt"), (("npy",), None), (("txt",), "txt")]
)
def test_the_caption_of_an_entry(parts: tuple[str, ...], caption: str | None) -> None:
    assert Entry("k", parts).caption_part == caption


@given(st.integers(0, 5), st.integers(1, 5), st.sampled_from(["<f2", "<f4", ">f4", "<i8"]), st.integers(1, 3))
def test_npy_header_says_the_size_of_the_file(rows: int, width: int, dtype: str, version: int) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros((rows, width), dtype), version=(version, 0))
    header = read_npy_header(file.getvalue()[:4096])
    assert (header.shape, header.dtype.str, header.file_size) == ((rows, width), dtype, len(file.getvalue()))


@pytest.mark.parametrize("head", [b"", b"junk", b"\x93NUMPY\1\0\x10\0{'descr': '<f4'}"])
def test_no_npy_header(head: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_npy_header(head)


def test_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", np.array([[None]]), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        read_npy_header((tmp_path / "k.npy").read_bytes())


def test_info_comes_back_and_damage_is_said(tmp_path: Path) -> None:
    assert read_info(tmp_path) is None
    info = DatasetInfo({"model": "m"}, {"name": "n"})
    write_info(tmp_path, info)
    assert read_info(tmp_path) == info
    for text in ("{", "[]", "{}"):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            read_info(tmp_path)


def test_the_last_line_of_a_failure_counts(tmp_path: Path) -> None:
    assert read_failures(tmp_path) == {}
    first, again, other = (
        Failure(*row, "m", "decode", "why 猫", 1) for row in (("b", "train"), ("b", "val"), ("a", "test"))
    )
    write_failures(tmp_path, [first, other])
    assert [json.loads(line)["key"] for line in (tmp_path / "failed.jsonl").read_text().splitlines()] == ["a", "b"]
    with (tmp_path / "failed.jsonl").open("ab") as file:
        file.write(b'{"key": "cut off')
    log = FailureLog(tmp_path)
    log.add(again)
    log.close()
    assert read_failures(tmp_path) == {"a": other, "b": again}


def test_require_processed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        require_processed(tmp_path / "none")
    (tmp_path / "videos").mkdir()
    with pytest.raises(InputError, match=r"found videos\n.*embedshard encode"):
        require_processed(tmp_path)
    (tmp_path / "val").mkdir()
    require_processed(tmp_path)
