"""Progress bars (on a terminal only) and the lines of a summary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

__all__ = ["bar", "duration", "table"]


def bar(total: int | None, unit: str) -> Any:
    """Give a tqdm bar with rate and time left; silent where standard error is not a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=None, dynamic_ncols=True, smoothing=0.1)


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows as columns; a column of numbers is set to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(head, *texts, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [bool(column[1:]) and not "".join(column[1:]).strip("0123456789,.-") for column in columns]
    for row in zip(*columns, strict=True):
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        click.echo("  " + "  ".join(cells).rstrip())


def duration(seconds: float) -> str:
    """Give a time in the two largest units that count."""
    whole = max(1, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
