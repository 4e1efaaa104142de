"""`embedshard check`: is a processed or a shard folder what it claims?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from embedshard.cli.place import PLACE
from embedshard.cli.progress import bar, table
from embedshard.errors import InputError
from embedshard.remote import AnyPath

__all__ = ["check"]

_SHOWN = 20
_COUNTS = ("train", "val", "test", "samples", "frames", "tars")


@click.command(short_help="Is a processed dataset or a folder of shards what it claims?")
@click.argument("folder", type=PLACE)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--allow-leak", is_flag=True, help="Media that lie in two splits are no problem.")
@click.option("--repair", is_flag=True, help="First take what is damaged out of FOLDER, into FOLDER/quarantine.")
def check(folder: AnyPath, as_json: bool, allow_leak: bool, repair: bool) -> None:
    """Check every sample of FOLDER, shards or a processed dataset; exit code 1 and a list if anything is wrong."""
    from embedshard.check import check as run_check

    if repair:
        if not isinstance(folder, Path):
            raise InputError(f"expected a folder on a disk to repair, found {folder}; copy it to one, and back after")
        _repair(folder)
    with bar(None, "sample") as progress:
        report = run_check(folder, allow_leak, progress.update, lambda stage, total: progress.reset(total))
    if as_json:
        click.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
    else:
        table((report.kind, "count"), ((name, report.counts[name]) for name in _COUNTS if name in report.counts))
        for note in report.notes:
            click.echo(f"note: {note}")
        for problem in report.problems[:_SHOWN]:
            click.echo(f"wrong: {problem.where}: {problem.what}")
        if report.total > _SHOWN:
            click.echo(f"... and {report.total - _SHOWN} more; --json lists up to {len(report.problems)}")
        click.echo(f"{folder}: {'all right' if report.ok else f'{report.total} problems'}")
    if not report.ok:
        raise SystemExit(1)


def _repair(folder: Path) -> None:
    """Repair, and say on standard error what was done, so that --json stays alone on standard output."""
    from embedshard.repair import repair

    with bar(None, "sample") as progress:
        report = repair(folder, progress.update)
    lines = [
        f"repaired: found {report.found}: {report.kept} kept, {report.same} there twice, "
        f"{sum(report.damaged.values())} damaged (each in {folder / 'quarantine' / 'damaged.jsonl'})",
        *(f"  {count} x {reason}" for reason, count in report.damaged.most_common(_SHOWN)),
        *(f"  {count} x {ending}, no part of a sample" for ending, count in report.foreign.most_common(_SHOWN)),
    ]
    if report.mended:
        lines.append(f"  {report.mended} got an empty json, txt for cap, or a key without a dot")
    if report.leftovers:
        lines.append(f"  {report.leftovers} half-written files of killed runs removed")
    written = [*report.rewritten, *report.tables]
    lines.append(f"  written anew: {', '.join(written[:_SHOWN]) or 'nothing'}{', ...' if written[_SHOWN:] else ''}")
    lines += [f"decide: {what}" for what in report.undecided]
    click.echo("\n".join(lines), err=True)
