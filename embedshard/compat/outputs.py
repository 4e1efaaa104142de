"""What clip-video-encode writes: loose files or tars of samples, from staged arrays. May import `tar`, `sources`,
`store`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from embedshard.address import AddressOpener
from embedshard.compat.inputs import Row, Unit
from embedshard.errors import InputError
from embedshard.sources._archive import TarMember, read_tar
from embedshard.store import publish, write_bytes
from embedshard.tar import write_members

__all__ = ["Fields", "Files", "Output", "Tars"]


Fields = Mapping[str, Mapping[str, Any]]


class Output(Protocol):
    """A form of output below a folder; a row is there whole or not at all."""

    def taken(self, unit: Unit) -> set[str]:
        """Give the names of the files that are where those of a unit go."""
        ...

    def there(self, unit: Unit) -> set[str]:
        """Give the names of the rows that are there, in a folder that was begun by this package."""
        ...

    def write(self, unit: Unit, arrays: Mapping[str, Path], fields: Fields) -> None:
        """Lay out rows beside those that are there.

        Args:
            unit: What they are of.
            arrays: Their npy by the name of the row.
            fields: What the run adds to the json of a row, by its name.
        """
        ...


class Files:
    """`<name>.npy`, `.json`, `.txt` in one folder; the npy comes last and is moved, not copied."""

    def __init__(self, dest: Path, opener: AddressOpener) -> None:
        self._dest, self._opener = dest, opener

    def taken(self, unit: Unit) -> set[str]:
        """Give the names of the files that are there."""
        endings = ("npy", "json", "txt")
        names = (f"{row.name}.{ending}" for row in unit.rows for ending in (*endings, *[row.passed] * bool(row.passed)))
        return {name for name in names if (self._dest / name).exists()}

    def there(self, unit: Unit) -> set[str]:
        """Give the names of the rows whose npy is there."""
        return {row.name for row in unit.rows if (self._dest / f"{row.name}.npy").is_file()}

    def write(self, unit: Unit, arrays: Mapping[str, Path], fields: Fields) -> None:
        """Move the arrays of a unit into place, each after its texts."""
        for row in unit.rows:
            if array := arrays.get(row.name):
                for ending, data in _parts(row, fields.get(row.name, {}), self._opener).items():
                    write_bytes(self._dest / f"{row.name}.{ending}", data)
                array.replace(self._dest / f"{row.name}.npy")


class Tars:
    """`<unit>.tar` with a sample a row in their order: the same rows give the same bytes."""

    def __init__(self, dest: Path, opener: AddressOpener) -> None:
        self._dest, self._opener = dest, opener

    def taken(self, unit: Unit) -> set[str]:
        """Give the name of the unit's tar if it is there."""
        return {self._path(unit).name} if self._path(unit).exists() else set()

    def there(self, unit: Unit) -> set[str]:
        """Give the names of the rows that the unit's tar has.

        Raises:
            InputError: It is damaged, or has samples that are no rows of the unit.
        """
        path, names = self._path(unit), set(self._old(unit))
        if strangers := sorted(names - {row.name for row in unit.rows}):
            raise InputError(
                f"{path} holds {len(strangers)} samples that are not among its rows now (the first: {strangers[0]}); "
                "the rows are not those that dest was begun with: give another folder"
            )
        return names

    def write(self, unit: Unit, arrays: Mapping[str, Path], fields: Fields) -> None:
        """Write the tar of a unit, with what an older one of it has; none where there is nothing new."""
        if arrays:
            with publish(self._path(unit)) as file:
                write_members(file, self._members(unit, arrays, fields))

    def _members(self, unit: Unit, arrays: Mapping[str, Path], fields: Fields) -> Iterator[tuple[str, bytes]]:
        old = self._old(unit)
        for row in unit.rows:
            if array := arrays.get(row.name):
                parts = {**_parts(row, fields.get(row.name, {}), self._opener), "npy": array.read_bytes()}
                yield from ((f"{row.name}.{ending}", parts[ending]) for ending in sorted(parts))
            elif row.name in old:
                with self._path(unit).open("rb") as file:
                    for member in old[row.name]:
                        file.seek(member.offset)
                        yield member.name, file.read(member.size)

    def _old(self, unit: Unit) -> dict[str, list[TarMember]]:
        """Give the members of each sample of the tar that is there."""
        path = self._path(unit)
        samples: dict[str, list[TarMember]] = {}
        try:
            for member in read_tar(path) if path.is_file() else ():
                samples.setdefault(member.name.rpartition(".")[0], []).append(member)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it to have it written anew") from error
        return samples

    def _path(self, unit: Unit) -> Path:
        return self._dest / f"{unit.name}.tar"


def _parts(row: Row, fields: Mapping[str, Any], opener: AddressOpener) -> dict[str, bytes]:
    """Give the content of a row's files by their endings, but for the npy."""
    parts: dict[str, bytes] = {}
    if row.meta is not None or fields:
        parts["json"] = json.dumps({**(row.meta or {}), **fields}, indent=4).encode()
    if row.text is not None:
        parts["txt"] = row.text.encode()
    if row.passed:
        media = opener.open(row.media, Path("/"))
        parts[row.passed] = media.read_bytes() if isinstance(media, Path) else media.read()
    return parts
