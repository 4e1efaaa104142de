"""What lies in archives: the names and addresses of their members. May import `address` and `sample`.

Only headers are read of a tar, and only the list at the end of a zip; a compressed tar is read through once.
"""

from __future__ import annotations

import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from embedshard.address import Coding, member_address
from embedshard.sample import LeftOut

__all__ = ["ARCHIVE_EXTENSIONS", "DAMAGED_ARCHIVE", "is_archive", "members"]

ARCHIVE_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".zip")
DAMAGED_ARCHIVE = "the archive is damaged or cut off (from here on its members are missing)"
OTHER_CODING = "a member that is encrypted or compressed in an unusual way (pack it again, with zip -0)"

_ZIP_HEADER = struct.Struct("<26xHH")
_CODINGS: dict[int, Coding] = {zipfile.ZIP_STORED: "", zipfile.ZIP_DEFLATED: "deflate"}


def is_archive(name: str) -> bool:
    """Tell an archive by its extension."""
    return name.lower().endswith(ARCHIVE_EXTENSIONS)


def members(path: Path, address: str) -> Iterator[tuple[str, str] | LeftOut]:
    """Yield the files of a tar or zip in its order.

    Args:
        path: The archive.
        address: Its path as media addresses are to have it.

    Yields:
        The name in the archive and the address of each member, or why there is none.
    """
    try:
        yield from _zip_members(path, address) if path.suffix.lower() == ".zip" else _tar_members(path, address)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, struct.error):
        yield LeftOut(address, DAMAGED_ARCHIVE)


def _tar_members(path: Path, address: str) -> Iterator[tuple[str, str]]:
    coding: Coding = "" if path.suffix.lower() == ".tar" else "gzip"
    with tarfile.open(path, "r:gz" if coding else "r:") as tar:
        while info := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]
            if info.isreg():
                yield info.name, member_address(address, info.name, info.offset_data, info.size, coding)
        assert tar.fileobj
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a header that cannot be read")


def _zip_members(path: Path, address: str) -> Iterator[tuple[str, str] | LeftOut]:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
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
