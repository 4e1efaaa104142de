"""The type of an argument that is a path or a URL."""

from __future__ import annotations

from typing import Any

import click

from embedshard.remote import place

__all__ = ["PLACE"]


class _Place(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.4
    """A local path, or an address of a storage such as `s3://bucket/name`."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return place(value)


PLACE = _Place()
