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
from typing import Any, NamedTuple

__all__ = ["Round", "alternate", "cpu_seconds", "machine", "median", "parser", "write"]


class Round(NamedTuple):
    """Seconds that one run of a contender took, by the clock and of all its processes' CPU time."""

    wall: float
    cpu: float


def cpu_seconds() -> float:
    """Give the CPU time of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def alternate(contenders: Mapping[str, Callable[[], Round | None]], rounds: int) -> dict[str, list[Round]]:
    """Run the contenders in turn, several times; the first time warms up and does not count.

    Args:
        contenders: Each gives its own round, or None to be timed from outside.
        rounds: That count.
    """
    found: dict[str, list[Round]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            cpu, wall = cpu_seconds(), time.perf_counter()
            took = run() or Round(time.perf_counter() - wall, cpu_seconds() - cpu)
            if number:
                found[name].append(took)
    return found


def median(rounds: list[Round]) -> Round:
    """Give the median of both."""
    return Round(statistics.median(r.wall for r in rounds), statistics.median(r.cpu for r in rounds))


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
