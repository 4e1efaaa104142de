from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard.errors import InputError
from embedshard.sample import make_key, media_kind, raw_id, split_name

IDS = st.text(min_size=1, max_size=120)


@given(IDS)
def test_key_is_safe(raw_id):
    key = make_key(raw_id)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", key)
    assert make_key(raw_id) == key


@given(IDS)
def test_a_key_is_read_back(text):
    assert raw_id(make_key(text)) in (text, None)


@given(st.lists(st.text("aA0_-.|/ x猫h\ud800", min_size=1, max_size=6), unique=True))
def test_ids_never_share_a_key(ids):
    assert len({make_key(raw_id) for raw_id in ids}) == len(ids)


@given(IDS)
def test_a_key_is_no_other_ids_key(raw_id):
    key = make_key(raw_id)
    assert key == raw_id or make_key(key) != key


@pytest.mark.parametrize(
    ("raw_id", "key"),
    [
        ("vid_000000001", "vid_000000001"),
        ("-GkrdYZ9Tc", "x---2dGkrdYZ9Tc"),
        ("26292851@N04.m4v", "x--26292851-40N04-2em4v"),
        ("x--a", "x--x-2d-2da"),
    ],
)
def test_key_of_known_ids(raw_id, key):
    assert make_key(raw_id) == key


def test_long_ids_of_one_beginning_differ():
    keys = {make_key("a" * 100 + end) for end in "xyz"}
    assert len(keys) == 3
    assert all(len(key) <= 80 and key.startswith("h--") for key in keys)


def test_empty_id_is_refused():
    with pytest.raises(InputError, match="empty"):
        make_key("")


def test_split_and_kind_of_usual_names():
    assert [split_name(name) for name in ("Training", "validate", "dev", "test", "holdout")] == [
        "train",
        "val",
        "val",
        "test",
        None,
    ]
    assert [media_kind(name) for name in ("a.MP4", "a.b.gif", "a.jpeg", "a.txt", "a")] == [
        "video",
        "video",
        "image",
        None,
        None,
    ]
