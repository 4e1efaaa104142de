"""The types of arguments that are paths: one that may be a URL too, and one that may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from embedshard.remote import Url, place

__all__ = ["LOCAL", "PLACE"]


class _Place(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.4
    """A local path, or an address of a storage such as `s3://bucket/name`."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return place(value)


class _Local(_Place):
    """A path on a disk of this machine, or one that it has mounted."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        found = super().convert(value, param, ctx)
        if isinstance(found, Url):
            self.fail(
                f"expected a path on a disk, found {found}; prepare, encode, status, shard, check and embedshard.load "
                "take addresses, for this copy the folder to a disk",
                param,
                ctx,
            )
        return Path(found)


PLACE, LOCAL = _Place(), _Local()
