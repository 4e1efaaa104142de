from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from embedshard.errors import InputError
from embedshard.split import read_split_recipe

RECIPES = sorted((Path(__file__).parents[1] / "splits").glob("ratio-*.yaml"))


def recipe(folder: Path, text: str, name: str = "recipe.yaml"):
    (folder / name).write_text(text, encoding="utf-8")
    return read_split_recipe(folder / name, folder / "raw").split


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_of_the_repository_give_their_shares(path):
    train, val, test = (int(part) for part in path.stem.split("-")[1:])
    assign = read_split_recipe(path, path.parent / "raw").split
    counts = Counter(assign(f"video{number}") for number in range(20000))
    assert counts["train"] / 200 == pytest.approx(train, abs=1)
    assert counts["val"] / 200 == pytest.approx(val, abs=1)
    assert counts["test"] / 200 == pytest.approx(test, abs=1)


def test_known_ids_keep_their_split(tmp_path):
    assign = recipe(tmp_path, "ratios: {train: 0.5, val: 0.25, test: 0.25}\nseed: 0")
    assert [assign(name) for name in ("a", "b", "c", "猫", "-x")] == ["val", "val", "val", "train", "test"]
    other = recipe(tmp_path, "ratios: {train: 0.5, val: 0.25, test: 0.25}\nseed: 1")
    assert any(assign(f"v{number}") != other(f"v{number}") for number in range(50))


def test_more_train_moves_nothing_out_of_train(tmp_path):
    some, more = (recipe(tmp_path, f"ratios: {{train: {r}, test: {1 - r}}}") for r in (0.5, 0.75))
    assert all(more(f"v{number}") == "train" for number in range(500) if some(f"v{number}") == "train")


def test_a_ratio_of_zero_gets_nothing(tmp_path):
    assign = recipe(tmp_path, "ratios: {train: 0, test: 1}")
    assert {assign(f"v{number}") for number in range(100)} == {"test"}


def test_lists(tmp_path):
    (tmp_path / "a.txt").write_bytes("v 1\r\n猫.mp4\n\n".encode())
    (tmp_path / "b.txt").write_text("v2")
    assign = recipe(tmp_path, "lists: {train: a.txt, test: b.txt}")
    assert [assign(name) for name in ("v 1", "猫.mp4", "v2", "v3")] == ["train", "train", "test", None]


def test_lists_of_the_raw_dataset(tmp_path):
    raw = tmp_path / "raw/annotation"
    raw.mkdir(parents=True)
    (raw / "train_ids.json").write_text('["v_1", 2]')
    (raw / "val.csv").write_text("video_id,note\nv_3,x\n")
    (raw / "test.csv").write_text("note,media_id,video_id\nx,v_4,y\n")
    assign = recipe(tmp_path, "lists: {train: train_ids.json, val: val.csv, test: annotation/test.csv}")
    assert [assign(name) for name in ("v_1", "2", "v_3", "v_4", "y")] == ["train", "train", "val", "test", None]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("a.json", "1"),
        ("a.json", '"id0"'),
        ("a.json", '{"id0": 1}'),
        ("a.csv", "x,video_id\na,b\nc\n"),
        ("a.csv", "id\nv\n"),
        ("a.txt", "\xff"),
    ],
)
def test_what_is_no_list(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="expected one media id a line in UTF-8, a csv with the column"):
        recipe(tmp_path, f"lists: {{train: {name}}}")


def test_frozen(tmp_path):
    assign = recipe(tmp_path, 'media_id,split\n"a,""b""\nc",val\nd,train\nd,train\n', "frozen.csv")
    assert [assign(name) for name in ('a,"b"\nc', "d", "e")] == ["val", "train", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ratios: {train: 0.9, val: 0.2}", "key ratios: .* sum is 1, found the sum 1.1"),
        ("ratios: {train: 0.9, valid: 0.1}", "key ratios: .*valid"),
        ("ratios: {train: most, val: 0.1}", "key ratios.train: .*'most'"),
        ("ratios: {train: 1.5, val: -0.5}", "key ratios.train"),
        ("ratios: 0.9", "key ratios"),
        ("ratios: {train: 1}\nseeds: 1", "seeds"),
        ("ratios: {train: 1}\nlists: {train: a.txt}", "found: ratios, lists"),
        ("seed: 1", "found: seed"),
        ("lists: {train: gone.txt}", "key lists.train: expected the file gone.txt"),
        ("lists: {train: twice.txt, test: twice.txt}", "twice.txt, line 1: .*'v1' in train too"),
        ("- train", r"found \['train'\]"),
        ("a: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    (tmp_path / "twice.txt").write_text("v1\n")
    with pytest.raises(InputError, match=f"(?s)recipe.yaml.*{message}|{message}"):
        recipe(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,split\n", "header media_id,split"),
        ("media_id,split\na,train\nb,dev\n", "line 3: .*'b,dev'"),
        ("media_id,split\na,train\na,val\n", "line 3: .*'a' in train too"),
    ],
)
def test_what_is_wrong_in_a_frozen_split_is_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        recipe(tmp_path, text, "frozen.csv")


@pytest.mark.parametrize("data", [b"media_id,split\n\xff,train\n", b'media_id,split\n"a" b,train\n', b"\xff"])
def test_a_frozen_split_that_is_no_utf8_csv(tmp_path, data):
    (tmp_path / "frozen.csv").write_bytes(data)
    with pytest.raises(InputError, match=r"frozen\.csv, line \d or below: expected a csv in UTF-8"):
        read_split_recipe(tmp_path / "frozen.csv", tmp_path)


def test_a_list_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"a\.txt: expected one media id a line in UTF-8"):
        recipe(tmp_path, "lists: {train: a.txt}")


def test_no_recipe(tmp_path):
    with pytest.raises(InputError, match="no split recipe"):
        read_split_recipe(tmp_path / "gone.yaml", tmp_path)


def test_what_is_listed_and_never_met_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("v1\nv2\nv3\n")
    (tmp_path / "r.yaml").write_text("way: official\nlists: {train: a.txt}")
    found = read_split_recipe(tmp_path / "r.yaml", tmp_path)
    assert (found.way, found.split("v2"), found.split("v9")) == ("official", "train", None)
    assert found.unmet() == ["v1", "v3"]
