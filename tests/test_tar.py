from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard.tar import MAX_MEMBER, read_members, write_members

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


def test_a_long_name_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 100 bytes"):
        write_members(io.BytesIO(), [("n" * 101, b"")])


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
