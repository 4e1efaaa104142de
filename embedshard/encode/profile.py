"""Where the time of a run goes: busy seconds by stage, how full the queue is, and what that says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from embedshard.store import write_json

__all__ = ["STAGES", "Profile", "Shares", "Sums"]

STAGES = ("decode", "preprocess", "encode", "write")
_BOUND = 0.8  # of the time: a stage that is busy so much is what the others wait for
_HINTS = {
    "decode": "more CPU cores, fewer frames (--fps, --keyframes), or smaller videos would help",
    "preprocess": "--preprocess fast would help",
    "encode": "a faster device, several of them (--device), --precision or a smaller model would help",
    "write": "a faster disk would help",
}


@dataclass(frozen=True)
class Shares:
    """Parts of the elapsed time.

    Attributes:
        busy: By stage, from 0 to 1: of all workers' time for `decode` and, where workers do it, `preprocess`; of the
            device's time for `encode`.
        queue: Mean number of decoded chunks that waited for the model, for each worker.
        seconds: Elapsed.
    """

    busy: dict[str, float]
    queue: float
    seconds: float

    @property
    def sentence(self) -> str:
        """What bounds the run, and what would help."""
        workers = self.busy["decode"] + self.busy["preprocess"]
        shares = {**self.busy, "decode": workers} if self.busy["decode"] >= self.busy["preprocess"] else self.busy
        stage = max(shares, key=lambda name: shares[name])
        percent = f"{100 * min(1.0, shares[stage]):.0f} %"
        if shares[stage] < _BOUND:
            return f"no stage was busy all the time (most: {stage}, {percent}): starting and waiting took the rest"
        return f"bound by {stage} (busy {percent} of the time): {_HINTS[stage]}"

    def write(self, path: Path) -> None:
        """Write them as JSON: `seconds`, `busy` by stage, `queue_depth` and `bound`, the sentence."""
        busy = {name: round(share, 4) for name, share in self.busy.items()}
        content = {
            "seconds": round(self.seconds, 3),
            "busy": busy,
            "queue_depth": round(self.queue, 2),
            "bound": self.sentence,
        }
        write_json(path, content)


class Sums(NamedTuple):
    """What one process adds to another's profile: busy seconds by stage, and the depths of its queue."""

    busy: dict[str, float]
    depths: int = 0
    looks: int = 0


class Profile:
    """Busy seconds that several threads and processes report.

    Args:
        slots: For each stage how many work on it at once; 1 where it does not say.
    """

    def __init__(self, slots: Mapping[str, int] | None = None) -> None:
        self._slots = {stage: max(1, (slots or {}).get(stage, 1)) for stage in STAGES}
        self._busy = dict.fromkeys(STAGES, 0.0)
        self._depths, self._looks = 0, 0
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    def add(self, seconds: dict[str, float]) -> None:
        """Add busy seconds by stage."""
        with self._lock:
            for stage, value in seconds.items():
                self._busy[stage] += value

    def look(self, depth: int) -> None:
        """Note how many chunks wait for the model."""
        with self._lock:
            self._depths, self._looks = self._depths + depth, self._looks + 1

    @contextmanager
    def spent(self, stage: str) -> Iterator[None]:
        """Count the time of the block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - begun})

    def drain(self) -> Sums:
        """Give what has come together since the last call, to send it elsewhere."""
        with self._lock:
            sums = Sums({stage: value for stage, value in self._busy.items() if value}, self._depths, self._looks)
            self._busy, self._depths, self._looks = dict.fromkeys(STAGES, 0.0), 0, 0
        return sums

    def merge(self, sums: Sums) -> None:
        """Add what another process sent."""
        self.add(sums.busy)
        with self._lock:
            self._depths, self._looks = self._depths + sums.depths, self._looks + sums.looks

    def shares(self) -> Shares:
        """Give the shares so far."""
        with self._lock:
            seconds = max(time.monotonic() - self._begun, 1e-6)
            busy = {stage: self._busy[stage] / seconds / self._slots[stage] for stage in STAGES}
            return Shares(busy, self._depths / max(1, self._looks) / self._slots["decode"], seconds)
