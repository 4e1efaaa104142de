from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from embedshard.load.layout import Layout, _any_layout, _our_layout, _plain_members, _split_name, grouped, read_layout
from embedshard.shard.offsets import offsets_bytes, offsets_path, walk_offsets
from embedshard.tar import index_members, write_members

from .shards import triple


def made(
    members: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT, extra: tarfile.TarInfo | None = None
) -> memoryview:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        if extra:
            tar.addfile(extra)
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return memoryview(buffer.getvalue())


def contents(data: memoryview, layout: Layout) -> list[tuple[str, dict[str, bytes]]]:
    return [
        (key, {part: bytes(data[a[row] : b[row]]) for part, (a, b) in layout.spans.items() if a[row]})
        for row, key in enumerate(layout.keys)
    ]


FOLDER = tarfile.TarInfo("folder")
FOLDER.type = tarfile.DIRTYPE


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("extra", [None, FOLDER])
@pytest.mark.parametrize("stem", ["a", "folder/a", "x" * 90 + "/" + "y" * 60, "日本"])
def test_every_form_of_tar_is_read(kind, extra, stem) -> None:
    samples = [(f"{stem}{number}", triple(number)) for number in range(3)]
    data = made({f"{key}.{part}": blob for key, parts in samples for part, blob in parts.items()}, kind, extra)
    assert contents(data, read_layout(None, data)) == samples


def test_headers_are_read_at_once_where_they_are_plain() -> None:
    buffer = io.BytesIO()
    write_members(buffer, [(f"{number}.txt", b"x" * number) for number in range(10_000)])
    data = memoryview(buffer.getvalue())
    assert _plain_members(data) == [(name, at, at + size) for name, at, size, _ in index_members(data)]
    assert _plain_members(made({"a.txt": b"x"}, extra=FOLDER)) is None
    assert _plain_members(made({"é" * 80: b"x"}, tarfile.PAX_FORMAT)) is None


@pytest.mark.parametrize("at", [0, 124, 130, 148, 156, 345])
def test_a_damaged_header_is_seen(at) -> None:
    data = bytearray(made({f"{number}.txt": b"x" for number in range(5)}))
    data[2 * 1024 + at] ^= 3
    assert _plain_members(memoryview(data)) is None
    with pytest.raises(ValueError, match=r"at byte 2048|two members"):
        read_layout(None, memoryview(data))


@pytest.mark.parametrize("cut", [100, 512, 600, 1024, 2 * 1024, 3 * 1024 - 1])
def test_a_tar_that_was_cut_off_is_seen(cut) -> None:
    with pytest.raises(ValueError, match=r"ends inside|no end mark|no intact"):
        read_layout(None, made({"a.txt": b"x", "b.txt": b"y", "c.txt": b"z"})[:cut])


@given(st.text(st.sampled_from("ab./é"), max_size=12))
def test_names_are_split_as_webdataset_does(name) -> None:
    key, field = _split_name(name)
    if "/." in name:  # hidden files, which webdataset takes for parts of a sample named by the folder
        assert not key or "/." in name.rpartition("/")[0]
    else:
        assert ((key, field) if key else (None, None)) == base_plus_ext(name)


def test_members_of_one_key_side_by_side_are_a_sample() -> None:
    found = list(grouped([("a.npy", 1), ("a.TXT", 2), ("._a.npy", 3), ("a.json", 4), ("b.npy", 5), ("a.npy", 6)]))
    assert found == [("a", {"npy": 1, "txt": 2, "json": 4}), ("b", {"npy": 5}), ("a", {"npy": 6})]
    with pytest.raises(ValueError, match=r"two members a\.TXT"):
        list(grouped([("a.txt", 1), ("a.TXT", 2)]))


@pytest.mark.parametrize("names", ["a.json a.npy a.txt", "a.json a.npy a.txt a.json a.npy a.txt", "a.json a.npy", ""])
@pytest.mark.parametrize(
    "before",
    [
        "",
        "c.json c.npy c.txt",
        ".json .npy .txt",
        "b/a.json b/a.npy b/a.txt",
        "a.b.json a.b.npy a.b.txt",
        "b.npy b.txt b.json",
    ],
)
def test_the_short_way_for_our_tars_agrees_with_the_long_one(names, before) -> None:
    members = [(name, 10 * at, 10 * at + 3) for at, name in enumerate(f"{before} {names}".split(), 1)]
    ours = _our_layout(members)
    if names.count("a.txt") == 2:
        assert ours is None, "two of one key"
    elif ours is not None:
        assert ours == _any_layout(members)
    regular = {"", "a.json a.npy a.txt", "c.json c.npy c.txt"}
    assert (ours is not None) == (bool(members) and {names, before} <= regular)


def test_an_idx_says_the_same(tmp_path) -> None:
    tar = tmp_path / "ds_00000.tar"
    samples = [(f"vid_{number}", triple(number)) for number in range(4)]
    samples[1][1].pop("json")
    with tar.open("wb") as file:
        write_members(file, [(f"{key}.{part}", blob) for key, parts in samples for part, blob in parts.items()])
    data = memoryview(tar.read_bytes())
    walked = read_layout(tar, data)
    offsets_path(tar).write_bytes(offsets_bytes(walk_offsets(data).tolist()))
    indexed = read_layout(tar, data)
    assert indexed.offsets is not None
    assert walked.offsets is None
    assert contents(data, indexed) == contents(data, walked) == samples
    assert np.load(offsets_path(tar))["frames"].tolist() == [1, 2, 3, 4]
