from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset as wds
from hypothesis import assume, given
from hypothesis import strategies as st

from embedshard.tar import MAX_MEMBER, index_members, mapped, read_members, write_members

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-.", min_size=1, max_size=100).filter(lambda n: n.strip("."))


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1200)), max_size=8))
def test_members_come_back(members: list[tuple[str, bytes]]) -> None:
    file = io.BytesIO()
    size, _ = write_members(file, members)
    assert size == len(file.getvalue())
    assert size % 10240 == 0
    file.seek(0)
    assert list(read_members(file)) == members
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        found = [(info.name, (tar.extractfile(info) or io.BytesIO()).read()) for info in tar]
        assert all((info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644) for info in tar.getmembers())
    assert found == members


@pytest.mark.parametrize("length", [0, 511, 512, 9216 - 512, 9216, 10240, 3 << 20])
def test_gnu_tar_reads_silently(tmp_path: Path, length: int) -> None:
    with (tmp_path / "a.tar").open("wb") as file:
        write_members(file, [("a.npy", bytes(length)), ("a.txt", b"x")])
    done = subprocess.run(["tar", "xvf", "a.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["a.npy", "a.txt"], "")
    assert (tmp_path / "a.npy").read_bytes() == bytes(length)


def test_bytes_equal_those_of_tarfile() -> None:
    ours, theirs = io.BytesIO(), io.BytesIO()
    write_members(ours, [("a.json", b"{}"), ("a.npy", bytes(1000))])
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (("a.json", b"{}"), ("a.npy", bytes(1000))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert ours.getvalue() == theirs.getvalue()


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1200)), max_size=8))
def test_the_index_says_where_the_members_lie(members: list[tuple[str, bytes]]) -> None:
    file = io.BytesIO()
    write_members(file, members)
    data = file.getvalue()
    found = list(index_members(data))
    assert [(row.name, data[row.offset : row.offset + row.size]) for row in found] == members
    assert all(row.plain for row in found)


LONG = [("n" * length + ".txt", b"%d" % length) for length in (95, 96, 97, 300, 508, 2000)]
LONG += [("猫" * 40 + ".txt", b"cat"), ("short.txt", b"s")]


def test_long_names_are_those_of_gnu_tar(tmp_path: Path) -> None:
    members = [row for row in LONG if len(row[0].encode()) < 250]  # names that a file system takes
    with (tmp_path / "a.tar").open("wb") as file:
        write_members(file, members)
    done = subprocess.run(["tar", "tvf", "a.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (len(members), "")
    subprocess.run(["tar", "xf", "a.tar"], cwd=tmp_path, check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.txt")} == dict(members)
    found = [(row["__key__"], row["txt"]) for row in wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)]
    assert found == [(name.removesuffix(".txt"), data) for name, data in members]


def test_long_names_come_back() -> None:
    file = io.BytesIO()
    size, _ = write_members(file, LONG)
    assert size == len(file.getvalue())
    assert_read(file.getvalue(), LONG)
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        assert [(info.name, (tar.extractfile(info) or io.BytesIO()).read()) for info in tar] == LONG


def assert_read(data: bytes, members: list[tuple[str, bytes]]) -> None:
    """Check that both readers find these members."""
    assert list(read_members(io.BytesIO(data))) == members
    assert [(row.name, data[row.offset : row.offset + row.size]) for row in index_members(data)] == members


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(
    members=st.lists(
        st.tuples(st.text(min_size=1, max_size=150).filter(lambda n: "\0" not in n), st.binary(max_size=9))
    )
)
def test_the_names_of_other_writers_are_read(form: int, members: list[tuple[str, bytes]]) -> None:
    file = io.BytesIO()
    names = [
        f"a{name}/b".encode("ascii", "replace").decode() if form == tarfile.USTAR_FORMAT else f"a{name}/b"
        for name, _ in members
    ]
    members = [
        (name[-90:], data) if form == tarfile.USTAR_FORMAT else (name, data)
        for name, (_, data) in zip(names, members, strict=True)
    ]
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5 if form == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(data))
    assert_read(file.getvalue(), members)


def test_a_size_that_no_ustar_header_can_say_is_refused() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("a.npy")
        info.size = MAX_MEMBER + 1
        head = info.tobuf(form)
        for read in (
            lambda head=head: list(index_members(head)),
            lambda head=head: list(read_members(io.BytesIO(head))),
        ):
            with pytest.raises(ValueError, match=r"byte 0 is over 8589934591 bytes"):
                read()


def test_an_empty_file_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    with mapped(tmp_path / "a.tar") as tar, pytest.raises(ValueError, match=r"no end mark.* byte 0"):
        list(index_members(tar))


def test_a_member_over_8_gib_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_MEMBER + 1

    with pytest.raises(ValueError, match="at most 8589934591 bytes"):
        write_members(io.BytesIO(), [("a.npy", Huge())])


def test_other_writers_headers_are_passed_over() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.txt")
        info.size, info.mtime = 1, 1.5
        tar.addfile(info, io.BytesIO(b"x"))
    file.seek(0)
    assert list(read_members(file)) == [("a.txt", b"x")]


@given(st.integers(0, 4 * 512 - 1))
def test_a_tar_cut_anywhere_is_noticed(length: int) -> None:
    file = io.BytesIO()
    write_members(file, [("a.npy", b"x"), ("a.txt", b"y")])
    with pytest.raises(ValueError, match=r"byte \d+"):
        list(read_members(io.BytesIO(file.getvalue()[:length])))
    with pytest.raises(ValueError, match=r"byte \d+"):
        list(index_members(file.getvalue()[:length]))


@given(st.integers(0, 511), st.integers(0, 7))
def test_a_bit_flipped_in_a_header_is_noticed(position: int, bit: int) -> None:
    file = io.BytesIO()
    write_members(file, [("a.npy", b"x"), ("a.txt", b"y")])
    data = bytearray(file.getvalue())
    data[1024 + position] ^= 1 << bit
    assume(data[1024 + position] != ord(" "))  # the first digit of a checksum, a 0, may be a space as well
    found = index_members(bytes(data))
    assert next(found).name == "a.npy"
    with pytest.raises(ValueError, match="byte 1024"):
        next(found)
