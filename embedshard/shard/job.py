"""A run that writes shards: its plan, who does which tars of it, and what is done so far.

May import `engine`, `processed`, `remote`, `store`, `errors`, and this room. While tars are packed there is a folder
`.progress` among them, so that a stopped run goes on and several may share one:

    plan.json                    the plan and what it was made of; gone once the tables are there
    rows-<token>                 a line for each triple, tar after tar
    left_out-<token>.jsonl       those that are not packed, and why
    ds_00000.json                the record of a tar that is done

The token is of what a plan was made of, so that one which is refused spoils nothing of the plan that is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from embedshard.engine import MakeWorker, WorkerDiedError, local
from embedshard.errors import InputError
from embedshard.remote import AnyPath, RemoteError
from embedshard.shard.dataset import Begin, Progress
from embedshard.shard.plan import Tar
from embedshard.shard.table import INDEX, PROGRESS, TarRecord
from embedshard.store import publish, write_bytes

__all__ = [
    "PLAN",
    "ChangedError",
    "Job",
    "LeftOut",
    "Plan",
    "Share",
    "State",
    "Unit",
    "left_out_path",
    "read_plan",
    "read_state",
    "record_path",
    "rows_path",
    "unit_lines",
    "write_plan_file",
    "write_record",
]

PLAN = "plan.json"
_LISTED = 1000


class ChangedError(InputError):
    """What is packed is not what it was when the plan was made, which is of no use any more."""


Engine: TypeAlias = Callable[[Iterable[Any], MakeWorker, int], Iterator[tuple[Any, Any]]]
"""`run` of an engine."""


@dataclass(frozen=True)
class Share:
    """A run's share of the work: who does it, and which tars.

    Attributes:
        engine: Runs the units.
        slots: How many at once.
        least: Samples that there must be for each slot, so that starting it pays.
        part: The share packs every `of`-th tar from this one on, which counts from 1.
        of: How many shares there are.
    """

    engine: Engine = local.run
    slots: int = 1
    least: int = 1
    part: int = 1
    of: int = 1

    def run(self, units: Iterable[Any], make_worker: MakeWorker, samples: int | None) -> Iterator[tuple[Any, Any]]:
        """Run units of so many samples; None where that is unknown.

        Raises:
            InputError: Several workers died on one.
        """
        slots = self.slots if samples is None else min(self.slots, max(1, samples // self.least))
        if isinstance(units, Sequence):
            slots = min(slots, len(units))
        for unit, outcome in self.engine(units, make_worker, slots):
            if isinstance(outcome, WorkerDiedError):
                raise InputError(
                    f"{outcome}, as where memory is short\n  what is packed stays; run the same command again with "
                    "fewer --workers or --slots"
                ) from outcome
            yield unit, outcome


@dataclass(frozen=True)
class Job:
    """Where shards are written, by whom, and who is told.

    Attributes:
        output: Folder for the tars and their tables.
        spill: Folder on a disk for what is sorted.
        share: Who does it.
        progress: Called with the number of samples that a stage has just done.
        begin: Called before each stage.
        source: A value by which a plan of the same triples and options is known; None if there is none.
    """

    output: AnyPath
    spill: Path
    share: Share
    progress: Progress
    begin: Begin
    source: Any = None

    @property
    def work(self) -> AnyPath:
        """The folder of what is done so far."""
        return self.output / PROGRESS

    @property
    def token(self) -> str:
        """What the files of its plan are named by."""
        text = json.dumps(self.source) if self.source is not None else self.spill.name
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Unit:
    """One tar to pack.

    Attributes:
        tar: Its name, split and number of samples.
        output: Folder that it goes to.
        folder: The split's folder of triples.
        rows: File with the plan's rows.
        span: Offset and size of its own ones, in bytes.
        frames: Sum over its rows.
        digest: Hash of its rows.
        newest: When the last of its source files changed, in nanoseconds.
    """

    tar: Tar
    output: AnyPath
    folder: AnyPath
    rows: AnyPath
    span: tuple[int, int]
    frames: int
    digest: str
    newest: int


@dataclass(frozen=True)
class Plan:
    """All tars to pack, and what `index.json` says beside them.

    `digest` is the hash of all that but what failed to encode: no tar depends on why another sample is not there.
    `before` are the tars that these are appended to.
    """

    token: str
    units: list[Unit]
    facts: dict[str, Any]
    digest: str
    before: tuple[TarRecord, ...] = ()


@dataclass(frozen=True)
class State:
    """What a folder of shards says of itself: its plan's hash, the tars this names, and those that are finished."""

    plan: str = ""
    tars: tuple[str, ...] = ()
    records: Mapping[str, TarRecord] = field(default_factory=dict)


class LeftOut:
    """The list of triples that are not packed, being written.

    Args:
        path: Where it is to be.
    """

    def __init__(self, path: AnyPath) -> None:
        self.reasons = Counter[str]()
        self._first: list[dict[str, str]] = []
        self._digest = hashlib.sha256()
        self._publishing = publish(path)

    def __enter__(self) -> LeftOut:
        self._file = self._publishing.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._publishing.__exit__(*error)

    def add(self, name: str, reason: str) -> None:
        """List a triple."""
        row = {"triple": name.encode("utf-8", "backslashreplace").decode(), "reason": reason}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._digest.update(line)
        self.reasons[reason] += 1
        if len(self._first) < _LISTED:
            self._first.append(row)

    def digest(self) -> bytes:
        """Give a hash of the list."""
        return self._digest.digest()

    def facts(self) -> dict[str, Any]:
        """Give what `index.json` says of it."""
        return {"total": self.reasons.total(), "reasons": dict(sorted(self.reasons.items())), "first": self._first}


def unit_lines(unit: Unit) -> list[str]:
    """Read the plan's rows of a tar.

    Raises:
        ChangedError: They are not as many as the plan says.
    """
    offset, size = unit.span
    lines: list[str] = []
    with contextlib.suppress(FileNotFoundError), unit.rows.open("rb") as file:
        file.seek(offset)
        lines = file.read(size).decode().splitlines()
    if len(lines) != unit.tar.count:
        raise ChangedError(
            f"expected {unit.tar.count} rows of {unit.tar.name} in {unit.rows}, found {len(lines)}"
            "\n  run the same command again"
        )
    return lines


def rows_path(output: AnyPath, token: str) -> AnyPath:
    """Give the path of a plan's rows."""
    return output / PROGRESS / f"rows-{token}"


def left_out_path(output: AnyPath, token: str) -> AnyPath:
    """Give the path of the list of what a plan leaves out."""
    return output / PROGRESS / f"left_out-{token}.jsonl"


def write_plan_file(job: Job, plan: Plan, source: Any) -> None:
    """Keep a plan, with what it was made of; None if it is not to be taken up."""
    units = [{**asdict(replace(unit, output=Path(), folder=Path(), rows=Path()))} for unit in plan.units]
    for unit in units:
        del unit["output"], unit["folder"], unit["rows"]
    value = {"source": source, "token": plan.token, "digest": plan.digest, "facts": plan.facts, "units": units}
    value["before"] = [asdict(record) for record in plan.before]
    write_bytes(job.work / PLAN, json.dumps(value).encode(), sync=True)


def read_plan(output: AnyPath, processed: AnyPath | None = None) -> tuple[Plan, Any] | None:
    """Read the plan of a run that is not finished, and what it was made of; None where there is none.

    Args:
        output: The shards.
        processed: The triples; may be left out where nothing is packed.
    """
    try:
        value = json.loads((output / PROGRESS / PLAN).read_bytes())
        units = [
            Unit(
                tar,
                output,
                (processed or output) / tar.split,
                rows_path(output, value["token"]),
                tuple(row["span"]),
                row["frames"],
                row["digest"],
                row["newest"],
            )
            for row in value["units"]
            for tar in [Tar(**row["tar"])]
        ]
        before = tuple(TarRecord(**row) for row in value["before"])
        return Plan(value["token"], units, value["facts"], value["digest"], before), value["source"]
    except RemoteError:
        raise
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_record(output: AnyPath, record: TarRecord) -> None:
    """Note that a tar is done."""
    with publish(record_path(output, record.name), shared=True) as file:
        file.write(json.dumps(asdict(record)).encode())


def record_path(output: AnyPath, tar: str) -> AnyPath:
    """Give the path of the record of a tar."""
    return output / PROGRESS / (tar.removesuffix(".tar") + ".json")


def read_state(output: AnyPath) -> State:
    """Read what was planned and finished in a folder; an empty state where it says nothing readable."""
    found = read_plan(output)
    try:
        if found is None:
            index = json.loads((output / INDEX).read_bytes())
            rows, plan, tars = index["tars"], index["plan"], [row["name"] for row in index["tars"]]
        else:
            plan, tars = found[0].digest, [unit.tar.name for unit in found[0].units]
            rows = [_record(path) for path in (output / PROGRESS).glob("*.json") if path.name != PLAN]
        return State(plan, tuple(tars), {row["name"]: TarRecord(**row) for row in rows if row})
    except RemoteError:
        raise
    except (OSError, ValueError, TypeError, KeyError):
        return State()


def _record(path: AnyPath) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
