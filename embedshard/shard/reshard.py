"""Existing shards to other shards: merged, split anew, cut anew.

May import `processed`, `sample`, `store`, `distinct`, `engine`, `tar`, `errors`, and this room.

Every place (a tar, or a folder of loose files) is read once by a worker, which spills a line a sample; these are sorted
by key to find what came twice, then by split and order, on disk. Packing reads each sample where it lies.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embedshard.distinct import DistinctIds
from embedshard.engine import Worker, each
from embedshard.errors import InputError
from embedshard.processed import entries
from embedshard.sample import SPLITS
from embedshard.shard.dataset import Begin, Progress
from embedshard.shard.job import ChangedError, Job, LeftOut, Plan, Share, Unit, left_out_path, rows_path, unit_lines
from embedshard.shard.pack import ShardReport, finish_tar, open_job, write_plan
from embedshard.shard.places import Place, find_places, require_apart, said_of
from embedshard.shard.plan import ShardOptions, Tar, order_of, plan_tars, triple_key
from embedshard.shard.rows import ReadTriple, pack_row
from embedshard.shard.salvage import Salvage
from embedshard.shard.scan import FORMAT
from embedshard.shard.sorter import Sorter
from embedshard.shard.table import TarRecord
from embedshard.shard.triple import BadTripleError, check_array, read_caption, read_metadata
from embedshard.store import publish
from embedshard.tar import TarWriter

__all__ = ["ReshardOptions", "ReshardReport", "reshard"]

_OPEN = 64
_MEDIA = ("media_id", "media", "videoID", "video_id")


@dataclass(frozen=True)
class ReshardOptions(ShardOptions):
    """How shards are made of shards.

    Attributes:
        dtype: `float16` or `float32` converts every array; None keeps the bytes.
        split_as: Split of what no `splits.csv` names.
        assign: Gives the split of a media id, or of a key; None keeps the splits.
        split_by: `media` or `key`: what `assign` is asked for.
        prefix: Put the number of its folder, from 1, and `_` before each key, so that keys of two folders never meet.
    """

    dtype: str | None = None
    split_as: str | None = None
    assign: Callable[[str], str | None] | None = None
    split_by: str = "media"
    prefix: bool = False


@dataclass(frozen=True)
class ReshardReport:
    """What `reshard` did: `found` is the sum of `shards.samples`, `same` and `shards.left_out`.

    Attributes:
        shards: The new shards.
        found: Samples and damaged spots in the old ones.
        same: Samples that were there before with the same bytes.
        foreign: Members that are no part of a sample, by ending.
        notes: What is worth knowing.
    """

    shards: ShardReport
    found: int
    same: int
    foreign: Mapping[str, int]
    notes: Sequence[str]


class _Row(NamedTuple):
    """A good sample: its key, where it was found, its array, a hash of its bytes, and where they lie."""

    key: str
    name: str
    split: str
    media: str
    frames: int
    dim: int
    dtype: str
    digest: str
    pieces: Mapping[str, tuple[str, int, int]]


@dataclass(frozen=True)
class _Unit:
    """A place to read, and the file that gets a line for each sample in it."""

    place: Place
    spill: Path


@dataclass(frozen=True)
class _Read:
    """What a worker found in a place, beside the rows that it spilled."""

    samples: int
    foreign: Counter[str]
    unended: bool


@dataclass
class _Survey:
    """What is known of the samples seen so far; `left_out` is the list of those that are not taken."""

    left_out: LeftOut
    found: int = 0
    same: int = 0
    unended: int = 0
    foreign: Counter[str] = field(default_factory=Counter)
    dims: Counter[int] = field(default_factory=Counter)
    dtypes: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    media: DistinctIds = field(default_factory=DistinctIds)


def reshard(
    folders: Sequence[Path],
    output: Path,
    options: ReshardOptions,
    progress: Progress,
    begin: Begin = lambda stage, total: None,
) -> ReshardReport:
    """Make one folder of shards of several, or finish what a stopped run began; the old ones are only read.

    The same samples and options give the same bytes, whatever the number of workers and the old cuts. Bad samples,
    and those whose key an earlier one has with other bytes, are left out and listed.

    Args:
        folders: Shards of ours, of CLIP-Kinetics700's form, or what clip-video-encode wrote.
        output: Folder for the new tars and their tables.
        options: How to reshard.
        progress: Called with the number of samples that a stage has just done.
        begin: Called before each stage.

    Raises:
        InputError: The folders hold nothing to shard, were encoded with different settings, or lack splits, or `output`
            holds other shards.
    """
    require_apart(folders, output)
    places = find_places(folders, options.split_as, options.assign is not None, options.prefix)
    said = said_of(folders)
    surveys: list[_Survey] = []

    with open_job(output, Share(slots=options.workers), progress, begin) as job:

        def make_plan() -> Plan:
            with LeftOut(left_out_path(job.output, job.token)) as left_out:
                surveys.append(_Survey(left_out))
                rows = _read_places(places, job, options, surveys[-1])
                begin("planning", None)
                chosen = _choose(rows, job.spill, options, surveys[-1], said["embed_dim"])
            return _plan(chosen, job, options, surveys[-1], said)

        shards = write_plan(job, make_plan, folders[0], partial(_packer, options.dtype), options.overwrite)
    survey = surveys[-1]
    return ReshardReport(shards, survey.found, survey.same, dict(survey.foreign), _notes(survey))


def _notes(survey: _Survey) -> list[str]:
    notes = []
    if survey.unended:
        notes.append(
            f"{survey.unended} tars have no end mark, as where their writer was not closed; all members were read"
        )
    if len(survey.dtypes) > 1:
        notes.append(f"arrays are {' and '.join(sorted(survey.dtypes))}; --dtype float16 makes them one")
    if leaks := len(survey.media.under_two_tags()):
        notes.append(f"{leaks} media are in more than one split; embedshard check names them")
    return notes


def _read_places(places: Sequence[Place], job: Job, options: ReshardOptions, survey: _Survey) -> Sorter:
    """Read every place, and give the good samples by key, then in the order of the places."""
    job.begin("reading", None)
    units = [_Unit(place, job.spill / f"place-{number}") for number, place in enumerate(places)]
    found: dict[str, _Read] = {}
    for unit, outcome in job.share.run(units, partial(_reader, options.dtype), None):
        if isinstance(outcome, Exception):
            raise outcome
        found[unit.place.label] = outcome
        job.progress(outcome.samples)
    rows, number = Sorter(job.spill / "keys"), 0
    for unit in units:
        survey.found += found[unit.place.label].samples
        survey.unended += found[unit.place.label].unended
        survey.foreign.update(found[unit.place.label].foreign)
        for row in _spilled(unit, survey):
            if split := _split_of(row, options):
                rows.add(f"{row.key}\t{number:012d}\t{json.dumps(row._replace(split=split))}")
                survey.dims[row.dim] += 1
                number += 1
            else:
                survey.left_out.add(row.name, f"the split recipe does not list its {options.split_by}")
        unit.spill.unlink()
    return rows


def _spilled(unit: _Unit, survey: _Survey) -> Iterator[_Row]:
    """Yield the rows that a worker spilled, and list what it left out."""
    with unit.spill.open("rb") as file:
        for line in file:
            value = json.loads(line)
            if len(value) == 2:
                survey.left_out.add(*value)
            else:
                yield _Row(*value)


def _split_of(row: _Row, options: ReshardOptions) -> str | None:
    if options.assign is None:
        return row.split
    if options.split_by == "media" and not row.media:
        raise InputError(
            f"expected metadata with one of {', '.join(_MEDIA)} to split {row.name} by its media, found none\n"
            "  split by keys instead: --split-by key"
        )
    return options.assign(row.media if options.split_by == "media" else row.key)


def _choose(rows: Sorter, spill: Path, options: ReshardOptions, survey: _Survey, dim: int | None) -> Sorter:
    """Take one sample of every key, and give them by split and order."""
    most = sorted(survey.dims.items(), key=lambda item: (-item[1], item[0]))
    if dim is None and len(most) > 1 and most[0][1] == most[1][1]:
        raise InputError(
            f"expected most arrays to have the same embed_dim, found {most[0][1]} of {most[0][0]} and as many of "
            f"{most[1][0]}; reshard each of the folders by itself"
        )
    survey.dims = Counter({dim or (most[0][0] if most else 0): 1})
    chosen = Sorter(spill / "order")
    for _, lines in groupby(rows.drain(), key=lambda line: line.split("\t", 1)[0]):
        first: _Row | None = None
        for line in lines:
            row = _Row(*json.loads(line.split("\t", 2)[2]))
            if row.dim not in survey.dims:
                survey.left_out.add(row.name, f"embed_dim is {row.dim}, expected {next(iter(survey.dims))}")
            elif first is None:
                first = row
            elif row.digest == first.digest:
                survey.same += 1
            else:
                survey.left_out.add(row.name, "same key as an earlier sample, but other content")
        if first:
            survey.counts[first.split] += 1
            survey.dtypes.add(options.dtype or first.dtype)
            if first.media:
                survey.media.add(first.media, SPLITS.index(first.split))
            chosen.add(f"{SPLITS.index(first.split)}{order_of(first.key, options)}\t{json.dumps(first)}")
    return chosen


def _plan(chosen: Sorter, job: Job, options: ReshardOptions, survey: _Survey, said: Mapping[str, Any]) -> Plan:
    """Cut the samples into tars, and say what `index.json` says of them."""
    if not survey.counts:
        raise InputError(_nothing(survey))
    units = _cut(chosen, job, plan_tars(survey.counts, options), options)
    names = ("maxcount", "key_format", "shuffle", "seed", "name", "dtype", "split_by", "prefix")
    facts = {
        "format": FORMAT,
        "embed_dim": next(iter(survey.dims)),
        "dtype": "+".join(sorted(survey.dtypes)),
        "provenance": _provenance(said["provenance"], options.dtype),
        "options": {name: getattr(options, name) for name in names},
        "left_out": survey.left_out.facts(),
        "resharded": {"found": survey.found, "same": survey.same, "foreign": dict(sorted(survey.foreign.items()))},
    }
    digest = hashlib.sha256(json.dumps([facts, [unit.digest for unit in units]], sort_keys=True).encode())
    digest.update(survey.left_out.digest())
    return Plan(job.token, units, {**facts, "failed": said["failed"]}, digest.hexdigest())


def _provenance(known: Any, dtype: str | None) -> Any:
    return {**known, "encoder": {**known["encoder"], "dtype": dtype}} if dtype and known and known["encoder"] else known


def _nothing(survey: _Survey) -> str:
    lines = [f"{count} left out: {reason}" for reason, count in survey.left_out.reasons.most_common(20)]
    foreign = [f"{count} members {ending}" for ending, count in survey.foreign.most_common(5)]
    return "\n  ".join(["expected samples <key>.npy, .txt, .json, found none to shard", *lines, *foreign])


def _cut(chosen: Sorter, job: Job, tars: Sequence[Tar], options: ReshardOptions) -> list[Unit]:
    """Write the plan's rows under their final keys; each tar has its slice of them."""
    units, lines = [], chosen.drain()
    with publish(rows_path(job.output, job.token)) as plan:
        for tar in tars:
            offset, digest, frames = plan.tell(), hashlib.sha256(f"{tar.split} {options.dtype}\n".encode()), 0
            for index, line in enumerate(islice(lines, tar.count), tar.first):
                row = _Row(*json.loads(line.split("\t", 1)[1]))
                key = options.key_format.format(index=index) if options.key_format else row.key
                digest.update(f"{key} {row.digest}\n".encode())
                frames += row.frames
                plan.write(json.dumps(row._replace(key=key)).encode() + b"\n")
            span, path = (offset, plan.tell() - offset), rows_path(job.output, job.token)
            units.append(Unit(tar, job.output, job.output, path, span, frames, digest.hexdigest(), 0))
    list(lines)  # nothing is left; this removes what was spilled
    return units


def _reader(dtype: str | None, slot: int) -> Worker:
    return each(partial(_read, dtype))


def _read(dtype: str | None, unit: _Unit) -> _Read:
    """Spill a row for every good sample of a place, and name with reason for every other."""
    salvage, place, samples = Salvage(unit.place.path), unit.place, 0
    loose = place.path.is_dir()
    with unit.spill.open("w", encoding="utf-8") as spill:
        for found in _loose_samples(place.path, salvage.foreign) if loose else _tar_samples(salvage):
            key, cut, pieces, where = found
            name, samples = f"{place.label}/{key}".encode("utf-8", "backslashreplace").decode(), samples + 1
            try:
                if cut:
                    raise BadTripleError("lies beside damage in its tar, and may lack a member")
                value: Any = _inspect(name, triple_key(place.prefix + key), place.split, pieces, dtype)._replace(
                    pieces=where
                )
            except BadTripleError as error:
                value = [name, str(error)]
            spill.write(json.dumps(value) + "\n")
        for damage in salvage.damage:
            spill.write(
                json.dumps([f"{place.label}: {damage}", "a damaged spot in a tar; what lay there is lost"]) + "\n"
            )
    return _Read(samples + len(salvage.damage), salvage.foreign, salvage.unended)


_Sample = tuple[str, bool, dict[str, bytes], dict[str, tuple[str, int, int]]]


def _tar_samples(salvage: Salvage) -> Iterator[_Sample]:
    for key, found, cut in salvage.samples():
        if "cap" in found:
            caption = found.pop("cap")
            if found.setdefault("txt", caption) is not caption:
                salvage.foreign[".cap"] += 1
        where = {part: (str(salvage.path), piece.offset, len(piece.data)) for part, piece in found.items()}
        yield key, cut, {part: piece.data for part, piece in found.items()}, where


def _loose_samples(folder: Path, foreign: Counter[str]) -> Iterator[_Sample]:
    for entry in entries(folder):
        pieces, where = {}, {}
        for part in entry.parts:
            if part != "cap" or entry.caption_part == "cap":
                path = folder / f"{entry.key}.{part}"
                name = "txt" if part == "cap" else part
                pieces[name] = path.read_bytes()
                where[name] = (str(path), 0, len(pieces[name]))
        yield entry.key, False, pieces, where
    with os.scandir(folder) as files:
        names = [file.name for file in files if file.is_file() and not file.name.startswith(".")]
    endings = (name.rpartition(".")[2] for name in names)
    foreign.update(f".{ending}" for ending in endings if ending not in ("json", "npy", "txt", "cap"))


def _inspect(name: str, key: str, split: str, pieces: Mapping[str, bytes], dtype: str | None) -> _Row:
    for part, what in (("npy", "no npy"), ("txt", "no caption")):
        if part not in pieces:
            raise BadTripleError(what)
    header = check_array(pieces["npy"], len(pieces["npy"]))
    read_caption(pieces["txt"])
    metadata = read_metadata(pieces.get("json", b"{}"))
    _converted(pieces["npy"], dtype)
    media = next((metadata[name] for name in _MEDIA if metadata.get(name)), "")
    media = media if isinstance(media, str) else json.dumps(media)
    frames, dim = header.shape
    return _Row(key, name, split, media, frames, dim, header.dtype.name, _digest(pieces), {})


def _digest(pieces: Mapping[str, bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in ("json", "npy", "txt"):
        data = pieces.get(part, b"{}")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def _converted(npy: bytes, dtype: str | None) -> bytes:
    """Give an array in another dtype, and the same bytes where it has that one."""
    if not dtype or check_array(npy, len(npy)).dtype == np.dtype(dtype):
        return npy
    array = np.lib.format.read_array(io.BytesIO(npy), allow_pickle=False)
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if np.isinf(converted).sum() > np.isinf(array).sum():
        raise BadTripleError(f"npy has values that are too large for {dtype}")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(converted), allow_pickle=False)
    return buffer.getvalue()


def _packer(dtype: str | None, slot: int) -> Worker:
    return each(partial(_pack_tar, dtype))


def _pack_tar(dtype: str | None, unit: Unit) -> TarRecord:
    files, lines = _Files(), unit_lines(unit)
    try:
        with publish(unit.output / unit.tar.name, shared=True) as file, TarWriter(file) as tar:
            rows = [pack_row(tar, triple) for triple in _triples(lines, unit.tar.split, dtype, files)]
    except (FileNotFoundError, BadTripleError) as error:
        raise ChangedError(
            f"expected the old shards to stay as they are meanwhile, found: {error}\n  run the same command again"
        ) from error
    finally:
        files.close()
    return finish_tar(unit, tar, rows)


def _triples(lines: Iterable[str], split: str, dtype: str | None, files: _Files) -> Iterator[ReadTriple]:
    for line in lines:
        row = _Row(*json.loads(line))
        pieces = {part: files.read(*place) for part, place in row.pieces.items()}
        if _digest(pieces) != row.digest:
            raise BadTripleError(f"{row.name} has changed")
        told = _told(pieces.get("json", b"{}"), split, dtype)
        yield ReadTriple(row.key, row.frames, (told, _converted(pieces["npy"], dtype), pieces["txt"]))


def _told(data: bytes, split: str, dtype: str | None) -> bytes:
    """Give metadata with the split and dtype that are true now; its very bytes where they say so already."""
    metadata = read_metadata(data)
    encoder = metadata.get("encoder")
    told = dict(metadata)
    if "split" in told:
        told["split"] = split
    if dtype and isinstance(encoder, dict) and "dtype" in encoder:
        told["encoder"] = {**encoder, "dtype": dtype}
    return data if told == metadata else json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogatepass")


class _Files:
    """Reads spans of many files, a few of which it holds open."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Give `size` bytes from `offset`, fewer where the file has no more."""
        descriptor = self._open.pop(path, -1)
        if descriptor < 0:
            descriptor = os.open(path, os.O_RDONLY)
            if len(self._open) == _OPEN:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = descriptor
        pieces: list[bytes] = []
        while size and (data := os.pread(descriptor, size, offset)):
            pieces.append(data)
            offset, size = offset + len(data), size - len(data)
        return b"".join(pieces)

    def close(self) -> None:
        """Close them."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
