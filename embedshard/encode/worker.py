"""Decode workers: media in, frames out, one process each, so that a bad video takes only itself down.

A worker is a process because a decoder may crash or hang; it is replaced and its video counts as failed. Frames come
back through shared memory (`slots`), shrunk to the models' sizes or, where a device shrinks them, as they are. Workers
import no torch, unless the decoder is one of its own.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from embedshard.address import AddressOpener, place
from embedshard.encode.preprocess import Preprocess
from embedshard.encode.profile import Profile
from embedshard.encode.slots import Slots
from embedshard.engine.process import start_process
from embedshard.errors import InputError
from embedshard.frames import FrameError, Pixels, Sampling, Timeline, open_reader
from embedshard.frames.colour import Matrix, Planes, rgb
from embedshard.frames.plan import Indices
from embedshard.remote import OutageError

__all__ = [
    "DecodeOptions",
    "Decoder",
    "Done",
    "Failed",
    "Frames",
    "Job",
    "Message",
    "Opened",
    "decoded",
]

_CHUNK = 16  # frames
_CHUNK_BYTES = 1 << 22
_OVERSIZE = 4  # times the models' size: from there on a JPEG decoded smaller gives the same embedding
_JOBS_AHEAD = 2
_MANY_WINDOWS = 500  # of a job that fits into a pipe's buffer
_MOMENT = 0.2
_ONE_FRAME = Sampling("count", Fraction(1))


@dataclass(frozen=True)
class DecodeOptions:
    """How media is decoded.

    Attributes:
        sampling: Which frames.
        shrink: What the models want of a frame, without their colours; models that want the same share an entry.
        whole: Whether frames are sent as they are (those that fit), to be shrunk on the device.
        planes: Whether these may be planes, for the device to make RGB of them.
        fast: Whether a JPEG far larger than the models want may be decoded smaller.
        decoder: `auto` or a name in `frames.DECODERS`.
        timeout: Seconds without a frame after which a media is given up, 0 for none.
        device: Where the model runs; a decoder on the GPU works there too.
    """

    sampling: Sampling
    shrink: tuple[Preprocess, ...]
    whole: bool = False
    planes: bool = False
    fast: bool = False
    decoder: str = "auto"
    timeout: float = 300.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.timeout < threading.TIMEOUT_MAX:
            raise InputError(f"expected a timeout of 0 or more seconds, found {self.timeout}")


@dataclass(frozen=True)
class Job:
    """One media to decode once, for all its clips; `shrink` are the entries of the options that are wanted of it."""

    number: int
    media: str
    root: str
    kind: str
    windows: tuple[tuple[float | None, float | None], ...]
    frame_rate: float = 1.0
    shrink: tuple[int, ...] = (0,)


@dataclass(frozen=True, eq=False)
class Opened:
    """The first message of a job.

    Attributes:
        times: (rows,) seconds of each frame that will be sent.
        clips: For each window the rows that make it up, or why there are none.
        duration: Of the media in seconds.
    """

    times: npt.NDArray[np.float64]
    clips: list[Indices | str]
    duration: float


@dataclass(frozen=True, eq=False)
class Frames:
    """Some frames of a job.

    Attributes:
        rows: (n,) which.
        layers: Arrays (n, height, width, 3): one of whole frames, or a shrunk one for each entry of `Job.shrink`. They
            are good until `release` is called, which has to be.
        whole: Whether the frames are whole.
        matrix: That of whole frames that are planes (n, height * 3 / 2, width).
        release: Gives the memory back.
    """

    rows: Indices
    layers: list[Pixels]
    whole: bool = False
    matrix: Matrix | None = None
    release: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Done:
    """The last message of a job that was decoded."""

    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Failed:
    """The last message of a job that was not; `outage` is whether the fault is the storage's, not the media's."""

    reason: str
    outage: bool = False


Message: TypeAlias = Opened | Frames | Done | Failed


class _Layers(NamedTuple):
    """A frame as it is sent: whole, or shrunk for each model."""

    pixels: list[Pixels]
    whole: bool = False
    matrix: Matrix | None = None

    @property
    def kind(self) -> tuple[Any, ...]:
        """What frames of one chunk have in common."""
        return self.whole, self.matrix, *(layer.shape for layer in self.pixels)


@dataclass
class _Chunk:
    """Frames of one kind that are not sent yet."""

    rows: list[int] = field(default_factory=list)
    frames: list[_Layers] = field(default_factory=list)

    @property
    def layers(self) -> list[list[Pixels]]:
        """The frames by layer."""
        return [list(layer) for layer in zip(*(frame.pixels for frame in self.frames), strict=True)]

    def fits(self, frame: _Layers) -> bool:
        """Tell whether another frame may join."""
        if not self.rows:
            return True
        size = sum(layer.nbytes for layer in frame.pixels) * (len(self.rows) + 1)
        return frame.kind == self.frames[0].kind and len(self.rows) < _CHUNK and size <= _CHUNK_BYTES


class Decoder:
    """Decodes one media after the other.

    Args:
        options: How to decode.
        profile: Is told the seconds spent.
        alive: Called after every frame.
    """

    def __init__(
        self, options: DecodeOptions, profile: Profile | None = None, alive: Callable[[], None] = lambda: None
    ) -> None:
        self._options, self._alive = options, alive
        self._profile = profile or Profile()
        self._opener = AddressOpener(alive)
        if options.decoder == "nvdec" and options.device.startswith("cuda:"):
            import torch

            torch.cuda.set_device(options.device)

    def decode(self, job: Job) -> Iterator[Opened | _Chunk | Done | Failed]:
        """Decode one media: `Opened`, any number of chunks, `Done`; or `Failed` at any point."""
        try:
            yield from self._decode(job)
        except FileNotFoundError:
            yield Failed("missing media")
        except OutageError as error:
            yield Failed(str(error), outage=True)
        except (FrameError, InputError, EOFError) as error:
            yield Failed(str(error))
        except Exception as error:  # a decoder may raise anything, and must not take the other media down
            yield Failed(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Close what is kept open."""
        self._opener.close()

    def _decode(self, job: Job) -> Iterator[Opened | _Chunk | Done | Failed]:
        options = self._options
        with self._profile.spent("decode"):
            media = self._opener.open(job.media, place(job.root))
            at_least = _OVERSIZE * max(max(wanted.size) for wanted in options.shrink) if options.fast else 0
            reader = open_reader(media, job.kind, options.decoder, job.frame_rate, at_least, options.planes)
        with contextlib.closing(reader):
            sampling = options.sampling if job.kind != "image" else _ONE_FRAME
            chosen = [_choose(reader.timeline, sampling, window) for window in job.windows]
            clips = [clip for clip in chosen if not isinstance(clip, str)]
            wanted = np.unique(np.concatenate(clips)) if clips else np.empty(0, np.int64)
            rows = [clip if isinstance(clip, str) else np.searchsorted(wanted, clip) for clip in chosen]
            yield Opened(reader.timeline.times[wanted], rows, reader.timeline.duration)
            yield from self._chunks(reader.read(wanted) if len(wanted) else iter(()), wanted, job)
            yield Done(tuple(reader.warnings))

    def _chunks(self, frames: Iterator[tuple[int, Any]], wanted: Indices, job: Job) -> Iterator[_Chunk]:
        """Gather frames; what there is when the decoder fails is given too, for the windows that it completes."""
        chunk = _Chunk()
        try:
            for index, frame in self._timed(frames):
                layers = self._layers(frame, job)
                if not chunk.fits(layers):
                    yield chunk
                    chunk = _Chunk()
                chunk.rows.append(int(np.searchsorted(wanted, index)))
                chunk.frames.append(layers)
        except Exception:
            if chunk.rows:
                yield chunk
            raise
        if chunk.rows:
            yield chunk

    def _timed(self, frames: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        while True:
            with self._profile.spent("decode"):
                item = next(frames, None)
            if item is None:
                return
            self._alive()
            yield item

    def _layers(self, frame: Any, job: Job) -> _Layers:
        """Shrink a frame for all that want it, unless the device does."""
        if isinstance(frame, Planes):
            if frame.pixels.nbytes <= Slots.size:
                return _Layers([frame.pixels], True, frame.matrix)
            frame = rgb(frame.pixels[None], frame.matrix)[0]
        on_device = not isinstance(frame, np.ndarray)
        if self._options.whole and not on_device and frame.nbytes <= Slots.size:
            return _Layers([frame], True)
        with self._profile.spent("preprocess"):
            wanted = [self._options.shrink[number] for number in job.shrink]
            if on_device:
                return _Layers([p.shrink_on_device(frame[None], fast=False)[0].cpu().numpy() for p in wanted])
            return _Layers([preprocess.shrink(frame) for preprocess in wanted])


def decoded(
    jobs: Iterable[Job],
    options: DecodeOptions,
    workers: int,
    stopped: threading.Event | None = None,
    profile: Profile | None = None,
) -> Iterator[tuple[int, Message]]:
    """Decode media in `workers` processes, or in this one if that is 0.

    Args:
        jobs: Taken one by one as workers become free.
        options: How to decode.
        workers: Number of processes.
        stopped: When it is set, the iterator ends within a moment, whatever the decoders do.
        profile: Is told the seconds spent.

    Yields:
        (job number, message), the messages of one job in order, those of different jobs mixed.

    Raises:
        InputError: Processes cannot be started.
    """
    profile = profile or Profile()
    if not workers:
        yield from _decoded_here(jobs, options, profile)
        return
    pending = _Pending(jobs)
    pool = [_Worker(options, profile) for _ in range(workers)]
    try:
        while not (stopped and stopped.is_set()):
            for ahead in range(_JOBS_AHEAD):
                for worker in pool:
                    if len(worker.jobs) == ahead and (job := pending.take(small=ahead > 0)):
                        worker.give(job)
            busy = {worker.connection: worker for worker in pool if worker.jobs}
            if not busy:
                return
            for connection in wait(list(busy), _MOMENT):
                assert isinstance(connection, Connection)
                number = busy[connection].jobs[0].number
                if message := busy[connection].receive():
                    yield number, message
    finally:
        for worker in pool:
            worker.stop()


def _decoded_here(jobs: Iterable[Job], options: DecodeOptions, profile: Profile) -> Iterator[tuple[int, Message]]:
    with contextlib.closing(Decoder(options, profile)) as decoder:
        for job in jobs:
            for part in decoder.decode(job):
                if isinstance(part, _Chunk):
                    rows = np.array(part.rows, np.int64)
                    layers = [np.stack(layer) for layer in part.layers]
                    yield job.number, Frames(rows, layers, *part.frames[0][1:])
                else:
                    yield job.number, part


class _Pending:
    """The jobs that no worker has yet."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs, self._held = iter(jobs), deque[Job]()

    def take(self, small: bool) -> Job | None:
        """Give the next job; None where there is none, or where it is too large to wait in the pipe to a worker."""
        job = self._held.popleft() if self._held else next(self._jobs, None)
        if job and small and len(job.windows) > _MANY_WINDOWS:
            self._held.append(job)
            return None
        return job


class _Worker:
    """A worker process, replaced when it dies, and the jobs it has: it is at the first one."""

    def __init__(self, options: DecodeOptions, profile: Profile) -> None:
        self._options, self._profile = options, profile
        self.jobs: deque[Job] = deque()
        self._heard, self._tries = False, 1
        self._start()

    def give(self, job: Job) -> None:
        """Hand over a job; a worker that died idle is found out by `receive`."""
        self.jobs.append(job)
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(job)

    def receive(self) -> Message | None:
        """Give what the worker sends; None where that is no message of its first job."""
        message: Message | None
        try:
            content, sums = self.connection.recv()
        except (EOFError, ConnectionResetError):
            message = self._replace_dead()
        else:
            self._profile.merge(sums)
            self._ready = True
            message = self._message(content)
        self._heard |= message is not None
        if isinstance(message, (Done, Failed)):
            self.jobs.popleft()
            self._heard, self._tries = False, 1
        return message

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._slots.close()

    def _message(self, content: Any) -> Message | None:
        if not isinstance(content, tuple):
            message: Message | None = content
            return message
        rows, number, shapes, whole, matrix = content
        return Frames(rows, self._slots.views(number, shapes), whole, matrix, self._slots.give_back)

    def _start(self) -> None:
        self._slots = Slots()
        self.connection, self._process = start_process(work, self._slots.descriptors, {"OMP_NUM_THREADS": "1"})
        self._ready = False
        with contextlib.suppress(BrokenPipeError):  # `receive` finds out
            self.connection.send(self._options)

    def _replace_dead(self) -> Failed | None:
        """Start another process, which goes on with the jobs; the first is tried once more if nothing came of it."""
        self.connection.close()
        code = self._process.wait()
        if not self._ready:
            raise InputError(
                f"a decode process could not start (exit code {code}); is {sys.executable} a Python that has "
                "embedshard? workers=0 decodes without one"
            )
        self._slots.close()
        self._start()
        failed: Failed | None = None
        if code == -signal.SIGALRM:
            failed = Failed(f"the decoder gave no frame for {self._options.timeout:g} s")
        elif self._heard or self._tries == 2:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            failed = Failed(f"the decoder crashed ({name})")
        self._tries += 1
        for job in list(self.jobs)[1 if failed else 0 :]:
            with contextlib.suppress(BrokenPipeError):
                self.connection.send(job)
        return failed


def work(connection: int, memory: int, free: int) -> None:
    """Run a worker: options in, then jobs in and messages out, until the other side closes.

    Args:
        connection: Descriptor of the connection.
        memory: Of the slots.
        free: Of the pipe of free slots.
    """
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(connection) as main:
        options: DecodeOptions = main.recv()
        slots, profile = Slots(memory, free), Profile()

        signal.signal(signal.SIGALRM, signal.SIG_DFL)

        def alive() -> None:
            signal.setitimer(signal.ITIMER_REAL, options.timeout)  # SIGALRM ends the process, whatever it is at

        decoder = Decoder(options, profile, alive)
        main.send((None, profile.drain()))
        while True:
            parts = decoder.decode(main.recv())
            while True:
                alive()
                part = next(parts, None)
                signal.setitimer(signal.ITIMER_REAL, 0)
                if part is None:
                    break
                content: Any = part
                if isinstance(part, _Chunk):
                    content = (np.array(part.rows, np.int64), *slots.fill(part.layers), *part.frames[0][1:])
                main.send((content, profile.drain()))


def _choose(timeline: Timeline, sampling: Sampling, window: tuple[float | None, float | None]) -> Indices | str:
    try:
        return sampling.choose(timeline, *window)
    except InputError as error:
        return str(error)
