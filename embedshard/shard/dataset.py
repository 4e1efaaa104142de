"""What holds for a processed dataset as a whole, before its triples are looked at one by one.

May import `processed`, `remote`, `sample`, `errors`, and this room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from embedshard.errors import InputError
from embedshard.processed import (
    UNITS,
    Damaged,
    DatasetInfo,
    arrays,
    count_loose,
    encoded,
    part_name,
    part_paths,
    read_failures,
    unit_records,
)
from embedshard.remote import AnyPath
from embedshard.sample import SPLITS
from embedshard.shard.triple import BadTripleError, read_head

__all__ = ["Begin", "Progress", "expected_dim", "failed_samples", "triples_known", "usual_dim"]

Progress = Callable[[int], None]
"""Called with the number of samples just done."""

Begin = Callable[[str, int | None], None]
"""Called when a stage of the work begins, with its name and how many samples it has, None where that is unknown."""

_REASONS = 1000
_SHOWN = 5


def expected_dim(
    processed: AnyPath, info: DatasetInfo | None, progress: Progress, begin: Begin, damaged: Damaged | None = None
) -> int | None:
    """Give the embed_dim that all arrays must have: the one that `dataset.json` names, else that of most of them.

    Args:
        processed: The processed dataset.
        info: Its `dataset.json`.
        progress: Called for each array whose head is read, if they must be.
        begin: Called before that.
        damaged: What to do about a damaged part; without it that is an error.

    Returns:
        None where there is no readable array.

    Raises:
        InputError: As many arrays have another.
    """
    named = info.encoder.get("embed_dim") if info else None
    if isinstance(named, int):
        return named
    begin("measuring", None)
    return usual_dim(processed, Counter(dim for dim in _dims(processed, progress, damaged) if dim))


def usual_dim(processed: AnyPath, dims: Mapping[int, int]) -> int | None:
    """Give the embed_dim that most arrays have, None where there are none.

    Args:
        processed: Where they are.
        dims: How many have which.

    Raises:
        InputError: As many arrays have another.
    """
    most = sorted(dims.items(), key=lambda item: (-item[1], item[0]))
    if len(most) > 1 and most[0][1] == most[1][1]:
        counts = ", ".join(f"{count} of {dim}" for dim, count in most[:_SHOWN])
        raise InputError(
            f"expected most arrays of {processed} to have the same embed_dim, as no dataset.json names it; "
            f"found {counts}{' and others' if len(most) > _SHOWN else ''}\n"
            "  remove the triples of the wrong embed_dim, and run the same command again"
        )
    return most[0][0] if most else None


def triples_known(processed: AnyPath) -> int | None:
    """Count the triples of all splits by names and records, without a look into parts; None where that is unknown."""
    recorded = {part_name(record["unit"]): int(record["done"]) for record in unit_records(processed)}
    count = 0
    for split in SPLITS:
        if isinstance(processed, Path):
            count += count_loose(processed / split)
        for path in part_paths(processed / split):
            if path.name not in recorded:
                return None
            count += recorded[path.name]
    return count


def failed_samples(processed: AnyPath) -> dict[str, Any]:
    """Count the samples of `failed.jsonl` that have no triple, as `index.json` holds it.

    Returns:
        `total`, and `reasons`: the count of each, those beyond the 1000 most common as one.
    """
    failures = {(str(failure.split), failure.key): failure for failure in read_failures(processed).values()}
    # The records of units agree with the parts: what failed is in none.
    there = set() if (processed / UNITS).is_dir() else encoded(processed, failures.keys())
    counts = Counter(str(failure.reason) for sample, failure in failures.items() if sample not in there)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    reasons = dict(sorted(most[:_REASONS]))
    if rest := sum(count for _, count in most[_REASONS:]):
        reasons["other reasons"] = reasons.get("other reasons", 0) + rest
    return {"total": counts.total(), "reasons": reasons}


def _dims(processed: AnyPath, progress: Progress, damaged: Damaged | None) -> Iterator[int | None]:
    for split in SPLITS:
        for _, path, place in arrays(processed / split, damaged):
            try:
                yield read_head(path, place).shape[1]
            except (BadTripleError, OSError):
                yield None
            progress(1)
