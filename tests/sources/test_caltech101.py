from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/caltech101"
SPLIT = "split_zhou_Caltech101.json"
NO_CLASS = "in no folder of a class, or in BACKGROUND_Google or Faces_easy"


def write_split(root: Path, **splits: object) -> None:
    (root / SPLIT).write_text(json.dumps(splits))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real head of Caltech-101 is not in ../shared/data")
def test_real_annotations(tmp_path):
    shutil.copy(REAL / SPLIT, tmp_path)
    touch(tmp_path, *(f"101_ObjectCategories/Faces/image_{number}.jpg" for number in ("0274", "0132", "0426")))
    samples, left_out = read("caltech101", tmp_path)
    assert [(s.media.id, s.split, s.caption) for s in samples] == [
        ("Faces/image_0274.jpg", "train", "face"),
        ("Faces/image_0132.jpg", "val", "face"),
        ("Faces/image_0426.jpg", "test", "face"),
    ]
    meta = {"id": "Faces/image_0274.jpg", "label": "face", "label_id": 0, "classname": "face"}
    assert (samples[0].meta, samples[0].media.path) == (meta, "101_ObjectCategories/Faces/image_0274.jpg")
    assert left_out["Faces/image_0015.jpg"] == "missing media"


def test_demo_counts_every_row_and_every_picture(tmp_path):
    get_source("caltech101").demo(Tree(tmp_path))
    samples, left_out = read("caltech101", tmp_path)
    assert [s.caption for s in samples] == ["face", "crocodile head", "face", "motorbike"]
    pictures = "caltech-101/101_ObjectCategories"
    assert left_out == {
        "Faces/image_0999.jpg": "missing media",
        f"{pictures}/BACKGROUND_Google/image_0001.jpg": NO_CLASS,
        f"{pictures}/Faces_easy/image_0274.jpg": NO_CLASS,
        f"{pictures}/Leopards/image_0001.jpg": f"not in {SPLIT}",
    }


def test_pictures_of_one_name_in_two_classes_are_two(tmp_path):
    write_split(tmp_path, train=[["ant/image_0001.jpg", 1, "ant"]], test=[["bass/image_0001.jpg", 2, "bass"]])
    touch(tmp_path, "a/101_ObjectCategories/ant/image_0001.jpg", "a/101_ObjectCategories/bass/image_0001.jpg")
    samples, _ = read("caltech101", tmp_path)
    assert [s.media.path[-20:] for s in samples] == ["s/ant/image_0001.jpg", "/bass/image_0001.jpg"]
    assert len({s.key for s in samples}) == 2


@pytest.mark.parametrize("top", ["caltech101/101_ObjectCategories/", ""])
def test_folders_alone_have_the_same_class_names_and_no_split(tmp_path, top):
    names = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
    names["crocodile_head"] = "crocodile head"
    touch(tmp_path, *(f"{top}{folder}/image_0001.jpg" for folder in (*names, "Faces_easy")), f"{top}stray.jpg")
    samples, left_out = read("caltech101", tmp_path)
    assert {s.media.id: s.caption for s in samples} == {f"{folder}/image_0001.jpg": n for folder, n in names.items()}
    assert {s.split for s in samples} == {""}
    assert left_out == {f"{top}Faces_easy/image_0001.jpg": NO_CLASS, f"{top}stray.jpg": NO_CLASS}


def test_pictures_outside_of_the_dataset_are_no_rows(tmp_path):
    touch(tmp_path, "101_ObjectCategories/ant/image_0001.jpg", "slides/figure.png")
    samples, left_out = read("caltech101", tmp_path)
    assert ([s.caption for s in samples], left_out) == (["ant"], {})


def test_a_bad_row_takes_no_other_row_down(tmp_path):
    touch(tmp_path, "101_ObjectCategories/ant/image_0001.jpg")
    write_split(tmp_path, train=[["ant/image_0001.jpg", 1], None, ["x", "1", "ant"], ["ant/image_0001.jpg", 1, "ant"]])
    samples, left_out = read("caltech101", tmp_path)
    assert [s.caption for s in samples] == ["ant"]
    assert list(left_out) == ["train 0", "train 1", "train 2"]


def test_a_picture_in_two_splits_is_an_error(tmp_path):
    row = ["ant/image_0001.jpg", 1, "ant"]
    write_split(tmp_path, train=[row], test=[row])
    touch(tmp_path, "101_ObjectCategories/ant/image_0001.jpg")
    with pytest.raises(InputError, match=r"ant/image_0001\.jpg \(train and test\)"):
        prepare(get_source("caltech101"), tmp_path, None, PrepareOptions(), lambda n: None)


def test_another_tree(tmp_path):
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match=r"(?s)expected pictures in 101_ObjectCategories.*image_0274\.jpg.*found:"):
            read("caltech101", root)
    touch(tmp_path, "101_ObjectCategories/ant/image_0001.jpg")
    write_split(tmp_path, train={"ant/image_0001.jpg": 1})
    with pytest.raises(InputError, match=r"expected a list of \[path, label, class name\] for train, found {'ant"):
        read("caltech101", tmp_path)
