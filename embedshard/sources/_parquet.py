"""Tables of which each split has its own, as a dataset hub names them: `train-00000-of-00003.parquet`.

May import `sample` and `_read`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from embedshard.sample import LeftOut, split_name
from embedshard.sources._read import walk

__all__ = ["missing_tables", "table_set", "table_split", "tables"]

_MISSING_TABLE = "a table that is not there"
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?")


def tables(root: Path, *extensions: str) -> list[Path]:
    """Give all files of a tree that end in one of `extensions` in natural order; of a `root` that is a file, itself."""
    if not root.is_dir():
        return [root] if root.is_file() else []
    paths = (root / folder / name for folder, _, names in walk(root) for name in names)
    return [path for path in paths if path.suffix.lower() in extensions]


def table_split(path: Path) -> str | None:
    """Give the split that the name of a table begins with, as `train.csv` and `validation-00000-of-00001.parquet`."""
    return split_name(path.stem.partition("-")[0])


def table_set(path: Path) -> Path:
    """Give what the tables of one set have in common, as `OE/train-of-00003.parquet`; a table of no set is its own."""
    match = _NUMBERED.fullmatch(path.stem)
    return path.with_name(f"{match[1]}-of-{match[3]}{path.suffix}") if match else path


def missing_tables(found: Iterable[Path]) -> Iterator[LeftOut]:
    """Yield the tables that the sets of those found lack, by name."""
    sets: dict[Path, set[int]] = {}
    for path in found:
        if match := _NUMBERED.fullmatch(path.stem):
            sets.setdefault(table_set(path), set()).add(int(match[2]))
    for whole, numbers in sets.items():
        name, _, count = whole.stem.rpartition("-of-")
        for number in sorted(set(range(int(count))) - numbers):
            yield LeftOut(f"{name}-{number:05}-of-{count}{whole.suffix}", _MISSING_TABLE)
