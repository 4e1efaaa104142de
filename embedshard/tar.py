"""Tars: a lean ustar writer whose bytes follow from the members alone, and a reader that names damage.

Members have mtime 0, uid and gid 0 and mode 0644, so that the same members always give the same bytes; there are
no PAX headers, which the stock writers add for a fractional mtime. Imports nothing of ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import IO, Protocol

__all__ = ["MAX_MEMBER", "Readable", "read_members", "write_members"]

MAX_MEMBER = 8 * 1024**3 - 1  # eleven octal digits

_BLOCK = 512
_RECORD = 20 * _BLOCK
_CHUNK = 1 << 20
_NAME_BYTES = 100
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_AFTER_NAME = b"0000644\0" + b"0000000\0" * 2
_AFTER_SIZE = b"0" * 11 + b"\0"  # mtime
_TAIL = (b"0" + bytes(100) + b"ustar\x0000").ljust(_BLOCK - 156, b"\0")
_PLAIN_SUM = sum(_AFTER_NAME + _AFTER_SIZE + b" " * 8 + _TAIL)


class Readable(Protocol):
    """What `read_members` needs of a file."""

    def read(self, size: int, /) -> bytes:
        """Give `size` bytes, fewer at the end."""
        ...


def write_members(file: IO[bytes], members: Iterable[tuple[str, bytes]]) -> tuple[int, str]:
    """Write a whole tar, padded to records of 10240 bytes as GNU tar does.

    Args:
        file: Open for writing, at its beginning.
        members: Name and content of each, in order.

    Returns:
        The tar's size in bytes and its SHA-256 in hex.

    Raises:
        ValueError: A name is over 100 bytes, or a member over 8 GiB.
    """
    digest, size = hashlib.sha256(), 0
    for block in _blocks(members):
        file.write(block)
        digest.update(block)
        size += len(block)
    end = bytes(-(size + 2 * _BLOCK) % _RECORD + 2 * _BLOCK)
    file.write(end)
    digest.update(end)
    return size + len(end), digest.hexdigest()


def read_members(file: Readable) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every regular file of an uncompressed tar, one in memory at a time.

    PAX and GNU headers, which other writers add, are passed over.

    Raises:
        ValueError: The tar is damaged or cut off; says at which byte, and follows the members before it.
    """
    position = 0
    while header := file.read(_BLOCK):
        if not any(header):
            return
        size = _member_size(header, position)
        data = file.read(size)
        if len(data) + len(file.read(-size % _BLOCK)) < size + -size % _BLOCK:
            raise ValueError(f"the tar ends inside a member that begins at byte {position}")
        if header[156:157] in (b"0", b"\0"):
            prefix, name = header[345:500].rstrip(b"\0"), header[:_NAME_BYTES].rstrip(b"\0")
            yield (prefix + b"/" * bool(prefix) + name).decode("utf-8", "replace"), data
        position += _BLOCK + size + -size % _BLOCK
    raise ValueError(f"the tar has no end mark; its writer stopped or it was cut off at byte {position}")


def _blocks(members: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Yield the tar without its end, in pieces of about a mebibyte."""
    pieces: list[bytes] = []
    held = 0
    for name, data in members:
        pieces += (_header(name, len(data)), data, bytes(-len(data) % _BLOCK))
        held += len(data) + _BLOCK
        if held >= _CHUNK:
            yield b"".join(pieces)
            pieces.clear()
            held = 0
    yield b"".join(pieces)


def _header(name: str, size: int) -> bytes:
    raw = name.encode()
    if len(raw) > _NAME_BYTES:
        raise ValueError(f"expected a member name of at most {_NAME_BYTES} bytes, found {name!r}")
    if size > MAX_MEMBER:
        raise ValueError(f"expected a member of at most {MAX_MEMBER} bytes, found {size} in {name}")
    octal = b"%011o\0" % size
    checksum = b"%06o\0 " % (_PLAIN_SUM + sum(raw) + sum(octal))
    return b"".join((raw.ljust(_NAME_BYTES, b"\0"), _AFTER_NAME, octal, _AFTER_SIZE, checksum, _TAIL))


def _member_size(header: bytes, position: int) -> int:
    try:
        expected = int(header[_CHECKSUM].rstrip(b"\0 "), 8)
        size = int(header[_SIZE].rstrip(b"\0 "), 8)
    except ValueError:
        expected, size = -1, 0
    if sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ") != expected:
        raise ValueError(f"no intact tar header at byte {position}")
    return size
