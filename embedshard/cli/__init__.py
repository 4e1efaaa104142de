"""The command line: one thin file per command. May import everything; heavy imports happen inside the commands."""

from __future__ import annotations

from typing import Any

import click

from embedshard import __version__
from embedshard.cli.caption import caption
from embedshard.cli.check import check
from embedshard.cli.demo import demo
from embedshard.cli.encode import encode
from embedshard.cli.prepare import prepare
from embedshard.cli.reshard import reshard
from embedshard.cli.run import run
from embedshard.cli.shard import shard
from embedshard.cli.sources import sources
from embedshard.cli.status import status
from embedshard.errors import InputError

__all__ = ["main"]


class _Commands(click.Group):
    """Lists the commands in the order of the work, and shows what a user can mend without a trace."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
def main() -> None:
    """Turn a raw video-text or image-text dataset into CLIP-embedding shards that a training job streams.

    \b
    embedshard prepare SOURCE RAW samples.parquet      raw tree to manifest, seconds
    embedshard caption samples.parquet captioned/      captions by a CoCa model, for media that have none
    embedshard encode  samples.parquet processed/      manifest to embeddings, the long one; run it again to go on
    embedshard status  processed/                      how far that is, from any machine
    embedshard shard   processed/ shards/              triples to tars, splits.csv
    embedshard check   shards/                         is everything there, and right?
    embedshard reshard shards/ more/ merged/           shards to other shards: merged, split or cut anew
    """


for command in (sources, prepare, caption, encode, status, shard, check, reshard, run, demo):
    main.add_command(command)
