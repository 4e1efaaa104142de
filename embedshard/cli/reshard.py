"""`embedshard reshard`: shards to other shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from embedshard.cli.place import LOCAL
from embedshard.cli.progress import bar, table
from embedshard.cli.shard import reasons
from embedshard.errors import InputError
from embedshard.sample import SPLITS

__all__ = ["reshard"]

_ENDINGS = 5


@click.command(short_help="Shards to other shards: merged, split anew, cut anew.")
@click.argument("shards", type=LOCAL, nargs=-1, required=True)
@click.argument("out", type=LOCAL)
@click.option("--maxcount", type=int, default=10000, show_default=True, help="Most samples of a tar.")
@click.option("--name", default="ds", show_default=True, help="The tars are NAME_00000.tar and so on.")
@click.option("--dtype", type=click.Choice(("float16", "float32")), help="Convert arrays.  [default: keep]")
@click.option("--key-format", help="Number the samples anew, e.g. 'vid_{index:09d}'.  [default: keep the keys]")
@click.option("--prefix", is_flag=True, help="Put 1_, 2_, ... before the keys of each folder, so that none meet.")
@click.option(
    "--shuffle/--no-shuffle", default=True, show_default=True, help="Mix the samples of a split, or sort them."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another mix.")
@click.option("--split-as", type=click.Choice(SPLITS), help="Split of tars and files without splits.csv.")
@click.option("--split", "recipe", type=click.Path(path_type=Path), help="Split anew: a recipe, see splits/*.yaml.")
@click.option(
    "--split-by", type=click.Choice(("media", "key")), default="media", show_default=True, help="What --split looks at."
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Tars read or packed at once.")
@click.option("--overwrite", is_flag=True, help="Remove the shards of another plan from OUT.")
def reshard(shards: tuple[Path, ...], out: Path, recipe: Path | None, **options: Any) -> None:
    """Merge, split and cut the shards of the folders SHARDS anew into OUT, which is like what `shard` writes.

    A folder holds tars with splits.csv, or tars or loose files of clip-video-encode; --split-as says their split. Bad
    samples are left out and listed. A run that was stopped goes on where it was.
    """
    from embedshard.shard.reshard import ReshardOptions
    from embedshard.shard.reshard import reshard as run_reshard
    from embedshard.split import read_split_recipe

    if recipe and options["split_as"]:
        raise InputError("expected --split or --split-as, found both; --split decides the split of every sample")
    found = read_split_recipe(recipe, recipe.parent) if recipe else None
    with bar(None, "sample") as progress:

        def begin(stage: str, total: int | None) -> None:
            progress.set_description_str(stage, refresh=False)
            progress.reset(total)

        chosen = ReshardOptions(assign=found.split if found else None, **options)
        report = run_reshard(shards, out, chosen, progress.update, begin)
    made = report.shards
    table(("split", "tars"), [*made.tars.items(), ("all", sum(made.tars.values()))])
    left_out = sum(made.left_out.values())
    click.echo(f"found {report.found}: {made.samples} packed, {report.same} there before, {left_out} left out")
    click.echo(f"{made.frames} frames, {made.bytes / 1e6:.1f} MB")
    reasons("left out", made.left_out, out / "left_out.jsonl")
    if report.foreign:
        most = sorted(report.foreign.items(), key=lambda item: -item[1])[:_ENDINGS]
        rest = ", ..." if len(report.foreign) > _ENDINGS else ""
        named = ", ".join(f"{count} {ending}" for ending, count in most)
        click.echo(f"note: {sum(report.foreign.values())} members of other kinds were passed over: {named}{rest}")
    for note in report.notes:
        click.echo(f"note: {note}")
    if unmet := found.unmet() if found else []:
        click.echo(f"note: the split recipe lists {len(unmet)} media without a sample, such as {unmet[0]}")
    state = "was complete already; nothing changed" if made.unchanged else f"written; {made.reused} tars were there"
    click.echo(f"{out} {state}")
