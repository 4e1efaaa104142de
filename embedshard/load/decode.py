"""The bytes of a triple to a sample. Imports numpy and orjson; of ours only `errors`."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from embedshard.errors import InputError

__all__ = ["RESERVED", "Buffer", "Captions", "decode", "decode_array", "draw"]

Captions = Literal["first", "random", "all"]
Buffer = bytes | memoryview
RESERVED = frozenset("embeddings key mask meta text tokens token_rows".split())

_FLOATS = (np.dtype("float16"), np.dtype("float32"), np.dtype("float64"))
_VERSION_1 = b"\x93NUMPY\x01\x00"


def decode(
    tar: str,
    key: str,
    parts: Mapping[str, Buffer],
    fields: tuple[str, ...] | None = None,
    captions: Captions = "first",
    seed: str = "",
) -> dict[str, Any]:
    """Decode one sample.

    Args:
        tar: Where it was read, for the error message.
        key: Its key.
        parts: Contents of the members `npy`, `txt` (or `cap`) and `json`.
        fields: Metadata fields to give under their own names, in place of `meta`; None for all.
        captions: Which of its captions to give.
        seed: Any text; decides, with the key, which caption is a random one.

    Returns:
        `key`, `embeddings` (array (frames, dim) as stored, a view of `parts["npy"]`), `text` (a list with `captions`
        "all") and `meta`, or what `fields` names.

    Raises:
        InputError: A part or field is missing or cannot be read; names tar, key and field.
    """
    txt = "cap" if "cap" in parts and "txt" not in parts else "txt"
    sample = {"key": key, "embeddings": decode_array(tar, key, parts), "text": _part(tar, key, parts, txt, _read_text)}
    if fields is None or fields or captions != "first":
        meta = _part(tar, key, parts, "json", _read_meta)
        if fields is None:
            sample["meta"] = meta
        for name in fields or ():
            if name not in meta:
                raise InputError(
                    f"{tar}, key {key}: expected the field {name} in its json, found {', '.join(meta) or 'none'}; "
                    "load only fields that every sample has"
                )
            sample[name] = meta[name]
        if captions != "first":
            sample["text"] = _choose(tar, key, sample["text"], meta, None if captions == "all" else seed)
    return sample


def decode_array(tar: str, key: str, parts: Mapping[str, Buffer]) -> npt.NDArray[Any]:
    """Decode the embeddings of a sample, as `decode` does."""
    array: npt.NDArray[Any] = _part(tar, key, parts, "npy", _read_npy)
    return array


def draw(seed: str, below: int) -> int:
    """Draw a number in [0, below) that nothing but `seed` decides."""
    return int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "little") % below


def _part(tar: str, key: str, parts: Mapping[str, Buffer], field: str, read: Callable[[Buffer], Any]) -> Any:
    try:
        return read(parts[field])
    except Exception as error:  # damaged bytes fail in many ways
        if field not in parts:
            raise InputError(
                f"{tar}, key {key}: expected npy, txt and json side by side, found no {field}, only "
                f"{', '.join(sorted(parts))}; pack the tar again with: embedshard shard"
            ) from None
        raise InputError(
            f"{tar}, key {key}: {field} is damaged ({error}); pack the tar again with: embedshard shard"
        ) from error


def _choose(tar: str, key: str, own: str, meta: Mapping[str, Any], seed: str | None) -> str | list[str]:
    """Give all captions of a sample, or the one that a seed decides."""
    captions = meta.get("captions", [own])
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise InputError(
            f"{tar}, key {key}: expected its json to have a list of texts as captions, found {captions!r}; load with "
            "captions='first'"
        )
    found = [caption for caption in captions if caption.strip()] or [own]
    return found if seed is None else found[draw(f"{seed} {key} caption", len(found))]


def _read_npy(data: Buffer) -> npt.NDArray[Any]:
    begin = bytes(data[:10])
    if not begin.startswith(_VERSION_1):
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        _check(array.shape, array.dtype)
        return array
    start = 10 + begin[8] + 256 * begin[9]
    shape, order, dtype = _read_head(bytes(data[:start]))
    return np.ndarray(shape, dtype, data, start, None, order)


@lru_cache(maxsize=4096)
def _read_head(head: bytes) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Parse a version 1.0 head; few differ in a dataset, and parsing takes 20 times as long as the rest."""
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(head[8:]))
    _check(shape, dtype)
    return shape, "F" if fortran else "C", dtype


def _check(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype not in _FLOATS or len(shape) != 2 or not shape[0]:
        raise ValueError(f"expected floats of shape (frames, dim), found {dtype} of shape {shape}")


def _read_text(data: Buffer) -> str:
    return str(data, "utf-8")


def _read_meta(data: Buffer) -> dict[str, Any]:
    try:
        meta = orjson.loads(data)
    except orjson.JSONDecodeError:
        meta = json.loads(bytes(data))  # NaN
    if not isinstance(meta, dict):
        raise ValueError(f"expected an object, found {type(meta).__name__}")
    return meta
