"""Looking at every triple once, a lot of them at a time, by any engine: a line for each, by which a plan is made.

May import `processed`, `store`, `tar`, `errors`, and this room. A line has tabs between its fields, and sorts by the
first three: the order of the triple within its split, the split, and the part it lies in.
"""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from embedshard.engine import Worker, each
from embedshard.errors import InputError
from embedshard.processed import Entry, damaged_part, loose_entries, part_entries, part_paths
from embedshard.remote import AnyPath, RemoteError
from embedshard.sample import SPLITS
from embedshard.shard.plan import ShardOptions, order_of, triple_key
from embedshard.shard.rows import loose_place, part_place
from embedshard.shard.triple import HEAD, BadTripleError, Facts, Reader, changed_at, inspect, require_whole
from embedshard.store import on_disk
from embedshard.tar import mapped

__all__ = ["Line", "Lot", "Seen", "lots", "make_surveyor"]

_LOT = 2000  # loose triples


class Lot(NamedTuple):
    """Triples of a split that are looked at by one worker at once: those of a part, or some loose ones."""

    folder: AnyPath
    part: str
    loose: tuple[Entry, ...] = ()


class Line(NamedTuple):
    """The fields of a line. `reason` says why a triple is bad; one that is has none of the fields after `whole`.

    `name` is its stem as JSON, `whole` whether its npy is there, `changed` when its file or part last changed,
    `media` its media as JSON, `place` as in a line of the plan.
    """

    order: str
    split: str
    part: str
    reason: str
    name: str
    whole: str
    key: str = ""
    frames: str = ""
    npy_size: str = ""
    embed_dim: str = ""
    dtype: str = ""
    changed: str = ""
    digest: str = ""
    media: str = ""
    place: str = ""


class Seen(NamedTuple):
    """What a worker saw of a lot: a line for each triple, and how many arrays have which embed_dim."""

    lines: list[str]
    dims: Counter[int]


def lots(processed: AnyPath) -> Iterator[Lot]:
    """Yield all that a processed dataset holds, in lots; memory does not grow with the number of triples."""
    for split in SPLITS:
        folder = processed / split
        if not folder.is_dir():
            continue
        if isinstance(folder, Path):
            entries = loose_entries(folder)
            while some := tuple(islice(entries, _LOT)):
                yield Lot(folder, "", some)
        elif loose := next((path for path in folder.iterdir() if path.name.endswith(".npy")), None):
            raise InputError(
                f"expected the triples of a storage to be in parts, found {loose}\n"
                f"  copy them to a disk, and shard them there"
            )
        yield from (Lot(folder, path.name) for path in part_paths(folder))


def make_surveyor(options: ShardOptions, slot: int) -> Worker:
    """Make a worker that gives the lines of each lot; see `engine`."""
    return each(partial(_survey, options))


def _survey(options: ShardOptions, lot: Lot) -> Seen:
    split, lines, dims = str(SPLITS.index(lot.folder.name)), list[str](), Counter[int]()
    for entry, found in _in_part(lot) if lot.part else _loose(lot):
        lines.append("\t".join(_line(entry, split, found, options)))
        if not isinstance(found, str):
            dims[found[0].embed_dim] += 1
    return Seen(lines, dims)


_Good = tuple[Facts, int, int]
"""What a good triple is, the size of its npy, and when it last changed."""


def _in_part(lot: Lot) -> Iterator[tuple[Entry, _Good | str]]:
    path = lot.folder / lot.part
    try:
        with on_disk(path) as local, mapped(local) as tar:
            changed = changed_at(local.stat()) if path is local else 0
            for entry in part_entries(tar, lot.part):
                yield entry, _look_at_member(tar, entry, changed)
    except RemoteError:
        raise
    except (OSError, ValueError) as error:
        raise damaged_part(path, error) from error


def _look_at_member(tar: memoryview | mmap.mmap, entry: Entry, changed: int) -> _Good | str:
    try:
        require_whole(entry.parts)
        pieces, npy_size = {}, 0
        for part, (offset, size, _) in zip(entry.parts, entry.places, strict=True):
            if part == "npy":
                npy_size, size = size, min(size, HEAD)
            pieces["txt" if part == "cap" else part] = bytes(tar[offset : offset + size])
        return inspect(pieces, npy_size), npy_size, changed
    except BadTripleError as error:
        return str(error)


def _loose(lot: Lot) -> Iterator[tuple[Entry, _Good | str]]:
    with Reader(lot.folder) as reader:
        for entry in lot.loose:
            try:
                require_whole(entry.parts)
                pieces, npy_size, changed = reader.read(entry, HEAD)
                yield entry, (inspect(pieces, npy_size), npy_size, changed)
            except BadTripleError as error:
                yield entry, str(error)
            except OSError as error:
                yield entry, f"cannot be read: {error.strerror}"


def _line(entry: Entry, split: str, found: _Good | str, options: ShardOptions) -> tuple[str, ...]:
    order, name = order_of(entry.key, options), json.dumps(entry.key)
    if isinstance(found, str):
        return order, split, entry.tar, found, name, "npy" if "npy" in entry.parts else ""
    (frames, dim, dtype, digest, media), npy_size, changed = found
    key = triple_key(entry.key)
    place = part_place(key, entry) if entry.tar else loose_place(entry, npy_size, changed)
    return (
        order, split, entry.tar, "", name, "npy", key, str(frames), str(npy_size), str(dim), dtype, str(changed),
        digest, json.dumps(media) if media else "", place,
    )  # fmt: skip
