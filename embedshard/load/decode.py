"""The bytes of a triple to a sample. Imports numpy; of ours only `errors`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError

__all__ = ["decode"]

_FLOATS = (np.dtype("float16"), np.dtype("float32"), np.dtype("float64"))


def decode(tar: str, key: str, parts: Mapping[str, bytes]) -> dict[str, Any]:
    """Decode one sample.

    Args:
        tar: Where it was read, for the error message.
        key: Its key.
        parts: Contents of the members `npy`, `txt` (or `cap`) and `json`.

    Returns:
        `key`, `embeddings` (array (frames, dim) as stored, writable), `text` and `meta`.

    Raises:
        InputError: A part is missing or cannot be read; names tar, key and field.
    """
    readers: dict[str, Callable[[bytes], Any]] = {
        "npy": _read_npy,
        "cap" if "cap" in parts and "txt" not in parts else "txt": bytes.decode,
        "json": _read_meta,
    }
    values = []
    for field, read in readers.items():
        if field not in parts:
            raise InputError(
                f"{tar}, key {key}: expected npy, txt and json side by side, found no {field}, only "
                f"{', '.join(sorted(parts))}; pack the tar again with: embedshard shard"
            )
        try:
            values.append(read(parts[field]))
        except Exception as error:  # damaged bytes fail in many ways
            raise InputError(
                f"{tar}, key {key}: {field} is damaged ({error}); pack the tar again with: embedshard shard"
            ) from error
    return dict(zip(("key", "embeddings", "text", "meta"), (key, *values), strict=True))


def _read_npy(data: bytes) -> npt.NDArray[Any]:
    if data[:8] != b"\x93NUMPY\x01\x00":
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        shape, dtype = array.shape, array.dtype
    else:
        start = 10 + int.from_bytes(data[8:10], "little")
        shape, fortran, dtype = _read_head(data[:start])
        flat = np.frombuffer(data, dtype, int(np.prod(shape)), start).copy()
        array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    if dtype not in _FLOATS or len(shape) != 2 or not shape[0]:
        raise ValueError(f"expected floats of shape (frames, dim), found {dtype} of shape {shape}")
    return array


@lru_cache(maxsize=256)
def _read_head(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Parse a version 1.0 head; few differ in a dataset, and parsing takes 20 times as long as the rest."""
    return np.lib.format.read_array_header_1_0(io.BytesIO(head[8:]))


def _read_meta(data: bytes) -> dict[str, Any]:
    meta = json.loads(data)
    if not isinstance(meta, dict):
        raise ValueError(f"expected an object, found {type(meta).__name__}")
    return meta
