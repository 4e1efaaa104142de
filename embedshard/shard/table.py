"""The tables beside the tars: `splits.csv`, `sizes.json`, `index.json`. May import `store`."""

from __future__ import annotations

import csv
from pathlib import Path

from embedshard.errors import InputError

__all__ = ["read_splits"]

SPLITS_CSV = "splits.csv"


def read_splits(folder: Path) -> dict[str, list[str]]:
    """Read `splits.csv`: which tars belong to which split.

    Args:
        folder: A folder of shards.

    Returns:
        For each split named there, its tars' file names in the order of the rows, each ending in `.tar` (the
        published CLIP-Kinetics700 table leaves the ending out).

    Raises:
        InputError: There is no such table, or its header is another one.
    """
    path = folder / SPLITS_CSV
    if not path.is_file():
        raise InputError(f"no {path}; expected a folder that embedshard shard wrote to the end")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != ["tar_file", "split"]:
        raise InputError(f"{path}: expected the header tar_file,split, found {','.join(rows[0]) if rows else 'nothing'}")
    splits: dict[str, list[str]] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise InputError(f"{path}, line {number}: expected a tar file and a split, found {','.join(row)!r}")
        tar_file, split = row
        splits.setdefault(split, []).append(tar_file if tar_file.endswith(".tar") else f"{tar_file}.tar")
    return splits
