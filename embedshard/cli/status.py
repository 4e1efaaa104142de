"""`embedshard status`: how far a run is, from any machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embedshard.cli.place import PLACE

if TYPE_CHECKING:
    from embedshard.encode.status import Status
    from embedshard.remote import AnyPath
    from embedshard.shard.status import ShardStatus

__all__ = ["status"]

_SHOWN = 8


@click.command(short_help="How far a run is that encodes in parts, or shards.")
@click.argument("folder", type=PLACE)
@click.option("--json", "to_json", type=click.Path(path_type=Path), help="Write it to this file.")
def status(folder: AnyPath, to_json: Path | None) -> None:
    """Tell how far the units of a processed dataset FOLDER are, or the tars of shards, and the time left.

    It reads what stands in the folder, so it may be asked anywhere, whoever does the work.
    """
    from embedshard.shard.table import INDEX, PROGRESS
    from embedshard.store import write_json

    is_shards = (folder / INDEX).exists() or (folder / PROGRESS).is_dir()
    found = _of_shards(folder) if is_shards else _of_units(folder)
    if to_json:
        write_json(to_json, asdict(found))


def _of_shards(folder: AnyPath) -> ShardStatus:
    from embedshard.cli.progress import duration
    from embedshard.shard.status import shard_status

    found = shard_status(folder)
    click.echo(f"tars: {found.packed} of {found.tars} packed")
    click.echo(f"samples: {found.done} packed, {found.samples - found.done} to do, of {found.samples}")
    if found.left:
        click.echo(f"time left: {duration(found.left)}, at the speed of the last tars")
    elif found.packed < found.tars:
        click.echo("the same shard command goes on")
    return found


def _of_units(folder: AnyPath) -> Status:
    from embedshard.cli.progress import duration
    from embedshard.encode.status import status as look

    found = look(folder)
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
    return found
