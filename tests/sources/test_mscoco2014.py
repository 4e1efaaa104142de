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

SHARED = Path(__file__).parents[2] / "../shared/data/annotations/mscoco2014"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real heads of MS COCO are not in ../shared/data")

TRAIN, VAL, TEST, REST = "COCO_train2014_000000000009", *(f"COCO_val2014_{n:012d}" for n in (42, 391895, 73))
BAD_ROW = "a row without the name of a picture, or without captions that are text"


def container(*numbers: int, name: str = "{:012d}.jpg") -> dict[str, list[dict[str, object]]]:
    """Make a file of COCO's, whose captions come in another order than its pictures."""
    return {
        "images": [{"license": 1, "file_name": name.format(n), "id": n} for n in numbers],
        "annotations": [{"image_id": n, "id": n, "caption": f"{k} of {n}. "} for k in "ab" for n in reversed(numbers)],
    }


@pytest.fixture
def tree(tmp_path):
    touch(tmp_path, f"train2014/{TRAIN}.jpg", *(f"val2014/{name}.jpg" for name in (VAL, TEST, REST)))
    tree = Tree(tmp_path)
    tree.json("coco_karpathy_val.json", [{"image": f"val2014/{VAL}.jpg", "caption": ["A bed. ", "A room."]}])
    tree.json("coco_karpathy_test.json", [{"image": f"val2014/{TEST}.jpg", "caption": ["A man."]}])
    return tree


@real
def test_real_karpathy_files(tmp_path):
    shutil.copytree(SHARED, tmp_path, dirs_exist_ok=True)
    touch(tmp_path, "val2014/COCO_val2014_000000391895.jpg", "val2014/COCO_val2014_000000184613.jpg")
    samples, left_out = read("mscoco2014", tmp_path)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("184613", "val", "A child holding a flowered umbrella and petting a yak."),
        ("391895", "test", "A man with a red helmet on a small moped on a dirt road."),
    ]
    assert samples[1].media.path == "val2014/COCO_val2014_000000391895.jpg"
    assert len(samples[1].meta["captions"]) == 5
    assert left_out["60623"] == "missing media"


@real
def test_real_container_of_2017(tmp_path):
    shutil.copy(SHARED / "captions_val2017.json", tmp_path)
    touch(tmp_path, *(f"val2017/{n:012d}.jpg" for n in (397133, 37777, 252219, 87038)))
    samples, left_out = read("mscoco2014", tmp_path, "official-2017")
    assert ([s.key for s in samples], left_out) == (["397133", "37777", "252219", "87038"], {})
    assert samples[2].caption == "a person with a shopping cart on a city street"
    assert {len(s.meta["captions"]) for s in samples} == {5}
    assert samples[0].meta["coco_url"].endswith("val2017/000000397133.jpg")


def test_captions_of_one_picture_come_together_in_any_order(tree):
    rows = [(f"train2014/{TRAIN}.jpg", "One"), (f"val2014/{REST}.jpg", "Two"), (f"{TRAIN}.jpg", "Three ")]
    tree.json(
        "coco_karpathy_train.json", [{"image": image, "caption": text, "image_id": "coco_1"} for image, text in rows]
    )
    texts = {
        way: [(s.key, s.caption) for s in read("mscoco2014", tree.root, captions=way)[0]][:3]
        for way in ("first", "each", "join")
    }
    assert texts == {
        "first": [("9", "One"), ("73", "Two"), ("42", "A bed.")],
        "each": [("9_0", "One"), ("9_1", "Three"), ("73_0", "Two")],
        "join": [("9", "One. Three."), ("73", "Two."), ("42", "A bed. A room.")],
    }


def test_pictures_of_val2014_that_karpathy_trains_on(tree):
    tree.json("coco_karpathy_train.json", [{"image": f"val2014/{REST}.jpg", "caption": "Bikes."}])
    assert next((s.media.path, s.split) for s in read("mscoco2014", tree.root)[0]) == (f"val2014/{REST}.jpg", "train")


@pytest.mark.parametrize("name", ["captions_train.json", "annotations/captions_train2014.json"])
def test_cocos_train_file_with_karpathys_val_and_test(tree, name):
    tree.json(name, container(9, name="COCO_train2014_{:012d}.jpg"))
    samples, left_out = read("mscoco2014", tree.root)
    assert [(s.key, s.split) for s in samples] == [("9", "train"), ("42", "val"), ("391895", "test")]
    assert (samples[0].meta["captions"], samples[0].media.path) == (["a of 9.", "b of 9."], f"train2014/{TRAIN}.jpg")
    assert not left_out


def test_captions_train_may_have_rows(tree):
    tree.json("captions_train.json", [{"image": f"train2014/{TRAIN}.jpg", "caption": "Food."}])
    assert [s.split for s in read("mscoco2014", tree.root)[0]] == ["train", "val", "test"]


@pytest.mark.parametrize("captions", ["first", "each"])
def test_train_that_holds_a_picture_of_val_is_an_error_whatever_its_spelling(tree, tmp_path, captions):
    tree.json("captions_train.json", container(42, 73))
    options = PrepareOptions(settings={"captions": captions})
    with pytest.raises(InputError, match="two splits: 42"):
        prepare(get_source("mscoco2014"), tree.root, None, options, lambda n: None)


def test_official_splits(tree):
    tree.json("annotations/captions_train2014.json", container(9, name="COCO_train2014_{:012d}.jpg"))
    tree.json("annotations/captions_val2014.json", container(42, 73, name="COCO_val2014_{:012d}.jpg"))
    tree.json("annotations/captions_val2017.json", container(42))
    official = [(s.key, s.split) for s in read("mscoco2014", tree.root, "official")[0]]
    assert official == [("9", "train"), ("42", "val"), ("73", "val")]
    (sample,), _ = read("mscoco2014", tree.root, "official-2017")
    assert (sample.key, sample.media.path) == ("42", f"val2014/{VAL}.jpg")


def test_karpathys_own_file(tmp_path):
    touch(tmp_path, f"train2014/{TRAIN}.jpg", *(f"val2014/{name}.jpg" for name in (VAL, TEST, REST)))
    splits = {REST: "restval", TEST: "test", VAL: "val", TRAIN: "train"}
    images = [
        {
            "filepath": name[5:-13],
            "filename": f"{name}.jpg",
            "split": split,
            "cocoid": int(name[-12:]),
            "sentences": [{"tokens": ["a"], "raw": "A. "}, {"tokens": ["b"], "raw": "B."}],
        }
        for name, split in splits.items()
    ]
    Tree(tmp_path).json("dataset_coco.json", {"dataset": "coco", "images": images})
    samples, left_out = read("mscoco2014", tmp_path)
    assert [(s.key, s.split) for s in samples] == [("73", "train"), ("391895", "test"), ("42", "val"), ("9", "train")]
    assert samples[0].meta == {
        "filepath": "val2014",
        "filename": f"{REST}.jpg",
        "cocoid": 73,
        "id": "73",
        "captions": ["A.", "B."],
    }
    assert not left_out


@pytest.mark.parametrize("mask", ["annotations/panoptic_val2017", "stuffthingmaps/val2017", "val2017"])
@pytest.mark.parametrize("way", ["karpathy", "official-2017"])
def test_a_mask_never_becomes_the_picture(tmp_path, way, mask):
    picture = "val2017/000000000042.jpg"
    touch(tmp_path, f"{mask}/000000000042.png", f"{mask}/000000000042.bmp", picture)
    tree = Tree(tmp_path)
    tree.json("coco_karpathy_val.json", [{"image": f"val2014/{VAL}.jpg", "caption": ["a bed"]}])
    tree.json("annotations/captions_val2017.json", container(42))
    assert [s.media.path for s in read("mscoco2014", tmp_path, way)[0]] == [picture]
    (tmp_path / picture).unlink()
    assert read("mscoco2014", tmp_path, way) == ([], {"42": "missing media"})


def test_masks_in_an_archive_with_the_folders_of_the_pictures(tmp_path):
    tree = Tree(tmp_path)
    tree.tar("masks.tar", {"val2017/000000000042.png": b"png"})
    tree.tar("val2017.tar", {"val2017/000000000042.jpg": b"jpg"})
    tree.json("captions_val2017.json", container(42))
    (sample,), _ = read("mscoco2014", tmp_path, "official-2017")
    assert sample.media.path == "val2017.tar#val2017/000000000042.jpg:512+3"


@pytest.mark.parametrize(
    ("way", "picture"), [("official-2017", "val2017/000000000042.jpg"), ("official", f"val2014/{VAL}.jpg")]
)
def test_a_folder_whose_name_only_ends_alike_does_not_win(tmp_path, way, picture):
    touch(tmp_path, f"aug_{picture}", f"a/{Path(picture).name}", picture)
    Tree(tmp_path).json("captions_val2017.json", container(42))
    Tree(tmp_path).json("captions_val2014.json", container(42, name="COCO_val2014_{:012d}.jpg"))
    (sample,), _ = read("mscoco2014", tmp_path, way)
    assert sample.media.path == picture


def karpathys_own_file(*splits: str) -> dict[str, list[dict[str, object]]]:
    rows = zip((TRAIN, VAL, TEST, REST), splits, strict=True)
    return {"images": [{"filename": f"{n}.jpg", "split": split, "sentences": [{"raw": "Own."}]} for n, split in rows]}


def test_karpathys_own_file_gives_the_splits_that_have_no_other(tree):
    tree.json("dataset_coco.json", karpathys_own_file("train", "val", "test", "restval"))
    (tree.root / "coco_karpathy_val.json").unlink()
    assert [(s.key, s.split, s.caption) for s in read("mscoco2014", tree.root)[0]] == [
        ("9", "train", "Own."),
        ("42", "val", "Own."),
        ("73", "train", "Own."),
        ("391895", "test", "A man."),
    ]


@pytest.mark.parametrize("stub", ["[]", " [ ]\n"])
def test_an_empty_file_is_passed_over_for_another_and_is_an_error_alone(tree, stub):
    tree.text("coco_karpathy_train.json", stub)
    with pytest.raises(InputError, match=r"coco_karpathy_train\.json: expected rows, found \[\].*dataset_coco\.json"):
        read("mscoco2014", tree.root)
    tree.json("annotations/captions_train2014.json", container(9, name="COCO_train2014_{:012d}.jpg"))
    assert [s.split for s in read("mscoco2014", tree.root)[0]] == ["train", "val", "test"]


def test_the_named_folder_goes_first_and_any_other_is_found(tree):
    touch(tree.root, f"copy/{VAL}.jpg", "all/000000000073.webp")
    tree.json("coco_karpathy_train.json", [{"image": "gone/COCO_val2014_000000000073.jpg", "caption": "Bikes."}])
    (tree.root / f"val2014/{REST}.jpg").unlink()
    paths = {s.key: s.media.path for s in read("mscoco2014", tree.root)[0]}
    assert (paths["42"], paths["73"]) == (f"val2014/{VAL}.jpg", "all/000000000073.webp")


def test_pictures_in_archives(tree):
    tree.tar("train2014.tar", {f"train2014/{TRAIN}.jpg": b"jpg", f"val2014/{REST}.jpg": b"jpg"})
    tree.text("val2014.zip", "cut off")
    tree.json("coco_karpathy_train.json", [{"image": f"val2014/{REST}.jpg", "caption": "Bikes."}])
    (tree.root / f"val2014/{REST}.jpg").unlink()
    samples, left_out = read("mscoco2014", tree.root)
    assert (samples[0].media.path, samples[0].media.kind) == (f"train2014.tar#val2014/{REST}.jpg:1536+3", "image")
    assert list(left_out) == ["val2014.zip"]


def test_bad_rows_take_no_other_down(tree):
    good = {"image": f"train2014/{TRAIN}.jpg", "caption": "Food."}
    bad = [7, {}, {"image": 3, "caption": "a"}, {"image": "a/", "caption": "b"}, {**good, "caption": [None]}]
    tree.json("coco_karpathy_train.json", [*bad, good])
    samples, left_out = read("mscoco2014", tree.root)
    assert samples[0].meta["captions"] == ["Food."]
    assert left_out == {f"coco_karpathy_train.json, row {n}": BAD_ROW for n in range(1, 6)}


def test_bad_entries_of_a_container_take_no_other_down(tree):
    texts = [{"image_id": 42}, {"image_id": 42, "caption": None}, {"image_id": 5, "caption": "Not listed"}]
    content = container(42)
    content["annotations"] += texts
    content["images"] += [{"id": 73, "file_name": f"{REST}.jpg"}, {"id": 6}, "?"]
    tree.json("captions_val2014.json", content)
    samples, left_out = read("mscoco2014", tree.root, "official")
    assert samples[0].meta["captions"] == ["a of 42.", "b of 42."]
    assert left_out == {
        **{f"captions_val2014.json, annotation {n}": BAD_ROW for n in (3, 4)},
        **{f"captions_val2014.json, row {n}": BAD_ROW for n in (3, 4)},
        "73": "no caption",
        "5": "captions of a picture that the file does not list",
    }


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)of --split karpathy.*coco_karpathy_train\.json.*an empty folder"):
        read("mscoco2014", tmp_path)
    Tree(tmp_path).json("captions_train2014.json", container(9))
    with pytest.raises(InputError, match=r"(?s)of --split karpathy.*--split official.*found:\s+captions_train2014"):
        read("mscoco2014", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[{", "is not the JSON that was expected"),
        (json.dumps({"info": {}, "annotations": []}), "found info, annotations"),
        (json.dumps({"image_id": 1, "caption": "a"}), "found one row"),
    ],
)
def test_another_file(tmp_path, text, said):
    (tmp_path / "coco_karpathy_val.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read("mscoco2014", tmp_path)
