"""A worker of units: its models, the units it is at, and the parts that come of them."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any, TypeAlias

from embedshard.encode.clip import ClipEncoder, ModelOptions, load_encoder
from embedshard.encode.pipeline import WRITERS, EncodeOptions, Output, Pipeline, Triple
from embedshard.encode.profile import Profile
from embedshard.encode.run import setting_of
from embedshard.encode.units import BEAT, Record, Unit, UnitFolder, alone
from embedshard.encode.work import Outcome, Problem, Work, works_of
from embedshard.engine import Worker
from embedshard.errors import InputError
from embedshard.manifest import Manifest
from embedshard.processed import (
    DatasetInfo,
    Failure,
    begin_dataset,
    json_bytes,
    npy_bytes,
    part_name,
    read_info,
    require_same_setting,
)
from embedshard.remote import AnyPath
from embedshard.sample import Sample
from embedshard.store import publish
from embedshard.tar import read_members, write_members

__all__ = ["Setup", "all_failed", "make_worker", "profile_of"]

_CAREFUL = 3  # workers that began a unit, from which on its media are one at a time
_DEADLY = 2  # workers that died at a media alone, from which on it is not tried
_UPLOADS = 2  # units that are written at once, while others are encoded
_IN_MEMORY = 1 << 26  # bytes of a part, beyond which it waits on the disk


_Records: TypeAlias = list[tuple[Record | None, Record]]


@dataclass(frozen=True)
class Setup:
    """What a worker is told.

    Attributes:
        models: By the folder that each fills.
        devices: That the slots take in turn.
        options: Those of one slot.
        plan: The samples, a row group a unit.
        manifest: Digest of the manifest.
        root: Where the media are.
    """

    models: dict[AnyPath, ModelOptions]
    devices: tuple[str, ...]
    options: EncodeOptions
    plan: Manifest
    manifest: str
    root: AnyPath


def make_worker(setup: Setup, slot: int) -> Worker:
    """Load the models on the slot's device, and see that their settings are those of the folders."""
    device = setup.devices[slot % len(setup.devices)]
    encoders = {folder: load_encoder(replace(model, device=device)) for folder, model in setup.models.items()}
    for folder, encoder in encoders.items():
        _claim(folder, setting_of(encoder, setup.options), setup)
    return _UnitEncoder(setup, encoders).run


def all_failed(unit: Unit, error: Exception, setup: Setup) -> _Records:
    """Record that a unit came to nothing, where it is not done; gives the records before and now."""
    opened = _OpenUnit(unit, setup.plan.group_reader()(unit.number), setup, _folders(setup))
    for group in opened.groups():
        for sample, outputs in group:
            for output in outputs:
                opened.fail(Problem(output, sample, "encode", str(error)))
    return opened.write()


def _folders(setup: Setup) -> dict[AnyPath, UnitFolder]:
    return {processed: UnitFolder(processed) for processed in setup.models}


def profile_of(options: EncodeOptions, slots: int) -> Profile:
    """Give an empty profile of so many workers."""
    decoders = options.workers * slots
    return Profile({"decode": decoders, "preprocess": decoders, "encode": slots, "write": WRITERS * slots})


def _claim(processed: AnyPath, setting: Mapping[str, Any], setup: Setup) -> None:
    """Write `dataset.json`, or check that the folder was begun with the same setting."""
    plan = setup.plan
    units, digest = len(plan.groups()), Path(str(plan.path)).stem
    wanted = DatasetInfo(setting, asdict(plan.source), str(plan.root), setup.manifest, units, digest)
    with alone(processed, patience=60):
        require_same_setting(processed, begin_dataset(processed, wanted).encoder, setting)


class _UnitEncoder:
    """Encodes units, several at once so that the decoders need not wait for the end of one."""

    def __init__(self, setup: Setup, encoders: Mapping[AnyPath, ClipEncoder]) -> None:
        self._setup, self._folders = setup, _folders(setup)
        self._read = setup.plan.group_reader()
        self._profile = profile_of(setup.options, 1)
        self._outputs = [
            Output(encoder, dict(_info(folder).encoder), setup.plan.source.name, partial(self._keep, output))
            for output, (folder, encoder) in enumerate(encoders.items())
        ]
        self._pipeline = Pipeline(self._outputs, setup.options, setup.root, self._profile)
        self._open: dict[int, _OpenUnit] = {}
        self._owners: dict[int, _OpenUnit] = {}
        self._writing: dict[int, Future[_Records]] = {}
        self._works = 0

    def run(self, units: Iterator[Unit]) -> Iterator[tuple[Unit, Any]]:
        """Encode units and yield each with its records, before and now by output, and the busy seconds it took.

        What is raised but InputError and OSError may be a media's doing, as a crash is, so the claims stay.
        """
        stopped = threading.Event()
        beating = threading.Thread(target=self._beat, args=(stopped,), daemon=True)
        beating.start()
        try:
            with ThreadPoolExecutor(_UPLOADS, "part") as self._writers:
                for outcome in self._pipeline.run(self._works_of(units)):
                    self._owners.pop(outcome.number).add(outcome)
                    yield from self._written(_UPLOADS)
                yield from self._written(0)
                for opened in list(self._open.values()):
                    self._one_by_one(opened)
                    yield from self._written(0)
        except (InputError, OSError, KeyboardInterrupt, GeneratorExit):
            for folder in self._folders.values():
                with contextlib.suppress(OSError):
                    folder.release_mine()
            raise
        finally:
            stopped.set()
            beating.join()
            for state in (self._open, self._owners, self._writing):
                state.clear()

    def _works_of(self, units: Iterator[Unit]) -> Iterator[Work]:
        """Open units and yield their works; in the thread that hands works to the decoders."""
        for unit in units:
            opened = _OpenUnit(unit, self._read(unit.number), self._setup, self._folders)
            self._open[unit.number] = opened
            if opened.tries >= _CAREFUL:
                continue
            for work in works_of(opened.groups(), opened.fail, self._works):
                self._give(opened, work)
                yield work
            opened.sealed = True

    def _give(self, opened: _OpenUnit, work: Work) -> None:
        self._works = max(self._works, work.number + 1)
        opened.given += 1
        self._owners[work.number] = opened

    def _one_by_one(self, opened: _OpenUnit) -> None:
        """Encode a unit that workers have died on: the claim tells at which media, and one that is deadly fails.

        Those that are suspected come first.
        """
        options = replace(self._setup.options, workers=min(1, self._setup.options.workers))
        pipeline = Pipeline(self._outputs, options, self._setup.root, self._profile)
        works = list(works_of(opened.groups(), opened.fail, self._works))
        for work in sorted(works, key=lambda work: -opened.died.get(work.path, 0)):
            if (deaths := opened.died.get(work.path, 0)) >= _DEADLY:
                opened.fail_all(work, f"the worker process died on it, {deaths} times")
                continue
            opened.note(work.path)
            self._give(opened, work)
            for outcome in pipeline.run([work]):
                self._owners.pop(outcome.number).add(outcome)
        opened.note("")
        opened.sealed = True

    def _keep(self, output: int, number: int, triple: Triple) -> None:
        self._owners[number].drafts[output].keep(triple)

    def _written(self, ahead: int) -> Iterator[tuple[Unit, Any]]:
        """Have whole units written, yield those that are, and wait until at most `ahead` are not."""
        for number, opened in list(self._open.items()):
            if opened.whole and number not in self._writing:
                self._writing[number] = self._writers.submit(opened.write)
        while self._writing:
            number, writing = next(iter(self._writing.items()))
            if len(self._writing) <= ahead and not writing.done():
                return
            records = writing.result()
            del self._writing[number]
            yield self._open.pop(number).unit, (records, self._profile.drain())

    def _beat(self, stopped: threading.Event) -> None:
        while not stopped.wait(BEAT):
            for folder in self._folders.values():
                folder.beat()


def _info(processed: AnyPath) -> DatasetInfo:
    info = read_info(processed)
    assert info
    return info


class _OpenUnit:
    """A unit on its way: what it lacks, by output, and what has come back.

    Attributes:
        drafts: By output what its part will hold.
        tries: Workers that began it, this one too.
        died: How many of them died at a media, where they were one at a time.
        given: Works that are handed out.
        sealed: Whether all are.
    """

    def __init__(self, unit: Unit, samples: list[Sample], setup: Setup, folders: Mapping[AnyPath, UnitFolder]) -> None:
        self.unit, self._samples, self._folders, self._began = unit, samples, list(folders.values()), time.time()
        self.given, self._back, self.sealed = 0, 0, False
        self.tries, self.died = 1, Counter[str]()
        self.drafts: dict[int, _Draft] = {}
        self._before: dict[int, Record | None] = {}
        for output, (path, folder) in enumerate(folders.items()):
            before = self._before[output] = folder.find(unit.number)
            if before is None or (setup.options.retry_failed and before.failures):
                claim = folder.claim(unit.number)
                self.tries, self.died = max(self.tries, claim.tries), self.died | Counter(claim.died)
                self.drafts[output] = _Draft(path, unit.number, self._samples, before)

    def groups(self) -> Iterator[list[tuple[Sample, list[int]]]]:
        """Yield the samples that are due, media by media, with the outputs that lack them."""
        for _, group in groupby(self._samples, lambda sample: sample.media.path):
            lacking = [(sample, [o for o, draft in self.drafts.items() if draft.lacks(sample)]) for sample in group]
            if found := [(sample, outputs) for sample, outputs in lacking if outputs]:
                yield found

    def fail(self, problem: Problem) -> None:
        """Note a sample that has no triple."""
        self.drafts[problem.output].fail(problem)

    def fail_all(self, work: Work, reason: str) -> None:
        """Note that all samples of a work have no triple."""
        for samples in work.clips.values():
            for sample, outputs in samples:
                for output in outputs:
                    self.fail(Problem(output, sample, "encode", reason))

    def note(self, media: str) -> None:
        """Say in the claims which media is worked on."""
        for output in self.drafts:
            self._folders[output].note(self.unit.number, media)

    def add(self, outcome: Outcome) -> None:
        """Note what became of a work."""
        for problem in outcome.problems:
            self.fail(problem)
        for output, (_, warned) in outcome.written.items():
            draft = self.drafts[output]
            draft.warned += warned
            draft.media += outcome.decoded
            draft.frames += outcome.frames.get(output, 0)
        self._back += 1

    @property
    def whole(self) -> bool:
        """Whether all of it has come back."""
        return self.sealed and self._back == self.given

    def write(self) -> _Records:
        """Write the parts, and then the records; gives the record before and now of every output."""
        now = dict(self._before)
        for output, draft in self.drafts.items():
            record = now[output] = draft.record(self._began)
            self._folders[output].write(record)
        return [(before, record) for before, record in zip(self._before.values(), now.values(), strict=True) if record]


@dataclass
class _Draft:
    """A part in the making: triples come in any order and leave in the plan's.

    Attributes:
        processed: The dataset.
        unit: Number of the unit.
        samples: Of the unit.
        before: Its record, where only what failed is tried again.
    """

    processed: AnyPath
    unit: int
    samples: list[Sample]
    before: Record | None
    warned: int = 0
    media: int = 0
    frames: int = 0
    _failures: dict[str, Failure] = field(default_factory=dict)
    _places: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="embedshard-")  # noqa: SIM115
        self._keeping = threading.Lock()
        self._attempts = {failure.key: failure.attempt for failure in self.before.failures} if self.before else {}

    def lacks(self, sample: Sample) -> bool:
        """Tell whether a sample is to be encoded."""
        return self.before is None or sample.key in self._attempts

    def keep(self, triple: Triple) -> None:
        """Put a triple aside until the part is written."""
        pieces = {"json": json_bytes(triple.meta), "npy": npy_bytes(triple.array), "txt": triple.caption.encode()}
        with self._keeping:
            self._spool.seek(0, 2)
            place = self._spool.tell()
            self._spool.write(b"".join(pieces.values()))
            places = self._places.setdefault(triple.key, [])
            for part, data in pieces.items():
                places.append((f"{triple.key}.{part}", place, len(data)))
                place += len(data)

    def fail(self, problem: Problem) -> None:
        """Note a sample that has no triple."""
        sample = problem.sample
        attempt = self._attempts.get(sample.key, 0) + 1
        self._failures[sample.key] = Failure(
            sample.key, sample.split, sample.media.path, problem.stage, problem.reason, attempt
        )

    def record(self, began: float) -> Record:
        """Write the part, if it has any triple, and give the record of the unit."""
        split = self.samples[0].split
        path = self.processed / split / part_name(self.unit)
        old = self._old(path)
        keys = [sample.key for sample in self.samples if sample.key in self._places or sample.key in old]
        if lost := {sample.key for sample in self.samples} - self._failures.keys() - {*keys}:
            raise RuntimeError(f"unit {self.unit}: neither a triple nor a failure of {', '.join(sorted(lost)[:5])}")
        size, sha256 = (self.before.bytes, self.before.sha256) if self.before else (0, "")
        if self._places:
            with publish(path, shared=True) as file:
                size, sha256 = write_members(file, self._members(keys, old))
        if isinstance(path, Path):
            path.parent.mkdir(exist_ok=True)
        self._spool.close()
        before, seconds = self.before, time.time() - began
        return Record(
            self.unit, split, len(self.samples), len(keys), self.warned + (before.warned if before else 0),
            self.media + (before.media if before else 0), self.frames + (before.frames if before else 0), size, sha256,
            began, round(seconds, 3), socket.gethostname(), list(self._failures.values()),
        )  # fmt: skip

    def _old(self, path: AnyPath) -> dict[str, list[tuple[str, bytes]]]:
        """Give the triples of the part that is there, by key."""
        found: dict[str, list[tuple[str, bytes]]] = {}
        if self.before and self.before.done:
            with path.open("rb") as file:
                for name, data in read_members(file):
                    found.setdefault(name.partition(".")[0], []).append((name, data))
        return found

    def _members(self, keys: Sequence[str], old: Mapping[str, list[tuple[str, bytes]]]) -> Iterator[tuple[str, bytes]]:
        for key in keys:
            if key in old:
                yield from old[key]
                continue
            for name, place, size in self._places[key]:
                self._spool.seek(place)
                yield name, self._spool.read(size)
