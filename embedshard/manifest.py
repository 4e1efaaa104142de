"""The manifest `samples.parquet`: one row a sample, from `prepare` to `encode`. May import `sample` and `store`.

Columns `key, split, media, kind, start, end, caption, meta`; `meta` is JSON text that also holds `media_id`. The
parquet file's own metadata says which source and which raw root the rows came from.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedshard.errors import InputError
from embedshard.sample import Media, Sample
from embedshard.store import publish

__all__ = ["SCHEMA", "Manifest", "ManifestWriter", "SourceInfo", "open_manifest", "writing_manifest"]

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("media", pa.string()),
        ("kind", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("caption", pa.string()),
        ("meta", pa.string()),
    ]
)
_ROW_GROUP = 16384
_PROPERTY = b"embedshard"
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class SourceInfo:
    """What a dataset card says of the raw dataset."""

    name: str
    title: str = ""
    homepage: str = ""
    license: str = ""


class ManifestWriter:
    """Writes samples in row groups, so that memory does not grow with their number."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._rows: list[tuple[Any, ...]] = []

    def add(self, sample: Sample) -> None:
        """Add one sample; its metadata gains `media_id`.

        Raises:
            InputError: Its metadata is not JSON or a text not UTF-8; the manifest goes on without it.
        """
        media = sample.media
        try:
            meta = _JSON.encode({**sample.meta, "media_id": media.id})
            f"{media.path}{sample.caption}{meta}".encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"sample {sample.key}: expected UTF-8 texts and strict JSON metadata: {error}") from error
        self._rows.append(
            (sample.key, sample.split, media.path, media.kind, media.start, media.end, sample.caption, meta)
        )
        if len(self._rows) == _ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what is held back as a row group."""
        if self._rows:
            columns = map(pa.array, zip(*self._rows, strict=True), SCHEMA.types)
            self._writer.write_table(pa.Table.from_arrays(list(columns), schema=SCHEMA))
            self._rows.clear()


@contextlib.contextmanager
def writing_manifest(path: Path, root: Path, source: SourceInfo) -> Iterator[ManifestWriter]:
    """Write `path` with all samples added in the block, or not at all.

    Args:
        path: The manifest.
        root: Raw root that the media paths start from.
        source: The raw dataset.
    """
    properties = {_PROPERTY: json.dumps({"root": str(root), "source": asdict(source)}).encode()}
    with publish(path) as file:
        schema = SCHEMA.with_metadata(properties)
        with pq.ParquetWriter(file, schema, compression="zstd") as parquet:
            writer = ManifestWriter(parquet)
            yield writer
            writer.flush()


@dataclass(frozen=True)
class Manifest:
    """An open manifest: its number of rows, the raw root its media paths start from, and its source."""

    path: Path
    rows: int
    root: Path
    source: SourceInfo

    def samples(self) -> Iterator[Sample]:
        """Yield all samples in the order of the file, a row group in memory at a time."""
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=_ROW_GROUP):
                yield from map(_sample, batch.to_pylist())

    def column(self, name: str) -> Iterator[str]:
        """Yield one column's values in the order of the file."""
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=_ROW_GROUP, columns=[name]):
                yield from batch.column(0).to_pylist()


def open_manifest(path: Path) -> Manifest:
    """Open a manifest and check its columns.

    Raises:
        InputError: `path` is no manifest.
    """
    if not path.is_file():
        raise InputError(f"no manifest {path}; make it with: embedshard prepare SOURCE RAW {path}")
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a parquet file: {error}") from error
    if missing := [name for name in SCHEMA.names if name not in schema.names]:
        raise InputError(
            f"{path} is not a manifest: expected the columns {', '.join(SCHEMA.names)}; missing: {', '.join(missing)}\n"
            f"A table of your own becomes a manifest with: embedshard prepare table {path} samples.parquet"
        )
    properties: Mapping[str, Any] = json.loads((schema.metadata or {}).get(_PROPERTY, b"{}"))
    root = Path(properties.get("root", path.parent))
    return Manifest(path, rows, root, SourceInfo(**properties.get("source", {"name": "unknown"})))


def _sample(row: Mapping[str, Any]) -> Sample:
    meta = json.loads(row["meta"] or "{}")
    media = Media(meta.pop("media_id", row["media"]), row["media"], row["kind"], row["start"], row["end"])
    return Sample(row["key"], row["split"], media, row["caption"], meta)
