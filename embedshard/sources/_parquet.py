"""Tables of which each split has its own, as a dataset hub names them: `train-00000-of-00003.parquet`.

May import `sample` and `_read`.
"""

from __future__ import annotations

from pathlib import Path

from embedshard.sample import split_name
from embedshard.sources._read import walk

__all__ = ["table_split", "tables"]


def tables(root: Path, *extensions: str) -> list[Path]:
    """Give all files of a tree that end in one of `extensions` in natural order; of a `root` that is a file, itself."""
    if not root.is_dir():
        return [root] if root.is_file() else []
    paths = (root / folder / name for folder, _, names in walk(root) for name in names)
    return [path for path in paths if path.suffix.lower() in extensions]


def table_split(path: Path) -> str | None:
    """Give the split that the name of a table begins with, as `train.csv` and `validation-00000-of-00001.parquet`."""
    return split_name(path.stem.partition("-")[0])
