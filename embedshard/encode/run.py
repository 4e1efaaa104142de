"""The encode run: which samples are still to do, every clip once, triples and failures to disk, counts that add up."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from embedshard import __version__
from embedshard.distinct import id_hash
from embedshard.encode.batch import Batcher
from embedshard.encode.clip import ClipEncoder
from embedshard.encode.resume import claim, dataset_fields, take_over
from embedshard.encode.worker import DecodeOptions, Done, Failed, Frames, Job, Message, Opened, decoded
from embedshard.errors import InputError
from embedshard.frames import Sampling
from embedshard.frames.plan import Indices
from embedshard.manifest import Manifest
from embedshard.processed import (
    DatasetInfo,
    Failure,
    FailureLog,
    count_triples,
    has_triple,
    read_failures,
    remove_triple,
    write_failures,
    write_info,
    write_triple,
)
from embedshard.sample import SPLITS, Sample
from embedshard.store import exclusive, remove_temporary

__all__ = ["EncodeOptions", "EncodeReport", "encode"]

_WRITES_AHEAD = 256
_MESSAGES_AHEAD = 32

T = TypeVar("T")


@dataclass(frozen=True)
class EncodeOptions:
    """What is encoded and how it is stored.

    Attributes:
        sampling: Which frames of a clip.
        decoder: `auto` or a name in `frames.DECODERS`.
        dtype: `float16` or `float32`, of the stored arrays.
        normalize: Whether embeddings are scaled to length 1.
        workers: Decode processes; 0 decodes in the main process.
        timeout: Seconds without a frame after which a media is given up; 0 for none.
        retry_failed: Whether samples in `failed.jsonl` are tried again.
        media_root: Where the raw tree is now, if it has moved since `prepare`.
    """

    sampling: Sampling
    decoder: str = "auto"
    dtype: str = "float16"
    normalize: bool = False
    workers: int = 1
    timeout: float = 300.0
    retry_failed: bool = False
    media_root: Path | None = None


@dataclass
class EncodeReport:
    """Counts of a run: `samples` = `done` + `done_before` + `failed` + `failed_before`.

    `frames` were encoded in `seconds`; `reasons` counts all failed samples; `warned` have a warning in their json;
    `strangers` are triples in the folder that are of another manifest.
    """

    samples: int = 0
    done: int = 0
    done_before: int = 0
    failed: int = 0
    failed_before: int = 0
    warned: int = 0
    strangers: int = 0
    media: int = 0
    frames: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """Samples that are done with, one way or the other."""
        return self.done + self.done_before + self.failed + self.failed_before


Progress = Callable[[EncodeReport], None]


def encode(
    manifest: Manifest,
    processed: Path,
    encoder: ClipEncoder,
    options: EncodeOptions,
    progress: Progress = lambda report: None,
) -> EncodeReport:
    """Encode every sample of a manifest that has no triple yet.

    Args:
        manifest: The samples.
        processed: Gets `train/ val/ test/`, `dataset.json`, and `failed.jsonl` if any sample fails.
        encoder: The model.
        options: What to encode.
        progress: Called with the counts so far whenever they change, from two threads.

    Returns:
        The counts, which add up to the samples of the manifest.

    Raises:
        InputError: The raw dataset is not there, the manifest is wrong, the folder was made with another encoder
            setting or of another raw dataset, or another process writes to it.
        OSError: The disk is full, or cannot be written.
    """
    begun = time.monotonic()
    root = (options.media_root or manifest.root).absolute()
    if not root.is_dir():
        raise InputError(f"the raw dataset {root} is not there; where it has moved to is said by: --media-root DIR")
    with exclusive(processed):
        wanted = DatasetInfo(
            _setting(encoder, options), asdict(manifest.source), str(manifest.root.absolute()), manifest.digest()
        )
        info = claim(processed, manifest, wanted, options.media_root is not None)
        for split in ("", *SPLITS):
            remove_temporary(processed / split)
        with _Run(processed, info, encoder, options, progress) as run:
            run.report.samples, run.trusts = manifest.rows, info.manifest == wanted.manifest
            if not run.trusts:
                write_info(processed, replace(info, manifest=""))
            decode_options = DecodeOptions(options.sampling, encoder.preprocess, options.decoder, options.timeout)
            stopped = threading.Event()
            messages = decoded(run.jobs(manifest, root), decode_options, options.workers, stopped)
            for number, message in _ahead(messages, stopped) if options.workers else messages:
                run.take(number, message)
            run.finish()
        if not run.trusts:
            run.report.strangers = count_triples(processed) - run.report.done - run.report.done_before
            write_info(processed, replace(info, manifest=wanted.manifest))
        run.report.seconds = time.monotonic() - begun
        return run.report


def _setting(encoder: ClipEncoder, options: EncodeOptions) -> dict[str, Any]:
    """Give what identifies the embeddings, as it stands in `dataset.json` and in every triple's json."""
    sampling = options.sampling
    return {
        **encoder.setting,
        "embed_dim": encoder.embed_dim,
        "dtype": options.dtype,
        "normalized": options.normalize,
        "sampling": str(sampling),
        "fps": float(sampling.value) if sampling.mode == "fps" else None,
        "version": __version__,
    }


@dataclass
class _Work:
    """A media on its way: its samples by window, and the rows that have come back."""

    clips: dict[tuple[float | None, float | None], list[Sample]]
    opened: Opened | None = None
    embeddings: npt.NDArray[np.float32] | None = None
    there: npt.NDArray[np.bool_] | None = None
    received: int = 0
    returned: int = 0
    done: Done | None = None


class _Run:
    """The state of one run."""

    def __init__(
        self, processed: Path, info: DatasetInfo, encoder: ClipEncoder, options: EncodeOptions, progress: Progress
    ) -> None:
        self.report = EncodeReport()
        self.trusts = True
        self._processed, self._info, self._options, self._progress = processed, info, options, progress
        self._embed_dim = encoder.embed_dim
        self._batcher = Batcher(encoder)
        self._failures = read_failures(processed)
        self._work: dict[int, _Work] = {}
        self._writing: deque[Future[None]] = deque()
        self._failing = threading.Lock()

    def __enter__(self) -> _Run:
        self._writer = ThreadPoolExecutor(1, "writer")
        self._log = FailureLog(self._processed)
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(cancel_futures=True)
        self._log.close()

    def jobs(self, manifest: Manifest, root: Path) -> Iterator[Job]:
        """Yield a job for every media with a sample to do, all its rows together wherever they stand."""
        numbers = itertools.count()
        for samples in _by_media(manifest, self._is_due):
            works: dict[tuple[str, str, float], _Work] = {}
            for sample in samples:
                try:
                    rate = _frame_rate(sample)
                except ValueError as error:
                    self._fail(sample, "decode", str(error))
                    continue
                work = works.setdefault((sample.media.path, sample.media.kind, rate), _Work({}))
                work.clips.setdefault((sample.media.start, sample.media.end), []).append(sample)
            for (path, kind, rate), work in works.items():
                number = next(numbers)
                self._work[number] = work
                yield Job(number, path, str(root), kind, tuple(work.clips), rate)

    def take(self, number: int, message: Message) -> None:
        """Take a decode worker's message."""
        work = self._work[number]
        if isinstance(message, Opened):
            rows = len(message.times)
            work.opened, work.there = message, np.zeros(rows, np.bool_)
            work.embeddings = np.empty((rows, self._embed_dim), np.float32)
        elif isinstance(message, Frames):
            work.received += len(message.rows)
            self._put_back(self._batcher.add(number, message.rows, message.pixels))
        elif isinstance(message, Failed):
            for sample in (sample for samples in work.clips.values() for sample in samples):
                self._fail(sample, "decode", message.reason)
            del self._work[number]
        else:
            work.done = message
            self._complete(number)

    def finish(self) -> None:
        """Encode what is left in the batch, wait for the writes, and tidy `failed.jsonl`."""
        self._put_back(self._batcher.flush())
        while self._writing:
            self._writing.popleft().result()
        self._log.close()
        failures = {k: f for k, f in self._failures.items() if not has_triple(self._processed / f.split, k)}
        if self._failures:
            write_failures(self._processed, failures.values())
        for failure in failures.values():
            self.report.reasons[failure.reason] = self.report.reasons.get(failure.reason, 0) + 1

    def _is_due(self, sample: Sample) -> bool:
        folder = self._processed / sample.split
        if has_triple(folder, sample.key) if self.trusts else take_over(self._processed, sample):
            self.report.done_before += 1
        elif sample.key in self._failures and not self._options.retry_failed:
            self.report.failed_before += 1
        else:
            return True
        self._progress(self.report)
        return False

    def _put_back(self, results: Iterable[tuple[int, Indices, npt.NDArray[np.float32]]]) -> None:
        for number, rows, embeddings in results:
            work = self._work.get(number)
            if not work:  # its decoder died after it had sent these frames
                continue
            assert work.embeddings is not None
            assert work.there is not None
            work.embeddings[rows], work.there[rows] = embeddings, True
            work.returned += len(rows)
            self.report.frames += len(rows)
            self._complete(number)

    def _complete(self, number: int) -> None:
        """Write a media's triples once it is decoded and all its rows are back."""
        work = self._work[number]
        if not work.done or work.returned < work.received:
            return
        assert work.opened
        del self._work[number]
        self.report.media += 1
        for samples, rows in zip(work.clips.values(), work.opened.clips, strict=True):
            for sample in samples:
                if isinstance(rows, str):
                    self._fail(sample, "decode", rows)
                else:
                    self._store(sample, work, rows)

    def _store(self, sample: Sample, work: _Work, rows: Indices) -> None:
        """Write the triple of one clip's sample, from those of its rows that decoded."""
        assert work.opened
        assert work.done
        assert work.embeddings is not None
        assert work.there is not None
        rows = rows[work.there[rows]]
        embeddings = work.embeddings[rows]
        if self._options.normalize:
            embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            stored = embeddings.astype(self._options.dtype)
        if not len(rows):
            self._fail(sample, "decode", "; ".join(("no frame decodes", *work.done.warnings)))
        elif not np.isfinite(stored).all():
            self._fail(sample, "encode", f"an embedding is not finite as {self._options.dtype}")
        else:
            meta = self._meta(sample, work.opened, rows, work.done.warnings)
            self._write(sample, stored, meta)

    def _write(self, sample: Sample, stored: npt.NDArray[Any], meta: Mapping[str, Any]) -> None:
        folder = self._processed / sample.split
        self._writing.append(self._writer.submit(write_triple, folder, sample.key, stored, sample.caption, meta))
        while len(self._writing) > _WRITES_AHEAD or (self._writing and self._writing[0].done()):
            self._writing.popleft().result()
        self.report.done += 1
        self.report.warned += "warnings" in meta
        self._progress(self.report)

    def _meta(self, sample: Sample, opened: Opened, rows: Indices, warnings: tuple[str, ...]) -> dict[str, Any]:
        """Give the triple's json: the dataset's fields, then our own."""
        media, timed = sample.media, sample.media.kind != "image"
        end = opened.duration if media.end is None else min(media.end, opened.duration)
        own = {
            "key": sample.key,
            "source": self._info.source["name"],
            "split": sample.split,
            "media": media.path,
            "media_id": media.id,
            "start": float(media.start or 0.0) if timed else None,
            "end": round(end, 6) if timed else None,
            "duration": round(opened.duration, 6) if timed else None,
            "frame_times": [round(float(seconds), 6) for seconds in opened.times[rows]],
            "encoder": self._info.encoder,
        }
        if warnings:
            own["warnings"] = list(warnings)
        return {**dataset_fields(sample), **own}

    def _fail(self, sample: Sample, stage: str, reason: str) -> None:
        attempt = self._failures[sample.key].attempt + 1 if sample.key in self._failures else 1
        failure = Failure(sample.key, sample.split, sample.media.path, stage, reason, attempt)
        remove_triple(self._processed / sample.split, sample.key)
        with self._failing:  # `jobs` runs in a thread of its own
            self._failures[sample.key] = failure
            self._log.add(failure)
            self.report.failed += 1
        self._progress(self.report)


def _by_media(manifest: Manifest, is_due: Callable[[Sample], bool]) -> Iterator[list[Sample]]:
    """Yield the samples that are due, those of one media together; only media with several rows are held back."""
    ids, counts = np.unique(array("Q", map(id_hash, manifest.column("media"))), return_counts=True)
    several = dict(zip(ids[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True))
    held: dict[int, list[Sample]] = {}
    for sample in manifest.samples():
        media = id_hash(sample.media.path)
        samples = held.setdefault(media, [])
        if is_due(sample):
            samples.append(sample)
        several[media] = several.get(media, 1) - 1
        if not several[media]:
            del held[media], several[media]
            if samples:
                yield samples


def _frame_rate(sample: Sample) -> float:
    """Give the frames per second of a folder of pictures: `frame_rate` of its metadata, else 1."""
    if sample.media.kind != "frames":
        return 1.0
    given = sample.meta.get("frame_rate", 1.0)
    try:
        rate = float(given)
    except (TypeError, ValueError):
        rate = 0.0
    if not 0 < rate < math.inf:
        raise ValueError(f"frame_rate is {given!r}, expected frames per second")
    return rate


def _ahead(items: Iterable[T], stopped: threading.Event) -> Iterator[T]:
    """Take items in a thread of their own, some ahead of their use, so that workers need not wait for the model.

    Args:
        items: End within a moment after `stopped` is set.
        stopped: Is set when no more items are wanted.
    """
    ready: queue.Queue[Callable[[], T] | None] = queue.Queue(_MESSAGES_AHEAD)

    def put(item: Callable[[], T] | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def take() -> None:
        with contextlib.closing(iter(items)) as source:  # type: ignore[type-var]
            try:
                for item in source:
                    put(lambda item=item: item)  # type: ignore[misc]
                    if stopped.is_set():
                        return
            except BaseException as error:
                put(lambda error=error: _raise(error))  # type: ignore[misc]
        put(None)

    thread = threading.Thread(target=take, name="decoded", daemon=True)
    thread.start()
    try:
        while item := ready.get():
            yield item()
    finally:
        stopped.set()
        thread.join()


def _raise(error: BaseException) -> Any:
    raise error
