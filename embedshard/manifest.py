"""The manifest `samples.parquet`: a row a sample, from `prepare` to `encode`. May import
`sample`, `store`, `distinct` and `remote`.

Columns `key, split, media, kind, start, end, caption, meta`; `meta` is JSON text that also holds `media_id`. The
parquet file's own metadata says which source and which raw root the rows came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from embedshard.distinct import DistinctIds, id_hash
from embedshard.errors import InputError
from embedshard.remote import RemoteError, Url, place
from embedshard.sample import SPLITS, Kind, Media, Sample, is_key
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


@dataclass(frozen=True)
class SourceInfo:
    """What a dataset card says of the raw dataset."""

    name: str
    title: str = ""
    homepage: str = ""
    license: str = ""


class ManifestWriter:
    """Writes samples in row groups, so that memory does not grow with their number."""

    def __init__(self, writer: pq.ParquetWriter, row_group: int = _ROW_GROUP) -> None:
        self._writer, self._row_group = writer, row_group
        self._rows: list[tuple[Any, ...]] = []

    def add(self, sample: Sample) -> None:
        """Add one sample; its metadata gains `media_id`, and NaN in it becomes null.

        Raises:
            InputError: Its metadata is not JSON or a text not UTF-8; the manifest goes on without it.
        """
        media = sample.media
        try:
            meta = _json({**sample.meta, "media_id": media.id})
            f"{media.path}{sample.caption}{meta}".encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"sample {sample.key}: expected UTF-8 texts and strict JSON metadata: {error}") from error
        self._rows.append(
            (sample.key, sample.split, media.path, media.kind, media.start, media.end, sample.caption, meta)
        )
        if len(self._rows) == self._row_group:
            self.flush()

    def flush(self) -> None:
        """Write what is held back as a row group, if there is anything."""
        if self._rows:
            columns = map(pa.array, zip(*self._rows, strict=True), SCHEMA.types)
            self._writer.write_table(pa.Table.from_arrays(list(columns), schema=SCHEMA))
            self._rows.clear()


@contextlib.contextmanager
def writing_manifest(
    path: Path | Url | None, root: Path | Url, source: SourceInfo, row_group: int = _ROW_GROUP
) -> Iterator[ManifestWriter]:
    """Write `path` with all samples added in the block, or not at all.

    Args:
        path: The manifest; None to check the samples and write nothing.
        root: Raw root that the media paths start from.
        source: The raw dataset.
        row_group: Most samples of a row group.
    """
    properties = {_PROPERTY: json.dumps({"root": str(root), "source": asdict(source)}).encode()}
    with publish(path) if path else contextlib.nullcontext(_Nowhere()) as file:
        schema = SCHEMA.with_metadata(properties)
        with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=["split", "kind"]) as parquet:
            writer = ManifestWriter(parquet, row_group)
            yield writer
            writer.flush()


def _json(meta: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(meta).decode()
    except TypeError:  # also whole numbers of more than 64 bits, which JSON may have
        return json.dumps(meta, ensure_ascii=False, allow_nan=False)


class _Nowhere(io.RawIOBase):
    """A file that forgets what is written to it."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


@dataclass(frozen=True)
class Manifest:
    """An open manifest: its number of rows, the raw root its media paths start from, and its source."""

    path: Path | Url
    rows: int
    root: Path | Url
    source: SourceInfo

    def samples(self) -> Iterator[Sample]:
        """Yield all samples in the order of the file, a row group in memory at a time."""
        return map(_sample, self._rows(SCHEMA.names))

    def column(self, name: str) -> Iterator[str]:
        """Yield one column's values in the order of the file."""
        return (row[name] for row in self._rows([name]))

    def groups(self) -> list[int]:
        """Give the number of samples of each row group."""
        with _parquet(self.path) as file:
            return [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]

    def group_reader(self) -> Callable[[int], list[Sample]]:
        """Give what reads the samples of a row group; the file stays open, and what it says of its groups in memory."""
        file = _parquet(self.path)
        return lambda number: list(map(_sample, file.read_row_group(number, SCHEMA.names).to_pylist()))

    def digest(self) -> str:
        """Give the SHA-256 of the file."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def validate(self) -> None:
        """Check every row, of a manifest that may come from elsewhere.

        Raises:
            InputError: A row is none that `prepare` could have written; names the row.
        """
        keys = DistinctIds()
        for number, row in enumerate(self._rows(SCHEMA.names)):
            if wrong := _wrong(row):
                raise InputError(f"{self.path}, row {number}: {wrong}\n  Make it anew with: embedshard prepare")
            keys.add(row["key"])
        if hashes := keys.repeated():
            first = next(key for key in self.column("key") if id_hash(key) in hashes)
            raise InputError(f"{self.path}: expected every key once, found {len(hashes)} again, the first {first!r}")

    def _rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        try:
            with _parquet(self.path) as file:
                for batch in file.iter_batches(batch_size=_ROW_GROUP, columns=columns):
                    yield from batch.to_pylist()
        except RemoteError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.path} is damaged: {error}\n  Make it anew with: embedshard prepare") from error


def open_manifest(path: str | Path | Url) -> Manifest:
    """Open a manifest, on a storage too, and check its columns.

    Raises:
        InputError: `path` is no manifest.
    """
    path = place(path)
    if not path.is_file():
        raise InputError(f"no manifest {path}; make it with: embedshard prepare SOURCE RAW {path}")
    try:
        with _parquet(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except RemoteError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a parquet file: {error}") from error
    if missing := [name for name in SCHEMA.names if name not in schema.names]:
        raise InputError(
            f"{path} is not a manifest: expected the columns {', '.join(SCHEMA.names)}; missing: {', '.join(missing)}\n"
            f"A table of your own becomes a manifest with: embedshard prepare table {path} samples.parquet"
        )
    properties: Mapping[str, Any] = json.loads((schema.metadata or {}).get(_PROPERTY, b"{}"))
    root = place(properties.get("root", path.parent))
    return Manifest(path, rows, root, SourceInfo(**properties.get("source", {"name": "unknown"})))


def _parquet(path: Path | Url) -> pq.ParquetFile:
    return pq.ParquetFile(path if isinstance(path, Path) else path.open("rb"))


def _wrong(row: Mapping[str, Any]) -> str:
    """Say what is wrong with a row, "" if nothing is."""
    texts = [name for name in ("key", "split", "media", "kind", "caption", "meta") if not isinstance(row[name], str)]
    if texts:
        return f"expected text in {', '.join(texts)}, found {row[texts[0]]!r}"
    if not is_key(row["key"]):
        return f"expected a key of letters, digits, _ and -, found {row['key']!r}"
    for name, known in (("split", SPLITS), ("kind", get_args(Kind))):
        if row[name] not in known:
            return f"expected {name} to be one of {', '.join(known)}, found {row[name]!r}"
    if not all(value is None or isinstance(value, float) for value in (row["start"], row["end"])):
        return "expected seconds in start and end"
    try:
        is_object = isinstance(json.loads(row["meta"]), dict)
    except ValueError:
        is_object = False
    return "" if is_object else f"expected a JSON object in meta, found {row['meta'][:80]!r}"


def _sample(row: Mapping[str, Any]) -> Sample:
    meta = json.loads(row["meta"])
    media = Media(meta.pop("media_id", row["media"]), row["media"], row["kind"], row["start"], row["end"])
    return Sample(row["key"], row["split"], media, row["caption"], meta)
