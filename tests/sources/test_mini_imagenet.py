from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embedshard.errors import InputError
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/mini_imagenet"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real heads of mini-ImageNet are not in ../shared/data")


@real
@pytest.mark.parametrize("pictures", ["images", "train/n01532829", "any/where"])
def test_real_csv_of_ravi(tmp_path, pictures):
    for path in REAL.glob("*.csv"):
        shutil.copy(path, tmp_path)
    (tmp_path / "classnames.txt").write_text("n01532829 house finch\nn01855672 goose\n")
    touch(tmp_path, *(f"{pictures}/{n}.jpg" for n in ("n0153282900000005", "n0185567200000003", "n0193011200000001")))
    samples, left_out = read("mini_imagenet", tmp_path)
    assert [(s.split, s.media.id, s.caption) for s in samples] == [
        ("train", "n01532829/n0153282900000005.jpg", "house finch"),
        ("val", "n01855672/n0185567200000003.jpg", "goose"),
        ("test", "n01930112/n0193011200000001.jpg", "n01930112"),
    ]
    assert samples[0].meta == {
        "id": "n01532829/n0153282900000005.jpg",
        "label": "house finch",
        "label_id": "n01532829",
    }
    assert left_out["n0153282900000212.jpg"] == "missing media"


@real
def test_real_csv_of_vinyals(tmp_path):
    shutil.copytree(REAL / "Vinyals", tmp_path / "Vinyals")
    touch(tmp_path, "images/n01614925/n01614925_1001.JPEG", "images/n01614925/n01614925_2.JPEG")
    samples, left_out = read("mini_imagenet", tmp_path)
    assert [(s.split, s.media.id) for s in samples] == [("train", "n01614925/n01614925_1001.JPEG")]
    assert set(left_out.values()) == {"missing media"}


def test_splits_of_two_authors_are_not_mixed(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/b.jpg")
    for name, row in {"Ravi/train": "filename,label\na.jpg,n1\n", "Vinyals/val": "filename,class\nb.jpg,n2\n"}.items():
        touch(tmp_path, f"{name}.csv")
        (tmp_path / f"{name}.csv").write_text(row)
    with pytest.raises(InputError, match=r"in one folder.*Ravi/train\.csv and .*Vinyals/val\.csv"):
        read("mini_imagenet", tmp_path)
    (tmp_path / "Vinyals/val.csv").rename(tmp_path / "Vinyals/train.csv")
    with pytest.raises(InputError, match=r"one table of train, found .*Ravi/train\.csv and .*Vinyals/train\.csv"):
        read("mini_imagenet", tmp_path)


@pytest.mark.parametrize("top", ["", "mini-imagenet/"])
def test_any_number_of_class_folders(tmp_path, top):
    touch(tmp_path, *(f"{top}train/n{number:08d}/1.jpg" for number in range(1000)), f"{top}val/n00001000/1.JPEG")
    touch(tmp_path, f"{top}train/notes.txt", f"{top}train/stray.jpg", f"{top}train/n00000001/1.jpg.part")
    samples, left_out = read("mini_imagenet", tmp_path)
    assert (len(samples), len({s.key for s in samples}), samples[-1].split) == (1001, 1001, "val")
    assert left_out == {f"{top}train/stray.jpg": "not in a class folder"}


def test_label_ids_are_not_shared_across_splits(tmp_path):
    touch(tmp_path, "train/n01/a.jpg", "train/n02/b.jpg", "validation/n03/a.jpg", "test/n04/a.jpg")
    (tmp_path / "classnames.txt").write_text("n01 crane\nn03 crane\n\n")
    samples, _ = read("mini_imagenet", tmp_path)
    assert [(s.split, s.caption, s.meta["label_id"]) for s in samples] == [
        ("train", "crane", "n01"),
        ("train", "n02", "n02"),
        ("val", "crane", "n03"),
        ("test", "n04", "n04"),
    ]


def test_another_tree(tmp_path):
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match=r"(?s)expected folders train.*n0153282900000005\.jpg.*found:"):
            read("mini_imagenet", root)
    (tmp_path / "train.csv").write_text("path,label\na.jpg,n01\n")
    with pytest.raises(InputError, match=r"train\.csv: expected columns filename,label .*found path,label"):
        read("mini_imagenet", tmp_path)
