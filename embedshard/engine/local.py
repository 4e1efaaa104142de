"""Run units on this machine: in this process for one slot, else in a process for each, which takes units when free."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from embedshard.engine import MakeWorker, WorkerDiedError
from embedshard.engine.process import start_process
from embedshard.errors import InputError

__all__ = ["cores", "run"]

_DEATHS = 3  # in a row, without a unit done, after which a slot is given up
_TRIES = 3  # of a unit
_WANT, _IDLE, _GO = "want", "idle", "go"


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(units: Iterable[Any], make_worker: MakeWorker, slots: int) -> Iterator[tuple[Any, Any]]:
    """Run every unit and yield each with its outcome as it is done.

    Worker processes end with this one, however it ends.

    Args:
        units: See `engine`.
        make_worker: Picklable if `slots` > 1.
        slots: Number of workers.

    Raises:
        InputError: A worker cannot start, or every one has died again and again.
        Exception: What a worker raises; with several slots only InputError and OSError.
    """
    if slots <= 1:
        yield from make_worker(0)(iter(units))
        return
    with contextlib.closing(_Pool(units, make_worker, slots)) as pool:
        yield from pool.run()


@dataclass
class _Slot:
    number: int
    connection: Connection
    process: subprocess.Popen[bytes]
    units: dict[int, Any] = field(default_factory=dict)
    idle: bool = False
    deaths: int = 0


class _Pool:
    """The processes, and the units that are with them or come back from dead ones."""

    def __init__(self, units: Iterable[Any], make_worker: MakeWorker, slots: int) -> None:
        self._pending, self._left = enumerate(units), True
        self._make_worker = make_worker
        self._again: deque[tuple[int, Any]] = deque()
        self._tries: Counter[int] = Counter()
        self._cause = ""
        self._alive, self._ours = os.pipe()  # the processes see its end when this one is gone
        self._slots = [self._started(number) for number in range(slots)]

    def run(self) -> Iterator[tuple[Any, Any]]:
        """Hand out units until all are back."""
        while True:
            for slot in self._slots:
                if slot.idle and (self._left or self._again):
                    self._send(slot, _GO)
                    slot.idle = False
            busy = {slot.connection: slot for slot in self._slots if not slot.idle}
            if not busy:
                break
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                yield from self._heard(busy[connection])
        if self._again or self._left:
            raise InputError(
                f"every worker process has died (the last one: {self._cause}); what is done stays, and the same "
                "command goes on from it"
            )

    def close(self) -> None:
        """End all processes."""
        for slot in self._slots:
            slot.process.kill()
            slot.process.wait()
            slot.connection.close()
        os.close(self._alive)
        os.close(self._ours)

    def _heard(self, slot: _Slot) -> Iterator[tuple[Any, Any]]:
        """Act on what a slot says; yield the units that are done with."""
        try:
            message = slot.connection.recv()
        except (EOFError, ConnectionResetError):
            yield from self._bury(slot)
            return
        if isinstance(message, (InputError, OSError)):
            raise message
        if isinstance(message, Exception):
            yield from self._bury(slot, f"{type(message).__name__}: {message}")
        elif message == _WANT:
            self._send(slot, self._next(slot))
        elif message == _IDLE:
            slot.idle = True
        else:
            number, outcome = message
            slot.deaths = 0
            yield slot.units.pop(number), outcome

    def _next(self, slot: _Slot) -> tuple[int, Any] | None:
        """Give a slot another unit; one that a process died with is alone, so that no other dies of it."""
        if slot.units and (self._again or any(number in self._tries for number in slot.units)):
            return None
        item = self._again.popleft() if self._again else next(self._pending, None)
        if item:
            slot.units[item[0]] = item[1]
        else:
            self._left = False
        return item

    def _bury(self, slot: _Slot, raised: str = "") -> Iterator[tuple[Any, Any]]:
        """Start a dead slot's process again and put its units back; one that has met death too often fails."""
        slot.process.kill()
        code = slot.process.wait()
        slot.connection.close()
        self._cause = raised or f"exit code {code}"
        for number, unit in slot.units.items():
            self._tries[number] += 1
            if self._tries[number] < _TRIES:
                self._again.append((number, unit))
            else:
                yield unit, WorkerDiedError(f"the worker process died {_TRIES} times on it ({self._cause})")
        self._slots.remove(slot)
        if slot.deaths + 1 < _DEATHS:
            self._slots.append(replace(self._started(slot.number), deaths=slot.deaths + 1))

    def _started(self, number: int) -> _Slot:
        connection, process = start_process(serve, (self._alive,))
        slot = _Slot(number, connection, process)
        self._send(slot, (self._make_worker, number))
        return slot

    def _send(self, slot: _Slot, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next `recv` finds out
            slot.connection.send(message)


def serve(connection: int, alive: int) -> None:
    """Run a worker process until the other side closes.

    Args:
        connection: Descriptor of the connection.
        alive: Of a pipe that ends with the other side.
    """
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    with (
        contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError),
        Connection(connection) as main,
    ):
        try:
            make_worker, slot = main.recv()
            worker, talk = make_worker(slot), _Talk(main)
            while True:
                for unit, outcome in worker(talk.units()):
                    talk.tell(unit, outcome)
                talk.send(_IDLE)
                main.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            main.send(_picklable(error))


class _Talk:
    """What a worker asks for and tells, from one thread or two."""

    def __init__(self, main: Connection) -> None:
        self._main, self._sending = main, threading.Lock()
        self._given: dict[int, tuple[int, Any]] = {}

    def send(self, message: Any) -> None:
        """Say something."""
        with self._sending:
            self._main.send(message)

    def units(self) -> Iterator[Any]:
        """Ask for units until there are none."""
        while True:
            self.send(_WANT)
            item = self._main.recv()
            if item is None:
                return
            self._given[id(item[1])] = item
            yield item[1]

    def tell(self, unit: Any, outcome: Any) -> None:
        """Tell what became of a unit."""
        number, _ = self._given.pop(id(unit))
        self.send((number, _picklable(outcome) if isinstance(outcome, Exception) else outcome))


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)
