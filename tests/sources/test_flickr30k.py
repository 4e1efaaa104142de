from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

ENTITIES = Path(__file__).parents[2] / "splits/flickr30k-entities.yaml"
SHARED = Path(__file__).parents[2] / "../shared/data/annotations"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real heads of Flickr30k are not in ../shared/data")

RESULTS = """\
image_name| comment_number| comment
2.jpg| 0| Two men | talk , outside .
2199200615.jpg| 3| A dog .
2199200615.jpg| 4   A dog runs across the grass .
2.jpg| 1| " Hi " , he says .
2.jpg| no number
"""
TOKENS = "2.jpg#0\tTwo men , outside .\n2.jpg#1\tMen .\n3.jpg#0\tA dog .\n"
TABLE = 'image_name,comment_number,comment\n2.jpg,0,"Two ""men"" , outside"\n3.jpg,0,A dog .\n3.jpg, 1, a, b\n'
BAD_ROW = "a row without the name of a picture, or without captions that are text"


@pytest.fixture
def tree(tmp_path):
    touch(tmp_path, *(f"flickr30k-images/{name}.jpg" for name in (1, 2, 3, 2199200615)))
    return Tree(tmp_path)


@real
def test_real_test_file(tmp_path):
    shutil.copy(SHARED / "flickr30k/flickr30k_test.json", tmp_path)
    touch(tmp_path, "flickr30k-images/1007129816.jpg", "more/101362133.jpeg")
    samples, left_out = read("flickr30k", tmp_path)
    assert [(s.key, s.split, s.media.path) for s in samples] == [
        ("1007129816", "test", "flickr30k-images/1007129816.jpg"),
        ("101362133", "test", "more/101362133.jpeg"),
    ]
    assert samples[0].caption == "The man with pierced ears is wearing glasses and an orange hat."
    assert left_out["1009434119"] == "missing media"


@real
def test_real_lists_of_entities_are_another_split(tmp_path):
    shutil.copytree(SHARED / "flickr30k_entities", tmp_path / "raw")
    names = {split: (tmp_path / f"raw/{split}.txt").read_text().split()[0] for split in ("train", "val", "test")}
    Tree(tmp_path / "raw").json("flickr30k_train.json", [[f"x/{name}.jpg", "A dog."] for name in names.values()])
    touch(tmp_path / "raw", *(f"x/{name}.jpg" for name in names.values()))
    options = PrepareOptions(split=str(ENTITIES))
    prepare(get_source("flickr30k"), tmp_path / "raw", tmp_path / "m.parquet", options, lambda n: None)
    samples = open_manifest(tmp_path / "m.parquet").samples()
    assert {s.split: s.media.id for s in samples} == names


def test_entities_lists_hold_bare_ids(tree):
    tree.text("results.csv", RESULTS)
    for split, ids in {"train": "2", "val": "2199200615", "test": "3"}.items():
        tree.text(f"entities/{split}.txt", f"{ids}\n")
    options = PrepareOptions(split=str(ENTITIES))
    report = prepare(get_source("flickr30k"), tree.root, None, options, lambda n: None)
    assert report.samples == {"train": 1, "val": 1, "test": 0}


@pytest.mark.parametrize("folder", ["", "csv/"])
def test_entities_has_the_pictures_that_karpathy_left_out(tree, folder):
    tree.json(
        "flickr30k_train.json", [["flickr30k-images/2.jpg", "Two men."], ["flickr30k-images/1.jpg", "Not listed"]]
    )
    tree.text(f"{folder}results.csv", RESULTS)
    for split, ids in {"train": "2199200615", "val": "2", "test": ""}.items():
        tree.text(f"entities/{split}.txt", f"{ids}\n")
    options = PrepareOptions(split=str(ENTITIES))
    report = prepare(get_source("flickr30k"), tree.root, None, options, lambda n: None)
    assert {(s.split, s.key, s.caption) for s in report.first} == {
        ("train", "2199200615", "A dog ."),
        ("val", "2", "Two men."),
    }


def test_pictures_that_karpathy_left_out_are_in_no_split_of_his(tree):
    tree.json("flickr30k_train.json", [["flickr30k-images/2.jpg", "Two men."]])
    tree.text("results.csv", RESULTS)
    report = prepare(get_source("flickr30k"), tree.root, None, PrepareOptions(), lambda n: None)
    assert report.samples == {"train": 1, "val": 0, "test": 0}
    reason = 'unknown split "not in Karpathy\'s files" (expected train, val or test)'
    assert report.left_out == {BAD_ROW: 1, reason: 1}
    assert report.examples[reason] == ("2199200615",)


def test_karpathys_own_file_gives_the_splits_that_have_no_other(tree):
    splits = {"1": "train", "2": "val", "3": "test", "2199200615": "test"}
    images = [
        {"filename": f"{name}.jpg", "split": split, "sentences": [{"raw": "Own"}]} for name, split in splits.items()
    ]
    tree.json("dataset_flickr30k.json", {"dataset": "flickr30k", "images": images})
    tree.json("flickr30k_test.json", [{"image": "flickr30k-images/3.jpg", "caption": ["Test"]}])
    assert [(s.key, s.split, s.caption) for s in read("flickr30k", tree.root)[0]] == [
        ("1", "train", "Own"),
        ("2", "val", "Own"),
        ("3", "test", "Test"),
    ]


def test_a_folder_whose_name_only_ends_alike_does_not_win(tree):
    touch(tree.root, "aflickr30k-images/2.jpg", "a/2.jpg", "flickr30k-images/2.png")
    tree.json("flickr30k_val.json", [{"image": "flickr30k-images/2.jpg", "caption": ["Two men"]}])
    (sample,), _ = read("flickr30k", tree.root)
    assert sample.media.path == "flickr30k-images/2.jpg"


def test_a_split_in_two_folders_is_an_error(tree):
    for folder in ("a", "b"):
        tree.json(f"{folder}/flickr30k_val.json", [])
    with pytest.raises(InputError, match=r"expected one flickr30k_val\.json, found .*a/flickr30k_val\.json and "):
        read("flickr30k", tree.root)
    for number, split in enumerate(("train", "val", "test"), 1):
        tree.json(f"flickr30k_{split}.json", [[f"{number}.jpg", "A"]])
    for folder in ("a", "b"):
        tree.text(f"{folder}/dataset_flickr30k.json", "not needed")
    assert len(read("flickr30k", tree.root)[0]) == 3


@pytest.mark.parametrize(
    "rows",
    [
        [{"image": "flickr30k-images/1.jpg", "caption": "One", "image_id": 0}, {"image": "1.jpg", "caption": "Two "}],
        [{"image": "flickr30k-images/1.jpg", "caption": ["One", " Two"]}],
        [["flickr30k-images/1.jpg", "One"], ["flickr30k-images/1.jpg", "Two"]],
        [{"split": "val", "image_name": "1.jpg", "captions": ["One", "Two"]}],
    ],
)
def test_forms_of_a_split_file(tree, rows):
    tree.json("flickr30k_val.json", rows)
    for way, texts in {"first": ["One"], "each": ["One", "Two"], "join": ["One. Two."]}.items():
        samples, left_out = read("flickr30k", tree.root, captions=way)
        assert [s.caption for s in samples] == texts
        assert {(s.split, s.media.id, s.media.kind) for s in samples} == {("val", "1", "image")}
    assert samples[0].meta["captions"] == ["One", "Two"]
    assert not left_out


def test_a_row_may_name_its_own_split(tree):
    splits = {"1": "train", "2": "val", "3": "test"}
    rows = [{"split": split, "image_name": f"{name}.jpg", "captions": ["A"]} for name, split in splits.items()]
    tree.json("flickr30k_train.json", rows)
    assert {s.key: s.split for s in read("flickr30k", tree.root)[0]} == splits


def test_karpathys_own_file(tree):
    images = [
        {"sentids": [0, 1], "imgid": 0, "filename": "1.jpg", "split": "train", "sentences": [{"raw": "One"}]},
        {"sentids": [2], "imgid": 1, "filename": "2.jpg", "split": "test", "sentences": [{"raw": " "}]},
    ]
    tree.json("dataset_flickr30k.json", {"dataset": "flickr30k", "images": images})
    samples, left_out = read("flickr30k", tree.root)
    assert [(s.key, s.split, s.caption) for s in samples] == [("1", "train", "One")]
    assert left_out == {"2": "no caption"}


def test_results_have_no_split_and_a_row_without_its_second_bar(tree):
    tree.text("results.csv", RESULTS)
    samples, left_out = read("flickr30k", tree.root)
    assert {s.key: (s.split, s.meta["captions"]) for s in samples} == {
        "2": ("", ["Two men | talk , outside .", '" Hi " , he says .']),
        "2199200615": ("", ["A dog .", "A dog runs across the grass ."]),
    }
    assert left_out == {"results.csv, row 5": BAD_ROW}


@pytest.mark.parametrize(
    ("name", "text", "caption", "bad"),
    [
        ("results_20130124.token", TOKENS, "Two men , outside .", {}),
        ("captions.txt", TABLE, 'Two "men" , outside', {"captions.txt, row 3": BAD_ROW}),
    ],
)
def test_other_forms_of_the_results(tree, name, text, caption, bad):
    tree.text(name, text)
    samples, left_out = read("flickr30k", tree.root)
    assert [(s.key, s.caption) for s in samples] == [("2", caption), ("3", "A dog .")]
    assert left_out == bad


def test_another_tree(tree):
    with pytest.raises(
        InputError, match=r"(?s)expected flickr30k_train\.json.*results\.csv.*found:\s+flickr30k-images/"
    ):
        read("flickr30k", tree.root)
    with pytest.raises(InputError, match=r"(?s)expected flickr30k_train\.json.*nothing of that name"):
        read("flickr30k", tree.root / "gone")
    tree.text("flickr30k_val.json", '{"image": "1.jpg", "caption": "A"}\n')
    with pytest.raises(InputError, match=r"flickr30k_val\.json: expected a list of rows"):
        read("flickr30k", tree.root)
