"""`embedshard prepare`: raw tree to manifest."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedshard.cli.place import PLACE
from embedshard.cli.progress import bar, table
from embedshard.errors import InputError

if TYPE_CHECKING:
    from embedshard.prepare import PrepareReport
    from embedshard.remote import Url
    from embedshard.sample import Sample

__all__ = ["prepare", "summarise"]


@click.command(short_help="Raw tree to manifest.")
@click.argument("source")
@click.argument("raw", type=PLACE)
@click.argument("manifest", type=PLACE, required=False)
@click.option("--split", help="One of the source's splits, train/val/test for all samples, or a recipe FILE.yaml.")
@click.option("--captions", metavar="WHICH", help="Where media have several: first, each (a sample for each) or join.")
@click.option("--as", "as_", metavar="WHAT", help="Where a dataset can be read in several ways: caption, qa, segment.")
@click.option(
    "--option", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the source (sources show)."
)
@click.option("--freeze-split", type=click.Path(path_type=Path), help="Write the split of every media to this csv.")
@click.option("--allow-leak", is_flag=True, help="Keep media that lie in two splits.")
@click.option("--keep-uncaptioned", is_flag=True, help="Keep media without a caption, for embedshard caption.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, show the counts, write nothing.")
def prepare(source: str, raw: Path | Url, manifest: Path | Url | None, dry_run: bool, **options: Any) -> None:
    """Read the raw dataset RAW, as SOURCE's authors publish it, and write MANIFEST (samples.parquet, or
    s3://bucket/samples.parquet).

    Reads annotations only, no media. What gives no sample is counted in prepare.json and listed in left_out.jsonl,
    both beside the manifest.
    """
    from embedshard.prepare import PrepareOptions
    from embedshard.prepare import prepare as run_prepare
    from embedshard.sources import get_source

    if not manifest and not dry_run:
        raise InputError(
            "expected MANIFEST, the file to write (samples.parquet), after RAW; or --dry-run to write none"
        )
    own = {"captions": options.pop("captions"), "as": options.pop("as_")}
    options["settings"] = _pairs(options["settings"]) | {name: value for name, value in own.items() if value}
    target = None if dry_run else manifest
    with bar(None, "row") as progress:
        report = run_prepare(get_source(source), raw, target, PrepareOptions(**options), progress.update)
    summarise(report)
    if dry_run:
        _show(report.first)
    _echo(f"wrote {manifest}" if target else "dry run: wrote nothing")


def _pairs(settings: tuple[str, ...]) -> dict[str, str]:
    for setting in settings:
        if "=" not in setting:
            raise InputError(f"expected --option NAME=VALUE, found --option {setting}")
    return {name: value for name, _, value in (setting.partition("=") for setting in settings)}


def summarise(report: PrepareReport) -> None:
    """Print what went where."""
    columns = ("samples", "media", "captions", "windows", "hours")
    counts = [(split, *(getattr(found, name) for name in columns)) for split, found in report.splits.items()]
    *numbers, hours = (sum(column) for column in list(zip(*counts, strict=True))[1:])
    lines = [(*row[:-1], f"{row[-1]:.1f}" if hours else "-") for row in counts]
    table(("split", *columns), [*lines, ("all", *numbers, f"{hours:.1f}" if hours else "-")])
    for reason, count in report.left_out.items():
        ids = ", ".join(report.examples[reason])
        _echo(f"left out: {count} x {reason} ({ids}{', ...' if count > len(report.examples[reason]) else ''})")
    for note in report.notes:
        _echo(f"note: {note}")


def _show(samples: Iterable[Sample]) -> None:
    """Print samples whole."""
    for sample in samples:
        media = sample.media
        window = (
            ""
            if media.start is None and media.end is None
            else f", {media.start or 0:g} s to {'the end' if media.end is None else f'{media.end:g} s'}"
        )
        _echo(f"\n{sample.split}/{sample.key}\n  media    {media.path} ({media.kind}{window})")
        _echo(f"  caption  {sample.caption}\n  metadata {json.dumps(dict(sample.meta), ensure_ascii=False)}")


def _echo(line: str) -> None:
    """Print a line, with escapes for what standard output cannot encode."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
