from __future__ import annotations

from pathlib import Path

from embedshard.prepare import options_from
from embedshard.sample import LeftOut, Sample
from embedshard.sources import get_source


def read(name: str, root: Path, split: str = "", **settings: str) -> tuple[list[Sample], dict[str, str]]:
    """Give a source's samples, and the reason for every id that is left out."""
    source = get_source(name)
    rows = list(source.samples(root, options_from(source, split, settings)))
    return [row for row in rows if isinstance(row, Sample)], {r.id: r.reason for r in rows if isinstance(r, LeftOut)}


def touch(root: Path, *paths: str) -> None:
    """Make empty files."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
