from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard.sources._read import json_safe, media_index, natural, path_split, relative, seconds
from tests.sources.rows import touch

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.datetimes()
    | st.timedeltas()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_json_safe_values_come_back_from_strict_json(value):
    safe = json_safe(value)
    assert json.loads(json.dumps(safe, allow_nan=False)) == safe


@given(st.lists(st.text("a1203-")))
def test_natural_order_is_an_order_of_all_texts(texts):
    backwards = texts[::-1]
    assert sorted(texts, key=natural) == sorted(backwards, key=natural)


def test_natural_order_of_numbers():
    assert sorted(["v10", "v9", "V1", "v", "v09", "2"], key=natural) == ["2", "V1", "v", "v09", "v9", "v10"]


@pytest.mark.parametrize(
    ("value", "time"), [(None, None), ("", None), ("nan", None), (2, 2.0), ("1e1", 10.0), ("1:02:03.5", 3723.5)]
)
def test_seconds(value, time):
    assert seconds(value) == time


@pytest.mark.parametrize("value", ["inf", "soon", "1:x", " "])
def test_no_seconds(value):
    with pytest.raises(ValueError, match=r"time|convert"):
        seconds(value)


def test_paths():
    assert relative("/raw/a/b.mp4", "/raw") == "a/b.mp4"
    assert relative("/rawer/b.mp4", "/raw") == "/rawer/b.mp4"
    assert relative("/b.mp4", "/") == "b.mp4"
    assert [path_split(path) for path in ("a/Val/train/x", "train", "x/y")] == ["val", "", ""]


def test_media_index(tmp_path):
    touch(tmp_path, "b/a/v.mkv", "b/.hidden/w.mp4", "b/.x.mp4", "b/v.txt", "b/a.b.mp4")
    assert media_index(tmp_path) == {"a.b": "b/a.b.mp4", "v": "b/a/v.mkv"}
    assert media_index(tmp_path, "b") == media_index(tmp_path)
