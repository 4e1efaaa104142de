"""The pack pass: each planned tar is one unit. May import `processed`, `store`, `engine`, and this room.

A folder of shards is claimed by one plan. A tar counts as finished once `.progress.jsonl` names it, and is used again
when its slice of the plan is the same and no source file is newer; `index.json` comes last. Appended tars have a plan
of their own; those before them are not touched.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from embedshard.engine import MakeWorker, Worker, each
from embedshard.engine.local import run
from embedshard.errors import InputError
from embedshard.processed import require_processed, unfinished
from embedshard.shard.card import card
from embedshard.shard.dataset import Begin, Progress
from embedshard.shard.plan import ShardOptions
from embedshard.shard.scan import Plan, Unit, scan, unit_lines
from embedshard.shard.table import (
    INDEX,
    PROGRESS,
    SIZES,
    SPLITS_CSV,
    State,
    TarRecord,
    index_bytes,
    json_bytes,
    progress_line,
    read_splits,
    read_state,
    splits_bytes,
    write_changed,
)
from embedshard.shard.triple import BadTripleError, Reader, triple_blocks
from embedshard.store import exclusive, publish, remove_temporary, write_bytes
from embedshard.tar import write_blocks

__all__ = ["ShardReport", "shard", "write_plan"]

_CARD, _LEFT_OUT = "README.md", "left_out.jsonl"


@dataclass(frozen=True)
class ShardReport:
    """What `shard` did.

    Attributes:
        tars: Tars of each split that has any.
        samples: Samples in all tars.
        frames: Frames in all tars.
        bytes: Size of all tars.
        left_out: Triples left out, by reason; `left_out.jsonl` names each.
        failed: Samples that have no triple as they failed to encode, by reason.
        reused: Tars of an earlier run that were kept.
        unchanged: Whether all was there already.
        appended: Samples that this run added to tars that were complete.
    """

    tars: Mapping[str, int]
    samples: int
    frames: int
    bytes: int
    left_out: Mapping[str, int]
    failed: Mapping[str, int]
    reused: int
    unchanged: bool
    appended: int = 0


def shard(
    processed: Path,
    output: Path,
    options: ShardOptions,
    progress: Progress,
    begin: Begin = lambda stage, total: None,
) -> ShardReport:
    """Pack a processed dataset into tars, or finish what a stopped run began.

    The same triples give the same bytes, whatever the day, the folder and the number of workers. Bad triples are
    left out and listed; of those that share a key the first is kept, in the order train, val, test.

    Args:
        processed: The processed dataset.
        output: Folder for the tars and their tables.
        options: How to shard.
        progress: Called with the number of samples that a stage has just done.
        begin: Called before each stage with its name and its number of samples: the plan passes, then the packing
            of the tars that are not there.

    Raises:
        InputError: `processed` is no processed dataset or has nothing to shard, `output` is not apart from it or
            holds other shards, or a source file changed meanwhile.
    """
    require_processed(processed)
    if lacking := unfinished(processed):
        raise InputError(
            f"expected {processed} to be encoded to the end, but {lacking}\n"
            f"  go on with the same encode command; how far it is: embedshard status {processed}"
        )
    _require_apart(processed, output)
    return write_plan(
        lambda: scan(processed, output, options, progress, begin), _packer, output, options, progress, begin
    )


def write_plan(
    make_plan: Callable[[], Plan],
    make_packer: MakeWorker,
    output: Path,
    options: ShardOptions,
    progress: Progress,
    begin: Begin,
) -> ShardReport:
    """Write the tars of a plan and their tables, or what a stopped run left of them to write.

    Args:
        make_plan: Makes the plan; it may spill temporary files into `output`.
        make_packer: Makes what packs a unit (picklable for several workers).
        output: Folder for the tars and their tables.
        options: `workers` and `overwrite` count.
        progress: Called with the number of samples packed.
        begin: Called before the packing.

    Raises:
        InputError: `output` holds other shards.
    """
    with exclusive(output):
        remove_temporary(output)
        try:
            plan = make_plan()
            claim = _claim_append if plan.before else _claim
            records = _reusable(output, plan, claim(output, plan, options.overwrite))
            reused = len(records)
            if reused < len(plan.units):
                begin("packing", sum(unit.tar.count for unit in plan.units if unit.tar.name not in records))
                _pack(output, plan, records, make_packer, options.workers, progress)
            every = [*plan.before, *(records[unit.tar.name] for unit in plan.units)]
            changed = _write_tables(output, plan, every)
        finally:
            remove_temporary(output)
    return ShardReport(
        tars=dict(Counter(record.split for record in every)),
        samples=sum(record.samples for record in every),
        frames=sum(record.frames for record in every),
        bytes=sum(record.bytes for record in every),
        left_out=plan.facts["left_out"]["reasons"],
        failed=plan.facts["failed"]["reasons"],
        reused=len(plan.before) + reused,
        unchanged=reused == len(plan.units) and not changed,
        appended=sum(unit.tar.count for unit in plan.units) if plan.before else 0,
    )


def _require_apart(processed: Path, output: Path) -> None:
    """Make sure that neither folder is, or lies in, the other."""
    source, target = processed.resolve(), output.resolve()
    if source == target or source in target.parents or target in source.parents:
        where = "that folder itself" if source == target else "in it" if source in target.parents else "around it"
        raise InputError(
            f"expected a folder for the shards apart from the processed dataset {processed}, "
            f"found {output}, which is {where}\n"
            f"  try: embedshard shard {processed} {source.parent / f'{source.name}-shards'}"
        )


def _claim(output: Path, plan: Plan, overwrite: bool) -> State:
    """Make sure that the folder holds nothing but tars of this plan; gives what is known of them."""
    state = read_state(output)
    if state.plan != plan.digest:
        if overwrite:
            _remove_shards(output, state)
        state = State()
    expected = {unit.tar.name for unit in plan.units} if state.plan else set()
    others = sorted(path.name for path in output.glob("[!.]*.tar") if path.name not in expected)
    others += [name for name in (SPLITS_CSV, INDEX, PROGRESS) if not state.plan and (output / name).exists()]
    if others:
        hint = "give another folder, or move them away" if overwrite else "give another folder, or: --overwrite"
        raise InputError(
            f"expected {output} to be empty or to hold shards of these triples with these options, "
            f"found {', '.join(others[:5])}{' and more' if len(others) > 5 else ''} of another run\n  {hint}"
        )
    return state


def _claim_append(output: Path, plan: Plan, overwrite: bool) -> State:
    """Make sure that the folder holds nothing but the tars that are appended to and those of a stopped run.

    What was stopped while other triples were there is removed: no table names it yet.
    """
    state = read_state(output)
    before = {record.name for record in plan.before}
    others = sorted({path.name for path in output.glob("[!.]*.tar")} - before - {*state.tars})
    if others:
        raise InputError(
            f"expected {output} to hold the tars of its {INDEX} and no others, "
            f"found {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}\n  move them away"
        )
    if state.plan == plan.digest:
        return state
    for name in {*state.tars} - before:
        (output / name).unlink(missing_ok=True)
    return State()


def _remove_shards(output: Path, state: State) -> None:
    """Remove what the tables name, then the tables, those that name the tars last."""
    tars = set(state.tars)
    if (output / SPLITS_CSV).exists():
        tars.update(name for names in read_splits(output).values() for name in names)
    tables = (SIZES, _CARD, _LEFT_OUT, SPLITS_CSV, INDEX, PROGRESS)
    for name in (*sorted(tars), *tables):
        if name == os.path.basename(name):
            (output / name).unlink(missing_ok=True)


def _reusable(output: Path, plan: Plan, state: State) -> dict[str, TarRecord]:
    records = {}
    for unit in plan.units:
        record, path = state.records.get(unit.tar.name), output / unit.tar.name
        if record and record.plan == unit.digest and path.exists():
            stat = path.stat()
            if stat.st_size == record.bytes and stat.st_mtime_ns >= unit.newest:
                records[record.name] = record
    return records


def _pack(
    output: Path,
    plan: Plan,
    records: dict[str, TarRecord],
    make_packer: MakeWorker,
    workers: int,
    progress: Progress,
) -> None:
    """Pack the tars that `records` lacks, and add them to it.

    Raises:
        Exception: The error of the first unit that failed, once the others are done.
    """
    head = progress_line(State(plan.digest, tuple(unit.tar.name for unit in plan.units)))
    write_bytes(output / PROGRESS, head + b"".join(map(progress_line, records.values())), sync=True)
    for table in () if plan.before else (INDEX, SPLITS_CSV):  # those of complete tars stay until all new ones are there
        (output / table).unlink(missing_ok=True)
    units = [unit for unit in plan.units if unit.tar.name not in records]
    errors = []
    with (output / PROGRESS).open("ab") as file:
        for _, outcome in run(units, make_packer, min(workers, len(units))):
            if isinstance(outcome, Exception):
                errors.append(outcome)
                continue
            records[outcome.name] = outcome
            file.write(progress_line(outcome))
            file.flush()
            progress(outcome.samples)
    if errors:
        raise errors[0]


def _packer(slot: int) -> Worker:
    return each(_pack_tar)


def _pack_tar(unit: Unit) -> TarRecord:
    with publish(unit.plan.parent / unit.tar.name) as file, Reader(unit.folder) as reader:
        blocks = (block for line in unit_lines(unit) for block in triple_blocks(reader, line, unit.newest))
        try:
            size, sha256 = write_blocks(file, blocks)
        except (FileNotFoundError, BadTripleError) as error:
            raise InputError(
                f"expected {unit.folder} to stay as it is while it is sharded, found: {error}\n"
                "  run the same command again"
            ) from error
    tar = unit.tar
    return TarRecord(tar.name, tar.split, tar.count, unit.frames, size, sha256, unit.digest)


def _write_tables(output: Path, plan: Plan, records: list[TarRecord]) -> bool:
    """Write every table that is not there already; tells whether any was written.

    `index.json` comes last, as its presence means complete, but first when tars are appended: from then on they belong
    to the shards, and whatever triples the next run finds, it brings the other tables up to date and removes none.
    """
    index = index_bytes(plan.digest, plan.facts, records)
    tables = [
        (SIZES, json_bytes({record.name: record.samples for record in records})),
        (_CARD, card(json.loads(index)).encode()),
        (SPLITS_CSV, splits_bytes(records)),
    ]
    tables.insert(0 if plan.before else len(tables), (INDEX, index))
    changed = _write_left_out(output, plan)
    for name, data in tables:
        changed |= write_changed(output / name, data)
    (output / PROGRESS).unlink(missing_ok=True)
    return changed


def _write_left_out(output: Path, plan: Plan) -> bool:
    """Put the list of what was left out beside the tars; there is none where nothing was."""
    path = output / _LEFT_OUT
    if not plan.facts["left_out"]["total"]:
        there = path.exists()
        path.unlink(missing_ok=True)
        return there
    if path.exists() and filecmp.cmp(path, plan.left_out, shallow=False):
        return False
    with plan.left_out.open("rb") as source, publish(path) as file:
        shutil.copyfileobj(source, file)
    return True
