"""The plan: every triple is looked at once, the bad ones are left out, the rest is cut into tars.

May import `processed`, `sample`, `store`, `errors`, and this room. Memory does not grow with the number of triples:
their lines are sorted on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import IO, Any

from embedshard.errors import InputError
from embedshard.processed import DatasetInfo, read_info
from embedshard.remote import AnyPath
from embedshard.sample import SPLITS
from embedshard.shard.append import Before, Packed, read_before, refuse_leaks
from embedshard.shard.dataset import failed_samples, triples_known, usual_dim
from embedshard.shard.job import Job, LeftOut, Plan, Unit, left_out_path, rows_path
from embedshard.shard.plan import ShardOptions, Tar, plan_tars
from embedshard.shard.rows import renamed
from embedshard.shard.sorter import Sorter
from embedshard.shard.survey import Line, lots, make_surveyor
from embedshard.store import publish

__all__ = ["FORMAT", "scan"]

FORMAT = 2
_SHOWN = 20
_MEDIA = "media"


@dataclass
class _Chosen:
    """What is known of the triples that are packed."""

    counts: Counter[str] = field(default_factory=Counter)
    dtypes: set[str] = field(default_factory=set)


def scan(processed: AnyPath, options: ShardOptions, job: Job) -> Plan:
    """Plan the tars of a processed dataset.

    Args:
        processed: The processed dataset.
        options: How to shard.
        job: Where and by whom.

    Raises:
        InputError: There is nothing to shard, or no telling which embed_dim is right.
    """
    info, failed = read_info(processed), failed_samples(processed)
    before = read_before(job, options, info) if options.append else None
    lines, dims = _survey(processed, options, job)
    dim = _embed_dim(processed, info, dims, before)
    chosen = _Chosen()
    job.begin("sorting", len(lines))
    with LeftOut(left_out_path(job.output, job.token)) as left_out:
        _choose(lines, chosen, left_out, (dim, before), (job, options))
    if not chosen.counts and not before:
        raise InputError(_nothing(processed, left_out.reasons, failed["total"]))
    there = (len(before.records), before.samples) if before else (0, 0)
    units = _cut(processed, job, plan_tars(chosen.counts, options, *there), options.key_format)
    facts = _facts(info, dim, chosen.dtypes, left_out, options)
    if before:
        if not options.allow_leak:
            refuse_leaks(before, job.spill / _MEDIA)
        facts = _appended(before, facts, chosen, units)
    digest = hashlib.sha256(json.dumps([facts, [unit.digest for unit in units]], sort_keys=True).encode())
    digest.update(left_out.digest())
    facts["failed"] = failed
    if not before:
        return Plan(job.token, units, facts, digest.hexdigest())
    digest.update(before.index["plan"].encode())
    plan = digest.hexdigest() if units else before.index["plan"]
    return Plan(job.token, units, facts, plan, before.records)


def _survey(processed: AnyPath, options: ShardOptions, job: Job) -> tuple[Sorter, Counter[int]]:
    """Have every triple looked at; gives a line for each, sorted, and how many have which embed_dim."""
    samples = triples_known(processed)
    job.begin("planning", samples)
    lines, dims = Sorter(job.spill / "lines"), Counter[int]()
    for _, outcome in job.share.run(lots(processed), partial(make_surveyor, options), samples):
        if isinstance(outcome, Exception):
            raise outcome
        for line in outcome.lines:
            lines.add(line)
        dims.update(outcome.dims)
        job.progress(len(outcome.lines))
    return lines, dims


def _embed_dim(
    processed: AnyPath, info: DatasetInfo | None, dims: Mapping[int, int], before: Before | None
) -> int | None:
    named = info.encoder.get("embed_dim") if info else None
    found = named if isinstance(named, int) else usual_dim(processed, dims)
    there = before.index["embed_dim"] if before else found
    if found not in (None, there):
        raise InputError(f"expected arrays of embed_dim {there} as in the shards, found {found}; append to others")
    return there if isinstance(there, int) else found


def _choose(
    lines: Sorter,
    chosen: _Chosen,
    left_out: LeftOut,
    wanted: tuple[int | None, Before | None],
    rest: tuple[Job, ShardOptions],
) -> None:
    """Write what is to be packed into a file for each split, in order, and list the rest but for what is packed."""
    (dim, before), (job, options), last, taken_from = wanted, rest, "", ""
    with contextlib.ExitStack() as stack:
        rows = [stack.enter_context((job.spill / split).open("w", encoding="utf-8")) for split in SPLITS]
        media = stack.enter_context((job.spill / _MEDIA).open("w", encoding="utf-8"))
        packed = stack.enter_context(Packed(before))
        for text in lines.drain():
            line = Line(*text.split("\t"))
            job.progress(1)
            if packed.holds(line.order) and line.whole:
                continue
            split = SPLITS[int(line.split)]
            reason = line.reason
            if not reason and int(line.embed_dim) != dim:
                reason = f"embed_dim is {line.embed_dim}, expected {dim}"
            if not reason and line.order == last:
                reason = f"same key as a triple of {taken_from}"
            if reason:
                left_out.add(f"{split}/{json.loads(line.name)}", reason)
                continue
            last, taken_from = line.order, split
            chosen.counts[split] += 1
            chosen.dtypes.add(line.dtype)
            if options.append and line.media:
                media.write(f'[{line.media}, "{split}", "{line.key}"]\n')
            rows[int(line.split)].write("\t".join(line[6:9] + line[11:13] + line[14:]) + "\n")


def _cut(processed: AnyPath, job: Job, tars: list[Tar], key_format: str | None) -> list[Unit]:
    """Write the plan's rows under their final keys; each tar has its slice of them."""
    units = []
    with contextlib.ExitStack() as stack:
        rows = {split: stack.enter_context((job.spill / split).open(encoding="utf-8")) for split in SPLITS}
        plan: IO[bytes] = stack.enter_context(publish(rows_path(job.output, job.token)))
        for tar in tars:
            offset, digest, frames, newest = plan.tell(), hashlib.sha256(), 0, 0
            for index, line in enumerate(islice(rows[tar.split], tar.count), tar.first):
                key, count, npy_size, changed, seen, place = line[:-1].split("\t")
                if key_format:
                    key, place = key_format.format(index=index), renamed(place)
                digest.update(f"{key}\t{count}\t{npy_size}\t{seen}\n".encode())
                plan.write(f"{key}\t{count}\t{place}\n".encode())
                frames, newest = frames + int(count), max(newest, int(changed))
            span, path = (offset, plan.tell() - offset), rows_path(job.output, job.token)
            folder = processed / tar.split
            units.append(Unit(tar, job.output, folder, path, span, frames, digest.hexdigest(), newest))
    return units


def _appended(before: Before, facts: dict[str, Any], chosen: _Chosen, units: list[Unit]) -> dict[str, Any]:
    """Give what `index.json` says of tars that were appended to.

    Raises:
        InputError: The new arrays have another dtype.
    """
    index = before.index
    if new := chosen.dtypes - set(index["dtype"].split("+")):
        raise InputError(f"expected arrays in {index['dtype']} as in the shards, found {'+'.join(sorted(new))}")
    merged = {name: value for name, value in index.items() if name not in ("plan", "totals", "tars", "failed")}
    merged["left_out"] = facts["left_out"]
    if units:
        how = {name: facts["options"][name] for name in ("maxcount", "shuffle", "seed")}
        run = {"first": units[0].tar.name, "tars": len(units), **how}
        merged["appended"] = [*index.get("appended", []), run]
    return merged


def _nothing(processed: AnyPath, reasons: Counter[str], failed: int) -> str:
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


def _facts(
    info: DatasetInfo | None, dim: int | None, dtypes: set[str], left_out: LeftOut, options: ShardOptions
) -> dict[str, Any]:
    """Give what `index.json` says of the triples; nothing in it depends on the machine."""
    return {
        "format": FORMAT,
        "embed_dim": dim,
        "dtype": "+".join(sorted(dtypes)),
        "provenance": {"encoder": info.encoder, "source": info.source} if info else None,
        "options": {name: getattr(options, name) for name in ("maxcount", "key_format", "shuffle", "seed", "name")},
        "left_out": left_out.facts(),
    }
