"""`embedshard shard`: triples to tars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from embedshard.cli.engines import packers, shared_options, submit_to_slurm
from embedshard.cli.place import PLACE
from embedshard.cli.progress import bar, table
from embedshard.remote import AnyPath

__all__ = ["reasons", "shard"]

_REASONS = 5
_SHARES = ("part", "engine", "address", "sbatch", "workers", "slots")


@click.command(short_help="Triples to tars and splits.csv.")
@click.argument("processed", type=PLACE)
@click.argument("shards", type=PLACE)
@click.option("--maxcount", type=int, default=10000, show_default=True, help="Most samples of a tar.")
@click.option("--key-format", help="Number the samples anew, e.g. 'vid_{index:09d}'.  [default: keep the keys]")
@click.option(
    "--shuffle/--no-shuffle", default=True, show_default=True, help="Mix the samples of a split, or sort them."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another mix.")
@click.option("--name", default="ds", show_default=True, help="The tars are NAME_00000.tar and so on.")
@click.option(
    "--workers", type=click.IntRange(1), help="Processes of this machine.  [default: as many as pay, up to its cores]"
)
@shared_options
@click.option("--slots", type=click.IntRange(1), help="Ray: workers.  [default: its cores]  Slurm: tasks.")
@click.option("--overwrite", is_flag=True, help="Remove the shards of another plan from SHARDS.")
@click.option("--append", is_flag=True, help="Add triples that SHARDS lacks as new tars; old ones are not touched.")
@click.option("--allow-leak", is_flag=True, help="Append media that are in another split of SHARDS already.")
def shard(processed: AnyPath, shards: AnyPath, **given: Any) -> None:
    """Pack the triples of PROCESSED into tars of 10000 under SHARDS, with splits.csv, sizes.json and index.json.

    PROCESSED has them loose or in parts; either may be a URL. The same triples give the same bytes, whoever packs
    them. A run that was stopped goes on where it was.
    """
    from embedshard.shard.pack import shard as run_shard
    from embedshard.shard.plan import ShardOptions

    if given["engine"] == "slurm":
        submit_to_slurm(click.get_current_context(), shards / ".slurm", given["slots"] or 1)
        return
    options = {name: value for name, value in given.items() if name not in _SHARES}
    with packers(given) as share, bar(None, "sample") as progress:

        def begin(stage: str, total: int | None) -> None:
            progress.set_description_str(stage, refresh=False)
            progress.reset(total)

        report = run_shard(processed, shards, ShardOptions(**options), progress.update, begin, share)
    table(("split", "tars"), [*report.tars.items(), ("all", sum(report.tars.values()))])
    click.echo(f"{report.samples} samples, {report.frames} frames, {report.bytes / 1e6:.1f} MB")
    reasons("left out", report.left_out, shards / "left_out.jsonl")
    reasons("failed to encode", report.failed, processed / "failed.jsonl")
    if report.appended:
        click.echo(f"{report.appended} of these samples are new")
    if report.missing:
        click.echo(f"{report.missing} tars are left to the other shares; the last of them writes splits.csv")
    elif report.unchanged:
        click.echo(f"{shards} was complete already; nothing changed")
    else:
        click.echo(f"wrote {shards}" + (f"; {report.reused} tars were there" if report.reused else ""))


def reasons(what: str, counts: Mapping[str, int], file: AnyPath) -> None:
    """Print how many samples are not in the tars, and the most common reasons."""
    if not counts:
        return
    click.echo(f"{what}: {sum(counts.values())} (each in {file})")
    most = sorted(counts.items(), key=lambda item: -item[1])
    for reason, count in most[:_REASONS]:
        click.echo(f"  {count} x {reason}")
    if rest := most[_REASONS:]:
        click.echo(f"  {sum(count for _, count in rest)} for {len(rest)} other reasons")
