from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard.errors import InputError
from embedshard.sources import _read
from embedshard.sources._read import entries, find, find_splits, json_safe, natural, path_split, relative, rows, seconds
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


@pytest.mark.parametrize("value", ["inf", "soon", "1:x", " ", "00:00:01:12", "1:-5", 10**400])
def test_no_seconds(value):
    with pytest.raises(ValueError, match=r"time|convert"):
        seconds(value)


def test_paths():
    assert relative("/raw/a/b.mp4", "/raw") == "a/b.mp4"
    assert relative("/rawer/b.mp4", "/raw") == "/rawer/b.mp4"
    assert relative("/b.mp4", "/") == "b.mp4"
    assert [path_split(path) for path in ("a/Val/train/x", "train", "x/y")] == ["val", "", ""]


def test_a_file_is_found_two_folders_deep(tmp_path):
    touch(tmp_path, "x/y/b.json", ".x/b.json", "z/a[1].json", "x/y/z/c.json", "x/a[1].json")
    assert find(tmp_path, "b.json") == tmp_path / "x/y/b.json"
    with pytest.raises(InputError, match=r"one a\[1\]\.json, found .*x/a\[1\]\.json and .*z/a\[1\]\.json"):
        find(tmp_path, "none.json", "a[1].json")
    touch(tmp_path, "a[1].json")
    assert find(tmp_path, "none.json", "a[1].json") == tmp_path / "a[1].json"
    assert find(tmp_path, "c.json") is None


@given(st.lists(VALUES.map(json_safe)), st.sampled_from([None, 1]), st.integers(1, 40))
def test_entries_are_those_of_a_plain_parser(tmp_path_factory, values, indent, block):
    path = tmp_path_factory.mktemp("json") / "x.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_read, "_BLOCK", block)
        path.write_text(f" {json.dumps(values, indent=indent)}\n", encoding="utf-8")
        assert list(entries(path, "list")) == [("", value) for value in values]
        named = {f'"{number}': value for number, value in enumerate(values)}
        path.write_text(json.dumps(named, indent=indent), encoding="utf-8-sig")
        assert list(entries(path, "object")) == list(named.items())


@pytest.mark.parametrize(
    "text", ["", "[", "[1", "[1,", "[1 2]", "[1,]", "{}", '{"a": 1}\n{"a": 2}', "[1]]", "[1, x]", "1"]
)
def test_what_is_no_list(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json is not the JSON that was expected: .*jsonl"):
        list(entries(tmp_path / "x.json", "list"))


def test_entries_need_the_memory_of_one(tmp_path):
    row = {"video": "v.mp4", "text": "x" * 1000}
    (tmp_path / "x.json").write_text(json.dumps([row] * 20000))
    tracemalloc.start()
    assert sum(1 for _ in entries(tmp_path / "x.json", "list")) == 20000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_files_of_the_splits_are_of_one_dataset(tmp_path):
    names = {"train": ["train.json"], "val": ["val.json", "val_1.json"], "test": ["test.json"]}
    touch(tmp_path, "a/train.json", "b/val_1.json")
    assert find_splits(tmp_path, names) == {"train": tmp_path / "a/train.json", "val": tmp_path / "b/val_1.json"}
    touch(tmp_path, "b/c/train.json")
    with pytest.raises(InputError, match=r"one train\.json, found .*a/train\.json and .*b/c/train\.json"):
        find_splits(tmp_path, names)
    touch(tmp_path, "train.json")
    assert find_splits(tmp_path, names)["train"] == tmp_path / "train.json"


def test_a_damaged_file_is_not_read_to_its_end(tmp_path):
    (tmp_path / "x.json").write_text("[{]" + " " * (20 << 20))
    tracemalloc.start()
    with pytest.raises(InputError, match="Expecting property name"):
        list(entries(tmp_path / "x.json", "list"))
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_what_is_nested_too_deep_is_an_error_of_its_own(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100000)
    with pytest.raises(InputError, match="in one another"):
        list(entries(tmp_path / "x.json", "list"))
    (tmp_path / "x.jsonl").write_text(f"{'[' * 100000}\n{{}}\n")
    assert list(rows(tmp_path / "x.jsonl")) == ["a line that is no JSON object", {}]
