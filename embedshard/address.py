"""Where the bytes of a media lie: a path or URL, or a part of an archive or a table. May import `remote`.

    clips/a.mp4                           a file or a folder
    s3://bucket/clips/a.mp4               the same on a storage
    00000.tar#a.mp4:1024+2048             2048 bytes from byte 1024: a member of a tar, or of a zip that only stores
    part.zip#a.mp4:1024+2048~deflate      as a zip compresses them
    images.tsv#7:1024+2048~base64         as a table holds them
    chunk.tar.gz#a.mp4:1024+2048~gzip     bytes of the decompressed archive
    part7.zip*#a.mp4:1024+2048            of all files that the pattern finds, as if they were one
    train.parquet#mp4:17~parquet          row 17 of the column `mp4`, or of a field below it (`video.bytes`, `images.0`)

A folder of frames in a tar is the part of the tar that holds them. The name of a member is for people only.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import glob
import gzip
import io
import itertools
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Literal, cast

from embedshard.remote import SizedFile, Url, is_url, place

__all__ = [
    "AddressOpener",
    "Coding",
    "Url",
    "file_of",
    "is_url",
    "member_address",
    "member_name",
    "open_pieces",
    "place",
    "row_address",
]

Coding = Literal["", "deflate", "base64", "gzip"]

_STEP = 1 << 24
_IN_MEMORY = 1 << 24  # bytes of a part: a long video of many is not taken into memory whole
_BUFFER = 1 << 18
_AT_ONCE = 8
_URL_SAFE = bytes.maketrans(b"-_", b"+/")

_MEMBER = re.compile(
    r"(?P<file>.+)#(?P<name>[^#]*):(?P<offset>\d+)(?:\+(?P<size>\d+))?(?:~(?P<coding>deflate|base64|gzip|parquet))?",
    re.DOTALL,
)


def member_address(archive: str, name: str, offset: int, size: int, coding: Coding = "") -> str:
    """Give the address of `size` bytes at `offset` of a file, coded as `coding` says."""
    return f"{archive}#{name.replace('#', '_')}:{offset}+{size}{coding and '~' + coding}"


def row_address(table: str, column: str, row: int) -> str:
    """Give the address of a row of a parquet file."""
    return f"{table}#{column}:{row}~parquet"


def member_name(address: str) -> str:
    """Give the name that a member has in its archive; an address of a file is its own."""
    match = _MEMBER.fullmatch(address) if "#" in address else None
    return match["name"] if match else address


def file_of(address: str) -> str:
    """Give the path of the file that an address lies in; a path is its own."""
    match = _MEMBER.fullmatch(address) if "#" in address else None
    return match["file"] if match else address


def open_pieces(path: Path | Url) -> BinaryIO:
    """Open a file, or all files that the pattern `path` finds as if they were one.

    Raises:
        FileNotFoundError: There is none.
    """
    if glob.escape(path.name) == path.name or path.exists():
        return cast(BinaryIO, path.open("rb"))
    pieces: list[Path] | list[Url]
    pieces = sorted(path.parent.glob(path.name)) if isinstance(path, Path) else list(path.parent.glob(path.name))
    if not pieces:
        raise FileNotFoundError(f"no file {path}")
    return io.BufferedReader(_Pieces(pieces))


class AddressOpener:
    """Opens media by their addresses.

    The last compressed tar and the last parquet file stay open where they were read, so that members that are
    asked for in their order cost one pass over the archive.
    """

    def __init__(self, alive: Callable[[], None] = lambda: None) -> None:
        """Take a function to call now and then during long reads."""
        self._alive = alive
        self._stream: tuple[Path | Url, gzip.GzipFile] | None = None
        self._column: tuple[Path | Url, str, _Column] | None = None

    def __enter__(self) -> AddressOpener:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def open(self, address: str, root: Path | Url) -> Path | BinaryIO:
        """Turn an address into what a decoder opens.

        Args:
            address: A path or URL, or a part of a file. What looks like a part of a remote file is one.
            root: Folder that a relative path starts from.

        Returns:
            The path of a local file or folder. For a remote file or a part of any, its bytes as a file: in memory, or
            where they are many and not coded, read as they are asked for; a remote folder is a tar of its files.

        Raises:
            FileNotFoundError: There is no such file or folder.
            RemoteError: The storage refuses, or cannot be reached.
            EOFError: The file ends before the part does.
            ValueError: The bytes are not coded as the address says.
        """
        plain, match = place(address, root), _MEMBER.fullmatch(address)
        if isinstance(plain, Url):
            if match is None:
                return _remote(plain)
        else:
            with contextlib.suppress(OSError):  # a member's name may be too long for a file
                if plain.exists():
                    return plain
        if match is None:
            raise FileNotFoundError(f"no file or folder {plain}")
        return self._member(place(match["file"], root), match)

    def _member(self, file: Path | Url, match: re.Match[str]) -> BinaryIO:
        name, offset = match["name"], int(match["offset"])
        if match["coding"] == "parquet":
            return io.BytesIO(self._row(file, name, offset))
        size = int(match["size"] or 0)
        if size > _IN_MEMORY and not match["coding"]:
            return _sliced(file, name, offset, size)
        data = self._part(file, offset, size, match["coding"])
        if len(data) < int(match["size"] or 0):
            raise EOFError(f"{match['file']} ends inside its member {name}")
        try:
            return io.BytesIO(_decoded(data, match["coding"]))
        except (ValueError, zlib.error) as error:
            raise ValueError(f"{match['file']}: its member {name} is damaged: {error}") from error

    def close(self) -> None:
        """Close what is kept open."""
        if self._stream:
            self._stream[1].close()
        if self._column:
            self._column[2].close()
        self._stream = self._column = None

    def _part(self, file: Path | Url, offset: int, size: int, coding: str | None) -> bytes:
        if coding != "gzip":
            if isinstance(file, Url) and "*" not in file.name:
                return file.read_bytes(offset, size)
            with open_pieces(file) as plain:
                plain.seek(offset)
                return plain.read(size)
        if not self._stream or self._stream[0] != file:
            self.close()
            self._stream = file, gzip.open(cast(BinaryIO, file.open("rb")))  # noqa: SIM115  (stays open)
        stream = self._stream[1]
        while offset - stream.tell() > _STEP:
            self._alive()
            stream.seek(_STEP, io.SEEK_CUR)
        stream.seek(offset)
        return stream.read(size)

    def _row(self, file: Path | Url, name: str, row: int) -> bytes:
        if not self._column or self._column[:2] != (file, name):
            self.close()
            self._column = file, name, _Column(file, name)
        return self._column[2].read(row)


def _remote(url: Url) -> BinaryIO:
    """Open a remote file, or the tar of a remote folder's files."""
    try:
        size = url.stat().st_size
    except IsADirectoryError:
        return _packed(url)
    return io.BytesIO(url.read_range(0, size)) if 0 < size <= _IN_MEMORY else cast(BinaryIO, url.open("rb"))


def _packed(folder: Url) -> BinaryIO:
    """Fetch the files of a folder into a tar, which goes when it is closed."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (stays open)
    with tarfile.open(fileobj=file, mode="w") as tar, ThreadPoolExecutor(_AT_ONCE) as pool:
        paths = list(folder.iterdir())
        for path, data in zip(paths, pool.map(_file_bytes, paths), strict=True):
            if data is not None:
                member = tarfile.TarInfo(path.name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    file.seek(0)
    return cast(BinaryIO, file)


def _file_bytes(path: Url) -> bytes | None:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        return None


def _sliced(path: Path | Url, name: str, offset: int, size: int) -> BinaryIO:
    file = open_pieces(path)
    if file.seek(0, io.SEEK_END) < offset + size:
        file.close()
        raise EOFError(f"{path.name} ends inside its member {name}")
    return io.BufferedReader(_Slice(file, offset, size), _BUFFER)


class _Slice(SizedFile):
    """Some bytes of a file as a file of their own."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        super().__init__(size)
        self._file, self._offset = file, offset

    def readinto(self, buffer: Any) -> int:
        """Read on; at the end of the part there is no more."""
        wanted = memoryview(buffer)[: max(0, self._size - self._at)]
        self._file.seek(self._offset + self._at)
        count: int = self._file.readinto(wanted)  # type: ignore[attr-defined]
        self._at += count
        return count

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()


class _Pieces(SizedFile):
    """Files that were cut from one, read as that one."""

    def __init__(self, paths: list[Path] | list[Url]) -> None:
        self._paths = paths
        self._starts = [0, *itertools.accumulate(path.stat().st_size for path in paths)]
        super().__init__(self._starts[-1])
        self._open: tuple[int, IO[bytes]] | None = None

    def readinto(self, buffer: Any) -> int:
        """Read from the piece at hand."""
        number = bisect.bisect_right(self._starts, self._at) - 1
        if number == len(self._paths):
            return 0
        if self._open is None or self._open[0] != number:
            self.close_piece()
            self._open = number, self._paths[number].open("rb")
        piece = self._open[1]
        piece.seek(self._at - self._starts[number])
        count: int = piece.readinto(buffer) or 0  # type: ignore[attr-defined]
        self._at += count
        return count

    def close(self) -> None:
        """Close the piece at hand too."""
        self.close_piece()
        super().close()

    def close_piece(self) -> None:
        """Close the piece at hand."""
        if self._open:
            self._open[1].close()
        self._open = None


class _Column:
    """One column of a parquet file, cheap to read in order, a row in memory at a time."""

    def __init__(self, path: Path | Url, name: str) -> None:
        import pyarrow.parquet as pq

        source = path if isinstance(path, Path) else path.open("rb")
        self._file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        self._names = name.split(".")
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        self._starts = [sum(groups[:i]) for i in range(len(groups) + 1)]
        self._rows: Iterator[Any] = iter(())
        self._next, self._end = 0, 0

    def read(self, row: int) -> bytes:
        """Give the bytes of a row; text is taken for base64."""
        if not self._next <= row < self._end:
            group = next((g for g, end in enumerate(self._starts[1:]) if row < end), None)
            if group is None:
                raise EOFError(f"no row {row} among {self._starts[-1]}")
            self._rows = self._file.iter_batches(batch_size=1, row_groups=[group], columns=self._names[:1])
            self._next, self._end = self._starts[group], self._starts[group + 1]
        for batch in self._rows:
            self._next += 1
            if self._next > row:
                return _bytes(_descend(batch.column(0)[0].as_py(), self._names[1:]))
        raise EOFError(f"no row {row}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _descend(value: Any, names: list[str]) -> Any:
    for name in names:
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return _decoded(value.encode(), "base64")
    if not isinstance(value, bytes):
        raise ValueError(f"expected bytes, found {type(value).__name__}")
    return value


def _decoded(data: bytes, coding: str | None) -> bytes:
    if coding == "base64":
        return base64.b64decode(data.replace(b"\\/", b"/").translate(_URL_SAFE), validate=True)
    if coding == "deflate":
        return zlib.decompress(data, -zlib.MAX_WBITS)
    return data
