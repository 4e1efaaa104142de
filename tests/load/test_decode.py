from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard.errors import InputError
from embedshard.load.decode import decode

from .shards import triple


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_array_is_what_numpy_wrote(version, order, dtype) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=(5, 8)), dtype, order=order)
    read = decode("t", "k", triple(0) | {"npy": npy(array, version)})["embeddings"]
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("field", "data"),
    [
        ("npy", b""),
        ("npy", npy(np.zeros((3, 4), np.float32))[:-1]),
        ("npy", npy(np.zeros((3, 4), np.int64))),
        ("npy", npy(np.zeros(4, np.float32))),
        ("npy", npy(np.zeros((0, 4), np.float32))),
        ("npy", npy(np.array([[None]]))),
        ("txt", b"\xff"),
        ("json", b"{"),
        ("json", b"[1]"),
    ],
)
def test_damage_is_an_error_that_names_tar_key_and_field(field, data) -> None:
    with pytest.raises(InputError, match=rf"x\.tar, key vid_1: {field} is damaged"):
        decode("x.tar", "vid_1", triple(0) | {field: data})


@pytest.mark.parametrize("field", ["npy", "txt", "json"])
def test_missing_part_is_an_error_that_names_tar_key_and_field(field) -> None:
    parts = {name: data for name, data in triple(0).items() if name != field}
    with pytest.raises(InputError, match=rf"x\.tar, key vid_1: .* found no {field}, only "):
        decode("x.tar", "vid_1", parts)


@given(st.text())
def test_caption_is_unchanged(text) -> None:
    data = text.encode("utf-8", "ignore")
    parts = triple(0) | {"txt": data}
    assert decode("t", "k", parts)["text"] == data.decode()
    parts["cap"] = parts.pop("txt")
    assert decode("t", "k", parts)["text"] == data.decode()
