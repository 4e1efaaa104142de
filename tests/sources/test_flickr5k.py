from __future__ import annotations

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from tests.sources.rows import read, touch


@pytest.mark.parametrize("ending", [".json", ".json.json"])
def test_names_with_a_double_ending(tmp_path, ending):
    for number, split in enumerate(("train", "val", "test")):
        row = {"image": f"flickr5k-images/{number}.jpg", "caption": [f"This is {split} . "]}
        Tree(tmp_path).json(f"flickr5k_{split}{ending}", [row])
        touch(tmp_path, f"flickr5k-images/{number}.jpg")
    samples, left_out = read("flickr5k", tmp_path)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("0", "train", "This is train ."),
        ("1", "val", "This is val ."),
        ("2", "test", "This is test ."),
    ]
    assert not left_out


@pytest.mark.parametrize("empty", ["[]", "[\n]\n"])
def test_an_empty_file_is_passed_over_for_the_one_with_rows(tmp_path, empty):
    touch(tmp_path, "flickr5k-images/1.jpg")
    Tree(tmp_path).text("flickr5k_train.json", empty)
    with pytest.raises(
        InputError, match=r"flickr5k_train\.json: expected rows, found \[\].*flickr5k_train\.json\.json"
    ):
        read("flickr5k", tmp_path)
    Tree(tmp_path).json("data/flickr5k_train.json.json", [{"image": "flickr5k-images/1.jpg", "caption": ["A dog"]}])
    assert [(s.key, s.split) for s in read("flickr5k", tmp_path)[0]] == [("1", "train")]


def test_captions_one_by_one_and_missing_pictures(tmp_path):
    names = [("1", "One"), ("2", "Gone"), ("1", "Two")]
    rows = [{"image": f"flickr5k-images/{name}.jpg", "caption": text, "image_id": name} for name, text in names]
    Tree(tmp_path).json("data/flickr5k_train.json", rows)
    touch(tmp_path, "deep/er/1.jpg")
    samples, left_out = read("flickr5k", tmp_path, captions="each")
    assert [(s.key, s.caption, s.media.path) for s in samples] == [
        ("1_0", "One", "deep/er/1.jpg"),
        ("1_1", "Two", "deep/er/1.jpg"),
    ]
    assert samples[1].meta == {
        "image": "flickr5k-images/1.jpg",
        "image_id": "1",
        "id": "1",
        "captions": ["One", "Two"],
    }
    assert left_out == {"2": "missing media"}


def test_another_tree(tmp_path):
    touch(tmp_path, "flickr30k_train.json")
    with pytest.raises(InputError, match=r"(?s)expected flickr5k_train\.json.*found:\s+flickr30k_train\.json"):
        read("flickr5k", tmp_path)
