"""`embedshard run`: the whole way from one file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from embedshard.cli.check import check
from embedshard.cli.encode import encode, models_of
from embedshard.cli.place import LOCAL, PLACE
from embedshard.cli.prepare import prepare
from embedshard.cli.shard import shard
from embedshard.errors import InputError
from embedshard.remote import AnyPath

__all__ = ["run"]


@click.command(short_help="All of it from one YAML recipe.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--raw", type=LOCAL, help="The raw dataset, instead of the recipe's.")
@click.option("--out", type=PLACE, help="Where to write, instead of the recipe's.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="E.g. --set encode.fps=2.")
def run(recipe: Path, raw: Path | None, out: AnyPath | None, settings: tuple[str, ...]) -> None:
    """Prepare, encode, shard and check as RECIPE says (a YAML file; configs/ has one for each source).

    Run it again to go on after a stop.
    """
    from embedshard.cli.recipe import read_recipe

    overrides = dict(_pair(setting) for setting in settings)
    paths = {name: str(path) for name, path in (("out", out), ("prepare.raw", raw)) if path}
    overrides |= {name: json.dumps(path, ensure_ascii=False) for name, path in paths.items()}
    plan = read_recipe(recipe, overrides, {"prepare": prepare, "encode": encode, "shard": shard})
    manifest, processed, shards = (plan.out / name for name in ("samples.parquet", "processed", "shards"))
    arguments = plan.arguments
    prepared = prepare.make_context("prepare", [*arguments["prepare"], "--", plan.source, str(plan.raw), str(manifest)])
    encoded = encode.make_context("encode", [*arguments["encode"], "--", str(manifest), str(processed)])
    contexts: list[tuple[click.Command, click.Context]] = [(prepare, prepared), (encode, encoded)]
    leak = [word for word in arguments["prepare"] if word == "--allow-leak"]
    for folder in models_of(processed, encoded.params):
        target = str(shards if folder == processed else shards / folder.name)
        contexts.append((shard, shard.make_context("shard", [*arguments["shard"], "--", str(folder), target])))
        contexts.append((check, check.make_context("check", [*leak, "--", target])))
    for command, context in contexts:
        click.secho(f"== {command.name}", bold=True)
        with context:
            command.invoke(context)


def _pair(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise InputError(f"expected --set SECTION.KEY=VALUE, found --set {setting}")
    return name, value
