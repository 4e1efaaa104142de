"""How classification sources find the table or the folder of each split. May import `sample`."""

from __future__ import annotations

import os
from pathlib import Path

from embedshard.errors import InputError
from embedshard.sample import split_name

__all__ = ["label_lines", "split_folders", "split_tables"]


def label_lines(root: Path, name: str) -> list[str]:
    """Give the lines of the first file of that name in all places, none where there is no such file."""
    path = next((path for place in _places(root) if (path := root / place / name).is_file()), None)
    return path.read_text(encoding="utf-8-sig").splitlines() if path else []


def split_tables(root: Path, *extensions: str) -> dict[str, Path]:
    """Give the table of each split, such as `train.csv`.

    Args:
        root: The raw dataset.
        extensions: What the names of tables end in; the first one goes first.

    Raises:
        InputError: A split has several tables, as those of two authors.
    """
    tables: dict[str, Path] = {}
    for extension in extensions:
        found: dict[str, Path] = {}
        for place in _places(root):
            for name in sorted(os.listdir(root / place)):
                split = split_name(name.removesuffix(extension)) if name.endswith(extension) else None
                if split and found.setdefault(split, root / place / name) != root / place / name:
                    raise InputError(
                        f"{root}: expected one table of {split}, found {found[split]} and {root / place / name}\n"
                        "  Take those that are not to be used out of RAW"
                    )
        tables = found | tables
    return tables


def split_folders(root: Path) -> dict[str, list[str]]:
    """Give the folders named after each split in all places, relative to `root` and with a closing `/`."""
    folders: dict[str, list[str]] = {}
    for place in _places(root):
        for name in _folders(root / place):
            if split := split_name(name):
                folders.setdefault(split, []).append(f"{place}{name}/")
    return folders


def _places(root: Path) -> list[str]:
    """Give the folders to look in, each with a closing `/`: `root` itself (""), then those in it that are no split."""
    if not root.is_dir():
        return []
    inner = [name for name in _folders(root) if not split_name(name) and not name.startswith(".")]
    return ["", *(f"{name}/" for name in inner)]


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())
