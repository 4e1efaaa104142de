"""Works in, outcomes out: decode once, encode by every model that lacks a sample, write the triples.

Three parties run at once: a thread that hands works to the decode processes and takes their frames, this one, which
fills batches and runs the models, and the writers.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embedshard.address import Url
from embedshard.encode.batch import Batcher
from embedshard.encode.clip import ClipEncoder
from embedshard.encode.profile import Profile
from embedshard.encode.resume import dataset_fields
from embedshard.encode.text import SIMILARITY, CaptionEncoder, caption_similarity
from embedshard.encode.work import Outcome, Problem, Work
from embedshard.encode.worker import DecodeOptions, Done, Failed, Frames, Job, Message, Opened, decoded
from embedshard.engine.local import cores
from embedshard.frames import Sampling
from embedshard.frames.plan import Indices
from embedshard.remote import OutageError
from embedshard.sample import Sample

__all__ = ["WRITERS", "EncodeOptions", "Output", "Pipeline", "Triple"]

WRITERS = 4
_WRITES_AHEAD = 256
_MESSAGES_AHEAD = 64
_HEAVY = 0.1  # seconds for a batch, below which more threads cost more than they give
_OUTAGE = 8  # media in a row that their storage did not give
_BEHIND = 2  # chunks for each worker, of the four that it may have out


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
        similarity: Whether the metadata tells each frame's cosine with the caption.
    """

    sampling: Sampling
    decoder: str = "auto"
    dtype: str = "float16"
    normalize: bool = False
    workers: int = 1
    timeout: float = 300.0
    retry_failed: bool = False
    media_root: Path | Url | None = None
    similarity: bool = False


class Triple(NamedTuple):
    """What is written of a sample: (frame_count, embed_dim) embeddings, caption and metadata."""

    split: str
    key: str
    array: npt.NDArray[Any]
    caption: str
    meta: dict[str, Any]


@dataclass(frozen=True)
class Output:
    """A processed dataset and the model that fills it.

    Attributes:
        encoder: The model.
        setting: What the metadata says of it.
        source: Name of the raw dataset's source.
        write: Puts a triple to where it stays, given the number of its work; called by several threads.
    """

    encoder: ClipEncoder
    setting: Mapping[str, Any]
    source: str
    write: Callable[[int, Triple], None]


class _Finished(NamedTuple):
    """A media that is encoded: its triples by output, and what to tell once they are written."""

    triples: dict[int, list[Triple]]
    outcome: Outcome


@dataclass
class _Media:
    """A work on its way: what has come back of it, by output."""

    work: Work
    shrink: tuple[int, ...]
    opened: Opened | None = None
    needed: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    embeddings: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    there: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    out: int = 0
    ended: Done | Failed | None = None


class Pipeline:
    """Encodes works with the models of its outputs.

    Args:
        outputs: Where the embeddings go.
        options: What to encode.
        root: The raw dataset.
        profile: Is told the seconds spent.
    """

    def __init__(self, outputs: list[Output], options: EncodeOptions, root: Path | Url, profile: Profile) -> None:
        self._outputs, self._options, self._root, self._profile = outputs, options, root, profile
        encoders = [output.encoder for output in outputs]
        geometries = [encoder.preprocess.geometry for encoder in encoders]
        self._geometries = tuple(dict.fromkeys(geometries))
        self._layer = [self._geometries.index(geometry) for geometry in geometries]
        whole = all(encoder.shrinks for encoder in encoders)
        planes = whole and all(encoder.converts for encoder in encoders)
        fast = all(encoder.setting["preprocess"] == "fast" for encoder in encoders)
        self._decoding = DecodeOptions(
            options.sampling,
            self._geometries,
            whole,
            planes,
            fast,
            options.decoder,
            options.timeout,
            encoders[0].device,
        )
        self._batchers = [Batcher(encoder, profile) for encoder in encoders]
        self._media: dict[int, _Media] = {}
        self._waiting, self._all_decoded, self._outages = 0, False, 0
        self._finished: list[_Finished] = []
        self._captions = [CaptionEncoder(encoder) for encoder in encoders] if options.similarity else []
        self._writing: deque[tuple[Future[None], Outcome]] = deque()

    def run(self, works: Iterable[Work]) -> Iterator[Outcome]:
        """Encode works, drawn one by one in a thread of their own, and yield what became of each.

        Raises:
            InputError: Decode processes cannot be started.
            OSError: The disk is full, or cannot be written.
            OutageError: The storage of the media cannot be reached; those at hand are not done.
        """
        stopped = threading.Event()
        self._waiting, self._all_decoded = 0, False
        messages = decoded(self._jobs(works), self._decoding, self._options.workers, stopped, self._profile)
        with ThreadPoolExecutor(WRITERS, "writer") as self._writers:
            try:
                for number, message in self._ahead(messages, stopped) if self._options.workers else messages:
                    self._take(number, message)
                    yield from self._written(_WRITES_AHEAD)
                self._divide_cores(0)
                for output, batcher in enumerate(self._batchers):
                    self._put_back(output, batcher.flush())
                self._write()
                yield from self._written(0)
            finally:
                self._writers.shutdown(cancel_futures=True)

    def _jobs(self, works: Iterable[Work]) -> Iterator[Job]:
        for work in works:
            shrink = tuple(sorted({self._layer[output] for output in work.outputs}))
            self._media[work.number] = _Media(work, shrink)
            windows = tuple(work.clips)
            yield Job(work.number, work.path, str(self._root), work.kind, windows, work.frame_rate, shrink)

    def _take(self, number: int, message: Message) -> None:
        media = self._media[number]
        if isinstance(message, Opened):
            self._open(media, message)
        elif isinstance(message, Frames):
            for output in media.work.outputs:
                self._put_back(output, self._add(media, output, message))
            message.release()
        else:
            self._outages = self._outages + 1 if isinstance(message, Failed) and message.outage else 0
            if isinstance(message, Failed) and self._outages == _OUTAGE:
                raise OutageError(f"the last {_OUTAGE} media could not be fetched: {message.reason}")
            media.ended = message
            self._complete(number)

    def _open(self, media: _Media, opened: Opened) -> None:
        """Note which rows each output needs."""
        media.opened, rows = opened, len(opened.times)
        for output in media.work.outputs:
            needed = np.zeros(rows, np.bool_)
            for samples, clip in zip(media.work.clips.values(), opened.clips, strict=True):
                if not isinstance(clip, str) and any(output in lacking for _, lacking in samples):
                    needed[clip] = True
            media.needed[output], media.there[output] = needed, np.zeros(rows, np.bool_)
            media.embeddings[output] = np.empty((rows, self._outputs[output].encoder.embed_dim), np.float32)

    def _add(
        self, media: _Media, output: int, frames: Frames
    ) -> Iterator[tuple[int, Indices, npt.NDArray[np.float32]]]:
        layer = 0 if frames.whole else media.shrink.index(self._layer[output])
        rows, pixels, needed = frames.rows, frames.layers[layer], media.needed[output][frames.rows]
        if not needed.all():
            rows, pixels = rows[needed], pixels[needed]
        media.out += len(rows)
        return self._batchers[output].add(media.work.number, rows, pixels, frames.whole, frames.matrix)

    def _put_back(self, output: int, results: Iterable[tuple[int, Indices, npt.NDArray[np.float32]]]) -> None:
        for number, rows, embeddings in results:
            media = self._media[number]
            media.embeddings[output][rows], media.there[output][rows] = embeddings, True
            media.out -= len(rows)
            self._complete(number)

    def _complete(self, number: int) -> None:
        """Have a media's triples written once it is decoded and all its rows are back."""
        media = self._media[number]
        if media.ended is None or media.out:
            return
        del self._media[number]
        triples: dict[int, list[Triple]] = {output: [] for output in media.work.outputs}
        problems: list[Problem] = []
        for samples, clip in zip(media.work.clips.values(), _clips(media), strict=True):
            for sample, outputs in samples:
                for output in outputs:
                    triple = clip if isinstance(clip, str) else self._triple(media, output, sample, clip)
                    if isinstance(triple, Triple):
                        triples[output].append(triple)
                    else:
                        stage, _, reason = triple.partition(": ")
                        problems.append(Problem(output, sample, stage, reason))
        frames = {output: int(there.sum()) for output, there in media.there.items()}
        written = {output: (len(ts), sum("warnings" in t.meta for t in ts)) for output, ts in triples.items()}
        outcome = Outcome(number, isinstance(media.ended, Done), frames, written, problems)
        self._finished.append(_Finished(triples, outcome))
        captions = sum(len(triples) for finished in self._finished for triples in finished.triples.values())
        if not self._captions or captions >= self._outputs[0].encoder.batch_size:
            self._write()

    def _write(self) -> None:
        """Hand what is finished to the writers; captions are compared in batches of many media."""
        for output, encoder in enumerate(self._captions):
            triples = [triple for finished in self._finished for triple in finished.triples.get(output, [])]
            with self._profile.spent("encode"):
                found = caption_similarity(encoder, [t.array for t in triples], [t.caption for t in triples])
            for triple, cosines in zip(triples, found, strict=True):
                triple.meta[SIMILARITY] = cosines
        for finished in self._finished:
            self._writing.append((self._writers.submit(self._to_disk, finished), finished.outcome))
        self._finished = []

    def _triple(self, media: _Media, output: int, sample: Sample, rows: Indices) -> Triple | str:
        """Make the triple of a clip's sample, from those of its rows that decoded; or say at which stage it failed."""
        assert media.opened
        assert media.ended
        warnings = media.ended.warnings if isinstance(media.ended, Done) else ()
        there = media.there[output][rows]
        if isinstance(media.ended, Failed) and not there.all():
            return f"decode: {media.ended.reason}"
        rows = rows[there]
        if not len(rows):
            return f"decode: {'; '.join(('no frame decodes', *warnings))}"
        embeddings = media.embeddings[output][rows]
        if self._options.normalize:
            embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            stored = embeddings.astype(self._options.dtype)
        if not np.isfinite(stored).all():
            return f"encode: an embedding is not finite as {self._options.dtype}"
        meta = self._meta(self._outputs[output], sample, media.opened, rows, warnings)
        return Triple(sample.split, sample.key, stored, sample.caption, meta)

    def _meta(
        self, output: Output, sample: Sample, opened: Opened, rows: Indices, warnings: tuple[str, ...]
    ) -> dict[str, Any]:
        """Give the triple's json: the dataset's fields, then our own."""
        media, timed = sample.media, sample.media.kind != "image"
        end = opened.duration if media.end is None else min(media.end, opened.duration)
        own: dict[str, Any] = {
            "key": sample.key,
            "source": output.source,
            "split": sample.split,
            "media": media.path,
            "media_id": media.id,
            "start": float(media.start or 0.0) if timed else None,
            "end": round(end, 6) if timed else None,
            "duration": round(opened.duration, 6) if timed else None,
            "frame_times": [round(float(seconds), 6) for seconds in opened.times[rows]],
            "encoder": output.setting,
        }
        if warnings:
            own["warnings"] = list(warnings)
        return {**dataset_fields(sample), **own}

    def _to_disk(self, finished: _Finished) -> None:
        with self._profile.spent("write"):
            for output, triples in finished.triples.items():
                for triple in triples:
                    self._outputs[output].write(finished.outcome.number, triple)

    def _written(self, ahead: int) -> Iterator[Outcome]:
        """Yield the outcomes whose triples are on disk, and wait until at most `ahead` are not."""
        while self._writing and (len(self._writing) > ahead or self._writing[0][0].done()):
            future, outcome = self._writing.popleft()
            future.result()
            yield outcome

    def _ahead(
        self, messages: Iterable[tuple[int, Message]], stopped: threading.Event
    ) -> Iterator[tuple[int, Message]]:
        """Take messages in a thread of their own, some ahead of their use, so that workers need not wait for the model.

        Args:
            messages: End within a moment after `stopped` is set.
            stopped: Is set when no more are wanted.
        """
        ready: queue.Queue[Callable[[], tuple[int, Message]] | None] = queue.Queue(_MESSAGES_AHEAD)

        def put(item: Callable[[], tuple[int, Message]] | None) -> None:
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    return

        def take() -> None:
            with contextlib.closing(iter(messages)) as source:  # type: ignore[type-var]
                try:
                    for message in source:
                        self._waiting += isinstance(message[1], Frames)
                        put(lambda message=message: message)  # type: ignore[misc]
                        if stopped.is_set():
                            return
                except BaseException as error:
                    put(lambda error=error: _raise(error))  # type: ignore[misc]
            self._all_decoded = True
            put(None)

        thread = threading.Thread(target=take, name="decoded", daemon=True)
        thread.start()
        taken = 0
        try:
            while item := ready.get():
                number, message = item()
                if isinstance(message, Frames):
                    self._divide_cores(self._waiting - taken)
                    taken += 1
                yield number, message
        finally:
            stopped.set()
            thread.join()

    def _divide_cores(self, waiting: int) -> None:
        """Give the model on a CPU all cores when the decoders wait for it, and else those that they leave."""
        self._profile.look(waiting)
        encoders = [output.encoder for output in self._outputs]
        if encoders[0].device == "cpu" and not any(encoder.options.compile for encoder in encoders):
            import torch  # which compiles a model anew for another number of threads

            behind = self._all_decoded or waiting >= _BEHIND * self._options.workers
            heavy = max(batcher.seconds for batcher in self._batchers) > _HEAVY
            threads = cores() if behind and heavy else max(1, cores() - self._options.workers)
            if threads != torch.get_num_threads():
                torch.set_num_threads(threads)


def _clips(media: _Media) -> list[Indices | str]:
    """Give the rows of each window, or at which stage and why it failed."""
    if media.opened:
        return [f"decode: {clip}" if isinstance(clip, str) else clip for clip in media.opened.clips]
    assert isinstance(media.ended, Failed)
    return [f"decode: {media.ended.reason}"] * len(media.work.clips)


def _raise(error: BaseException) -> Any:
    raise error
