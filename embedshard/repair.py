"""Take what is damaged out of a folder of shards or a processed dataset.

May import `processed`, `sample`, `shard`, `store`, `distinct`, `tar`, `errors`.

Nothing is deleted: the old tar, or the files of a bad triple, go to `quarantine/` beside the tars or splits, with a
line each in `quarantine/damaged.jsonl`. Every step is atomic and can be repeated, so the same command finishes a
stopped run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedshard.distinct import DistinctIds, id_hash
from embedshard.errors import InputError
from embedshard.processed import INFO, entries, has_triple, read_failures, read_info, require_processed, write_failures
from embedshard.sample import SPLITS, split_name
from embedshard.shard.card import card
from embedshard.shard.dataset import Progress
from embedshard.shard.offsets import offsets_path, write_offsets
from embedshard.shard.plan import triple_key
from embedshard.shard.salvage import Found, Salvage, check_sample
from embedshard.shard.scan import FORMAT
from embedshard.shard.table import (
    INDEX,
    PROGRESS,
    SIZES,
    SPLITS_CSV,
    TarRecord,
    index_bytes,
    json_bytes,
    read_splits,
    splits_bytes,
    write_changed,
)
from embedshard.shard.triple import BadTripleError, check_array, read_head, read_metadata
from embedshard.store import exclusive, is_temporary, publish, remove_temporary, write_bytes
from embedshard.tar import write_members

__all__ = ["RepairReport", "repair"]

_QUARANTINE, _DAMAGED, _REPAIRED, _CARD = "quarantine", "damaged.jsonl", "tars.jsonl", "README.md"
_PARTS, _UNITS = "part-*.tar", "units"
_NONE_LEFT_OUT = {"total": 0, "reasons": {}, "first": []}


@dataclass
class RepairReport:
    """What a repair did: `found` is `kept`, `same` and the sum of `damaged`.

    Attributes:
        found: Samples and damaged spots.
        kept: Samples that are there now.
        same: Samples that were there twice in one split with the same content; once is left.
        damaged: What went to the quarantine, by reason.
        mended: Samples that got an empty json, or a key that WebDataset can read.
        foreign: Members and files that are no part of a sample and are in the quarantine now, by ending.
        rewritten: Tars written anew, or taken away as nothing in them was whole.
        tables: Tables written anew.
        leftovers: Half-written files of killed runs that were removed.
        undecided: What only a person can decide.
    """

    found: int = 0
    kept: int = 0
    same: int = 0
    damaged: Counter[str] = field(default_factory=Counter)
    mended: int = 0
    foreign: Counter[str] = field(default_factory=Counter)
    rewritten: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    leftovers: int = 0
    undecided: list[str] = field(default_factory=list)


def repair(folder: Path, progress: Progress) -> RepairReport:
    """Repair a folder of shards or a processed dataset, whichever it is; run it again to finish what was stopped.

    Args:
        folder: The shards, or the processed dataset.
        progress: Called with the number of samples just looked at.

    Raises:
        InputError: It is neither, or a run that writes it has not finished.
    """
    report = RepairReport()
    if not (folder / SPLITS_CSV).exists() and not any(folder.glob("[!.]*.tar")):
        require_processed(folder)
    elif (folder / PROGRESS).exists():
        raise InputError(
            f"{folder} was not written to the end; run the command that writes it again\n"
            f"  or remove {folder / PROGRESS} to keep to the tars that are there, and repair"
        )
    else:
        with exclusive(folder):
            report.leftovers = remove_temporary(folder)
            _repair_shards(folder, report, progress)
        return report
    with exclusive(folder):
        _repair_processed(folder, report, progress)
    return report


class _Quarantine:
    """The folder that damaged things go to, and its lists; a line that is there already is not added again.

    `place` is the folder in it for what comes out of one split, or the folder itself.
    """

    def __init__(self, folder: Path, split: str = "") -> None:
        self.folder = folder / _QUARANTINE
        self.place = self.folder / split
        self.split = f"{split}/" if split else ""
        self._known: dict[str, set[bytes]] = {}

    def add(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to a list; they are on disk when this returns."""
        known = self._lines(name)
        if new := [data for line in lines if (data := json.dumps(line).encode()) not in known]:
            known.update(new)
            self.folder.mkdir(exist_ok=True)
            with (self.folder / name).open("ab") as file:
                file.write(b"".join(data + b"\n" for data in new))
                file.flush()
                os.fsync(file.fileno())

    def has(self, name: str, line: Mapping[str, Any]) -> bool:
        """Tell whether a list has a line."""
        return json.dumps(line).encode() in self._lines(name)

    def _lines(self, name: str) -> set[bytes]:
        """Give the lines of a list; one that a crash cut off is taken out of it."""
        if name not in self._known:
            path = self.folder / name
            *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
            if rest:
                write_bytes(path, b"".join(line + b"\n" for line in lines), sync=True)
            self._known[name] = set(lines)
        return self._known[name]

    def keep(self, path: Path) -> None:
        """Give a file a second name here, apart from the files that are here already."""
        self.place.mkdir(parents=True, exist_ok=True)
        for number in range(1 << 16):
            target = self.place / (f"{path.stem}.{number}{path.suffix}" if number else path.name)
            if target.exists() and (target.samefile(path) or _sha256(target) == _sha256(path)):
                return
            if not target.exists():
                break
        try:
            os.link(path, target)
        except OSError:  # a disk without hard links
            with path.open("rb") as source, publish(target) as file:
                shutil.copyfileobj(source, file)


@dataclass
class _Shards:
    """What is known of a folder of shards before its tars are repaired.

    `seen` has the content of samples whose keys come more than once.
    """

    folder: Path
    report: RepairReport
    quarantine: _Quarantine
    index: dict[str, Any]
    embed_dim: int | None
    repeated: set[int]
    seen: dict[tuple[str, str], str] = field(default_factory=dict)
    dtypes: set[str] = field(default_factory=set)


@dataclass
class _Tar:
    """What a tar holds: whole samples, others, and what is to be done about it."""

    samples: int = 0
    frames: int = 0
    same: int = 0
    mended: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)


def _repair_shards(folder: Path, report: RepairReport, progress: Progress) -> None:
    index = _object(folder / INDEX)
    splits = _known_splits(folder, index, report)
    tars = sorted(path.name for path in folder.glob("[!.]*.tar"))
    shards = _survey(folder, tars, report, index, progress)
    rows = {row["name"]: row for row in _rows(index)}
    records = []
    for name in tars:
        tar = _repair_tar(shards, name, splits.get(name, ""), progress)
        if not tar.samples:
            continue
        if write_offsets(folder / name):
            report.tables.append(offsets_path(folder / name).name)
        split = splits.get(name) or (min(tar.splits) if len(tar.splits) == 1 else "")
        if not split:
            report.undecided.append(
                f"{name}: nothing says its split; add a row {name},train (or val, test) to splits.csv"
            )
        else:
            records.append(_record(shards, name, split, tar, rows.get(name, {})))
    for path in folder.glob("*.idx"):
        if not path.with_suffix(".tar").exists():
            path.unlink()
    records.sort(key=lambda record: (SPLITS.index(record.split), record.name))
    if gone := sorted(set(splits) - set(tars)):
        report.undecided.append(
            f"{len(gone)} tars that the tables named are not there; they name them no longer: {', '.join(gone[:5])}"
        )
    if records:
        _write_tables(shards, records)
    else:
        report.undecided.append("no tar with whole samples and a known split is left, so the tables are as they were")


def _known_splits(folder: Path, index: Mapping[str, Any], report: RepairReport) -> dict[str, str]:
    """Give the split of every tar that `splits.csv` names, else of those that `index.json` does."""
    named = [(row["name"], str(row.get("split"))) for row in _rows(index)]
    try:
        named = [(name, split) for split, names in read_splits(folder).items() for name in names]
    except InputError as error:
        if (folder / SPLITS_CSV).exists():
            report.undecided.append(f"{error}; it was made anew from {'index.json' if named else 'the samples'}")
    return {name: split for name, text in named if (split := split_name(text))}


def _survey(folder: Path, tars: list[str], report: RepairReport, index: dict[str, Any], progress: Progress) -> _Shards:
    """Read all tars for the keys that repeat, and for the embed_dim."""
    keys, dims = DistinctIds(), Counter[int]()
    for name in tars:
        for found in Salvage(folder / name).samples():
            keys.add(found.key)
            dims.update(_dim(found.pieces["npy"].data) if "npy" in found.pieces else ())
            progress(1)
    dim = _right_dim(index.get("embed_dim"), dims, folder / INDEX, report)
    return _Shards(folder, report, _Quarantine(folder), index, dim, keys.repeated())


def _dim(npy: bytes) -> tuple[int, ...]:
    """Give the embed_dim of an array, or none where it is no array."""
    try:
        return check_array(npy, len(npy)).shape[1:]
    except BadTripleError:
        return ()


def _right_dim(named: Any, dims: Counter[int], table: Path, report: RepairReport) -> int | None:
    """Give the embed_dim that all arrays must have, None where there is no telling.

    Raises:
        InputError: The table names one that most arrays do not have; a wrong table must not cost every sample.
    """
    most = sorted(dims.items(), key=lambda item: (-item[1], item[0]))
    if isinstance(named, int) and most and dims[named] < most[0][1]:
        raise InputError(
            f"{table} says that arrays have an embed_dim of {named}, but {dims[named]} have it and {most[0][1]} have "
            f"{most[0][0]}; nothing was changed\n  set the right embed_dim there, then repair again"
        )
    if isinstance(named, int) or not most:
        return named if isinstance(named, int) else None
    if len(most) > 1 and most[0][1] == most[1][1]:
        report.undecided.append(
            f"as many arrays have an embed_dim of {most[0][0]} as of {most[1][0]}; remove the wrong"
        )
        return None
    return most[0][0]


def _repair_tar(shards: _Shards, name: str, split: str, progress: Progress) -> _Tar:
    """Write a tar anew without what is damaged, if anything is."""
    path, report = shards.folder / name, shards.report
    salvage, tar = Salvage(path), _Tar()
    before = dict(shards.seen)
    for _ in _whole_samples(shards, salvage, split, tar, True):
        progress(1)
    spots = [(f"{name}: {damage}", "a damaged spot; what lay there is lost") for damage in salvage.damage]
    report.found += tar.samples + tar.same + len(tar.bad) + len(spots)
    report.kept += tar.samples
    report.same += tar.same
    report.mended += tar.mended
    report.damaged.update(reason for _, reason in [*tar.bad, *spots])
    report.foreign.update(salvage.foreign)
    if not (tar.bad or spots or tar.same or tar.mended or salvage.foreign or salvage.unended) and tar.samples:
        return tar
    shards.quarantine.keep(path)
    label = f"{shards.quarantine.split}{name}"
    lines = [{"tar": label, "sample": where, "reason": reason} for where, reason in [*tar.bad, *spots]]
    shards.quarantine.add(_DAMAGED, lines)
    report.rewritten.append(label)
    shards.seen = before
    if not tar.samples:
        path.unlink()
        return tar
    with publish(path) as file:
        samples = _whole_samples(shards, Salvage(path), split, _Tar(), False)
        sha256 = write_members(file, (member for sample in samples for member in sample))[1]
        shards.quarantine.add(_REPAIRED, [{"tar": label, "sha256": sha256}])
    return tar


def _whole_samples(
    shards: _Shards, salvage: Salvage, split: str, tar: _Tar, save: bool
) -> Iterator[list[tuple[str, bytes]]]:
    """Yield the members of every whole sample, and count the others; `save` puts what there is of these aside."""
    for found in salvage.samples():
        key, pieces = _mended(found)
        try:
            if found.cut:
                raise BadTripleError("lies beside damage in its tar, and may lack a member")
            header = check_sample(pieces, shards.embed_dim)
        except BadTripleError as error:
            tar.bad.append((found.key, str(error)))
            if save:
                for part, piece in found.pieces.items():
                    name = f"{triple_key(found.key)}.{part}"
                    write_bytes(shards.quarantine.place / salvage.path.stem / name, piece.data)
            continue
        if id_hash(found.key) in shards.repeated:
            place, digest = (split or salvage.path.name, key), _content(pieces)
            if shards.seen.setdefault(place, "") == digest:
                tar.same += 1
                continue
            shards.seen[place] = shards.seen[place] or digest
        tar.samples, tar.frames = tar.samples + 1, tar.frames + header.shape[0]
        tar.mended += key != found.key or len(pieces) > len(found.pieces)
        tar.splits.add(split_name(str(read_metadata(pieces["json"]).get("split"))) or "")
        shards.dtypes.add(header.dtype.name)
        yield [(f"{key}.{part}", pieces[part]) for part in sorted(pieces)]


def _mended(found: Found) -> tuple[str, dict[str, bytes]]:
    """Give a sample as WebDataset and our readers want it: a key without a dot, `txt` for `cap`, a json."""
    pieces = {part: piece.data for part, piece in found.pieces.items()}
    if "cap" in pieces:
        caption = pieces.pop("cap")
        pieces.setdefault("txt", caption)
    if not found.cut:
        pieces.setdefault("json", b"{}")
    return triple_key(found.key) if "." in found.key else found.key, pieces


def _content(pieces: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for part in sorted(pieces):
        digest.update(len(pieces[part]).to_bytes(8, "big") + pieces[part])
    return digest.hexdigest()


def _record(shards: _Shards, name: str, split: str, tar: _Tar, row: Mapping[str, Any]) -> TarRecord:
    """Give what `index.json` says of a tar: what it said of bytes that nothing here has changed."""
    path = shards.folder / name
    sha256, size, before = _sha256(path), path.stat().st_size, row.get("sha256")
    plan = str(row.get("plan", "")) if before == sha256 else ""
    ours = shards.quarantine.has(_REPAIRED, {"tar": name, "sha256": sha256})
    if isinstance(before, str) and before != sha256 and not ours:
        shards.report.undecided.append(
            f"{name}: its samples read well, but {INDEX} has the hash of other bytes; shard it anew, or take its "
            f"row out of {INDEX} and repair again to keep it as it is"
        )
        sha256, size = before, int(row.get("bytes", size))
    return TarRecord(name, split, tar.samples, tar.frames, size, sha256, plan)


def _write_tables(shards: _Shards, records: list[TarRecord]) -> None:
    """Write every table that does not say what is there, `index.json` last."""
    folder, old = shards.folder, shards.index
    index = index_bytes(str(old.get("plan", "")), _facts(shards, records), records)
    splits: dict[str, list[str]] = {}
    for record in records:
        splits.setdefault(record.split, []).append(record.name)
    tables = {SIZES: json_bytes({record.name: record.samples for record in records})}
    if old or not (folder / _CARD).exists():
        tables[_CARD] = card(json.loads(index)).encode()
    if _splits_of(folder) != splits:
        tables[SPLITS_CSV] = splits_bytes(records)
    tables[INDEX] = index
    for name, data in tables.items():
        if write_changed(folder / name, data):
            shards.report.tables.append(name)


def _facts(shards: _Shards, records: list[TarRecord]) -> dict[str, Any]:
    """Give what `index.json` says beside the tars, as the old one said it where that makes sense.

    `short` has the tars that are shorter than their place tells, so that `check` takes them as they are.
    """
    old = {name: value for name, value in shards.index.items() if name not in ("plan", "totals", "tars", "short")}
    provenance, options = old.get("provenance"), old.get("options")
    good = isinstance(provenance, dict) and all(isinstance(provenance.get(n), dict) for n in ("encoder", "source"))
    counted = {name: _counted(old.get(name)) for name in ("left_out", "failed")}
    most = max(record.samples for record in records)
    options = options if isinstance(options, dict) and isinstance(options.get("maxcount"), int) else {"maxcount": most}
    facts = {
        "format": FORMAT,
        "embed_dim": shards.embed_dim,
        "dtype": "+".join(sorted(shards.dtypes)),
        "provenance": None,
        "options": options,
        **old,
        **counted,
    }
    facts["provenance"], facts["options"] = provenance if good else None, options
    last = {record.split: record.name for record in records}
    short = {r.name: r.samples for r in records if r.samples < options["maxcount"] and last[r.split] != r.name}
    return {**facts, "short": short} if short else facts


def _counted(value: Any) -> dict[str, Any]:
    """Give `left_out` or `failed` of an index, or that of none where it is not of that form."""
    good = isinstance(value, dict) and isinstance(value.get("total"), int) and isinstance(value.get("reasons"), dict)
    return dict(value) if good else dict(_NONE_LEFT_OUT)


def _splits_of(folder: Path) -> dict[str, list[str]] | None:
    try:
        return read_splits(folder)
    except InputError:
        return None


def _object(path: Path) -> dict[str, Any]:
    """Read a JSON table; empty where there is none, or it is damaged."""
    try:
        return read_metadata(path.read_bytes())
    except (OSError, BadTripleError):
        return {}


def _rows(index: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = index.get("tars")
    rows = rows if isinstance(rows, list) else []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _repair_processed(folder: Path, report: RepairReport, progress: Progress) -> None:
    """Move every bad triple and every stranger out of the splits, so that `encode` does the former anew."""
    info = None
    try:
        info = read_info(folder)
    except InputError as error:
        report.undecided.append(str(error))
    dims = Counter[int]()
    for split in SPLITS:
        for part in _parts(folder / split):
            for found in Salvage(part).samples():
                dims.update(_dim(found.pieces["npy"].data) if "npy" in found.pieces else ())
        dims.update(_loose_dims(folder / split))
    embed_dim = _right_dim(info.encoder.get("embed_dim") if info else None, dims, folder / INFO, report)
    report.leftovers = remove_temporary(folder)
    for split in SPLITS:
        report.leftovers += remove_temporary(folder / split)
        quarantine = _Quarantine(folder, split)
        shards = _Shards(folder / split, report, quarantine, {}, embed_dim, set())
        for part in _parts(folder / split):
            _repair_tar(shards, part.name, split, progress)
            _forget_unit(folder, part)
        _repair_loose(folder / split, quarantine, embed_dim, report, progress)
    _repair_failures(folder, report)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PARTS))


def _forget_unit(folder: Path, part: Path) -> None:
    """Move the record of a part that is not as it says to the quarantine, so that `encode` does the unit anew."""
    record = folder / _UNITS / f"{part.stem.removeprefix('part-')}.json"
    if record.exists() and not (part.exists() and _object(record).get("sha256") == _sha256(part)):
        _move(record, folder / _QUARANTINE / _UNITS)


def _loose_dims(folder: Path) -> Iterator[int]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as files:
        for path in (file.path for file in files if file.name.endswith(".npy") and not is_temporary(file.name)):
            with contextlib.suppress(BadTripleError, OSError):
                yield read_head(path).shape[1]


def _repair_loose(
    folder: Path, quarantine: _Quarantine, embed_dim: int | None, report: RepairReport, progress: Progress
) -> None:
    """Move what is wrong in a split's folder to the quarantine; its parts are mended already."""
    for key, parts, reason in _triples(folder, embed_dim):
        report.found += 1
        if reason:
            report.damaged[reason] += 1
            quarantine.add(_DAMAGED, [{"split": folder.name, "sample": key, "reason": reason}])
            for part in parts:
                _move(folder / f"{key}.{part}", quarantine.place)
        else:
            report.kept += 1
        progress(1)
    for path in _strangers(folder):
        report.foreign[path.suffix or path.name] += 1
        _move(path, quarantine.place)


def _repair_failures(folder: Path, report: RepairReport) -> None:
    """Take what has a triple out of `failed.jsonl`."""
    try:
        failures = read_failures(folder)
        wrong = {key for key, failure in failures.items() if has_triple(folder / failure.split, key)}
    except (InputError, TypeError, OSError) as error:
        report.undecided.append(str(error))
    else:
        if wrong:
            write_failures(folder, [failure for key, failure in failures.items() if key not in wrong])
            report.tables.append("failed.jsonl")


def _triples(folder: Path, embed_dim: int | None) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield key, parts and what is wrong with it, or "", of every triple of a split."""
    for entry in entries(folder):
        if entry.tar:  # a member of a part, where `entries` knows these
            continue
        pieces = {"json": b"{}"}
        try:
            for part in entry.parts:
                pieces["txt" if part == "cap" else part] = (folder / f"{entry.key}.{part}").read_bytes()
            check_sample(pieces, embed_dim)
        except OSError as error:
            yield entry.key, entry.parts, f"cannot be read: {error.strerror}"
        except BadTripleError as error:
            yield entry.key, entry.parts, str(error)
        else:
            yield entry.key, entry.parts, ""


def _strangers(folder: Path) -> list[Path]:
    """List what is no file of a triple in a split."""
    if not folder.is_dir():
        return []
    endings = (".json", ".npy", ".txt", ".cap")
    return sorted(
        path
        for path in folder.iterdir()
        if not (path.suffix in endings and path.stem) and not is_temporary(path.name) and not path.match(_PARTS)
    )


def _move(path: Path, folder: Path) -> None:
    """Move a file into a folder, under a name that is free there."""
    folder.mkdir(parents=True, exist_ok=True)
    target, number = folder / path.name, 0
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    path.rename(target)
