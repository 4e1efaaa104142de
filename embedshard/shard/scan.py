"""The plan pass: look at every triple, leave out the bad ones, spill the rest to disk and cut them into units.

May import `processed`, `sample`, `distinct`, `errors`, and this room. Memory does not grow with the number of triples.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from embedshard.distinct import id_hash
from embedshard.errors import InputError
from embedshard.processed import DatasetInfo, Entry, entries, read_info
from embedshard.sample import SPLITS
from embedshard.shard.append import Before, Packed, read_before, refuse_leaks
from embedshard.shard.dataset import Begin, Progress, expected_dim, failed_samples, repeated_keys
from embedshard.shard.plan import ShardOptions, Tar, order_of, plan_tars, triple_key
from embedshard.shard.table import TarRecord
from embedshard.shard.triple import BadTripleError, Reader, Row, Triple, inspect, plan_line

__all__ = ["FORMAT", "Plan", "Unit", "scan", "unit_lines"]

FORMAT = 1
_LISTED = 1000
_SHOWN = 20
_ROWS, _PLAN, _LEFT_OUT, _MEDIA = ".tmp-rows", ".tmp-plan", ".tmp-left-out", ".tmp-media"


@dataclass(frozen=True)
class Unit:
    """One tar to pack.

    Attributes:
        tar: Its name, split and number of samples.
        folder: The split's folder of triples.
        plan: File with the plan's rows, in the folder that the tar goes to.
        offset: Where in it those of this tar begin.
        frames: Sum over its rows.
        digest: Hash of its rows.
        newest: When the last of its source files changed, in nanoseconds.
    """

    tar: Tar
    folder: Path
    plan: Path
    offset: int
    frames: int
    digest: str
    newest: int


@dataclass(frozen=True)
class Plan:
    """All tars to pack, and what `index.json` says beside them.

    `digest` is the hash of all that but what failed to encode: no tar depends on why another sample is not there.
    `before` are the tars that these are appended to.
    """

    units: list[Unit]
    facts: dict[str, Any]
    left_out: Path
    digest: str
    before: tuple[TarRecord, ...] = ()


@dataclass
class _Survey:
    """What is known of the triples seen so far."""

    embed_dim: int | None
    repeated: set[int]
    seen: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    dtypes: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    listed: list[dict[str, str]] = field(default_factory=list)


def scan(processed: Path, spill: Path, options: ShardOptions, progress: Progress, begin: Begin) -> Plan:
    """Plan the tars of a processed dataset.

    Args:
        processed: The processed dataset.
        spill: Folder for temporary files, which the plan's units read from.
        options: How to shard.
        progress: Called for each sample that a stage has looked at.
        begin: Called before each stage.

    Raises:
        InputError: There is nothing to shard, or no telling which embed_dim is right.
    """
    info, failed = read_info(processed), failed_samples(processed)
    before = read_before(spill, options, info) if options.append else None
    begin("listing", None)
    repeated, count = repeated_keys(processed, progress)
    survey = _Survey(_embed_dim(expected_dim(processed, info, progress, begin), before), repeated)
    begin("planning", count)
    _survey_all(processed, spill, survey, options, (before, progress))
    if not survey.counts and not before:
        raise InputError(_nothing(processed, survey.reasons, failed["total"]))
    there = (len(before.records), before.samples) if before else (0, 0)
    units = _cut(processed, spill, plan_tars(survey.counts, options, *there), options.key_format)
    facts = _facts(info, survey, options)
    if before:
        if not options.allow_leak:
            refuse_leaks(before, spill / _MEDIA)
        facts = _appended(before, facts, survey, units)
    digest = hashlib.sha256(json.dumps([facts, [unit.digest for unit in units]], sort_keys=True).encode())
    with (spill / _LEFT_OUT).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    facts["failed"] = failed
    if not before:
        return Plan(units, facts, spill / _LEFT_OUT, digest.hexdigest())
    digest.update(before.index["plan"].encode())
    plan = digest.hexdigest() if units else before.index["plan"]
    return Plan(units, facts, spill / _LEFT_OUT, plan, before.records)


def unit_lines(unit: Unit) -> Iterator[bytes]:
    """Yield the plan's lines for a tar."""
    with unit.plan.open("rb") as file:
        file.seek(unit.offset)
        yield from islice(file, unit.tar.count)


def _survey_all(
    processed: Path, spill: Path, survey: _Survey, options: ShardOptions, rest: tuple[Before | None, Progress]
) -> None:
    """Look at every triple that is not packed yet, and spill the rows of the good ones."""
    before, progress = rest
    with contextlib.ExitStack() as stack:
        files = tuple(stack.enter_context((spill / name).open("wb")) for name in (_ROWS, _LEFT_OUT, _MEDIA))
        for split in SPLITS:
            with Reader(processed / split) as reader, Packed(before) as packed:
                for entry in entries(processed / split, lambda stem: order_of(stem, options)):
                    is_packed = before is not None and packed.holds(order_of(entry.key, options))
                    _survey_entry(reader, entry, survey, files, is_packed)
                    progress(int("npy" in entry.parts))


def _embed_dim(found: int | None, before: Before | None) -> int | None:
    there = before.index["embed_dim"] if before else found
    if found not in (None, there):
        raise InputError(f"expected arrays of embed_dim {there} as in the shards, found {found}; append to others")
    return there if isinstance(there, int) else found


def _appended(before: Before, facts: dict[str, Any], survey: _Survey, units: list[Unit]) -> dict[str, Any]:
    """Give what `index.json` says of tars that were appended to.

    Raises:
        InputError: The new arrays have another dtype.
    """
    index = before.index
    if new := survey.dtypes - set(index["dtype"].split("+")):
        raise InputError(f"expected arrays in {index['dtype']} as in the shards, found {'+'.join(sorted(new))}")
    merged = {name: value for name, value in index.items() if name not in ("plan", "totals", "tars", "failed")}
    merged["left_out"] = facts["left_out"]
    if units:
        how = {name: facts["options"][name] for name in ("maxcount", "shuffle", "seed")}
        run = {"first": units[0].tar.name, "tars": len(units), **how}
        merged["appended"] = [*index.get("appended", []), run]
    return merged


def _nothing(processed: Path, reasons: Counter[str], failed: int) -> str:
    """Say that there is nothing to shard, why, and what mends it."""
    lines = [f"{count} left out: {reason}" for reason, count in reasons.most_common(_SHOWN)]
    if failed:
        lines.append(f"{failed} failed to encode: {processed / 'failed.jsonl'} says why; encode with --retry-failed")
    if reasons:
        lines.append(f"remove those files and run embedshard encode again; embedshard check {processed} names each")
    if not lines:
        lines.append(f"run: embedshard encode samples.parquet {processed} --model ... --pretrained ...")
    found = f"expected triples <key>.npy, .txt, .json in the splits of {processed}, found none to shard"
    return "\n  ".join([found, *lines])


def _facts(info: DatasetInfo | None, survey: _Survey, options: ShardOptions) -> dict[str, Any]:
    """Give what `index.json` says of the triples; nothing in it depends on the machine."""
    return {
        "format": FORMAT,
        "embed_dim": survey.embed_dim,
        "dtype": "+".join(sorted(survey.dtypes)),
        "provenance": {"encoder": info.encoder, "source": info.source} if info else None,
        "options": {name: getattr(options, name) for name in ("maxcount", "key_format", "shuffle", "seed", "name")},
        "left_out": {
            "total": survey.reasons.total(),
            "reasons": dict(sorted(survey.reasons.items())),
            "first": survey.listed,
        },
    }


def _survey_entry(reader: Reader, entry: Entry, survey: _Survey, files: tuple[IO[bytes], ...], is_packed: bool) -> None:
    """Write a triple to the rows and its media to the media, or it to those left out; one that is packed nowhere."""
    rows, left_out, media = files
    split = reader.folder.name
    if is_packed and "npy" in entry.parts and id_hash(triple_key(entry.key)) not in survey.repeated:
        return
    try:
        triple = _good_triple(reader, entry, survey)
    except BadTripleError as error:
        name = f"{split}/{entry.key}".encode("utf-8", "backslashreplace").decode()
        line = {"triple": name, "reason": str(error)}
        left_out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        survey.reasons[str(error)] += 1
        if len(survey.listed) < _LISTED:
            survey.listed.append(line)
        return
    if is_packed:
        return
    survey.counts[split] += 1
    if triple.media:
        media.write(json.dumps([triple.media, split, triple.row.key]).encode() + b"\n")
    survey.dtypes.add(triple.dtype)
    rows.write(f"{triple.newest} {triple.row.frames} {triple.where} {json.dumps(triple.row)}\n".encode())


def _good_triple(reader: Reader, entry: Entry, survey: _Survey) -> Triple:
    key = triple_key(entry.key)
    triple = inspect(reader, entry, key)
    if triple.embed_dim != survey.embed_dim:
        raise BadTripleError(f"embed_dim is {triple.embed_dim}, expected {survey.embed_dim}")
    if id_hash(key) in survey.repeated:
        if key in survey.seen:
            raise BadTripleError(f"same key as a triple of {survey.seen[key]}")
        survey.seen[key] = reader.folder.name
    return triple


def _cut(processed: Path, spill: Path, tars: list[Tar], key_format: str | None) -> list[Unit]:
    """Write the plan's rows under their final keys; each tar has its slice of them."""
    units = []
    with (spill / _ROWS).open("rb") as rows, (spill / _PLAN).open("wb") as plan:
        for tar in tars:
            offset, digest, frames, newest = plan.tell(), hashlib.sha256(), 0, 0
            for index, line in enumerate(islice(rows, tar.count), tar.first):
                changed, count, where, text = line.split(b" ", 3)
                row = Row(*json.loads(text))
                if key_format:
                    row = row._replace(key=key_format.format(index=index))
                    text, where = json.dumps(row).encode() + b"\n", where.replace(b",1,", b",0,", 1)
                digest.update(text)
                plan.write(plan_line(row, where.decode()) if where else text)
                frames, newest = frames + int(count), max(newest, int(changed))
            unit = Unit(tar, processed / tar.split, spill / _PLAN, offset, frames, digest.hexdigest(), newest)
            units.append(unit)
    (spill / _ROWS).unlink()
    return units
