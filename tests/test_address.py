from __future__ import annotations

import base64
import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedshard import address
from embedshard.address import AddressOpener, Url, member_address, member_name, open_pieces, place, row_address
from embedshard.remote import RemoteError
from embedshard.store import publish

DATA = [bytes([65 + number]) * 1000 * (number + 1) for number in range(5)]


def read(root: Path | Url, *addresses: str) -> list[bytes]:
    with AddressOpener() as opener:
        return [opener.open(address, root).read() for address in addresses]  # type: ignore[union-attr]


def test_a_path_is_itself(tmp_path):
    (tmp_path / "a#b:1+2").touch()
    with AddressOpener() as opener:
        assert opener.open("a#b:1+2", tmp_path) == tmp_path / "a#b:1+2"
        assert opener.open(str(tmp_path), Path("elsewhere")) == tmp_path
        with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
            opener.open("gone.mp4", tmp_path)
        with pytest.raises(FileNotFoundError):
            opener.open("gone.tar#a:1+2", tmp_path)


def test_a_member_may_have_a_longer_name_than_a_file(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"0123")
    assert read(tmp_path, member_address("a.tar", "狗" * 200, 1, 2)) == [b"12"]


def test_parts_of_a_file(tmp_path):
    (tmp_path / "a#1.tar").write_bytes(b"0123456789")
    (tmp_path / "x.zip").write_bytes(b"..." + zlib.compress(DATA[3])[2:-4])
    encoded = base64.b64encode(DATA[2])
    (tmp_path / "x.tsv").write_bytes(b"7\t" + encoded)
    deflated = (tmp_path / "x.zip").stat().st_size - 3
    assert read(
        tmp_path,
        member_address("a#1.tar", "d/b#c.mp4", 3, 4),
        member_address("x.zip", "a.mp4", 3, deflated, "deflate"),
        member_address("x.tsv", "7", 2, len(encoded), "base64"),
    ) == [b"3456", DATA[3], DATA[2]]


def test_a_large_part_is_read_as_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(address, "_IN_MEMORY", 3)
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    with AddressOpener() as opener:
        part = opener.open(member_address("a.tar", "b.mp4", 2, 6), tmp_path)
        assert not isinstance(part, (io.BytesIO, Path))
        assert part.read() == b"234567"
        assert (part.seek(1), part.read(2), part.seek(-2, 2), part.read(9), part.read(9)) == (1, b"34", 4, b"67", b"")
        with pytest.raises(EOFError, match=r"a\.tar ends inside its member b\.mp4"):
            opener.open(member_address("a.tar", "b.mp4", 6, 5), tmp_path)


@pytest.mark.parametrize("coding", ["deflate", "base64"])
def test_damaged_parts_are_named(tmp_path, coding):
    (tmp_path / "a.zip").write_bytes(b"0123456789")
    with pytest.raises(ValueError, match=r"a\.zip: its member b\.mp4 is damaged: "):
        read(tmp_path, f"a.zip#b.mp4:1+3~{coding}")
    with pytest.raises(EOFError, match=r"a\.zip ends inside its member b\.mp4"):
        read(tmp_path, "a.zip#b.mp4:8+3")


def test_members_of_a_compressed_tar_in_any_order(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"".join(DATA)))
    places = [(sum(map(len, DATA[:number])), len(data)) for number, data in enumerate(DATA)]
    for order in ([0, 1, 2, 3, 4], [3, 1, 1, 4, 0]):
        addresses = [member_address("a.tar.gz", "x", *places[number], "gzip") for number in order]
        assert read(tmp_path, *addresses) == [DATA[number] for number in order]
    with pytest.raises(EOFError, match="ends inside"):
        read(tmp_path, member_address("a.tar.gz", "x", 14900, 200, "gzip"))


def test_a_long_way_through_an_archive_shows_life(tmp_path, monkeypatch):
    monkeypatch.setattr("embedshard.address._STEP", 1000)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(b"".join(DATA)))
    calls: list[None] = []
    with AddressOpener(lambda: calls.append(None)) as opener:
        opener.open(member_address("a.tgz", "x", 10500, 5, "gzip"), tmp_path)
    assert len(calls) == 10


def test_pieces_of_a_cut_file_are_read_as_one(tmp_path):
    whole = b"".join(DATA)
    for number, start in enumerate(range(0, len(whole), 700)):
        (tmp_path / f"x[1].zip_part{number:02}").write_bytes(whole[start : start + 700])
    pattern = "x[[]1].zip_part*"
    assert read(tmp_path, member_address(pattern, "a", 0, 5), member_address(pattern, "a", 600, 9000)) == [
        whole[:5],
        whole[600:9600],
    ]
    with open_pieces(tmp_path / pattern) as file:
        assert (file.seek(-3, io.SEEK_END), file.read(), file.read()) == (len(whole) - 3, whole[-3:], b"")
    with pytest.raises(EOFError):
        read(tmp_path, member_address(pattern, "a", len(whole) - 3, 4))
    with pytest.raises(FileNotFoundError):
        read(tmp_path, member_address("none*", "a", 0, 4))


def test_rows_of_a_parquet_file_in_any_order(tmp_path):
    encoded = [[base64.b64encode(data).decode(), "AA=="] for data in DATA]
    table = pa.table({"mp4": DATA, "video": [{"bytes": data, "path": "p"} for data in DATA], "images": encoded})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    for column in ("mp4", "video.bytes", "images.0"):
        for order in ([0, 1, 2, 3, 4], [4, 0, 0, 3, 1]):
            addresses = [row_address("a.parquet", column, number) for number in order]
            assert read(tmp_path, *addresses) == [DATA[number] for number in order]
    with pytest.raises(EOFError, match="no row 5 among 5"):
        read(tmp_path, row_address("a.parquet", "mp4", 5))
    with pytest.raises(ValueError, match="expected bytes, found dict"):
        read(tmp_path, row_address("a.parquet", "video", 0))


def test_names_of_members():
    assert member_name("d/a.mp4") == "d/a.mp4"
    assert member_name(member_address("x.tar", "d/a.mp4", 1, 2)) == "d/a.mp4"
    assert member_name(row_address("x.parquet", "video.bytes", 3)) == "video.bytes"
    assert member_name("a#b.mp4") == "a#b.mp4"


def test_members_of_a_real_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("stored.mp4", DATA[0])
        archive.writestr("deflated.mp4", DATA[1], zipfile.ZIP_DEFLATED)
    raw = (tmp_path / "a.zip").read_bytes()
    for info, data in zip(zipfile.ZipFile(io.BytesIO(raw)).infolist(), DATA, strict=False):
        offset = info.header_offset + 30 + len(info.filename)
        coding = "deflate" if info.compress_type else ""
        assert read(tmp_path, member_address("a.zip", info.filename, offset, info.compress_size, coding)) == [data]


def put(url: str, data: bytes) -> None:
    with publish(Url(url)) as file:
        file.write(data)


def test_places_are_paths_or_urls(tmp_path):
    root = Url("s3://bucket/raw/")
    assert place("clips/a.mp4", root) == Url("s3://bucket/raw/clips/a.mp4")
    assert place("/data/a.mp4", root) == Path("/data/a.mp4")
    assert place("gs://other/a.mp4", root) == place("gs://other/a.mp4", tmp_path) == Url("gs://other/a.mp4")
    assert place("a.mp4", tmp_path) == tmp_path / "a.mp4"
    assert place("file:///data/a.mp4") == Path("/data/a.mp4")
    assert (root.name, root.parent) == ("raw", Url("s3://bucket"))
    assert pickle.loads(pickle.dumps(root)) == root == place(str(root))


@pytest.mark.parametrize("in_memory", [1 << 24, 100])
def test_remote_files_and_parts_of_them(tmp_path, bucket, monkeypatch, in_memory):
    monkeypatch.setattr(address, "_IN_MEMORY", in_memory)
    whole = b"".join(DATA)
    put(f"{bucket}/d/a.tar", whole)
    put(f"{bucket}/a.tgz", gzip.compress(whole))
    put(f"{bucket}/a.zip", b"..." + zlib.compress(DATA[3])[2:-4])
    put(f"{bucket}/empty", b"")
    for number, start in enumerate(range(0, len(whole), 700)):
        put(f"{bucket}/x.zip_part{number:02}", whole[start : start + 700])
    pq.write_table(pa.table({"mp4": DATA}), tmp_path / "a.parquet")
    put(f"{bucket}/a.parquet", (tmp_path / "a.parquet").read_bytes())
    deflated = len(zlib.compress(DATA[3])) - 6
    addresses = {
        "d/a.tar": whole,
        "empty": b"",
        member_address("d/a.tar", "b/c.mp4", 500, 2000): whole[500:2500],
        member_address("a.tgz", "x", 3000, 3000, "gzip"): whole[3000:6000],
        member_address("a.zip", "x", 3, deflated, "deflate"): DATA[3],
        member_address("x.zip_part*", "x", 600, 9000): whole[600:9600],
        row_address("a.parquet", "mp4", 2): DATA[2],
    }
    assert read(Url(bucket), *addresses) == list(addresses.values())
    assert read(tmp_path, *(f"{bucket}/{one}" for one in addresses)) == list(addresses.values())
    for gone in ("gone.mp4", "gone.tar#a:1+2", "gone*#a:1+2"):
        with pytest.raises(FileNotFoundError):
            read(Url(bucket), gone)
    with pytest.raises(EOFError, match="ends inside its member"):
        read(Url(bucket), member_address("d/a.tar", "a", len(whole) - 3, 200))


def test_a_remote_folder_is_a_tar_of_its_files(bucket):
    for number in (2, 0, 1):
        put(f"{bucket}/frames/{number}.png", b"%d" % number)
    put(f"{bucket}/frames/below/x.png", b"x")
    put(f"{bucket}/frames/below.png/x.png", b"x")
    with AddressOpener() as opener, tarfile.open(fileobj=opener.open("frames", Url(bucket))) as tar:
        assert [(one.name, tar.extractfile(one).read()) for one in tar] == [(f"{n}.png", b"%d" % n) for n in range(3)]


def test_media_that_a_storage_refuses_is_not_missing(bucket, proxy):
    put(f"{bucket}/a.tar", b"0123")
    proxy.denied = True
    for one in ("a.tar", "a.tar#x:1+2"):
        with pytest.raises(RemoteError, match="AWS_ENDPOINT_URL"):
            read(Url(bucket), one)
