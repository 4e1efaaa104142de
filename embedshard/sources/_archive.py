"""What lies in archives: the names and addresses of their members. May import `address` and `sample`.

Only headers are read of a tar, and only the list at the end of a zip; a compressed tar is read through once. A zip that
was cut into `NAME_partaa`, `NAME_partab`, ... is read as if it were whole.
"""

from __future__ import annotations

import glob
import itertools
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from embedshard.address import Coding, member_address, open_pieces
from embedshard.sample import LeftOut, media_kind

__all__ = ["ARCHIVE_EXTENSIONS", "DAMAGED_ARCHIVE", "archives", "is_archive", "members", "tar_folders"]

ARCHIVE_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".zip")
DAMAGED_ARCHIVE = "the archive is damaged or cut off (from here on its members are missing)"
SCATTERED_FRAMES = "frames of one folder that do not lie together in the tar (unpack it)"
OTHER_CODING = "a member that is encrypted or compressed in an unusual way (pack it again, with zip -0)"

_PIECE = re.compile(r"(.*_part_?)[a-z]{2}", re.DOTALL)
_ZIP_HEADER = struct.Struct("<26xHH")
_CODINGS: dict[int, Coding] = {zipfile.ZIP_STORED: "", zipfile.ZIP_DEFLATED: "deflate"}


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
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, struct.error):
        yield LeftOut(address, DAMAGED_ARCHIVE)


def tar_folders(path: Path, address: str) -> Iterator[tuple[str, str] | LeftOut]:
    """Yield the folders of pictures in a tar, as parts of it, and their addresses.

    Args:
        path: The tar, which may be compressed.
        address: Its path as media addresses are to have it.
    """
    coding = _tar_coding(path)
    parts: dict[str, list[tuple[int, int]]] = {}
    damaged = False
    try:
        for folder, group in itertools.groupby(_pictures(path), lambda info: info.name.rpartition("/")[0]):
            infos = list(group)
            end = infos[-1].offset_data + -(-infos[-1].size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            parts.setdefault(folder, []).append((infos[0].offset, end - infos[0].offset))
    except (tarfile.TarError, EOFError, OSError):
        damaged = True
    for folder, places in parts.items():
        if len(places) == 1:
            yield folder, member_address(address, folder, *places[0], coding)
        else:
            yield LeftOut(f"{address}#{folder}", SCATTERED_FRAMES)
    if damaged:
        yield LeftOut(address, DAMAGED_ARCHIVE)


def _pictures(path: Path) -> Iterator[tarfile.TarInfo]:
    return (info for info in _tar_infos(path) if media_kind(info.name) == "image")


def _tar_coding(path: Path) -> Coding:
    return "" if path.name.lower().endswith(".tar") else "gzip"


def _tar_infos(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar; raises TarError where a header cannot be read, which tarfile passes over."""
    with tarfile.open(path, "r:gz" if _tar_coding(path) else "r:") as tar:
        while info := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]
            if info.isreg():
                yield info
        assert tar.fileobj
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a header that cannot be read")


def _tar_members(path: Path, address: str) -> Iterator[tuple[str, str]]:
    coding = _tar_coding(path)
    for info in _tar_infos(path):
        yield info.name, member_address(address, info.name, info.offset_data, info.size, coding)


def _zip_members(path: Path, address: str) -> Iterator[tuple[str, str] | LeftOut]:
    with open_pieces(path) as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            coding = _CODINGS.get(info.compress_type)
            if coding is None or info.flag_bits & 1:
                yield LeftOut(f"{address}#{info.filename}", OTHER_CODING)
            else:
                offset = _data_offset(file, info)
                yield info.filename, member_address(address, info.filename, offset, info.compress_size, coding)


def _data_offset(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    name, extra = _ZIP_HEADER.unpack(file.read(_ZIP_HEADER.size))
    return info.header_offset + _ZIP_HEADER.size + int(name) + int(extra)
