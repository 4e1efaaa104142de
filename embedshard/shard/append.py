"""What a folder of shards holds already, for `shard --append`. May import `processed`, `distinct`, `store`,
`tar`, this room.

Keys and media are read from the tars themselves, headers and json only: a list kept beside `index.json` would be one
more file that can disagree with them, and shards made before there was one could not be appended to.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from embedshard.distinct import DistinctIds, id_hash
from embedshard.errors import InputError
from embedshard.processed import DatasetInfo, require_same_setting
from embedshard.remote import AnyPath, RemoteError
from embedshard.sample import SPLITS
from embedshard.shard.job import Job
from embedshard.shard.plan import ShardOptions, order_of, triple_key
from embedshard.shard.sorter import Sorter
from embedshard.shard.table import INDEX, TarRecord
from embedshard.shard.triple import BadTripleError, media_id, read_metadata
from embedshard.store import on_disk
from embedshard.tar import index_members, mapped

__all__ = ["Before", "Packed", "read_before", "refuse_leaks"]

_KEYS, _MEDIA = "old-keys", "old-media"
_SHOWN = 5


@dataclass(frozen=True)
class Before:
    """The shards that are appended to.

    Attributes:
        index: The value of their `index.json`.
        records: Their tars.
        keys: File with the orders of their keys, sorted, a line each.
        media: File with `[media, split, place]` as a line for each sample whose metadata names its media.
    """

    index: dict[str, Any]
    records: tuple[TarRecord, ...]
    keys: Path
    media: Path

    @property
    def samples(self) -> int:
        """How many samples they hold."""
        return sum(record.samples for record in self.records)


class Packed:
    """Tells of orders that come sorted which of them the shards hold."""

    def __init__(self, before: Before | None) -> None:
        self._lines = before.keys.open() if before else None
        self._at = self._next()

    def __enter__(self) -> Packed:
        return self

    def __exit__(self, *error: object) -> None:
        if self._lines:
            self._lines.close()

    def holds(self, order: str) -> bool:
        """Tell whether a key of this order is packed; orders must not decrease."""
        while self._at and self._at < order:
            self._at = self._next()
        return self._at == order

    def _next(self) -> str:
        return self._lines.readline().rstrip("\n") if self._lines else ""


def read_before(job: Job, options: ShardOptions, info: DatasetInfo | None) -> Before | None:
    """Read what a folder of shards holds.

    Args:
        job: The run that appends to it.
        options: Of that.
        info: `dataset.json` of what is appended.

    Returns:
        None where there is no `index.json`, so that nothing was finished yet.

    Raises:
        InputError: They were made with other options or by another encoder, or a tar is not there or damaged.
    """
    output = job.output
    try:
        index = json.loads((output / INDEX).read_bytes())
        records = tuple(TarRecord(**row) for row in index["tars"])
        own, provenance = index["options"], index["provenance"]
    except FileNotFoundError:
        return None
    except RemoteError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{output / INDEX} is damaged ({error!r}); shard anew into another folder") from error
    changed = [name for name in ("name", "key_format") if own[name] != getattr(options, name)]
    if changed:
        lines = [f"    {name}: {own[name]!r} there, {getattr(options, name)!r} asked for" for name in changed]
        raise InputError(
            f"{output} was sharded with other options:\n"
            + "\n".join(lines)
            + "\n  append with the same --name and --key-format, or shard into another folder"
        )
    if info and provenance:
        require_same_setting(output, provenance["encoder"], info.encoder)
    before = Before(index, records, job.spill / _KEYS, job.spill / _MEDIA)
    sorter = Sorter(job.spill / "keys")
    with before.media.open("w") as media, before.keys.open("w") as keys:
        for key in _keys(output, before, media):
            sorter.add(order_of(key, options))
        keys.writelines(f"{order}\n" for order in sorter.drain())
    return before


def refuse_leaks(before: Before, media: Path) -> None:
    """Make sure that no new media is in another split of the shards already.

    Args:
        before: The shards.
        media: File with a line `[media, split, key]` for each new sample whose metadata names its media.

    Raises:
        InputError: Some are.
    """
    ids = DistinctIds()
    for name, split, _ in itertools.chain(_rows(before.media), _rows(media)):
        ids.add(name, SPLITS.index(split))
    hashes = ids.under_two_tags()
    there: dict[str, dict[str, str]] = {}
    for name, split, place in _rows(before.media) if hashes else ():
        if id_hash(name) in hashes:
            there.setdefault(name, {}).setdefault(split, place)
    leaks: dict[str, str] = {}
    for name, split, key in _rows(media) if there else ():
        for other, place in there.get(name, {}).items():
            if other != split:
                leaks.setdefault(name, f"    media {name!r}: {split}/{key} would join {place} of {other}")
    if leaks:
        raise InputError(
            "expected media that are in no other split of the shards, found "
            f"{len(leaks)} that are:\n"
            + "\n".join(list(leaks.values())[:_SHOWN])
            + "\n  prepare with the splits of the first run (--freeze-split keeps them), or: --allow-leak"
        )


def _keys(output: AnyPath, before: Before, media: IO[str]) -> Iterator[str]:
    """Yield the key that every sample of the tars had as a triple, and write down its media."""
    renamed = before.index["options"]["key_format"] is not None
    for record in before.records:
        try:
            if (output / record.name).stat().st_size != record.bytes:
                raise ValueError(f"expected {record.bytes} bytes")
            with on_disk(output / record.name) as local, mapped(local) as tar:
                for member in index_members(tar):
                    stem, _, part = member.name.rpartition(".")
                    if part != "json":
                        continue
                    meta = read_metadata(bytes(tar[member.offset : member.offset + member.size]))
                    if name := media_id(meta):
                        media.write(json.dumps([name, record.split, f"{record.name}/{stem}"]) + "\n")
                    yield triple_key(_first_key(output / record.name, stem, meta)) if renamed else stem
        except RemoteError:
            raise
        except (OSError, ValueError, BadTripleError) as error:
            raise InputError(
                f"{output / record.name} cannot be read: {error}\n"
                "  run the command that made it again without --append, or restore it"
            ) from error


def _first_key(tar: AnyPath, stem: str, meta: dict[str, Any]) -> str:
    """Give the key that a sample had before it was numbered."""
    key = meta.get("key")
    if not isinstance(key, str):
        raise InputError(
            f"expected the metadata of {stem} in {tar} to name the key that it had before --key-format, found none, "
            "so there is no telling which triples are packed\n  shard anew into another folder"
        )
    return key


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    with path.open() as file:
        for line in file:
            name, split, place = json.loads(line)
            yield name, split, place
