"""What `encode` and `caption` take: a manifest, or a table or tars of which one is prepared on the spot."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embedshard.cli.prepare import summarise
from embedshard.cli.progress import bar
from embedshard.errors import InputError
from embedshard.remote import AnyPath, Url

if TYPE_CHECKING:
    from embedshard.manifest import Manifest

__all__ = ["manifest_of"]

_TARS = (".tar", ".tar.gz", ".tgz")
_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".txt")


def manifest_of(given: AnyPath, folder: AnyPath, dry_run: bool = False, uncaptioned: bool = False) -> Manifest:
    """Open a manifest, or prepare one, `folder/samples.parquet`, by the source `table`, `webdataset` or `folder`.

    One that an earlier run has prepared there is taken again if nothing was left out and the files of the input are
    older; a folder is always read anew, as is an input whose manifest goes to a storage. What is left out is printed.

    Args:
        given: A manifest, the only one of these that may lie on a storage; a csv, tsv, jsonl, json, parquet or txt
            table; a tar, a folder of tars or a pattern of them; a folder of media with captions beside them.
        folder: Where the manifest, `prepare.json` and `left_out.jsonl` go.
        dry_run: Write the manifest to a place that is removed when the command ends.
        uncaptioned: Keep media without a caption.

    Raises:
        InputError: It is none of these, cannot be read as it is, or `folder` has the manifest of another input.
    """
    from embedshard.manifest import open_manifest

    source = None if isinstance(given, Url) else _source(given)
    if isinstance(given, Url) or source is None:
        return open_manifest(given)
    if dry_run:
        folder = Path(tempfile.mkdtemp(prefix="embedshard-"))
        click.get_current_context().call_on_close(lambda: shutil.rmtree(folder, ignore_errors=True))
    manifest = folder / "samples.parquet"
    if isinstance(manifest, Path) and _is_current(manifest, given):
        click.echo(f"{manifest} was prepared from {given} before, and nothing was left out")
    else:
        _prepare(source, given, manifest, uncaptioned)
    return open_manifest(manifest)


def _source(given: Path) -> str | None:
    """Name the source that reads an input, None for a manifest or what is not there."""
    from embedshard.sources._read import walk

    name = given.name.lower()
    if given.is_dir():
        tars = (name for _, _, names in walk(given, order=None) for name in names if name.lower().endswith(_TARS))
        return "webdataset" if any(tars) else "folder"
    if name.endswith(_TARS) or ("{" in name and not given.exists()):
        return "webdataset"
    if name.endswith(_TABLES):
        if not given.exists():
            raise InputError(f"no file {given}; expected a manifest, a table, tars, or a folder of media")
        return "table"
    return "table" if given.is_file() and not _has_manifest_columns(given) else None


def _has_manifest_columns(path: Path) -> bool:
    import pyarrow.parquet as pq

    from embedshard.manifest import SCHEMA

    try:
        return set(SCHEMA.names) <= set(pq.read_schema(path).names)
    except (OSError, ValueError):
        return True  # `open_manifest` says what is wrong with it


def _is_current(manifest: Path, given: Path) -> bool:
    """Tell whether a manifest of the input is there and up to date; raises InputError where it is of another input."""
    from braceexpand import braceexpand

    try:
        record = json.loads((manifest.parent / "prepare.json").read_bytes())
    except (OSError, ValueError):
        return False
    if record.get("root") != os.path.abspath(given):
        raise InputError(
            f"{manifest} was prepared from {record.get('root')}, not from {given}; give another folder for the output"
        )
    if given.is_dir() or not manifest.is_file() or record.get("left_out"):
        return False
    inputs = [given] if given.exists() else [Path(text) for text in braceexpand(str(given))]
    prepared = manifest.stat().st_mtime_ns
    return all(path.is_file() and path.stat().st_mtime_ns < prepared for path in inputs)


def _prepare(source: str, given: Path, manifest: AnyPath, uncaptioned: bool) -> None:
    from embedshard.prepare import PrepareOptions, prepare
    from embedshard.sources import get_source

    settings = {"uncaptioned": "true"} if uncaptioned and source == "table" else {}
    options = PrepareOptions(settings=settings, keep_uncaptioned=uncaptioned)
    try:
        with bar(None, "row") as progress:
            report = prepare(get_source(source), given, manifest, options, progress.update)
    except InputError as error:
        captions = "  Media without captions get some by: embedshard caption\n" if "caption" in str(error) else ""
        raise InputError(
            f"{error}\n{captions}  How the input is read can be chosen where it is prepared apart, by: "
            f"embedshard prepare {source} {given} samples.parquet"
        ) from error
    summarise(report)
    click.echo(f"prepared {manifest}")
