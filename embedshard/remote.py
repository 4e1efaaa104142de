"""Where files lie: a local `Path`, or the `Url` of a storage that fsspec knows. May import `errors` only.

A `Url` has those methods of a `Path` that the rooms use, so most code need not know which of them it has. What fails
for a moment (a timeout, a cut connection, 5xx, a request to slow down) is tried again. fsspec is imported at use.
"""

from __future__ import annotations

import errno
import io
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, TypeVar

from embedshard.errors import InputError

__all__ = ["AnyPath", "OutageError", "RemoteError", "SizedFile", "Url", "is_url", "place", "read_each"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_BLOCK = 1 << 22
_BLOCKS = 8  # that an open file keeps in memory
_BUFFER = 1 << 18
_ATTEMPTS = 5
_WAIT, _LONGEST_WAIT = 0.5, 15.0  # seconds
_AT_ONCE, _AHEAD = 16, 256  # files read

# The storages where a file shows only when its upload is complete.
_ATOMIC = frozenset("s3 s3a gs gcs az abfs abfss adl hf oss oci ocilake".split())
_CREATING = frozenset(["s3", "s3a"])
_PERMANENT = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_TRANSIENT_ERRNO = frozenset(
    getattr(errno, name, errno.EIO)
    for name in "EIO EREMOTEIO EBUSY EAGAIN ETIMEDOUT ENETDOWN ENETUNREACH EHOSTUNREACH".split()
)
# By name, for the packages that have them may not be there: aiohttp, botocore, requests, httpx, fsspec.
_TRANSIENT_NAMES = frozenset(
    "ClientConnectionError ClientPayloadError HTTPClientError IncompleteRead IncompleteReadError ResponseParserError "
    "ResponseStreamingError TransportError ChunkedEncodingError FSTimeoutError TimeoutError ConnectionError".split()
)
_TRANSIENT_CODES = frozenset(["RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "SlowDown"])
_TRANSIENT_STATUS = frozenset([408, 425, 429, 500, 502, 503, 504])

_CHECK = {
    "s3": "the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) and the endpoint "
    "(AWS_ENDPOINT_URL, now {endpoint})",
    "gs": "the credentials (GOOGLE_APPLICATION_CREDENTIALS)",
    "hf": "the token (HF_TOKEN)",
}

T = TypeVar("T")


class RemoteError(InputError, OSError):
    """A storage does not do what is asked; says which address it was and what to check."""


class OutageError(RemoteError):
    """An object storage could not be reached, though tried again and again: no fault of what was asked."""


class _Stat(NamedTuple):
    st_size: int


class Url:
    """The address of a file or folder on a storage, in place of a `Path`.

    Every method may raise RemoteError, where the storage refuses or cannot be reached; FileNotFoundError stays that.
    """

    def __init__(self, text: str) -> None:
        self.protocol, _, rest = text.partition("://")
        self._text = f"{self.protocol}://{rest.rstrip('/')}"

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Url({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and str(other) == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self._text}/{name}" if name else self._text)

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self._text.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """The folder that it lies in."""
        return Url(self._text.rpartition("/")[0])

    @property
    def shows_only_whole_files(self) -> bool:
        """Whether a file that is being uploaded is not to be seen."""
        return self.protocol in _ATOMIC

    def absolute(self) -> Url:
        """Give itself."""
        return self

    resolve = absolute

    def exists(self) -> bool:
        """Tell whether there is a file or a folder."""
        return bool(self._kind())

    def is_file(self) -> bool:
        """Tell whether it is a file."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Tell whether it is a folder; on object stores, whether anything lies below."""
        return self._kind() == "directory"

    def stat(self) -> _Stat:
        """Give the file's size, as `st_size`; IsADirectoryError for a folder."""
        info = self._info()
        if info["type"] == "directory":
            raise IsADirectoryError(f"{self} is a folder")
        return _Stat(int(info["size"] or 0))

    def iterdir(self) -> Iterator[Url]:
        """Yield what lies in the folder itself, sorted by name."""

        def names(fs: Any, path: str) -> list[str]:
            fs.invalidate_cache(path)
            inside = [found.strip("/") for found in fs.ls(path, detail=False)]
            return sorted(found.rpartition("/")[2] for found in inside if found != path.strip("/"))

        return (self / name for name in self._do("listed", names))

    def glob(self, pattern: str) -> Iterator[Url]:
        """Yield the files and folders in the folder itself whose names fit, sorted."""
        from fnmatch import fnmatchcase

        try:
            inside = list(self.iterdir())
        except FileNotFoundError:
            return iter(())
        return (found for found in inside if fnmatchcase(found.name, pattern))

    def read_bytes(self, start: int = 0, size: int | None = None) -> bytes:
        """Give the file, or `size` bytes of it from `start`, fewer at its end."""
        if not start and size is None:
            return self._read_whole()
        end = self.stat().st_size
        if size is not None:
            end = min(end, start + size)
        return self.read_range(start, end) if start < end else b""

    def _read_whole(self) -> bytes:
        """Give the file by one request, so that it is of one time though it be written anew meanwhile."""

        def read(fs: Any, path: str) -> bytes:
            data: bytes = fs.cat_file(path)
            return data

        try:
            return self._do("read", read)
        except FileNotFoundError:
            if self.is_dir():
                raise IsADirectoryError(f"{self} is a folder") from None
            raise

    def read_range(self, start: int, end: int) -> bytes:
        """Give bytes that are known to be there, by one request."""

        def read(fs: Any, path: str) -> bytes:
            data: bytes = fs.cat_file(path, start=start, end=end)
            if len(data) != end - start:
                raise ConnectionError(f"{end - start} bytes from {start} on were asked for, {len(data)} came")
            return data

        return self._do("read", read)

    def open(self, mode: str = "r", encoding: str | None = None, newline: str | None = None) -> IO[Any]:
        """Open for reading; what is read comes in blocks, of which the last ones are kept."""
        file = io.BufferedReader(_Blocks(self), _BUFFER)
        return file if "b" in mode else io.TextIOWrapper(file, encoding, newline=newline)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            self._do("removed", lambda fs, path: fs.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def upload(self, file: Path, temporary: Url | None = None) -> None:
        """Put a local file here.

        Args:
            file: The file.
            temporary: A name in the same folder for it while it is not whole.
        """

        def put(fs: Any, path: str) -> None:
            if temporary is None:
                fs.put_file(str(file), path)
                return
            halfway = temporary._filesystem()[1]
            fs.makedirs(self.parent._filesystem()[1], exist_ok=True)
            fs.put_file(str(file), halfway)
            fs.mv(halfway, path)

        try:
            self._do("written", put)
        except FileNotFoundError as error:
            raise self._error("written", error) from error

    @property
    def creates(self) -> bool:
        """Whether the storage has `create`."""
        return self.protocol in _CREATING

    def create(self, data: bytes) -> None:
        """Write a small file unless there is one; of several writers at once the first one's stays."""

        def put(fs: Any, path: str) -> None:
            try:
                fs.pipe_file(path, data, mode="create")
            except OSError as error:
                if not isinstance(error, FileExistsError) and "PreconditionFailed" not in str(error.__cause__):
                    raise

        self._do("written", put)

    def _kind(self) -> str:
        try:
            return str(self._info()["type"])
        except FileNotFoundError:
            return ""

    def _info(self) -> dict[str, Any]:
        def info(fs: Any, path: str) -> dict[str, Any]:
            fs.invalidate_cache(path)
            found: dict[str, Any] = fs.info(path)
            return found

        return self._do("looked up", info)

    def _filesystem(self) -> tuple[Any, str]:
        import fsspec

        try:
            fs, path = fsspec.url_to_fs(self._text)
        except ImportError as error:
            extra = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}.get(self.protocol)
            hint = f"pip install 'embedshard[{extra}]'" if extra else str(error)
            raise InputError(f"{self}: the package for {self.protocol}:// is not installed\n  {hint}") from error
        except ValueError as error:
            raise InputError(f"{self}: expected a path or an address that fsspec knows, found: {error}") from error
        return fs, path

    def _do(self, what: str, work: Callable[[Any, str], T]) -> T:
        """Do something with the file system, again and again while that may help."""
        for attempt in range(_ATTEMPTS):
            try:
                return work(*self._filesystem())
            except (FileNotFoundError, InputError):
                raise
            except Exception as error:  # of any package that fsspec uses
                transient = _is_transient(error)
                if attempt == _ATTEMPTS - 1 or not transient:
                    raise self._error(what, error, transient) from error
            time.sleep(min(_LONGEST_WAIT, _WAIT * 2**attempt) * random.uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")

    def _error(self, what: str, error: Exception, transient: bool = False) -> RemoteError:
        kind = OutageError if transient and self.shows_only_whole_files else RemoteError
        check = _CHECK.get(self.protocol[:2], f"the credentials and the options that fsspec takes for {self.protocol}")
        check = check.format(endpoint=os.environ.get("AWS_ENDPOINT_URL") or "not set")
        return kind(
            f"{self} cannot be {what}: {str(error) or type(error).__name__}\n  Check the address, your right to it, "
            f"{check}; once that is mended, run the same command again"
        )


class SizedFile(io.RawIOBase):
    """What files to read from have in common: `readinto` reads at `_at`, of `_size` bytes."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at


class _Blocks(SizedFile):
    """A remote file, read in blocks."""

    def __init__(self, url: Url) -> None:
        from fsspec.caching import BlockCache

        size = url.stat().st_size
        super().__init__(size)
        self._cache = BlockCache(_BLOCK, lambda start, end: url.read_range(start, min(end, size)), size, _BLOCKS)

    def readinto(self, buffer: Any) -> int:
        """Read on, to the end of a block at most."""
        end = min(self._at + len(buffer), self._size, (self._at // _BLOCK + 1) * _BLOCK)
        data = self._cache._fetch(self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


AnyPath: TypeAlias = Path | Url


def read_each(paths: Iterable[AnyPath]) -> Iterator[bytes]:
    """Read whole small files, those of a storage several at once, and yield them in their order."""
    rest = iter(paths)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while batch := list(islice(rest, _AHEAD)):
            on_storage = isinstance(batch[0], Url)
            yield from pool.map(_content, batch) if on_storage else map(_content, batch)


def _content(path: AnyPath) -> bytes:
    return path.read_bytes()


def is_url(address: str) -> bool:
    """Tell the address of a storage from a path."""
    return bool(_URL.match(address))


def place(address: str | Path | Url, root: Path | Url = Path()) -> Path | Url:
    """Give the path or URL of a file or a folder.

    Args:
        address: A path or a URL.
        root: Where a relative path starts.
    """
    if isinstance(address, Url):
        return address
    if isinstance(address, str) and is_url(address):
        return Path(address.partition("://")[2]) if address.startswith("file://") else Url(address)
    if isinstance(root, Url) and not os.path.isabs(address):
        return root / os.fspath(address)
    return Path(str(root)) / address


def _is_transient(error: BaseException | None) -> bool:
    """Tell whether the same may go well a moment later."""
    if error is None or isinstance(error, _PERMANENT):
        return False
    response = getattr(error, "response", None)  # of botocore a mapping, of requests and httpx an object
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _TRANSIENT_STATUS or response.get("Error", {}).get("Code") in _TRANSIENT_CODES
    statuses = (getattr(response, "status_code", None), getattr(error, "status", None), getattr(error, "code", None))
    if any(status in _TRANSIENT_STATUS for status in statuses if isinstance(status, int)):
        return True
    if {base.__name__ for base in type(error).__mro__} & _TRANSIENT_NAMES:
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO:
        return True
    return _is_transient(error.__cause__)
