"""The lines of a plan: what is packed of a triple, where it lies, and how it gets into a tar. May import this room.

A line is key, frames and place, with tabs between. The place of a triple in a part is `PART,AS_IT_IS,OFFSET,SIZE,...`,
offset and size of json, npy and txt, -1 for the size of what is not there; that of a loose one is
`,CHANGED,SIZE,ENDINGS,STEM`, with the time of its last change, the size of its npy and its stem as JSON. Parts never
change once they are there; a loose triple is refused when it has changed after the plan was made.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from embedshard.processed import Entry, Place
from embedshard.remote import Url
from embedshard.shard.offsets import OffsetRow
from embedshard.shard.triple import BadTripleError, Reader
from embedshard.tar import BLOCK, TarWriter, member_size

__all__ = ["ReadTriple", "loose_place", "pack_row", "part_place", "read_rows", "renamed"]

_ABSENT = Place(0, -1, False)
_PIECES = ("json", "npy", "txt")
_THREADS = 16  # that read from a storage
_AHEAD = 64  # triples


class ReadTriple(NamedTuple):
    """A triple that has been read: its three pieces, or the block in which they lie as they would in any tar."""

    key: str
    frames: int
    pieces: tuple[bytes, ...]
    block: bytes = b""
    places: tuple[tuple[int, int], ...] = ()


def part_place(key: str, entry: Entry) -> str:
    """Give the place of a triple of a part.

    Args:
        key: The key it is to have.
        entry: What there is of it.
    """
    found = dict(zip(entry.parts, entry.places, strict=True))
    json_, npy, txt = (found.get(part, _ABSENT) for part in _PIECES)
    as_it_is = (
        key == entry.key
        and json_.plain and npy.plain and txt.plain
        and _end(json_) + BLOCK == npy.offset
        and _end(npy) + BLOCK == txt.offset
    )  # fmt: skip
    if "cap" in found:
        txt = found.get("txt", found["cap"])
    return f"{entry.tar},{as_it_is:d},{json_.offset},{json_.size},{npy.offset},{npy.size},{txt.offset},{txt.size}"


def loose_place(entry: Entry, npy_size: int, changed: int) -> str:
    """Give the place of a loose triple: what there is of it, the size of its npy, and when it last changed."""
    return f",{changed},{npy_size},{'+'.join(entry.parts)},{json.dumps(entry.key)}"


def renamed(place: str) -> str:
    """Give the place of a triple that gets another key."""
    part, _, rest = place.partition(",")
    return f"{part},0{rest[1:]}" if part else place


def read_rows(reader: Reader, lines: Iterable[str], newest: int) -> Iterator[ReadTriple]:
    """Read the triples of a plan, from a storage several at once.

    Args:
        reader: Of their split.
        lines: The plan's.
        newest: When the last part of the plan changed.

    Raises:
        OSError: A file is gone.
        BadTripleError: One is not what it was when the plan was made.
    """
    if not isinstance(reader.folder, Url):
        for line in lines:
            yield _read(reader, line, newest)
        return
    waiting: deque[Future[ReadTriple]] = deque()
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            for line in lines:
                waiting.append(threads.submit(_read, reader, line, newest))
                if len(waiting) == _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def pack_row(tar: TarWriter, triple: ReadTriple) -> OffsetRow:
    """Add a triple to a tar, in the order json, npy, txt; gives its line of the tar's idx."""
    key = triple.key.encode()
    if triple.block:
        begin = tar.put(triple.block)
        json_, npy, txt = ((begin + offset, size) for offset, size in triple.places)
    else:
        json_, npy, txt = (
            (tar.add(f"{triple.key}.{part}", data), len(data))
            for part, data in zip(_PIECES, triple.pieces, strict=True)
        )
    return key, json_, npy, txt, triple.frames


def _read(reader: Reader, line: str, newest: int) -> ReadTriple:
    key, frames, where = line.rstrip("\n").split("\t")
    part, _, rest = where.partition(",")
    if not part:
        return _read_loose(reader, key, int(frames), rest)
    as_it_is, *numbers = rest.split(",")
    ranges = list(map(int, numbers))
    if as_it_is == "1":
        first = ranges[0] - BLOCK
        block, changed = reader.range(part, first, ranges[4] + ranges[5] + -ranges[5] % BLOCK - first)
        places = tuple((ranges[at] - first, ranges[at + 1]) for at in (0, 2, 4))
        found = ReadTriple(key, int(frames), (), block, places)
        headers = (block[offset - BLOCK : offset] for offset, _ in places)
    else:
        spans = [(ranges[at], ranges[at + 1]) for at in (0, 2, 4)]
        read = [reader.range(part, offset - BLOCK, size + BLOCK) for offset, size in spans if size >= 0]
        changed = max(change for _, change in read)
        headers, pieces = (data[:BLOCK] for data, _ in read), [data[BLOCK:] for data, _ in read]
        found = ReadTriple(key, int(frames), (*[b"{}"] * (3 - len(pieces)), *pieces))
    if isinstance(reader.folder, Url):  # a storage tells of no change, but then the headers lie elsewhere
        changed += [member_size(header) for header in headers] != [size for size in ranges[1::2] if size >= 0]
    if changed > newest:
        raise BadTripleError(f"{part} has changed")
    return found


def _read_loose(reader: Reader, key: str, frames: int, where: str) -> ReadTriple:
    changed, npy_size, parts, stem = where.split(",", 3)
    name = key if stem == f'"{key}"' else json.loads(stem)
    pieces, size, newest = reader.read_loose(name, parts.split("+"))
    if newest > int(changed) or size != int(npy_size):
        raise BadTripleError(f"{name} has changed")
    return ReadTriple(key, frames, (pieces.get("json", b"{}"), pieces["npy"], pieces["txt"]))


def _end(place: Place) -> int:
    return place.offset + place.size + -place.size % BLOCK
