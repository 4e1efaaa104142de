"""What `encode` and `caption` take: a manifest, or a table or tars of which one is prepared on the spot."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embedshard.cli.prepare import summarise
from embedshard.cli.progress import bar
from embedshard.errors import InputError

if TYPE_CHECKING:
    from embedshard.manifest import Manifest

__all__ = ["manifest_of"]

_TARS = (".tar", ".tar.gz", ".tgz")
_OTHERS = (".csv", ".tsv", ".jsonl", ".json")


def manifest_of(given: Path, folder: Path, dry_run: bool = False) -> Manifest:
    """Open a manifest, or prepare one, `folder/samples.parquet`, from a table or tars by the source of that name.

    One that an earlier run has prepared there is taken again if nothing was left out and the input is older. What
    is left out is printed.

    Args:
        given: A manifest; a csv, tsv, jsonl, json or parquet table; a tar, a folder of tars, or a pattern of tars.
        folder: Where the manifest, `prepare.json` and `left_out.jsonl` go.
        dry_run: Write the manifest to a place that is removed when the command ends.

    Raises:
        InputError: It is none of these, cannot be read as it is, or `folder` has the manifest of another input.
    """
    from embedshard.manifest import open_manifest

    source = _source(given)
    if source is None:
        return open_manifest(given)
    if dry_run:
        folder = Path(tempfile.mkdtemp(prefix="embedshard-"))
        click.get_current_context().call_on_close(lambda: shutil.rmtree(folder, ignore_errors=True))
    manifest = folder / "samples.parquet"
    if _is_current(manifest, given):
        click.echo(f"{manifest} was prepared from {given} before, and nothing was left out")
    else:
        _prepare(source, given, manifest)
    return open_manifest(manifest)


def _source(given: Path) -> str | None:
    """Name the source that reads an input, None for a manifest or what is not there."""
    name = given.name.lower()
    if given.is_dir():
        if not any(_tars(given)):
            raise InputError(
                f"{given}: expected a manifest, a table, or a folder of tars; a folder of videos with captions beside "
                "them becomes a manifest with: embedshard prepare folder RAW samples.parquet"
            )
        return "webdataset"
    if name.endswith(_TARS) or ("{" in name and not given.exists()):
        return "webdataset"
    if not given.exists() and name.endswith((*_OTHERS, ".txt")):
        raise InputError(f"no file {given}; expected a manifest, a table or tars")
    if not given.is_file():
        return None
    if name.endswith(".txt"):
        raise InputError(
            f"{given}: a list of paths has no captions, which samples need; captions are made with: embedshard "
            "caption, embeddings alone with: embedshard.compat.clip_video_encode"
        )
    if name.endswith(_OTHERS):
        return "table"
    return None if _has_manifest_columns(given) else "table"


def _has_manifest_columns(path: Path) -> bool:
    import pyarrow.parquet as pq

    from embedshard.manifest import SCHEMA

    try:
        return set(SCHEMA.names) <= set(pq.read_schema(path).names)
    except (OSError, ValueError):
        return True  # `open_manifest` says what is wrong with it


def _tars(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.name.lower().endswith(_TARS))


def _is_current(manifest: Path, given: Path) -> bool:
    """Tell whether a manifest of the input is there and up to date; raises InputError where it is of another input."""
    try:
        record = json.loads((manifest.parent / "prepare.json").read_bytes())
    except (OSError, ValueError):
        return False
    if record.get("root") != os.path.abspath(given):
        raise InputError(
            f"{manifest} was prepared from {record.get('root')}, not from {given}; give another folder for the output"
        )
    if not manifest.is_file() or record.get("left_out"):
        return False
    inputs = list(_tars(given)) if given.is_dir() else [given] if given.exists() else _matches(given)
    newest = max((path.stat().st_mtime_ns for path in [*inputs, *([given] if given.is_dir() else [])]), default=0)
    return newest < manifest.stat().st_mtime_ns


def _matches(pattern: Path) -> list[Path]:
    from braceexpand import braceexpand

    return [Path(text) for text in braceexpand(str(pattern)) if Path(text).is_file()]


def _prepare(source: str, given: Path, manifest: Path) -> None:
    from embedshard.prepare import PrepareOptions, prepare
    from embedshard.sources import get_source

    try:
        with bar(None, "row") as progress:
            report = prepare(get_source(source), given, manifest, PrepareOptions(), progress.update)
    except InputError as error:
        captions = "  Media without captions get some by: embedshard caption\n" if "caption" in str(error) else ""
        raise InputError(
            f"{error}\n{captions}  How the input is read can be chosen where it is prepared apart, by: "
            f"embedshard prepare {source} {given} samples.parquet"
        ) from error
    summarise(report)
    click.echo(f"prepared {manifest}")
