"""`embedshard prepare`: raw tree to manifest."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedshard.cli.progress import bar, table
from embedshard.errors import InputError

if TYPE_CHECKING:
    from embedshard.prepare import PrepareReport

__all__ = ["prepare"]


@click.command(short_help="Raw tree to manifest.")
@click.argument("source")
@click.argument("raw", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--split", help="One of the source's splits, train/val/test for all samples, or a recipe FILE.yaml.")
@click.option(
    "--option", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the source (sources show)."
)
@click.option("--freeze-split", type=click.Path(path_type=Path), help="Write the split of every media to this csv.")
@click.option("--allow-leak", is_flag=True, help="Keep media that lie in two splits.")
def prepare(source: str, raw: Path, manifest: Path, **options: Any) -> None:
    """Read the raw dataset RAW, as SOURCE's authors publish it, and write MANIFEST (samples.parquet).

    Reads annotations only, no media. What gives no sample is counted in prepare.json and listed in left_out.jsonl,
    both beside the manifest.
    """
    from embedshard.prepare import PrepareOptions
    from embedshard.prepare import prepare as run_prepare
    from embedshard.sources import get_source

    options["settings"] = _pairs(options["settings"])
    with bar(None, "row") as progress:
        report = run_prepare(get_source(source), raw, manifest, PrepareOptions(**options), progress.update)
    _summarise(report, manifest)


def _pairs(settings: tuple[str, ...]) -> Mapping[str, str]:
    for setting in settings:
        if "=" not in setting:
            raise InputError(f"expected --option NAME=VALUE, found --option {setting}")
    return {name: value for name, _, value in (setting.partition("=") for setting in settings)}


def _summarise(report: PrepareReport, manifest: Path) -> None:
    """Print what went where."""
    table(("split", "samples"), [*report.samples.items(), ("all", sum(report.samples.values()))])
    for reason, count in report.left_out.items():
        ids = ", ".join(report.examples[reason])
        _echo(f"left out: {count} x {reason} ({ids}{', ...' if count > len(report.examples[reason]) else ''})")
    for note in report.notes:
        _echo(f"note: {note}")
    _echo(f"wrote {manifest}")


def _echo(line: str) -> None:
    """Print a line, with escapes for what standard output cannot encode."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
