"""Decode workers: media in, shrunk frames out, one process each, so that a bad video takes only itself down.

A worker is a process because a decoder may crash or hang; it is replaced and its video counts as failed. Workers
import no torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from embedshard.address import AddressOpener
from embedshard.encode.preprocess import Preprocess
from embedshard.errors import InputError
from embedshard.frames import FrameError, Pixels, Sampling, Timeline, open_reader
from embedshard.frames.plan import Indices

__all__ = ["DecodeOptions", "Done", "Failed", "Frames", "Job", "Message", "Opened", "decode", "decoded"]

_CHUNK = 16
_MOMENT = 0.2
_TIMED_OUT = 1  # exit code of faulthandler's watchdog
_ONE_FRAME = Sampling("count", Fraction(1))


@dataclass(frozen=True)
class DecodeOptions:
    """How media is decoded; `timeout` is in seconds without a frame, 0 for none."""

    sampling: Sampling
    preprocess: Preprocess
    decoder: str = "auto"
    timeout: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.timeout < threading.TIMEOUT_MAX:
            raise InputError(f"expected a timeout of 0 or more seconds, found {self.timeout}")


@dataclass(frozen=True)
class Job:
    """One media to decode once, for all its clips."""

    number: int
    media: str
    root: str
    kind: str
    windows: tuple[tuple[float | None, float | None], ...]
    frame_rate: float = 1.0


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
    """Some frames of a job: their rows, and the pixels (rows, height, width, 3), shrunk."""

    rows: Indices
    pixels: Pixels


@dataclass(frozen=True)
class Done:
    """The last message of a job that was decoded."""

    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Failed:
    """The last message of a job that was not."""

    reason: str


Message: TypeAlias = Opened | Frames | Done | Failed


def decode(
    job: Job, options: DecodeOptions, opener: AddressOpener, alive: Callable[[], None] = lambda: None
) -> Iterator[Message]:
    """Decode one media: `Opened`, any number of `Frames`, `Done`; or `Failed` at any point.

    Args:
        job: The media and its windows.
        options: How to decode.
        opener: Opens the media.
        alive: Called after every frame.
    """
    try:
        media = opener.open(job.media, Path(job.root))
        with contextlib.closing(open_reader(media, job.kind, options.decoder, job.frame_rate)) as reader:
            sampling = options.sampling if job.kind != "image" else _ONE_FRAME
            chosen = [_choose(reader.timeline, sampling, window) for window in job.windows]
            clips = [clip for clip in chosen if not isinstance(clip, str)]
            wanted = np.unique(np.concatenate(clips)) if clips else np.empty(0, np.int64)
            rows = [clip if isinstance(clip, str) else np.searchsorted(wanted, clip) for clip in chosen]
            yield Opened(reader.timeline.times[wanted], rows, reader.timeline.duration)
            chunk: list[tuple[int, Pixels]] = []
            for index, frame in reader.read(wanted) if len(wanted) else ():
                chunk.append((int(np.searchsorted(wanted, index)), options.preprocess.shrink(frame)))
                alive()
                if len(chunk) == _CHUNK:
                    yield _frames(chunk)
                    chunk = []
            if chunk:
                yield _frames(chunk)
        yield Done(tuple(reader.warnings))
    except FileNotFoundError:
        yield Failed("missing media")
    except (FrameError, InputError, EOFError) as error:
        yield Failed(str(error))
    except Exception as error:  # a decoder may raise anything, and must not take the other media down
        yield Failed(f"{type(error).__name__}: {error}")


def decoded(
    jobs: Iterable[Job], options: DecodeOptions, workers: int, stopped: threading.Event | None = None
) -> Iterator[tuple[int, Message]]:
    """Decode media in `workers` processes, or in this one if that is 0.

    Args:
        jobs: Taken one by one as workers become free.
        options: How to decode.
        workers: Number of processes.
        stopped: When it is set, the iterator ends within a moment, whatever the decoders do.

    Yields:
        (job number, message), the messages of one job in order, those of different jobs mixed.

    Raises:
        InputError: Processes cannot be started.
    """
    if not workers:
        with AddressOpener() as opener:
            yield from ((job.number, message) for job in jobs for message in decode(job, options, opener))
        return
    pending = iter(jobs)
    slots = [_Slot(options) for _ in range(workers)]
    try:
        while not (stopped and stopped.is_set()):
            for slot in slots:
                if slot.job is None and (job := next(pending, None)):
                    slot.give(job)
            busy = {slot.connection: slot for slot in slots if slot.job}
            if not busy:
                return
            for connection in wait(list(busy), _MOMENT):
                assert isinstance(connection, Connection)
                slot = busy[connection]
                assert slot.job
                number = slot.job.number
                if message := slot.receive():
                    yield number, message
    finally:
        for slot in slots:
            slot.stop()


class _Slot:
    """A worker process, replaced when it dies, and the job it is at."""

    def __init__(self, options: DecodeOptions) -> None:
        self._options = options
        self.job: Job | None = None
        self._start()

    def give(self, job: Job) -> None:
        """Hand over a job; a worker that died idle is found out by `receive`."""
        self.job, self._heard, self._tries = job, False, 1
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(job)

    def receive(self) -> Message | None:
        """Give what the worker sends; None where that is no message of the job."""
        assert self.job
        try:
            message: Message | None = self.connection.recv()
        except (EOFError, ConnectionResetError):
            message = self._replace_dead(self.job)
        else:
            self._ready = True
        self._heard |= message is not None
        if isinstance(message, (Done, Failed)):
            self.job = None
        return message

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._options), daemon=True)
        self._process.start()
        self._ready = False
        theirs.close()

    def _replace_dead(self, job: Job) -> Failed | None:
        """Start another process; it tries the job once more unless that was under way."""
        self.connection.close()
        self._process.join()
        code = self._process.exitcode or 0
        if not self._ready:
            raise InputError(
                "a decode process could not start; in a script of your own, call encode below "
                "`if __name__ == '__main__':`, or use workers=0"
            )
        self._start()
        if code == _TIMED_OUT:
            return Failed(f"the decoder gave no frame for {self._options.timeout:g} s")
        if not self._heard and self._tries == 1:
            self.give(job)
            self._tries = 2
            return None
        return Failed(f"the decoder crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")


def _work(connection: Connection, options: DecodeOptions) -> None:
    """Run a worker: tell that it is there, then jobs in, messages out, until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def alive() -> None:
        if options.timeout:
            faulthandler.dump_traceback_later(options.timeout, exit=True, file=nowhere)

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), open(os.devnull, "w") as nowhere:
        connection.send(None)
        opener = AddressOpener(alive)
        while True:
            messages = decode(connection.recv(), options, opener, alive)
            while True:
                alive()
                message = next(messages, None)
                faulthandler.cancel_dump_traceback_later()
                if message is None:
                    break
                connection.send(message)


def _choose(timeline: Timeline, sampling: Sampling, window: tuple[float | None, float | None]) -> Indices | str:
    try:
        return sampling.choose(timeline, *window)
    except InputError as error:
        return str(error)


def _frames(chunk: list[tuple[int, Pixels]]) -> Frames:
    return Frames(np.array([row for row, _ in chunk], np.int64), np.stack([frame for _, frame in chunk]))
