"""Is a processed dataset or a folder of shards what it claims. May import `processed`, `sample`, `shard`, `store`.

Damage is never raised but reported, with tar, key and field; a whole sample at most is in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from embedshard.distinct import DistinctIds, id_hash
from embedshard.errors import InputError
from embedshard.processed import (
    UNITS,
    Entry,
    encoded,
    entries,
    is_part,
    part_name,
    part_paths,
    read_failures,
    read_info,
    require_processed,
    unfinished,
    unit_records,
)
from embedshard.remote import AnyPath
from embedshard.sample import SPLITS
from embedshard.shard.dataset import Begin, Progress, expected_dim
from embedshard.shard.offsets import offsets_bytes, offsets_path, walk_offsets
from embedshard.shard.plan import triple_key
from embedshard.shard.table import INDEX, PROGRESS, SIZES, SPLITS_CSV, read_splits
from embedshard.shard.triple import BadTripleError, Reader, check_array, media_id, read_caption, read_metadata
from embedshard.store import is_temporary, on_disk
from embedshard.tar import index_members, mapped, read_members

__all__ = ["Problem", "Report", "check", "check_processed", "check_shards"]

_LISTED = 1000
_USUAL_MAXCOUNT = 10000
_PARTS = ("json", "npy", "txt", "cap")


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be: `where` names tar or split, key and field."""

    where: str
    what: str


@dataclass
class Report:
    """What a check found.

    Attributes:
        kind: `processed` or `shards`.
        folder: What was checked.
        counts: Samples of each split, and samples, frames and tars in all.
        problems: The first 1000.
        total: How many there are.
        notes: What is worth knowing but no problem.
    """

    kind: str
    folder: AnyPath
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    total: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return self.total == 0

    def add(self, where: str, what: str) -> None:
        """Add a problem."""
        self.total += 1
        if len(self.problems) < _LISTED:
            self.problems.append(Problem(_printable(where), _printable(what)))

    def to_json(self) -> dict[str, Any]:
        """Give the report as a value that survives JSON."""
        return {**asdict(self), "folder": str(self.folder), "counts": dict(self.counts), "ok": self.ok}


@dataclass(frozen=True)
class _Found:
    """A sample as it lies on disk; `place` is its tar or its split's folder."""

    split: str
    place: str
    key: str
    pieces: Mapping[str, bytes]


_Samples = Callable[[Report], Iterator[_Found]]


def check(folder: AnyPath, allow_leak: bool, progress: Progress, begin: Begin = lambda stage, total: None) -> Report:
    """Check a folder of shards or a processed dataset, whichever it is.

    Raises:
        InputError: It is neither.
    """
    if (folder / SPLITS_CSV).exists() or any(folder.glob("[!.]*.tar")):
        return check_shards(folder, allow_leak, progress, begin)
    return check_processed(folder, allow_leak, progress, begin)


def check_processed(
    folder: AnyPath, allow_leak: bool, progress: Progress, begin: Begin = lambda stage, total: None
) -> Report:
    """Check every triple of a processed dataset.

    Args:
        folder: The processed dataset.
        allow_leak: Whether media in two splits are a note instead of a problem.
        progress: Called with the number of samples just checked.
        begin: Called before each stage with its name and, where that is known, its number of samples.

    Raises:
        InputError: It is no processed dataset.
    """
    require_processed(folder)
    report = Report("processed", folder)
    info = embed_dim = None
    try:
        info = read_info(folder)
    except InputError as error:
        report.add("dataset.json", str(error))
    try:
        embed_dim = expected_dim(folder, info, progress, begin, lambda path, what: None)
    except InputError as error:
        report.add(str(folder), str(error))
    _check_leftovers(report, folder, "")
    begin("checking", None)
    _check_samples(report, lambda problems: _processed_samples(folder, problems), embed_dim, allow_leak, progress)
    _check_failures(report, folder)
    _check_units(report, folder)
    return report


def check_shards(
    folder: AnyPath, allow_leak: bool, progress: Progress, begin: Begin = lambda stage, total: None
) -> Report:
    """Check every tar of a folder of shards against its tables, and every sample in it.

    Args:
        folder: The shards.
        allow_leak: Whether media in two splits are a note instead of a problem.
        progress: Called with the number of samples just checked.
        begin: Called before each stage with its name and, where that is known, its number of samples.
    """
    report = Report("shards", folder)
    _check_leftovers(report, folder, "")
    tars = _listed_tars(report, folder)
    index, sizes = _read_table(report, folder / INDEX), _read_table(report, folder / SIZES)
    found: dict[str, dict[str, Any]] = {}
    provenance = index.get("provenance")
    encoder = provenance.get("encoder") if isinstance(provenance, dict) else None
    embed_dim = index.get("embed_dim") or (encoder.get("embed_dim") if isinstance(encoder, dict) else None)
    begin("checking", _announced(index, sizes))
    _check_samples(
        report,
        lambda problems: _shard_samples(folder, tars, found, problems),
        embed_dim if isinstance(embed_dim, int) else None,
        allow_leak,
        progress,
    )
    report.counts["tars"] = len(found)
    _check_sizes(report, sizes, found)
    _check_index(report, index, found)
    short = index.get("short")  # what a repair left
    short = short if isinstance(short, dict) else {}
    full = {tar: row for tar, row in found.items() if short.get(tar) != row["samples"]}
    _check_cuts(report, tars, full, _runs(index, tars))
    return report


def _check_samples(
    report: Report, samples: _Samples, embed_dim: int | None, allow_leak: bool, progress: Progress
) -> None:
    """Check every sample, then what must hold over all of them."""
    keys, media = DistinctIds(), DistinctIds()
    for found in samples(report):
        keys.add(found.key)
        report.counts["samples"] += 1
        report.counts[found.split] += 1
        shape, metadata = _check_pieces(report, found, embed_dim)
        embed_dim = embed_dim or shape[1]
        report.counts["frames"] += shape[0]
        if name := media_id(metadata):
            media.add(name, _tag(found.split))
        progress(1)
    if not report.counts["samples"]:
        report.add(str(report.folder), "no samples")
    elif not media.count:
        report.notes.append("no metadata names its media, so media in two splits cannot be found")
    _name_repeated(report, samples, keys.repeated(), media.under_two_tags(), allow_leak)


def _check_pieces(report: Report, found: _Found, embed_dim: int | None) -> tuple[tuple[int, int], Mapping[str, Any]]:
    """Check a sample by itself; gives the shape of its array, (0, 0) where it has none, and its metadata."""
    pieces = {"txt" if part == "cap" else part: data for part, data in found.pieces.items()}
    required = ("npy", "txt", "json") if report.kind == "shards" else ("npy", "txt")
    for part in required:
        if part not in pieces:
            report.add(f"{found.place}/{found.key}", f"no {part}")
    metadata: Mapping[str, Any] = {}
    shape = (0, 0)
    for part, data in pieces.items():
        try:
            if part == "txt":
                read_caption(data)
            elif part == "json":
                metadata = read_metadata(data)
            elif part == "npy":
                shape = _check_values(data, embed_dim)
        except BadTripleError as error:
            report.add(f"{found.place}/{found.key}.{part}", str(error))
    times = metadata.get("frame_times")
    if isinstance(times, list) and shape[0] and len(times) != shape[0]:
        report.add(f"{found.place}/{found.key}.json", f"{len(times)} frame_times, but the npy has {shape[0]} rows")
    return shape, metadata


def _check_values(data: bytes, embed_dim: int | None) -> tuple[int, int]:
    header = check_array(data, len(data))
    rows, width = header.shape
    if embed_dim not in (None, width):
        raise BadTripleError(f"embed_dim is {width}, expected {embed_dim}")
    values = np.frombuffer(data, header.dtype, offset=len(data) - rows * width * header.dtype.itemsize)
    if bad := values.size - int(np.isfinite(values).sum()):
        raise BadTripleError(f"{bad} of {values.size} values are not finite")
    return rows, width


def _name_repeated(
    report: Report, samples: _Samples, key_hashes: set[int], media_hashes: set[int], allow_leak: bool
) -> None:
    """Go over the samples again for those whose hashes repeat, if any do, and name them."""
    if not key_hashes and not media_hashes:
        return
    keys: dict[str, list[str]] = {}
    media: dict[str, dict[str, str]] = {}
    for found in samples(Report(report.kind, report.folder)):
        if id_hash(found.key) in key_hashes:
            keys.setdefault(found.key, []).append(found.place)
        name = media_id(_quiet_metadata(found.pieces.get("json", b"{}"))) if media_hashes else None
        if name and id_hash(name) in media_hashes:
            media.setdefault(name, {}).setdefault(found.split, f"{found.place}/{found.key}")
    for key, places in keys.items():
        if len(places) > 1:
            report.add(f"{places[1]}/{key}", f"key is there {len(places)} times: {', '.join(places[:4])}")
    leaks = {name: where for name, where in media.items() if len(where) > 1}
    if allow_leak and leaks:
        report.notes.append(f"{len(leaks)} media are in more than one split")
        return
    for name, where in leaks.items():
        report.add(", ".join(where.values()), f"media {name!r} is in the splits {', '.join(where)}")


def _check_failures(report: Report, folder: AnyPath) -> None:
    """Check that no key that `failed.jsonl` names has a triple."""
    try:
        failures = read_failures(folder)
        for split, key in sorted(encoded(folder, {(failure.split, failure.key) for failure in failures.values()})):
            report.add(f"{split}/{key}", "failed.jsonl names it, but it has a triple")
    except InputError as error:
        report.add("failed.jsonl", str(error))
    except (TypeError, ValueError, OSError) as error:
        report.add("failed.jsonl", f"is damaged: {error}")
    else:
        if failures:
            report.notes.append(f"{len(failures)} samples failed to encode; failed.jsonl says why")


def _check_units(report: Report, folder: AnyPath) -> None:
    """Check that all units are done, and that their parts are as long as when they were written."""
    try:
        if lacking := unfinished(folder):
            report.add(UNITS, f"{lacking}; go on with the same encode command")
        for record in unit_records(folder):
            name, expected = f"{record['split']}/{part_name(record['unit'])}", record["bytes"]
            found = (folder / name).stat().st_size if (folder / name).exists() else 0
            if found != expected:
                report.add(name, f"has {found} bytes, its record {UNITS}/{record['unit']:06d}.json says {expected}")
    except InputError as error:
        report.add(UNITS, str(error))


def _processed_samples(folder: AnyPath, problems: Report) -> Iterator[_Found]:
    def damaged(path: AnyPath, what: str) -> None:
        problems.add(f"{path.parent.name}/{path.name}", f"is damaged: {what}; what follows is not checked")

    for split in SPLITS:
        if (folder / split).is_dir():
            _check_leftovers(problems, folder / split, f"{split}/")
        for local in _on_disk(folder / split):
            _check_members(problems, local, f"{split}/")
            with Reader(local) as reader:
                for entry in entries(local, damaged=damaged):
                    place = f"{split}/{entry.tar}" if entry.tar else split
                    yield _Found(split, place, triple_key(entry.key), _read_pieces(reader, entry, place, problems))


def _on_disk(split: AnyPath) -> Iterator[Path]:
    """Give a split's folder; of one on a storage part after part, each as such a folder."""
    if isinstance(split, Path):
        yield split
        return
    for part in part_paths(split):
        with on_disk(part) as local, tempfile.TemporaryDirectory(prefix="embedshard-") as name:
            folder = Path(name) / split.name
            folder.mkdir()
            (folder / part.name).symlink_to(local)
            yield folder


def _read_pieces(reader: Reader, entry: Entry, place: str, problems: Report) -> dict[str, bytes]:
    pieces = {}
    for number, part in enumerate(entry.parts):
        if part in entry.parts[:number]:
            problems.add(f"{place}/{entry.key}.{part}", "is there twice")
        try:
            only = Entry(entry.key, (part,), entry.tar, entry.places[number : number + 1])
            pieces.update(reader.read(only)[0])
        except OSError as error:
            problems.add(f"{place}/{entry.key}.{part}", f"cannot be read: {error.strerror}")
    return pieces


def _shard_samples(
    folder: AnyPath, tars: Mapping[str, str], found: dict[str, dict[str, Any]], problems: Report
) -> Iterator[_Found]:
    """Yield the samples of every tar; `found` gets what `index.json` should say of it."""
    for tar, split in tars.items():
        try:
            with on_disk(folder / tar) as local, local.open("rb") as raw:
                file = _Hashing(raw)
                row = found[tar] = {"split": split, "samples": 0, "frames": 0}
                for key, pieces in _tar_samples(tar, file, problems):
                    row["samples"] += 1
                    row["frames"] += _rows_of(pieces.get("npy", b""))
                    yield _Found(split, tar, key, pieces)
                while file.read(1 << 20):
                    pass
                row.update(bytes=raw.tell(), sha256=file.digest.hexdigest())
                _check_offsets(problems, folder / tar, local)
        except FileNotFoundError:
            problems.add(tar, f"{SPLITS_CSV} names it, but it is not there")
        except (OSError, ValueError) as error:
            problems.add(tar, f"cannot be read: {error}")


def _check_offsets(problems: Report, tar: AnyPath, local: Path) -> None:
    """Check that the idx of a tar, if it has one, says where its samples lie."""
    path = offsets_path(tar)
    if not path.is_file():
        return
    idx = path.read_bytes()
    with contextlib.suppress(ValueError), mapped(local) as data:  # damage is reported otherwise
        if idx != offsets_bytes(walk_offsets(data).tolist()):
            problems.add(path.name, f"does not say where the samples of {tar.name} lie; make it anew with --repair")


class _Hashing:
    """A file that hashes what is read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _tar_samples(tar: str, file: _Hashing, problems: Report) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and pieces of every sample whose members follow each other; a sample cut off by damage is not."""
    seen: set[str] = set()
    key, pieces = "", dict[str, bytes]()
    try:
        for name, data in read_members(file):
            member_key, _, part = name.partition(".")
            if part not in _PARTS:
                problems.add(f"{tar}/{name}", f"expected members <key>.{', .'.join(_PARTS)}")
                continue
            if member_key != key or part in pieces:
                if pieces:
                    yield key, pieces
                if member_key in seen:
                    problems.add(f"{tar}/{name}", "is apart from the other members of its key, or there twice")
                key, pieces = member_key, {}
                seen.add(key)
            pieces[part] = data
    except ValueError as error:
        problems.add(tar, f"{error}; the samples from {key or 'its beginning'} on are not checked")
    else:
        if pieces:
            yield key, pieces


def _rows_of(npy: bytes) -> int:
    try:
        return check_array(npy, len(npy)).shape[0]
    except BadTripleError:
        return 0


def _listed_tars(report: Report, folder: AnyPath) -> dict[str, str]:
    """Give every tar that `splits.csv` names or that is there, with its split."""
    tars: dict[str, str] = {}
    try:
        for split, names in read_splits(folder).items():
            if split not in SPLITS:
                report.add(SPLITS_CSV, f"split {split!r}, expected one of {', '.join(SPLITS)}")
            for name in names:
                if name in tars:
                    report.add(f"{SPLITS_CSV}: {name}", "is there twice")
                tars[name] = split
    except InputError as error:
        report.add(SPLITS_CSV, str(error))
    for name in sorted(path.name for path in folder.glob("[!.]*.tar")):
        if name not in tars:
            report.add(name, f"{SPLITS_CSV} does not name it")
            tars[name] = ""
    return tars


def _read_table(report: Report, path: AnyPath) -> dict[str, Any]:
    """Read a JSON table, empty where there is none or it is damaged."""
    try:
        return read_metadata(path.read_bytes())
    except FileNotFoundError:
        report.notes.append(f"no {path.name}, so nothing is compared with it")
    except (OSError, BadTripleError) as error:
        report.add(path.name, f"expected a JSON object, found: {error}")
    return {}


def _announced(index: Mapping[str, Any], sizes: Mapping[str, Any]) -> int | None:
    """Give how many samples the tables say there are; None where they say nothing."""
    totals = index.get("totals")
    counts = list(sizes.values()) or [totals.get("samples") if isinstance(totals, dict) else None]
    return sum(counts) if all(isinstance(count, int) for count in counts) else None


def _check_sizes(report: Report, sizes: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> None:
    if not sizes:
        return
    for tar in sorted({*sizes, *found}):
        samples = found[tar]["samples"] if tar in found else "no tar"
        if sizes.get(tar) != samples:
            report.add(f"{SIZES}: {tar}", f"says {sizes.get(tar, 'nothing')}, found {samples}")


def _check_index(report: Report, index: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> None:
    if not index:
        return
    try:
        rows = {str(row["name"]): row for row in index["tars"]}
        for tar in sorted({*rows, *found}):
            if tar not in rows or tar not in found:
                report.add(f"{INDEX}: {tar}", "no such tar" if tar in rows else "does not name it")
                continue
            for name, value in found[tar].items():
                if rows[tar].get(name) != value:
                    report.add(f"{INDEX}: {tar}", f"{name}: says {rows[tar].get(name)}, found {value}")
        for name in ("samples", "frames"):
            total = sum(row[name] for row in found.values())
            if index["totals"][name] != total:
                report.add(INDEX, f"total of {name}: says {index['totals'][name]}, found {total}")
        if left_out := index["left_out"]["total"]:
            report.notes.append(f"{left_out} triples were left out when sharding; left_out.jsonl says why")
        if failed := index.get("failed", {"total": 0})["total"]:
            report.notes.append(f"{failed} samples failed to encode, so no tar has them; {INDEX} says why")
    except (KeyError, TypeError, AttributeError) as error:
        report.add(INDEX, f"expected tars, totals and left_out as embedshard shard writes them, found {error!r}")


def _runs(index: Mapping[str, Any], tars: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Give the run that each tar is of, the first or one that appended, and the most samples of its tars."""
    options, appended = index.get("options"), index.get("appended")
    maxcount = options.get("maxcount") if isinstance(options, dict) else None
    rows = [row for row in appended if isinstance(row, dict)] if isinstance(appended, list) else []
    starts = {str(row.get("first")): (number, row.get("maxcount")) for number, row in enumerate(rows, 1)}
    run, runs = (0, maxcount if isinstance(maxcount, int) else _USUAL_MAXCOUNT), {}
    for tar in sorted(tars, key=lambda name: (len(name), name)):
        number, most = starts.get(tar, run)
        runs[tar] = run = (number, most if isinstance(most, int) else run[1])
    return runs


def _check_cuts(
    report: Report,
    tars: Mapping[str, str],
    found: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, tuple[int, int]],
) -> None:
    """Check that no tar is empty or over full, and that only the last of a split is short, in each run."""
    last = {(split, runs[tar][0]): tar for tar, split in tars.items()}
    for tar, row in found.items():
        samples, (number, maxcount) = row["samples"], runs[tar]
        if samples == 0:
            report.add(tar, "has no samples")
        elif samples > maxcount:
            report.add(tar, f"has {samples} samples, expected at most {maxcount}")
        elif samples < maxcount and tars[tar] and last[tars[tar], number] != tar:
            report.add(tar, f"has {samples} samples, expected {maxcount}: only the last tar of a split is short")


def _check_leftovers(report: Report, folder: AnyPath, place: str) -> None:
    """Report what killed runs left half-written, and in a split's folder what is no part of a triple."""
    for name in sorted(path.name for path in folder.iterdir() if _is_stray(path.name, bool(place))):
        left = is_temporary(name) or name == PROGRESS
        what = "left by a run that did not finish; run the same command again" if left else "no part of a triple"
        report.add(f"{place}{name}", what)


def _check_members(report: Report, folder: Path, place: str) -> None:
    """Report what is no part of a triple in the parts of a split's folder."""
    for path in part_paths(folder):
        with contextlib.suppress(OSError, ValueError), mapped(str(path)) as tar:  # damage is reported with the samples
            for name in (member.name for member in index_members(tar)):
                if _is_stray(name, True):
                    report.add(f"{place}{path.name}/{name}", "no part of a triple")


def _is_stray(name: str, in_split: bool) -> bool:
    stem, _, part = name.rpartition(".")
    return is_temporary(name) or name == PROGRESS or (in_split and not (stem and part in _PARTS) and not is_part(name))


def _printable(text: str) -> str:
    """Give a text that UTF-8 can hold; file names need not be one."""
    return text.encode("utf-8", "backslashreplace").decode()


def _quiet_metadata(data: bytes) -> Mapping[str, Any]:
    try:
        return read_metadata(data)
    except BadTripleError:
        return {}


def _tag(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)
