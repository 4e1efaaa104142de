"""Several devices of one machine: a process for each, which takes the next work when it is free.

A device whose process dies is started again and its works are done over; nothing is divided beforehand.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from embedshard.address import Url
from embedshard.encode.clip import ModelOptions, load_encoder
from embedshard.encode.ledger import EncodeReport, Ledger
from embedshard.encode.pipeline import WRITERS, EncodeOptions, Output, Pipeline
from embedshard.encode.profile import Profile
from embedshard.encode.run import Progress, Runner, media_root, run, setting_of
from embedshard.encode.work import Outcome, Problem, Work
from embedshard.encode.worker import start_process
from embedshard.errors import InputError
from embedshard.manifest import Manifest

__all__ = ["encode_on"]

_DEATHS = 3  # in a row, without a work done, after which a device is given up
_TRIES = 3  # of a work


@dataclass(frozen=True)
class _Setup:
    """What a device's process is told first."""

    models: tuple[ModelOptions, ...]
    options: EncodeOptions
    root: Path | Url


@dataclass(frozen=True)
class _Ready:
    """What it answers: the settings of its encoders."""

    settings: list[dict[str, Any]]


@dataclass(frozen=True)
class _Go:
    """Where the outputs are: their folders, settings and sources. It then asks for works until there are none."""

    outputs: list[tuple[Path, Mapping[str, Any], str]]


@dataclass(frozen=True)
class _Idle:
    """It has done all works that it was given."""


@dataclass(frozen=True)
class _Want:
    """It is free for another work."""


@dataclass
class _Device:
    name: str
    connection: Connection
    process: subprocess.Popen[bytes]
    works: dict[int, Work] = field(default_factory=dict)
    ready: bool = False
    idle: bool = True
    deaths: int = 0


def encode_on(
    manifest: Manifest,
    models: Mapping[Path, ModelOptions],
    devices: Sequence[str],
    options: EncodeOptions,
    progress: Progress = lambda reports, profile: None,
) -> tuple[list[EncodeReport], Profile]:
    """Encode on several devices at once; otherwise as `run.encode_by_all`.

    Args:
        manifest: The samples.
        models: By the folder that each fills; their own `device` does not count.
        devices: Such as `cuda:0`; one that is named twice gets two processes.
        options: What to encode; `workers` are those of all devices together.
        progress: Called with the counts of every folder.

    Raises:
        InputError: Also where every device has failed; what is done by then stays, and the next run goes on.
    """
    each = replace(options, workers=max(1, options.workers // len(devices)))
    profile = Profile(
        {
            "decode": each.workers * len(devices),
            "preprocess": each.workers * len(devices),
            "encode": len(devices),
            "write": WRITERS * len(devices),
        }
    )
    setup = _Setup(tuple(models.values()), each, media_root(manifest, options))
    with contextlib.closing(_Pool(devices, setup, profile)) as pool:
        settings = dict(zip(models, pool.settings(), strict=True))

        def runner(ledgers: Sequence[Ledger]) -> Runner:
            pool.go = _Go(
                [
                    (folder, ledger.info.encoder, ledger.info.source["name"])
                    for folder, ledger in zip(models, ledgers, strict=True)
                ]
            )
            return pool.run

        return run(manifest, settings, options, runner, lambda reports: progress(reports, profile)), profile


class _Pool:
    """The processes of all devices."""

    def __init__(self, devices: Sequence[str], setup: _Setup, profile: Profile) -> None:
        self.go = _Go([])
        self._setup, self._profile, self._names = setup, profile, ", ".join(devices)
        self._devices = [self._started(name) for name in devices]
        self._again: deque[Work] = deque()
        self._tries: Counter[int] = Counter()

    def settings(self) -> list[dict[str, Any]]:
        """Wait until every device has loaded its models; gives their settings, which are those of all."""
        found = [self._receive(device) for device in self._devices]
        for device, answer in zip(self._devices, found, strict=True):
            if not isinstance(answer, _Ready):
                raise InputError(
                    f"the process of {device.name} ended (exit code {device.process.wait()}) while loading"
                )
            device.ready = True
        assert isinstance(found[0], _Ready)
        return found[0].settings

    def run(self, works: Iterable[Work]) -> Iterator[Outcome]:
        """Hand works to the devices and yield the outcomes as they come; see `Pipeline.run`."""
        pending, left = iter(works), True
        while True:
            for device in self._devices:
                if device.ready and device.idle and (left or self._again):
                    with contextlib.suppress(BrokenPipeError):
                        device.connection.send(self.go)
                    device.idle = False
            busy = {device.connection: device for device in self._devices if not (device.ready and device.idle)}
            if not busy:
                break
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                device, message = busy[connection], self._receive(busy[connection])
                if isinstance(message, _Want):
                    work = self._again.popleft() if self._again else next(pending, None)
                    left = left and (work is not None)
                    self._hand(device, work)
                elif isinstance(message, tuple):
                    outcome, sums = message
                    self._profile.merge(sums)
                    device.works.pop(outcome.number, None)
                    device.deaths = 0
                    yield outcome
                elif message is None:
                    yield from self._bury(device)
                else:
                    device.ready, device.idle = True, True
        if self._again or left:
            raise InputError(
                f"no device is left of {self._names}; what is done stays, the same command goes on from it"
            )

    def close(self) -> None:
        """End all processes."""
        for device in self._devices:
            device.process.kill()
            device.process.wait()
            device.connection.close()

    def _started(self, name: str) -> _Device:
        connection, process = start_process(serve)
        models = tuple(replace(model, device=name) for model in self._setup.models)
        with contextlib.suppress(BrokenPipeError):  # `_receive` finds out
            connection.send(replace(self._setup, models=models))
        return _Device(name, connection, process)

    def _receive(self, device: _Device) -> Any:
        """Give what a device says; None where its process is gone, or does not come back.

        Raises:
            InputError, OSError: What it raised.
        """
        try:
            message = device.connection.recv()
        except (EOFError, ConnectionResetError):
            return None
        if not isinstance(message, Exception):
            return message
        if device.deaths:
            return None
        raise message

    def _hand(self, device: _Device, work: Work | None) -> None:
        if work is not None:
            device.works[work.number] = work
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            device.connection.send(work)

    def _bury(self, device: _Device) -> Iterator[Outcome]:
        """Start a dead device's process again and put its works back; one that has met death too often fails."""
        device.connection.close()
        code, works = device.process.wait(), list(device.works.values())
        for work in works:
            self._tries[work.number] += 1
            if self._tries[work.number] < _TRIES:
                self._again.append(work)
            else:
                yield _failed(work, f"the process of {device.name} died (exit code {code}) {_TRIES} times on it")
        self._devices.remove(device)
        if device.deaths + 1 < _DEATHS:
            self._devices.append(replace(self._started(device.name), deaths=device.deaths + 1))


def _failed(work: Work, reason: str) -> Outcome:
    problems = [
        Problem(output, sample, "encode", reason)
        for samples in work.clips.values()
        for sample, outputs in samples
        for output in outputs
    ]
    return Outcome(work.number, False, {}, dict.fromkeys(work.outputs, (0, 0)), problems)


def serve(descriptor: int) -> None:
    """Run a device's process: load the models, then encode what is handed over until the other side closes.

    Args:
        descriptor: Of the connection.
    """
    with (
        contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError),
        Connection(descriptor) as main,
    ):
        setup: _Setup = main.recv()
        try:
            encoders = [load_encoder(model) for model in setup.models]
            main.send(_Ready([setting_of(encoder, setup.options) for encoder in encoders]))
            while True:
                go: _Go = main.recv()
                profile = Profile()
                outputs = [Output(f, e, s, name) for (f, s, name), e in zip(go.outputs, encoders, strict=True)]
                pipeline = Pipeline(outputs, setup.options, setup.root, profile)
                talking = threading.Lock()
                for outcome in pipeline.run(_asked(main, talking)):
                    with talking:
                        main.send((outcome, profile.drain()))
                main.send(_Idle())
        except (InputError, OSError) as error:
            main.send(error)


def _asked(main: Connection, talking: threading.Lock) -> Iterator[Work]:
    while True:
        with talking:
            main.send(_Want())
        work = main.recv()
        if work is None:
            return
        yield work
