"""The embeddings of several models, joined by key. Imports numpy; of ours `errors` and this room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError
from embedshard.load.collate import Array
from embedshard.load.decode import decode_array
from embedshard.load.tars import OpenTar, Raw, Shards, Tars

__all__ = ["Joined", "shared_rows"]

_CAPACITY = 20_000  # samples of open tars


class Joined:
    """Finds the samples of one model's shards in those of the others.

    Where `encode` and `shard` made all of them alike, a sample has the same place in all, and its key tells that it
    is so. For others every key is looked at once, and takes about 200 bytes in each process.
    """

    def __init__(self, shards: Mapping[str, Shards], counts: Mapping[str, tuple[int, ...]]) -> None:
        self._shards, self._counts = shards, counts
        self._tars: dict[str, Tars] = {}
        self._checked: set[tuple[str, int]] = set()
        self._places: dict[str, dict[str, tuple[int, int]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave open tars behind, which a spawned process opens anew."""
        return {**self.__dict__, "_tars": {}}

    def arrays(self, raw: Raw) -> dict[str, Array]:
        """Give the other models' embeddings of a sample.

        Raises:
            InputError: One of them lacks it, or it is damaged.
        """
        return {model: self._array(model, raw) for model in self._shards}

    def _array(self, model: str, raw: Raw) -> Array:
        tars = self._tars.get(model)
        if tars is None:
            tars = self._tars[model] = Tars(self._shards[model], self._counts[model], _CAPACITY)
        number, row = self._find(model, tars, raw)
        tar = tars[number]
        if (model, number) not in self._checked:
            tar.check(np.arange(len(tar.keys)))
            self._checked.add((model, number))
        return decode_array(tar.name, raw.key, tar.raw(row).parts)

    def _find(self, model: str, tars: Tars, raw: Raw) -> tuple[int, int]:
        counts = self._counts[model]
        alike = raw.number < len(counts) and raw.row < counts[raw.number]
        if alike and tars[raw.number].keys[raw.row] == raw.key:
            return raw.number, raw.row
        if model not in self._places:
            self._places[model] = _places(self._shards[model])
        if raw.key not in self._places[model]:
            raise InputError(
                f"{raw.tar}, key {raw.key}: expected it in the shards of {model} too, found none of this key in "
                f"{self._shards[model].tars[0].parent}; load what all have with missing='drop'"
            )
        return self._places[model][raw.key]


def shared_rows(first: Shards, others: Mapping[str, Shards]) -> tuple[npt.NDArray[np.int64], ...]:
    """Find the samples that all models have; gives their numbers in each tar of the first."""
    keys = [_places(shards).keys() for shards in others.values()]
    return tuple(
        np.array(
            [row for row, key in enumerate(OpenTar(first, number).keys) if all(key in other for other in keys)],
            np.int64,
        )
        for number in range(len(first.tars))
    )


def _places(shards: Shards) -> dict[str, tuple[int, int]]:
    return {
        key: (number, row) for number in range(len(shards.tars)) for row, key in enumerate(OpenTar(shards, number).keys)
    }
