"""What the scripts here share: alternating rounds, the machine in words, and the JSON that they write."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

__all__ = ["Round", "alternate", "cpu_seconds", "machine", "median", "parser", "ratio", "timed", "write"]


class Round(NamedTuple):
    """Seconds that one run of a contender took, by the clock and of all its processes' CPU time."""

    wall: float
    cpu: float


def cpu_seconds() -> float:
    """Give the CPU time of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


_PAUSE = 0.1  # seconds in which threads of the contender before come to rest


def timed(run: Callable[[], object]) -> Round:
    """Run a contender; gives its own round where it tells one."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    own = run()
    return own if isinstance(own, Round) else Round(time.perf_counter() - wall, cpu_seconds() - cpu)


def alternate(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True
) -> dict[str, list[Round]]:
    """Run the contenders in turn, several times.

    Args:
        contenders: Each gives its own round, or anything else to be timed from outside.
        rounds: That count.
        warm_up: Whether a first round does not count.
    """
    found: dict[str, list[Round]] = {name: [] for name in contenders}
    for number in range(-int(warm_up), rounds):
        for name, run in contenders.items():
            time.sleep(_PAUSE)
            took = timed(run)
            if number >= 0:
                found[name].append(took)
    return found


def median(rounds: list[Round]) -> Round:
    """Give the median of both."""
    return Round(statistics.median(r.wall for r in rounds), statistics.median(r.cpu for r in rounds))


def ratio(over: list[Round], under: list[Round], of: Literal["wall", "cpu"] = "wall") -> float:
    """Give the median of what one contender took over what another took in the same round."""
    field = Round._fields.index(of)
    return round(statistics.median(a[field] / b[field] for a, b in zip(over, under, strict=True)), 3)


def machine(*packages: str) -> str:
    """Name the machine and the versions of packages."""

    def text(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"no {package}"

    return ", ".join([platform.machine(), f"Python {platform.python_version()}", *map(text, packages)])


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Give a parser with the options of every script."""
    found = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    found.add_argument("--quick", action="store_true", help="fewer rounds, under a minute")
    found.add_argument("--json", type=Path, help="write the figures to this file")
    return found


def write(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write the figures, if a file is given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
