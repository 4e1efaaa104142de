"""Where the samples of existing shards lie: tars with and without `splits.csv`, and loose files. Looks at names only.

May import `sample`, `errors`, and this room.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.errors import InputError
from embedshard.sample import SPLITS, split_name
from embedshard.shard.table import INDEX, PROGRESS, SPLITS_CSV, read_splits

__all__ = ["Place", "find_places", "require_apart", "said_of"]


@dataclass(frozen=True)
class Place:
    """A tar, or a folder of loose files.

    Attributes:
        path: Where it is.
        label: How lists name it, apart from all others.
        split: Split of its samples; "" where something else decides it.
        prefix: What comes before each key.
    """

    path: Path
    label: str
    split: str
    prefix: str


def find_places(folders: Sequence[Path], split_as: str | None, any_split: bool, prefix: bool) -> list[Place]:
    """List the places of every folder, in the order of the folders, then of names.

    Args:
        folders: Folders of shards or of loose files.
        split_as: Split of what no `splits.csv` names; None for none.
        any_split: Whether something else decides all splits.
        prefix: Whether the folder's number is to come before each key.

    Raises:
        InputError: A folder holds nothing of the kind, or nothing says the split of a tar.
    """
    places = []
    for number, (folder, label) in enumerate(zip(folders, _labels(folders), strict=True), 1):
        splits = _tar_splits(folder)
        loose = [] if splits else [folder] if _has_arrays(folder) else []
        if not splits and not loose:
            raise InputError(_nothing(folder))
        unnamed = [name for name, split in splits.items() if not split] or [path.name for path in loose]
        if unnamed and not split_as and not any_split:
            what = f"{len(unnamed)} tars ({unnamed[0]}, ...)" if splits else "its files"
            raise InputError(
                f"expected {folder / SPLITS_CSV} to say the split of {what}; it does not\n"
                "  say it with --split-as train, or split by media with --split RECIPE"
            )
        rows = [(folder / name, f"{label}/{name}", split) for name, split in splits.items()]
        rows += [(path, label, "") for path in loose]
        for path, name, split in rows:
            known = "" if any_split else split or split_as or ""
            places.append(Place(path, name, known, f"{number}_" if prefix else ""))
    return places


def require_apart(folders: Iterable[Path], output: Path) -> None:
    """Make sure that the output is no input, nor in or around one.

    Raises:
        InputError: It is.
    """
    target = output.resolve()
    for folder in folders:
        source = folder.resolve()
        if source == target or source in target.parents or target in source.parents:
            raise InputError(
                f"expected a folder for the new shards apart from {folder}, found {output}\n"
                f"  try: {source.parent / f'{source.name}-resharded'}"
            )


def said_of(folders: Sequence[Path]) -> dict[str, Any]:
    """Give what the `index.json` of each folder says of all: `provenance`, `failed` and `embed_dim`.

    Raises:
        InputError: Their samples were encoded with different settings.
    """
    indexes = [(folder, _index(folder)) for folder in folders]
    encoders = [(folder, encoder) for folder, index in indexes if (encoder := _object(index, "provenance", "encoder"))]
    for folder, encoder in encoders[1:]:
        _require_same(encoders[0], (folder, encoder))
    sources = [source for _, index in indexes if (source := _object(index, "provenance", "source"))]
    sources = [source for number, source in enumerate(sources) if source not in sources[:number]]
    reasons: Counter[str] = Counter()
    for _, index in indexes:
        reasons.update({k: v for k, v in _object(index, "failed", "reasons").items() if isinstance(v, int)})
    dims = {dim for _, index in indexes if isinstance(dim := index.get("embed_dim"), int)}
    if len(dims) > 1:
        raise InputError(
            f"expected shards of one embed_dim, found {', '.join(map(str, sorted(dims)))}; merge those apart"
        )
    known = {"encoder": encoders[0][1] if encoders else {}, "source": _one_source(sources)}
    return {
        "provenance": known if encoders or sources else None,
        "failed": {"total": reasons.total(), "reasons": dict(sorted(reasons.items()))},
        "embed_dim": min(dims, default=None),
    }


def _require_same(first: tuple[Path, Mapping[str, Any]], other: tuple[Path, Mapping[str, Any]]) -> None:
    names = sorted({*first[1], *other[1]} - {"version", "dtype"})
    changed = [
        f"    {name}: {first[1].get(name)!r} in {first[0]}, {other[1].get(name)!r} in {other[0]}"
        for name in names
        if first[1].get(name) != other[1].get(name)
    ]
    if changed:
        raise InputError(
            "expected shards that were encoded with one setting, found:\n" + "\n".join(changed) + "\n"
            "  their embeddings do not belong into one dataset; reshard each by itself"
        )


def _one_source(sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(sources) < 2:
        return dict(sources[0]) if sources else {}
    names = [str(source.get("title") or source.get("name")) for source in sources]
    return {"name": " and ".join(names), "merged": list(sources)}


def _tar_splits(folder: Path) -> dict[str, str]:
    """Give every tar of a folder with the split that `splits.csv` says, "" where it says none."""
    if not folder.is_dir():
        raise InputError(
            f"expected a folder of shards, found {'a file' if folder.exists() else 'no such folder'}: {folder}"
        )
    if (folder / PROGRESS).exists():
        raise InputError(f"{folder} was not written to the end; run the command that writes it again, then this one")
    tars = {path.name: "" for path in sorted(folder.glob("[!.]*.tar"))}
    if not (folder / SPLITS_CSV).exists():
        return tars
    for text, names in read_splits(folder).items():
        if (split := split_name(text)) is None:
            raise InputError(f"{folder / SPLITS_CSV}: expected the splits {', '.join(SPLITS)}, found {text!r}")
        if missing := [name for name in names if name not in tars]:
            raise InputError(
                f"{folder / SPLITS_CSV} names {', '.join(missing[:5])}{' and more' if missing[5:] else ''}, but it is "
                f"not there\n  bring it back, or: embedshard check --repair {folder}"
            )
        tars.update(dict.fromkeys(names, split))
    return tars


def _has_arrays(folder: Path) -> bool:
    with os.scandir(folder) as files:
        return any(file.name.endswith(".npy") and not file.name.startswith(".") for file in files)


def _nothing(folder: Path) -> str:
    found = f"expected tars, or files <name>.npy, .txt, .json, in {folder}, found none"
    if any((folder / split).is_dir() for split in SPLITS):
        return f"{found} but the splits of a processed dataset\n  try: embedshard shard {folder} OUT"
    return found


def _labels(folders: Sequence[Path]) -> list[str]:
    """Give each folder's name, with a number where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else f"{name}#{number}" for number, name in enumerate(names, 1)]


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _object(index: Mapping[str, Any], *names: str) -> dict[str, Any]:
    value: Any = index
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
