"""Sort any number of lines in flat memory. Imports nothing of ours."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["Sorter"]

_RUN = 200_000
_FILES = 256  # open at once


class Sorter:
    """Takes lines and gives them back sorted; runs of them are sorted in memory, spilled to disk and merged."""

    def __init__(self, stem: Path) -> None:
        """Spill to files whose names begin as `stem`."""
        self._stem = stem
        self._files: list[Path] = []
        self._run: list[str] = []
        self._spilled = self._added = 0

    def __len__(self) -> int:
        return self._added

    def add(self, line: str) -> None:
        """Add a line, without its end."""
        self._run.append(line)
        self._added += 1
        if len(self._run) == _RUN:
            self._spill(sorted(self._run))
            self._run.clear()
            if len(self._files) == _FILES:
                merged, self._files = self._files, []
                self._spill(heapq.merge(*map(_lines, merged)))
                for path in merged:
                    path.unlink()

    def drain(self) -> Iterator[str]:
        """Yield all lines sorted, then remove what was spilled."""
        runs: list[Iterable[str]] = [_lines(path) for path in self._files]
        yield from heapq.merge(*runs, sorted(self._run))
        for path in self._files:
            path.unlink()

    def _spill(self, lines: Iterable[str]) -> None:
        self._files.append(self._stem.with_name(f"{self._stem.name}-{self._spilled}"))
        self._spilled += 1
        with self._files[-1].open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line + "\n" for line in lines)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line[:-1]
