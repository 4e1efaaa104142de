"""What lies in archives: the names and addresses of their members. May import `address` and `sample`.

Only headers are read of a tar, and only the list at the end of a zip; a compressed tar is read through once. A zip that
was cut into `NAME_partaa`, `NAME_partab`, ... is read as if it were whole.
"""

from __future__ import annotations

import glob
import gzip
import itertools
import math
import os
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from embedshard.address import Coding, member_address, open_pieces
from embedshard.sample import LeftOut, media_kind

__all__ = [
    "ARCHIVE_EXTENSIONS",
    "DAMAGED_ARCHIVE",
    "TarMember",
    "archives",
    "is_archive",
    "members",
    "read_tar",
    "tar_coding",
    "tar_folders",
]

ARCHIVE_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".zip")
DAMAGED_ARCHIVE = "the archive is damaged or cut off (from here on its members are missing)"
SCATTERED_FRAMES = "frames of one folder that do not lie together in the tar (unpack it)"
OTHER_CODING = "a member that is encrypted or compressed in an unusual way (pack it again, with zip -0)"

_PIECE = re.compile(r"(.*_part_?)[a-z]{2}", re.DOTALL)
_TAIL = 1 << 16
_ZIP_HEADER = struct.Struct("<4s22xHH")
_CODINGS: dict[int, Coding] = {zipfile.ZIP_STORED: "", zipfile.ZIP_DEFLATED: "deflate"}


class TarMember(NamedTuple):
    """A file of a tar: its name, where its header and its bytes begin, and its content if that was asked for."""

    name: str
    header: int
    offset: int
    size: int
    content: bytes


def is_archive(path: str) -> bool:
    """Tell an archive, or a piece of one, by its name."""
    return path.lower().endswith(ARCHIVE_EXTENSIONS) or _PIECE.fullmatch(path) is not None


def archives(paths: Iterable[str]) -> Iterator[str]:
    """Pick the archives of some files; those of one that was cut into pieces are one pattern."""
    cut: set[str] = set()
    for path in paths:
        if path.lower().endswith(ARCHIVE_EXTENSIONS):
            yield path
        elif (match := _PIECE.fullmatch(path)) and (stem := match[1]) not in cut:
            cut.add(stem)
            folder, slash, name = stem.rpartition("/")
            yield f"{folder}{slash}{glob.escape(name)}[a-z][a-z]"


def members(path: Path, address: str) -> Iterator[tuple[str, str] | LeftOut]:
    """Yield the files of a tar or zip in its order.

    Args:
        path: The archive.
        address: Its path as media addresses are to have it.

    Yields:
        The name in the archive and the address of each member, or why there is none.
    """
    is_tar = path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))
    try:
        yield from _tar_members(path, address) if is_tar else _zip_members(path, address)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError, struct.error):
        yield LeftOut(address, DAMAGED_ARCHIVE)


def tar_folders(path: Path, address: str) -> Iterator[tuple[str, str] | LeftOut]:
    """Yield the folders of pictures in a tar, as parts of it, and their addresses.

    Args:
        path: The tar, which may be compressed.
        address: Its path as media addresses are to have it.
    """
    coding = tar_coding(path)
    parts: dict[str, list[tuple[int, int]]] = {}
    damaged = False
    try:
        for folder, group in itertools.groupby(_pictures(path), lambda member: member.name.rpartition("/")[0]):
            found = list(group)
            start, end = found[0].header, found[-1].offset + _padded(found[-1].size)
            parts.setdefault(folder, []).append((start, end - start))
    except (tarfile.TarError, EOFError, OSError, ValueError):
        damaged = True
    for folder, places in parts.items():
        if len(places) == 1:
            yield folder, member_address(address, folder, *places[0], coding)
        else:
            yield LeftOut(f"{address}#{folder}", SCATTERED_FRAMES)
    if damaged:
        yield LeftOut(address, DAMAGED_ARCHIVE)


def _pictures(path: Path) -> Iterator[TarMember]:
    return (member for member in read_tar(path) if media_kind(member.name) == "image")


def tar_coding(path: Path) -> Coding:
    """Tell how the bytes of a tar are coded, by its name."""
    return "gzip" if path.name.lower().endswith((".gz", ".tgz")) else ""


def read_tar(path: Path, extensions: tuple[str, ...] = ()) -> Iterator[TarMember]:
    """Yield the files of a tar in its order, with the content of those that end in one of `extensions`.

    Headers of the usual form are read here, all others by tarfile, which is several times slower.

    Raises:
        tarfile.TarError, EOFError, OSError, ValueError: From here on the tar is damaged or cut off.
    """
    opened: Any = gzip.open(path) if tar_coding(path) else path.open("rb")  # noqa: SIM115  (closed below)
    with opened as file, tarfile.open(fileobj=file, mode="r:") as tar:
        end = math.inf if tar_coding(path) else path.stat().st_size
        tar.offset = 0
        while (block := _bytes_at(file, tar.offset, tarfile.BLOCKSIZE)).strip(b"\0"):
            header, (name, size) = tar.offset, _usual(block)
            offset = header + tarfile.BLOCKSIZE
            if name:
                tar.offset = offset + _padded(size)
            else:
                file.seek(header)
                info = tarfile.TarInfo.fromtarfile(tar)
                name, offset, size = info.name * info.isreg(), info.offset_data, info.size
            if offset + size > end:
                raise tarfile.ReadError("the end is missing")
            if name:
                content = _bytes_at(file, offset, size) if name.endswith(extensions) else b""
                yield TarMember(name.removeprefix("./"), header, offset, size, content)
        if file.read(_TAIL).strip(b"\0"):
            raise tarfile.ReadError("more behind its end")


def _bytes_at(file: IO[bytes], offset: int, size: int) -> bytes:
    if file.seek(offset) < offset:
        raise tarfile.ReadError("the end is missing")
    return file.read(size)


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _usual(block: bytes) -> tuple[str, int]:
    """Give the name and size of a file with a short name, "" for all that tarfile is to read."""
    is_file = len(block) == tarfile.BLOCKSIZE and block[156] in b"0\0" and block[124] < 128 and not block[345]
    if not is_file or sum(block) - sum(block[148:156]) + 256 != int(block[148:156].partition(b"\0")[0] or b"0", 8):
        return "", 0
    return block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), int(block[124:136].strip(b" \0"), 8)


def _tar_members(path: Path, address: str) -> Iterator[tuple[str, str]]:
    coding = tar_coding(path)
    for member in read_tar(path):
        yield member.name, member_address(address, member.name, member.offset, member.size, coding)


def _zip_members(path: Path, address: str) -> Iterator[tuple[str, str] | LeftOut]:
    with open_pieces(path) as file, zipfile.ZipFile(file) as archive:
        end = file.seek(0, os.SEEK_END)
        for info in archive.infolist():
            if info.is_dir():
                continue
            coding = _CODINGS.get(info.compress_type)
            if coding is None or info.flag_bits & 1:
                yield LeftOut(f"{address}#{info.filename}", OTHER_CODING)
            else:
                offset = _data_offset(file, info)
                if offset + info.compress_size > end:
                    raise zipfile.BadZipFile("a member goes beyond the end")
                yield (
                    info.filename.removeprefix("./"),
                    member_address(address, info.filename, offset, info.compress_size, coding),
                )


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    mark, name, extra = _ZIP_HEADER.unpack(file.read(_ZIP_HEADER.size))
    if mark != b"PK\3\4" or file.read(int(name)) not in _spelled(info.orig_filename):
        raise zipfile.BadZipFile(f"no member {info.filename} where the list says")
    return info.header_offset + _ZIP_HEADER.size + int(name) + int(extra)


def _spelled(name: str) -> set[bytes]:
    return {name.encode(encoding, "replace") for encoding in ("utf-8", "cp437")}
