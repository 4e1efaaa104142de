"""The tables beside the tars: `splits.csv`, `sizes.json`, `index.json`. May import `sample`, `store`, `errors`.

While tars are packed there is a folder `.progress` beside them; see `job`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from embedshard.errors import InputError
from embedshard.remote import AnyPath
from embedshard.sample import SPLITS
from embedshard.store import write_bytes

__all__ = [
    "INDEX",
    "PROGRESS",
    "SIZES",
    "SPLITS_CSV",
    "TarRecord",
    "index_bytes",
    "json_bytes",
    "read_splits",
    "splits_bytes",
    "write_changed",
]

SPLITS_CSV, SIZES, INDEX, PROGRESS = "splits.csv", "sizes.json", "index.json", ".progress"


@dataclass(frozen=True)
class TarRecord:
    """A finished tar as `index.json` lists it; `plan` is the hash of its slice of the plan."""

    name: str
    split: str
    samples: int
    frames: int
    bytes: int
    sha256: str
    plan: str


def read_splits(folder: AnyPath) -> dict[str, list[str]]:
    """Read `splits.csv`: which tars belong to which split.

    Args:
        folder: A folder of shards.

    Returns:
        For each split named there, its tars' file names in the order of the rows, each ending in `.tar` (the
        published CLIP-Kinetics700 table leaves the ending out).

    Raises:
        InputError: There is no such table, its header is another one, or a tar is there twice.
    """
    path = folder / SPLITS_CSV
    if not path.is_file():
        raise InputError(f"no {path}; expected a folder that embedshard shard wrote to the end")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a table tar_file,split in UTF-8, found {error}") from error
    if not rows or rows[0] != ["tar_file", "split"]:
        raise InputError(
            f"{path}: expected the header tar_file,split, found {','.join(rows[0]) if rows else 'nothing'}"
        )
    splits: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise InputError(f"{path}, line {number}: expected a tar file and a split, found {','.join(row)!r}")
        tar_file, split = row[0].removesuffix(".tar") + ".tar", row[1]
        if tar_file in seen:
            raise InputError(f"{path}, line {number}: expected every tar once, found {tar_file} again")
        seen.add(tar_file)
        splits.setdefault(split, []).append(tar_file)
    return splits


def splits_bytes(records: Iterable[TarRecord]) -> bytes:
    """Give `splits.csv`."""
    return "".join(["tar_file,split\n", *(f"{record.name},{record.split}\n" for record in records)]).encode()


def index_bytes(plan: str, facts: Mapping[str, Any], records: Iterable[TarRecord]) -> bytes:
    """Give `index.json`.

    Args:
        plan: Hash of the plan.
        facts: What else it says of the whole.
        records: All tars in order.
    """
    records = list(records)
    splits = {split: _totals(record for record in records if record.split == split) for split in SPLITS}
    totals = {**_totals(records), "splits": splits}
    return json_bytes({"plan": plan, **facts, "totals": totals, "tars": [asdict(record) for record in records]})


def json_bytes(value: Any) -> bytes:
    """Give `value` as the tables hold it, as indented UTF-8 JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).encode() + b"\n"


def write_changed(path: AnyPath, data: bytes) -> bool:
    """Write a table unless it is there with the same bytes; tells whether it wrote."""
    if path.is_file() and path.read_bytes() == data:
        return False
    write_bytes(path, data, sync=True)
    return True


def _totals(records: Iterable[TarRecord]) -> dict[str, int]:
    records = list(records)
    return {
        "tars": len(records),
        "samples": sum(record.samples for record in records),
        "frames": sum(record.frames for record in records),
        "bytes": sum(record.bytes for record in records),
    }
