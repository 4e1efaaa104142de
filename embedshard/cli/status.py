"""`embedshard status`: how far a run is, from any machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embedshard.cli.place import PLACE

if TYPE_CHECKING:
    from embedshard.remote import AnyPath

__all__ = ["status"]

_SHOWN = 8


@click.command(short_help="How far a run in parts is.")
@click.argument("processed", type=PLACE)
@click.option("--json", "to_json", type=click.Path(path_type=Path), help="Write it to this file.")
def status(processed: AnyPath, to_json: Path | None) -> None:
    """Tell how many units of PROCESSED are done, running and abandoned, the samples, and the time left.

    It reads what stands in the folder, so it may be asked anywhere, whoever runs the units.
    """
    from embedshard.cli.progress import duration
    from embedshard.encode.status import status as look
    from embedshard.store import write_json

    found = look(processed)
    left = found.samples - found.encoded - found.failed
    click.echo(
        f"units: {found.done} of {found.units} done, {len(found.running)} running"
        + (f", {found.abandoned} abandoned (the same command does them anew)" if found.abandoned else "")
    )
    click.echo(
        f"samples: {found.encoded} encoded, {found.failed} failed, {left} to do, of {found.samples}; "
        f"{found.frames} frames"
    )
    for reason, count in list(found.reasons.items())[:_SHOWN]:
        click.echo(f"  {count} x {reason}")
    for unit, owner in list(found.running.items())[:_SHOWN]:
        click.echo(f"  unit {unit}: {owner}")
    if len(found.running) > _SHOWN:
        click.echo(f"  and {len(found.running) - _SHOWN} more")
    if found.left is not None:
        click.echo(f"time left: {duration(found.left)}, at the speed of the last units")
    elif left:
        click.echo("nobody is at it; the same encode command goes on")
    if to_json:
        write_json(to_json, asdict(found))
