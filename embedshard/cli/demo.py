"""`embedshard demo`: a small raw tree to try things on."""

from __future__ import annotations

from pathlib import Path

import click

from embedshard.errors import InputError

__all__ = ["demo"]


@click.command(short_help="A small raw tree to try things on.")
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path))
def demo(source: str, folder: Path) -> None:
    """Lay out a few made-up samples in FOLDER in the true raw form of SOURCE."""
    from embedshard.demo import Tree
    from embedshard.sources import get_source

    found = get_source(source)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give a new folder")
    found.demo(Tree(folder))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            click.echo(f"  {path.relative_to(folder)}")
    click.echo(f"next: embedshard prepare {source} {folder} samples.parquet")
