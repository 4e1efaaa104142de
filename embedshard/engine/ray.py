"""Run units on a Ray cluster (Ray Core): an actor for each slot, with two units so that it always has the next one.

An actor that dies, with its node too, is started again where there is room; the units it had are given to others.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Any

from embedshard.engine import MakeWorker, WorkerDiedError
from embedshard.errors import InputError

__all__ = ["RayOptions", "connected", "run"]

_AHEAD = 2  # units of an actor
_DEATHS = 3  # in a row, without a unit done, after which an actor is given up
_TRIES = 3  # of a unit


@dataclass(frozen=True)
class RayOptions:
    """What a slot takes of the cluster.

    Attributes:
        gpus: GPUs; a slot with one sees it as `cuda:0`.
        cpus: CPU cores.
    """

    gpus: float = 0
    cpus: float = 1


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[dict[str, float]]:
    """Connect to a cluster, or start one of this machine alone; gives its resources, as `CPU` and `GPU`.

    Args:
        address: As of `ray.init`: `auto`, `HOST:PORT`; None starts Ray here.

    Raises:
        InputError: Ray is not installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs Ray: pip install 'embedshard[ray]'") from error
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            ray.init(include_dashboard=False, log_to_driver=False)
    except ConnectionError as error:
        raise InputError(
            f"no Ray cluster at --address {address} ({error}); start one with: ray start --head"
        ) from error
    try:
        resources: Any = ray.cluster_resources
        yield resources()
    finally:
        ray.shutdown()


def run(units: Iterable[Any], make_worker: MakeWorker, slots: int, options: RayOptions) -> Iterator[tuple[Any, Any]]:
    """Run every unit and yield each with its outcome as it is done.

    Args:
        units: See `engine`.
        make_worker: Is called in the actors; its module must be there too.
        slots: Number of actors. All are asked for at once; those that find no room wait for it.
        options: What each takes of the cluster.

    Raises:
        InputError: Every actor has died again and again.
        OSError: What a worker raises of that kind.
    """
    crew = _Crew(units, make_worker, slots, options)
    try:
        yield from crew.run()
    finally:
        crew.end()


@dataclass(frozen=True)
class _Flight:
    """A call that is out: a unit, or (number -1) the question whether an actor is ready."""

    slot: int
    number: int = -1
    unit: Any = None


class _Crew:
    """The actors and the calls that are out."""

    def __init__(self, units: Iterable[Any], make_worker: MakeWorker, slots: int, options: RayOptions) -> None:
        import ray

        self._pending: Iterator[tuple[int, Any]] = enumerate(units)
        self._again: deque[tuple[int, Any]] = deque()
        self._tries: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()
        self._ready: set[int] = set()
        self._cause = ""
        remote: Any = ray.remote
        self._make = remote(num_cpus=options.cpus, num_gpus=options.gpus, max_restarts=0, max_concurrency=_AHEAD + 1)(
            _Actor
        )
        self._make_worker = make_worker
        self._actors: dict[int, Any] = {}
        self._flights: dict[Any, _Flight] = {}
        for slot in range(slots):
            self._start(slot)

    def run(self) -> Iterator[tuple[Any, Any]]:
        """Hand out units until all are back."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        while self._flights:
            (ref,), _ = ray.wait(list(self._flights), num_returns=1)
            flight = self._flights.pop(ref)
            try:
                outcome = ray.get(ref)
            except RayTaskError as error:
                if isinstance(error.cause, (InputError, OSError)):
                    raise error.cause from None
                ray.kill(self._actors[flight.slot])
                cause = error.cause or error
                yield from self._bury(flight, f"{type(cause).__name__}: {cause}")
            except RayActorError:
                yield from self._bury(flight)
            else:
                self._ready.add(flight.slot)
                if flight.number >= 0:
                    self._deaths[flight.slot] = 0
                    yield flight.unit, outcome
            for slot in sorted(self._ready):
                self._fill(slot)
            if self._ready and all(out.number < 0 for out in self._flights.values()):
                return
        left: Any = next(self._pending, None)
        if self._again or left:
            raise InputError(
                f"every Ray actor has died{self._cause}; what is done stays, and the same command goes on from it"
            )

    def end(self) -> None:
        """End the actors."""
        import ray

        for actor in self._actors.values():
            ray.kill(actor)

    def _start(self, slot: int) -> None:
        """Start an actor; where there is no room for it, it waits for some."""
        self._actors[slot] = self._make.remote(self._make_worker, slot)
        self._flights[self._actors[slot].ready.remote()] = _Flight(slot)

    def _fill(self, slot: int) -> None:
        """Give units to an actor; one that an actor died with is alone, so that no other dies of it."""
        while True:
            out = [flight.number for flight in self._flights.values() if flight.slot == slot]
            if len(out) == _AHEAD or any(number in self._tries for number in out) or (out and self._again):
                return
            item: Any = self._again.popleft() if self._again else next(self._pending, None)
            if item is None:
                return
            self._flights[self._actors[slot].run.remote(item[1])] = _Flight(slot, *item)

    def _bury(self, flight: _Flight, raised: str = "") -> Iterator[tuple[Any, Any]]:
        """Put back the unit of an actor that died; start another, once for all its calls."""
        self._cause = f" ({raised})" if raised else ""
        if flight.number >= 0:
            self._tries[flight.number] += 1
            if self._tries[flight.number] < _TRIES:
                self._again.append((flight.number, flight.unit))
            else:
                yield flight.unit, WorkerDiedError(f"the worker process died {_TRIES} times on it{self._cause}")
        self._ready.discard(flight.slot)
        if any(out.slot == flight.slot for out in self._flights.values()):
            return  # to the last of its calls
        self._deaths[flight.slot] += 1
        if self._deaths[flight.slot] < _DEATHS:
            self._start(flight.slot)


class _Actor:
    """A worker in a process of the cluster, for calls that come from several threads."""

    def __init__(self, make_worker: MakeWorker, slot: int) -> None:
        self._error: Exception | None = None
        try:
            self._worker = make_worker(slot)
        except Exception as error:  # which Ray would only tell as a text
            self._error = error
        self._calls: queue.SimpleQueue[tuple[Any, Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def ready(self) -> None:
        """Answer once the worker is made, with the error if it cannot be."""
        if self._error:
            raise self._error

    def run(self, unit: Any) -> Any:
        """Give the outcome of a unit."""
        future: Future[Any] = Future()
        self._calls.put((unit, future))
        return future.result()

    def _serve(self) -> None:
        """Run the worker whenever there are units, over all that come meanwhile."""
        given: dict[int, tuple[Any, Future[Any]]] = {}

        def noted(call: tuple[Any, Future[Any]]) -> Any:
            given[id(call[0])] = call
            return call[0]

        def more() -> Iterator[Any]:
            with contextlib.suppress(queue.Empty):
                while True:
                    yield noted(self._calls.get_nowait())

        while True:
            first = noted(self._calls.get())
            try:
                for unit, outcome in self._worker(chain([first], more())):
                    given.pop(id(unit))[1].set_result(outcome)
            except Exception as error:
                for _, future in given.values():
                    future.set_exception(error)
                given.clear()
