"""Tars: a lean ustar writer whose bytes follow from the members alone, and readers that name damage.

Members have mtime 0, uid and gid 0 and mode 0644, so that the same members always give the same bytes; there are
no PAX headers, which the stock writers add for a fractional mtime. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, Protocol

__all__ = ["BLOCK", "MAX_MEMBER", "Member", "Readable", "TarWriter", "index_members", "mapped", "padded_size"]
__all__ += ["read_members", "write_members"]

MAX_MEMBER = 8 * 1024**3 - 1  # eleven octal digits
BLOCK = 512

_RECORD = 20 * BLOCK
_ZEROS = bytes(BLOCK)
_CHUNK = 1 << 20
_NAME_BYTES = 100
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_TYPE = slice(156, 157)
_FILES, _LONG_NAME, _PAX = (b"0", b"\0", b"7"), b"L", b"x"
_AFTER_NAME = b"0000644\0" + b"0000000\0" * 2
_AFTER_SIZE = b"0" * 11 + b"\0"  # mtime
_REST = b"ustar\x0000".rjust(108, b"\0").ljust(BLOCK - 157, b"\0")
_TAIL = b"0" + _REST
_PLAIN_SUM = sum(_AFTER_NAME + _AFTER_SIZE + b" " * 8 + _TAIL)


class Member(NamedTuple):
    """Where a regular file lies in a tar.

    Attributes:
        name: Its whole name.
        offset: Byte at which its content begins.
        size: Bytes of its content.
        plain: Whether its header is the one block that `write_members` gives it.
    """

    name: str
    offset: int
    size: int
    plain: bool


class Readable(Protocol):
    """What `read_members` needs of a file."""

    def read(self, size: int, /) -> bytes:
        """Give `size` bytes, fewer at the end."""
        ...


def write_members(file: IO[bytes], members: Iterable[tuple[str, bytes]]) -> tuple[int, str]:
    """Write a whole tar, padded to records of 10240 bytes as GNU tar does; names over 100 bytes as GNU tar's.

    Args:
        file: Open for writing, at its beginning.
        members: Name and content of each, in order.

    Returns:
        The tar's size in bytes and its SHA-256 in hex.

    Raises:
        ValueError: A member is over 8 GiB.
    """
    with TarWriter(file) as tar:
        for name, data in members:
            tar.add(name, data)
    return tar.size, tar.sha256


class TarWriter:
    """Writes a tar whose bytes follow from its members alone; leaving its `with` block ends it.

    The hash is taken in a thread, which costs no time where a core is free.

    Args:
        file: Open for writing, at its beginning.

    Attributes:
        size: Bytes so far; of the whole tar once it has ended.
        sha256: In hex, once it has ended.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.size, self.sha256 = 0, ""
        self._file, self._digest = file, hashlib.sha256()
        self._thread, self._ready = ThreadPoolExecutor(1), Future[bytes]()
        self._ready.set_result(b"")
        self._pieces: list[bytes] = []
        self._held = 0

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._thread:
            if kind is None:
                self.put(bytes(padded_size(self.size) - self.size))
                self._flush()
                self._file.write(self._ready.result())
        self.sha256 = self._digest.hexdigest()

    def add(self, name: str, data: bytes) -> int:
        """Add a member; gives the byte at which its content begins.

        Raises:
            ValueError: It is over 8 GiB.
        """
        raw, size = name.encode(), len(data)
        if size > MAX_MEMBER:
            raise ValueError(
                f"expected a member of at most {MAX_MEMBER} bytes, which is what a ustar header can say, "
                f"found {size} in {name}"
            )
        header = _header(raw, b"%011o\0" % size) if len(raw) <= _NAME_BYTES else _long_headers(raw, size)
        begin = self.size + len(header)
        self._pieces += (header, data, _ZEROS[: -size % BLOCK])
        self._count(len(header) + size + -size % BLOCK)
        return begin

    def put(self, blocks: bytes) -> int:
        """Add members that are laid out already, as they lie in another tar; gives the byte at which they begin."""
        begin = self.size
        self._pieces.append(blocks)
        self._count(len(blocks))
        return begin

    def _count(self, size: int) -> None:
        self.size += size
        self._held += size
        if self._held >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        """Have what is held joined and hashed, and write meanwhile what that has been done with."""
        ready = self._ready.result()
        self._ready = self._thread.submit(self._hash, self._pieces)
        self._file.write(ready)
        self._pieces, self._held = [], 0

    def _hash(self, pieces: list[bytes]) -> bytes:
        chunk = b"".join(pieces)
        self._digest.update(chunk)
        return chunk


def padded_size(size: int) -> int:
    """Give the size of a tar whose last member ends at byte `size`: with an end mark, in whole records of 10240."""
    size += -size % BLOCK + 2 * BLOCK
    return size + -size % _RECORD


def read_members(file: Readable) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every regular file of an uncompressed tar, one in memory at a time.

    Names are whole also where a GNU or PAX header holds them; what else such headers say is passed over.

    Raises:
        ValueError: The tar is damaged or cut off; says at which byte, and follows the members before it.
    """
    position, long_name = 0, None
    while header := file.read(BLOCK):
        if not any(header):
            return
        size = _member_size(header, position)
        data = file.read(size)
        if len(data) + len(file.read(-size % BLOCK)) < size + -size % BLOCK:
            raise ValueError(f"the tar ends inside a member that begins at byte {position}")
        if header[_TYPE] in _FILES:
            yield _name(header, long_name), data
        long_name = _long_name(header, data, long_name, position)
        position += BLOCK + size + -size % BLOCK
    raise ValueError(f"the tar has no end mark; its writer stopped or it was cut off at byte {position}")


@contextlib.contextmanager
def mapped(path: str | Path) -> Iterator[memoryview | mmap.mmap]:
    """Map a file into memory for reading; an empty one gives an empty view."""
    with open(path, "rb", buffering=0) as file:
        if not file.seek(0, 2):
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def index_members(tar: bytes | memoryview | mmap.mmap) -> Iterator[Member]:
    """Yield where every regular file of an uncompressed tar lies; reads headers only.

    Args:
        tar: The whole tar, usually `mapped`.

    Raises:
        ValueError: The tar is damaged or cut off; says at which byte, and follows the members before it.
    """
    position, end, long_name = 0, len(tar), None
    while position < end:
        header = bytes(tar[position : position + BLOCK])
        raw, size = header[:_NAME_BYTES].rstrip(b"\0"), header[_SIZE]
        plain = long_name is None and header == _header(raw, size) and size[:11].isdigit() and size[11:] == b"\0"
        if not plain and not any(header):
            return
        count = int(size[:11], 8) if plain else _member_size(header, position)
        begin, after = position + BLOCK, position + BLOCK + count + -count % BLOCK
        if after > end:
            raise ValueError(f"the tar ends inside a member that begins at byte {position}")
        if plain:
            yield Member(raw.decode("utf-8", "replace"), begin, count, True)
        else:
            if header[_TYPE] in _FILES:
                yield Member(_name(header, long_name), begin, count, False)
            content = bytes(tar[begin : begin + count]) if header[_TYPE] in (_LONG_NAME, _PAX) else b""
            long_name = _long_name(header, content, long_name, position)
        position = after
    raise ValueError(f"the tar has no end mark; its writer stopped or it was cut off at byte {position}")


def _long_headers(raw: bytes, size: int) -> bytes:
    """Give the header of a member after that of its name, which is too long for one."""
    header = _header(raw[:_NAME_BYTES], b"%011o\0" % size)
    named = raw + b"\0"
    first = _header(b"././@LongLink", b"%011o\0" % len(named), _LONG_NAME)
    return b"".join((first, named, bytes(-len(named) % BLOCK), header))


def _header(raw: bytes, octal: bytes, kind: bytes = b"0") -> bytes:
    checksum = _PLAIN_SUM + sum(raw) + sum(octal) + kind[0] - ord("0")
    return b"%s%s%s%s%06o\0 %s%s" % (
        raw.ljust(_NAME_BYTES, b"\0"),
        _AFTER_NAME,
        octal,
        _AFTER_SIZE,
        checksum,
        kind,
        _REST,
    )


def _name(header: bytes, long_name: bytes | None) -> str:
    """Give the name of a member: that of the header before it, else its own."""
    name = long_name
    if name is None:
        prefix = header[345:500].rstrip(b"\0") if header[257:263] == b"ustar\0" else b""
        name = prefix + b"/" * bool(prefix) + header[:_NAME_BYTES].split(b"\0", 1)[0]
    return name.decode("utf-8", "replace")


def _long_name(header: bytes, content: bytes, before: bytes | None, position: int) -> bytes | None:
    """Give the name that a GNU or PAX header holds for the next file.

    Raises:
        ValueError: It says that the next file is over 8 GiB, or cannot be read.
    """
    if header[_TYPE] == _LONG_NAME:
        return content.split(b"\0", 1)[0]
    if header[_TYPE] != _PAX:
        return None if header[_TYPE] in _FILES else before
    found = before
    while content:
        length, _, rest = content.partition(b" ")
        if not length.isdigit() or not len(length) + 2 < int(length) <= len(content):
            raise ValueError(f"no intact PAX header at byte {position}")
        name, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if name == b"size" and not (value.isdigit() and int(value) <= MAX_MEMBER):
            raise ValueError(f"the member after the header at byte {position} is over {MAX_MEMBER} bytes")
        found = value if name == b"path" else found
        content = content[int(length) :]
    return found


def _member_size(header: bytes, position: int) -> int:
    try:
        expected = int(header[_CHECKSUM].rstrip(b"\0 "), 8)
        large = header[_SIZE][0] & 128
        size = 0 if large else int(header[_SIZE].rstrip(b"\0 "), 8)
    except (ValueError, IndexError):
        expected, size, large = -1, 0, 0
    if sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ") != expected:
        raise ValueError(f"no intact tar header at byte {position}")
    if large or size < 0:
        raise ValueError(f"the member at byte {position} is over {MAX_MEMBER} bytes; such tars are not read")
    return size
