"""Rows in, files out: staged by `encode`, laid out unit by unit. May import `encode`, `manifest`, `processed`,
`store`."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from embedshard.address import AddressOpener
from embedshard.compat.inputs import InputOptions, Row, Source, Unit, read_units
from embedshard.compat.outputs import Files, Output, Tars
from embedshard.distinct import DistinctIds, id_hash
from embedshard.encode.clip import ClipEncoder, ModelOptions, load_encoder
from embedshard.encode.ledger import EncodeReport
from embedshard.encode.pipeline import EncodeOptions
from embedshard.encode.run import encode, setting_of
from embedshard.encode.text import CaptionEncoder, caption_similarity
from embedshard.errors import InputError
from embedshard.frames import Sampling
from embedshard.manifest import SourceInfo, open_manifest, writing_manifest
from embedshard.processed import (
    FAILED,
    Failure,
    FailureLog,
    has_triple,
    read_failures,
    remove_triple,
    require_same_setting,
    write_failures,
)
from embedshard.sample import Media, Sample, make_key
from embedshard.store import exclusive, write_json

__all__ = ["Report", "Request", "run"]

_RECORDS, _SETTING, _SUMMARY = "_embedshard", "encoder.json", "summary.json"
_SPLIT = "train"
_SIMILARITY = "clip_frame_similarity"
_AT_ONCE = 10_000  # rows held, and encoded before they are laid out
_CAPTIONS = 256  # compared at once
_SHOWN = 5
_ROOT = Path("/")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        src: The input.
        input_format: `table` or `webdataset`.
        options: How it is read.
        dest: Folder for the output.
        sampling: Which frames.
        model: The model.
        workers: Decode processes.
        dtype: `float16`, `float32`, or `auto` to choose by device.
        image_size: That the model is to have; None for any.
        similarity: Whether frames are compared with captions.
    """

    src: Source
    input_format: str
    options: InputOptions
    dest: Path
    sampling: Sampling
    model: ModelOptions
    workers: int
    dtype: str
    image_size: int | None
    similarity: bool

    def units(self) -> Iterator[Unit]:
        """Read the input."""
        return read_units(self.src, self.input_format, self.options)

    def label(self, unit: Unit, name: str) -> str:
        """Name a row in the records: names are unique among loose files, or in their tar."""
        return f"{unit.name}/{name}" if self.options.in_tar else name

    @property
    def records(self) -> Path:
        """The folder of the records; each of several ranks has its own."""
        rank, ranks = self.options.rank, self.options.ranks
        return self.dest / _RECORDS / (f"rank-{rank}-of-{ranks}" if ranks > 1 else "")


@dataclass
class Report:
    """Counts of a call: `rows` = `done` + `done_before` + `failed`, with the reasons; `frames` were encoded."""

    rows: int = 0
    done: int = 0
    done_before: int = 0
    failed: int = 0
    frames: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def run(request: Request) -> Report:
    """Do what is asked for."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(exclusive(request.records))
        opener = stack.enter_context(AddressOpener())
        output = Tars(request.dest, opener) if request.options.in_tar else Files(request.dest, opener)
        rows = _survey(request, output)
        encoder = load_encoder(request.model)
        options = _encode_options(request, encoder)
        setting = setting_of(encoder, options)
        _claim(request, setting)
        staging = _Staging(request, encoder, options)
        with _Ledger(request.records, rows) as ledger:
            for batch in _batches(request.units(), output):
                _encode_batch(request, batch, output, staging, ledger)
        shutil.rmtree(staging.folder, ignore_errors=True)
    write_json(request.records / _SUMMARY, {**asdict(ledger.report), "encoder": setting})
    _tell(ledger.report, request.records)
    return ledger.report


def _survey(request: Request, output: Output) -> int:
    """Count the rows, and check that no two share a name and none would take the place of another's file."""
    names, count, ours = DistinctIds(), 0, bool(_settings(request.dest))
    for unit in request.units():
        count += len(unit.rows) + len(unit.problems)
        for row in unit.rows:
            names.add(request.label(unit, row.name))
        taken = output.there(unit) if ours else output.taken(unit)
        if taken and not ours:
            raise InputError(
                f"{request.dest} holds files that this function did not write, like {sorted(taken)[0]}; "
                "give a new folder"
            )
    if hashes := names.repeated():
        labels = ((request.label(unit, row.name), row.media) for unit in request.units() for row in unit.rows)
        same: dict[str, list[str]] = {}
        for label, media in labels:
            if id_hash(label) in hashes:
                same.setdefault(label, []).append(media)
        found = [f"{label} ({', '.join(media[:2])})" for label, media in same.items() if len(media) > 1]
        if found:
            raise InputError(
                f"expected a name of its own for every video, found {len(found)} more than once: "
                f"{'; '.join(found[:_SHOWN])}\n  Mend videoID, or leave out use_dst_name"
            )
    return count


def _settings(dest: Path) -> list[Path]:
    """Give the records of the settings that `dest` was made with, one a rank."""
    return [path for pattern in (_SETTING, f"*/{_SETTING}") for path in sorted((dest / _RECORDS).glob(pattern))]


def _claim(request: Request, setting: Mapping[str, Any]) -> None:
    """Note the setting, or check that `dest` was begun with it."""
    for path in _settings(request.dest):
        require_same_setting(request.dest, json.loads(path.read_bytes()), setting)
    write_json(request.records / _SETTING, setting)


def _encode_options(request: Request, encoder: ClipEncoder) -> EncodeOptions:
    size = encoder.preprocess.size
    if request.image_size and set(size) != {request.image_size}:
        raise InputError(f"img_size: the model takes {size[0]} by {size[1]} pixels, found {request.image_size}")
    on_cuda = encoder.device.startswith("cuda")
    dtype = ("float16" if on_cuda else "float32") if request.dtype == "auto" else request.dtype
    return EncodeOptions(request.sampling, dtype=dtype, workers=request.workers)


def _batches(units: Iterable[Unit], output: Output) -> Iterator[list[tuple[Unit, list[Row]]]]:
    """Yield units with those of their rows that are due, many rows at a time to keep the workers busy."""
    batch: list[tuple[Unit, list[Row]]] = []
    for unit in units:
        there = output.there(unit)
        batch.append((unit, [row for row in unit.rows if row.name not in there]))
        if sum(len(unit.rows) for unit, _ in batch) >= _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _encode_batch(
    request: Request, batch: list[tuple[Unit, list[Row]]], output: Output, staging: _Staging, ledger: _Ledger
) -> None:
    """Encode what is due of some units, lay it out, and note what failed."""
    labelled = {request.label(unit, row.name): row for unit, due in batch for row in due}
    staging.encode(labelled, ledger)
    for unit, due in batch:
        for failure in unit.problems:
            ledger.fail(replace(failure, key=request.label(unit, failure.key)))
        labels = {row.name: request.label(unit, row.name) for row in due}
        arrays = {name: array for name, label in labels.items() if (array := staging.array(label))}
        output.write(unit, arrays, staging.fields([row for row in due if row.name in arrays], arrays))
        for row in due:
            if row.name not in arrays:
                ledger.fail(staging.failure(labels[row.name], row))
        ledger.count(done=len(arrays), done_before=len(unit.rows) - len(due))
    staging.forget(labelled)


class _Staging:
    """A processed dataset that holds what is encoded until it is laid out; a run that is stopped leaves it behind.

    Attributes:
        folder: Its folder.
    """

    def __init__(self, request: Request, encoder: ClipEncoder, options: EncodeOptions) -> None:
        self.folder = request.records / "staging"
        self._encoder, self._options = encoder, options
        self._captions = CaptionEncoder(encoder) if request.similarity else None
        self._failures: Mapping[str, Failure] = {}

    def encode(self, rows: Mapping[str, Row], ledger: _Ledger) -> None:
        """Encode rows, given by their labels, but for those that are staged already."""
        if not rows:
            return
        manifest = self.folder / "samples.parquet"
        with writing_manifest(manifest, _ROOT, SourceInfo("clip_video_encode")) as writer:
            for label, row in rows.items():
                media = Media(row.media, row.media, row.kind)
                writer.add(Sample(make_key(label), _SPLIT, media, row.caption))
        report = encode(open_manifest(manifest), self._processed, self._encoder, self._options, ledger.progress())
        ledger.report.frames += report.frames
        self._failures = read_failures(self._processed)

    def array(self, label: str) -> Path | None:
        """Give the npy of a row, None where there is none."""
        folder, key = self._processed / _SPLIT, make_key(label)
        return folder / f"{key}.npy" if has_triple(folder, key) else None

    def fields(self, rows: list[Row], arrays: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        """Give what the run adds to the json of rows, by their names."""
        found: dict[str, dict[str, Any]] = {}
        for first in range(0, len(rows) if self._captions else 0, _CAPTIONS):
            assert self._captions
            some = rows[first : first + _CAPTIONS]
            embeddings = [np.load(arrays[row.name]) for row in some]
            values = caption_similarity(self._captions, embeddings, [row.caption for row in some])
            found |= {row.name: {_SIMILARITY: v if row.caption else None} for row, v in zip(some, values, strict=True)}
        return found

    def failure(self, label: str, row: Row) -> Failure:
        """Give why a row is not staged."""
        return replace(self._failures[make_key(label)], key=label, media=row.media)

    def forget(self, labels: Iterable[str]) -> None:
        """Remove what is left of rows that are laid out."""
        for label in labels:
            remove_triple(self._processed / _SPLIT, make_key(label))

    @property
    def _processed(self) -> Path:
        return self.folder / "processed"


class _Ledger:
    """Counts and failures of a run, with a progress bar on a terminal.

    Args:
        folder: Of the records.
        rows: How many there are.

    Attributes:
        report: The counts so far.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self.report = Report(rows)
        self._folder, self._lock = folder, threading.Lock()

    def __enter__(self) -> _Ledger:
        from tqdm import tqdm

        self._before = read_failures(self._folder)
        self._failed: list[Failure] = []
        self._log = FailureLog(self._folder)
        self._bar = tqdm(total=self.report.rows, unit="video", disable=None, dynamic_ncols=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()
        self._log.close()
        if not kind and self._failed:
            write_failures(self._folder, self._failed)
        elif not kind:
            (self._folder / FAILED).unlink(missing_ok=True)

    def count(self, done: int, done_before: int) -> None:
        """Count rows of a unit that is laid out."""
        self.report.done += done
        self.report.done_before += done_before
        self._show()

    def fail(self, failure: Failure) -> None:
        """Note a row that came to nothing; on disk before this returns."""
        before = self._before.get(failure.key)
        failure = replace(failure, attempt=before.attempt + 1 if before else 1)
        self._failed.append(failure)
        self._log.add(failure)
        self.report.failed += 1
        self.report.reasons[failure.reason] = self.report.reasons.get(failure.reason, 0) + 1

    def progress(self) -> Callable[[EncodeReport], None]:
        """Give a function that shows how far a batch is."""
        return lambda report: self._show(report.finished)

    def _show(self, more: int = 0) -> None:
        report = self.report
        with self._lock:
            self._bar.update(max(0, report.done + report.done_before + report.failed + more - self._bar.n))


def _tell(report: Report, records: Path) -> None:
    """Warn of failures, for nobody may look at what the function returns."""
    if not report.failed:
        return
    reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(report.reasons).most_common(_SHOWN))
    text = f"{report.failed} of {report.rows} videos came to nothing: {reasons}; each is in {records / FAILED}"
    if report.failed == report.rows:
        raise InputError(text)
    warnings.warn(text, stacklevel=4)
