"""`embedshard sources`: the raw datasets that are known."""

from __future__ import annotations

import click

from embedshard.cli.progress import table

__all__ = ["sources"]


@click.group(invoke_without_command=True, short_help="The raw datasets that are known.")
@click.pass_context
def sources(context: click.Context) -> None:
    """List the raw datasets that `prepare` reads; `sources show NAME` tells all about one."""
    if context.invoked_subcommand:
        return
    from embedshard.sources import all_sources, published

    table(
        ("source", "dataset", "kind", "modality", "splits", "samples", "licence"),
        (
            (s.name, s.title, s.kind, s.modality, " | ".join(s.splits), published(s) or "-", s.license or "-")
            for s in all_sources().values()
        ),
    )


@sources.command()
@click.argument("name")
def show(name: str) -> None:
    """Show what a source expects, which splits it gives, which options it takes."""
    from dataclasses import fields

    from embedshard.sources import get_source

    source = get_source(name)
    click.echo(f"{source.name}: {source.title} ({source.kind}, {source.modality})")
    for label, text in (("homepage", source.homepage), ("licence", source.license)):
        if text:
            click.echo(f"{label}: {text}")
    click.echo("\nexpects in RAW:")
    for line in source.expects.strip("\n").splitlines():
        click.echo(f"    {line}")
    click.echo("\nsplits (--split NAME, the first by default; or a recipe FILE.yaml):")
    for scheme, names in source.splits.items():
        click.echo(f"    {scheme}: {', '.join(names)}")
    own = [field for field in fields(source.options) if field.name != "split"]
    if own:
        click.echo("\noptions (--option NAME=VALUE):")
        for field in own:
            choices = "|".join(field.metadata["choices"])
            click.echo(
                f"    {field.name.rstrip('_')}={field.default}  {field.metadata['help']}{choices and f' ({choices})'}"
            )
    click.echo(f"\ntry it: embedshard demo {name} raw/ && embedshard prepare {name} raw/ samples.parquet")
