"""The pack pass: each planned tar is one unit. May import `processed`, `store`, `engine`, and this room.

A folder of shards is claimed by one plan. A tar counts as finished once its record is there, and is used again when its
slice of the plan is the same and no source file is newer; `index.json` comes last. Appended tars have a plan of their
own; those before them are not touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from embedshard.engine import MakeWorker, Worker, each
from embedshard.errors import InputError
from embedshard.processed import FAILED, INFO, part_name, part_paths, require_processed, unfinished, unit_records
from embedshard.remote import AnyPath, RemoteError
from embedshard.sample import SPLITS
from embedshard.shard.card import card
from embedshard.shard.dataset import Begin, Progress
from embedshard.shard.job import (
    PLAN,
    ChangedError,
    Job,
    Plan,
    Share,
    State,
    Unit,
    left_out_path,
    read_plan,
    read_state,
    unit_lines,
    write_plan_file,
    write_record,
)
from embedshard.shard.offsets import OffsetRow, offsets_bytes, offsets_path
from embedshard.shard.plan import ShardOptions
from embedshard.shard.rows import pack_row, read_rows
from embedshard.shard.scan import scan
from embedshard.shard.table import (
    INDEX,
    PROGRESS,
    SIZES,
    SPLITS_CSV,
    TarRecord,
    index_bytes,
    json_bytes,
    read_splits,
    splits_bytes,
    write_changed,
)
from embedshard.shard.triple import BadTripleError, Reader
from embedshard.store import exclusive, publish, remove_temporary
from embedshard.tar import TarWriter

__all__ = ["ShardReport", "finish_tar", "open_job", "shard", "write_plan"]

_CARD, _LEFT_OUT = "README.md", "left_out.jsonl"
_SPILL = ".tmp-spill-"
_PATIENCE = 24 * 3600  # seconds that a share waits for the plan of another


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
        missing: Tars that other shares have still to pack; the last of them writes the tables.
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
    missing: int = 0


def shard(
    processed: AnyPath,
    output: AnyPath,
    options: ShardOptions,
    progress: Progress,
    begin: Begin = lambda stage, total: None,
    share: Share | None = None,
) -> ShardReport:
    """Pack a processed dataset into tars, or finish what a stopped run began.

    The same triples give the same bytes, whatever the day, the folder, the engine and the number of workers. Bad
    triples are left out and listed; of those that share a key the first is kept, in the order train, val, test.

    Args:
        processed: The processed dataset.
        output: Folder for the tars and their tables.
        options: How to shard.
        progress: Called with the number of samples that a stage has just done.
        begin: Called before each stage with its name and its number of samples: the plan passes, then the packing
            of the tars that are not there.
        share: Who does it, and which tars; None is `options.workers` processes of this machine for all.

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
    source = _source(processed, output, options)
    with open_job(output, share or Share(slots=options.workers), progress, begin, source) as job:
        return write_plan(job, lambda: scan(processed, options, job), processed, _packer, options.overwrite)


@contextlib.contextmanager
def open_job(output: AnyPath, share: Share, progress: Progress, begin: Begin, source: Any = None) -> Iterator[Job]:
    """Give a job that spills where its output lies, or beside the system's temporary files if that is a storage."""
    if isinstance(output, Path):
        output.mkdir(parents=True, exist_ok=True)
    folder = output if isinstance(output, Path) else None
    with tempfile.TemporaryDirectory(prefix=_SPILL, dir=folder) as spill:
        yield Job(output, Path(spill), share, progress, begin, source)


def write_plan(
    job: Job,
    make_plan: Callable[[], Plan],
    processed: AnyPath,
    make_packer: MakeWorker,
    overwrite: bool,
) -> ShardReport:
    """Write the tars of a plan and their tables, or what a stopped run or another share left of them to write.

    Args:
        job: Where, and by whom.
        make_plan: Makes the plan, and its rows in `job.work`.
        processed: Where the triples are.
        make_packer: Makes what packs a unit (picklable for several workers).
        overwrite: Remove other shards from the output.

    Raises:
        InputError: The output holds other shards.
    """
    alone = job.share.of == 1
    with exclusive(job.output, shared=not alone):
        if alone:
            _remove_leftovers(job)
        try:
            with exclusive(job.work, _PATIENCE):
                plan, records = _planned(job, make_plan, processed, overwrite)
            reused = len(records)
            try:
                _pack(job, plan, records, make_packer)
            except ChangedError:
                write_plan_file(job, plan, None)
                raise
            with exclusive(job.work, _PATIENCE):
                return _finished(job, plan, reused)
        except BaseException:
            if alone and not read_plan(job.output):
                _remove_work(job)
            raise


def _planned(
    job: Job, make_plan: Callable[[], Plan], processed: AnyPath, overwrite: bool
) -> tuple[Plan, dict[str, TarRecord]]:
    """Give the plan, that of a stopped run or another share where it is of the same triples, and what is done of it."""
    there = read_plan(job.output, processed)
    if there and there[1] is not None and there[1] == job.source:
        return there[0], _reusable(job.output, there[0], read_state(job.output))
    plan = make_plan()
    claim = _claim_append if plan.before else _claim
    records = _reusable(job.output, plan, claim(job.output, plan, overwrite))
    if len(records) < len(plan.units):
        stale: list[AnyPath] = [*job.work.glob("*.json")]
        for path in stale:
            path.unlink(missing_ok=True)
        write_plan_file(job, plan, job.source)
        for record in records.values():
            write_record(job.output, record)
        for table in () if plan.before else (INDEX, SPLITS_CSV):  # complete tars keep theirs until all new are there
            (job.output / table).unlink(missing_ok=True)
    return plan, records


def _finished(job: Job, plan: Plan, reused: int) -> ShardReport:
    """Write the tables, if all tars are there, and say what there is."""
    there = read_state(job.output).records
    records = [record for unit in plan.units if (record := there.get(unit.tar.name)) and record.plan == unit.digest]
    every, missing, changed = [*plan.before, *records], len(plan.units) - len(records), True
    if not missing:
        changed = _write_tables(job, plan, every)
        _remove_work(job)
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
        missing=missing,
    )


def _source(processed: AnyPath, output: AnyPath, options: ShardOptions) -> Any:
    """Give a value that is another one when triples come, go or change, without a look at each of them."""
    how = {name: value for name, value in asdict(options).items() if name not in ("workers", "overwrite")}
    texts = [processed / INFO, processed / FAILED, *([output / INDEX] if options.append else [])]
    found: list[Any] = [how, str(processed), *(hashlib.sha256(_content(path)).hexdigest() for path in texts)]
    recorded = {part_name(record["unit"]): record["sha256"] for record in unit_records(processed)}
    for folder in (processed / split for split in SPLITS if (processed / split).is_dir()):
        paths = part_paths(folder)
        if isinstance(folder, Path):
            paths.append(folder)  # which changes when a loose file comes, goes or is replaced
        for path in paths:
            stat = path.stat() if isinstance(path, Path) or path.name not in recorded else None
            found.append((path.name, recorded.get(path.name), stat and stat.st_size, getattr(stat, "st_mtime_ns", 0)))
    return json.loads(json.dumps(found))  # as it is read again


def _content(path: AnyPath) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _remove_leftovers(job: Job) -> None:
    """Remove what killed runs left half-written, and where they spilled."""
    remove_temporary(job.output)
    remove_temporary(job.work)
    for spill in job.output.glob(f"{_SPILL}*") if isinstance(job.output, Path) else ():
        if spill.name != job.spill.name:
            shutil.rmtree(spill)


def _remove_work(job: Job) -> None:
    """Remove what stands of a run that has nothing left to do, the plan first."""
    if isinstance(job.work, Path):
        (job.work / PLAN).unlink(missing_ok=True)
        shutil.rmtree(job.work, ignore_errors=True)
        return
    for path in sorted(job.work.iterdir(), key=lambda path: path.name != PLAN):
        path.unlink(missing_ok=True)


def _require_apart(processed: AnyPath, output: AnyPath) -> None:
    """Make sure that neither folder is, or lies in, the other."""
    source, target = PurePosixPath(str(processed.resolve())), PurePosixPath(str(output.resolve()))
    if source == target or source in target.parents or target in source.parents:
        where = "that folder itself" if source == target else "in it" if source in target.parents else "around it"
        raise InputError(
            f"expected a folder for the shards apart from the processed dataset {processed}, "
            f"found {output}, which is {where}\n"
            f"  try: embedshard shard {processed} {processed.resolve().parent / f'{source.name}-shards'}"
        )


def _claim(output: AnyPath, plan: Plan, overwrite: bool) -> State:
    """Make sure that the folder holds nothing but tars of this plan; gives what is known of them."""
    state = read_state(output)
    if state.plan != plan.digest:
        if overwrite:
            _remove_shards(output, state)
        state = State()
    expected = {unit.tar.name for unit in plan.units} if state.plan else set()
    others = sorted(name for name in _tars(output) if name not in expected)
    tables = (SPLITS_CSV, INDEX, f"{PROGRESS}/{PLAN}")
    others += [name for name in tables if not state.plan and (output / name).exists()]
    if others:
        hint = "give another folder, or move them away" if overwrite else "give another folder, or: --overwrite"
        raise InputError(
            f"expected {output} to be empty or to hold shards of these triples with these options, "
            f"found {', '.join(others[:5])}{' and more' if len(others) > 5 else ''} of another run\n  {hint}"
        )
    return state


def _claim_append(output: AnyPath, plan: Plan, overwrite: bool) -> State:
    """Make sure that the folder holds nothing but the tars that are appended to and those of a stopped run.

    What was stopped while other triples were there is removed: no table names it yet.
    """
    state = read_state(output)
    before = {record.name for record in plan.before}
    others = sorted({*_tars(output)} - before - {*state.tars})
    if others:
        raise InputError(
            f"expected {output} to hold the tars of its {INDEX} and no others, "
            f"found {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}\n  move them away"
        )
    if state.plan == plan.digest:
        return state
    for name in {*state.tars} - before:
        _remove_tar(output, name)
    return State()


def _tars(output: AnyPath) -> list[str]:
    return [path.name for path in output.glob("[!.]*.tar")] if output.is_dir() else []


def _remove_tar(output: AnyPath, name: str) -> None:
    for path in (output / name, offsets_path(output / name)):
        path.unlink(missing_ok=True)


def _remove_shards(output: AnyPath, state: State) -> None:
    """Remove what the tables name, then the tables, those that name the tars last."""
    tars = set(state.tars)
    if (output / SPLITS_CSV).exists():
        tars.update(name for names in read_splits(output).values() for name in names)
    for name in sorted(tars):
        if name == os.path.basename(name):
            _remove_tar(output, name)
    for name in (SIZES, _CARD, _LEFT_OUT, SPLITS_CSV, INDEX, f"{PROGRESS}/{PLAN}"):
        (output / name).unlink(missing_ok=True)


def _reusable(output: AnyPath, plan: Plan, state: State) -> dict[str, TarRecord]:
    records = {}
    for unit in plan.units:
        record, path = state.records.get(unit.tar.name), output / unit.tar.name
        if record and record.plan == unit.digest and _is_still(path, record.bytes, unit.newest):
            records[record.name] = record
    return records


def _is_still(path: AnyPath, size: int, newest: int) -> bool:
    """Tell whether a tar is there that is not older than its sources, as far as its place tells times."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return False
    return stat.st_size == size and offsets_path(path).exists() and getattr(stat, "st_mtime_ns", newest) >= newest


def _pack(job: Job, plan: Plan, records: Mapping[str, TarRecord], make_packer: MakeWorker) -> None:
    """Pack the tars of this share that `records` lacks.

    Raises:
        Exception: The error of the first unit that failed, once the others are done.
    """
    mine = plan.units[job.share.part - 1 :: job.share.of]
    units = [unit for unit in mine if unit.tar.name not in records]
    if not units:
        return
    samples, errors = sum(unit.tar.count for unit in units), []
    job.begin("packing", samples)
    for _, outcome in job.share.run(units, make_packer, samples):
        if isinstance(outcome, Exception):
            errors.append(outcome)
        else:
            job.progress(outcome.samples)
    if errors:
        raise errors[0]


def _packer(slot: int) -> Worker:
    return each(_pack_tar)


def _pack_tar(unit: Unit) -> TarRecord:
    name, lines = unit.tar.name, unit_lines(unit)
    try:
        with publish(unit.output / name, shared=True) as file, Reader(unit.folder) as reader, TarWriter(file) as tar:
            rows = [pack_row(tar, triple) for triple in read_rows(reader, lines, unit.newest)]
    except RemoteError:
        raise
    except (FileNotFoundError, BadTripleError) as error:
        raise ChangedError(
            f"expected {unit.folder} to stay as it is while it is sharded, found: {error}\n  run the same command again"
        ) from error
    return finish_tar(unit, tar, rows)


def finish_tar(unit: Unit, tar: TarWriter, rows: Iterable[OffsetRow]) -> TarRecord:
    """Write the idx of a tar that is there, and then its record."""
    record = TarRecord(unit.tar.name, unit.tar.split, unit.tar.count, unit.frames, tar.size, tar.sha256, unit.digest)
    with publish(offsets_path(unit.output / unit.tar.name), sync=False, shared=True) as file:
        file.write(offsets_bytes(rows))
    write_record(unit.output, record)
    return record


def _write_tables(job: Job, plan: Plan, records: list[TarRecord]) -> bool:
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
    changed = _write_left_out(job, plan)
    for name, data in tables:
        changed |= write_changed(job.output / name, data)
    return changed


def _write_left_out(job: Job, plan: Plan) -> bool:
    """Put the list of what was left out beside the tars; there is none where nothing was."""
    path = job.output / _LEFT_OUT
    if not plan.facts["left_out"]["total"]:
        there = path.exists()
        path.unlink(missing_ok=True)
        return there
    return write_changed(path, left_out_path(job.output, plan.token).read_bytes())
