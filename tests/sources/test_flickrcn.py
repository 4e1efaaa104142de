from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from embedshard.address import AddressOpener
from embedshard.demo import Tree, image_bytes
from embedshard.errors import InputError
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch


def write(root: Path, name: str, *rows: dict[str, Any]) -> None:
    Tree(root).text(f"{name}_texts.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def text(number: int, caption: str, *images: int) -> dict[str, Any]:
    return {"text_id": number, "text": caption, "image_ids": list(images)}


@pytest.mark.parametrize("val", ["valid", "val"])
def test_both_names_of_val(tmp_path, val):
    for number, name in enumerate(("train", val, "test")):
        write(tmp_path, name, text(number, "一只狗", number))
        touch(tmp_path, f"flickr30k-images/{number}.jpg")
    samples, left_out = read("flickrcn", tmp_path)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("0", "train", "一只狗"),
        ("1", "val", "一只狗"),
        ("2", "test", "一只狗"),
    ]
    assert not left_out


def test_a_text_of_several_pictures_is_a_caption_of_each(tmp_path):
    write(
        tmp_path, "train", text(8, "两个男人 ", 1, 2), text(9, "男人们", 1), text(10, "没有图片"), text(11, "不见了", 3)
    )
    touch(tmp_path, "flickr30k-images/1.jpg", "flickr30k-images/2.jpg")
    samples, left_out = read("flickrcn", tmp_path, captions="each")
    assert [(s.key, s.caption) for s in samples] == [("1_0", "两个男人"), ("1_1", "男人们"), ("2_0", "两个男人")]
    assert samples[0].meta == {"text_ids": [8, 9], "id": "1", "captions": ["两个男人", "男人们"]}
    assert left_out == {"train_texts.jsonl, row 3": "a text without pictures", "3": "missing media"}


def test_captions_stay_unescaped(tmp_path):
    write(tmp_path / "raw", "test", text(1, "“狗”在跑。", 1))
    touch(tmp_path / "raw", "1.jpg")
    prepare(get_source("flickrcn"), tmp_path / "raw", tmp_path / "m.parquet", PrepareOptions(), lambda n: None)
    (sample,) = open_manifest(tmp_path / "m.parquet").samples()
    assert (sample.caption, sample.meta["captions"]) == ("“狗”在跑。", ["“狗”在跑。"])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_pictures_in_a_table_are_read_where_they_lie(tmp_path, newline):
    write(tmp_path, "valid", text(1, "狗", 7), text(2, "猫", 1000), text(3, "鸟", 5), text(4, "鱼", 6))
    pictures = {name: image_bytes(name) for name in ("7", "1000", "5")}
    lines = (f"{name}\t{base64.b64encode(data).decode()}" for name, data in pictures.items())
    Tree(tmp_path).text("zip/valid_imgs.tsv", newline.join(["a line without a picture", *lines]))
    touch(tmp_path, "flickr30k-images/5.jpg")
    samples, left_out = read("flickrcn", tmp_path)
    assert samples[2].media.path == "flickr30k-images/5.jpg"
    with AddressOpener() as opener:
        for sample in samples[:2]:
            opened = opener.open(sample.media.path, tmp_path)
            assert not isinstance(opened, Path)
            assert (sample.media.kind, opened.read()) == ("image", pictures[sample.key])
    assert left_out == {"6": "missing media"}


def test_generated_files_of_the_flickr_form(tmp_path):
    Tree(tmp_path).json(
        "flickr30k_cn_val.json", [{"image": "flickr30k-images/1.jpg", "caption": ["一只狗。", "狗！"], "image_id": 1}]
    )
    touch(tmp_path, "flickr30k-images/1.jpg")
    (sample,), _ = read("flickrcn", tmp_path, captions="join")
    assert (sample.key, sample.split, sample.caption) == ("1", "val", "一只狗。 狗！")


def test_each_split_may_have_its_own_form(tmp_path):
    write(tmp_path, "train", text(1, "一只狗", 1))
    Tree(tmp_path).json("flickr30k_cn_train.json", [{"image": "flickr30k-images/1.jpg", "caption": ["不用"]}])
    Tree(tmp_path).json("flickr30k_cn_val.json", [{"image": "flickr30k-images/2.jpg", "caption": ["一只猫"]}])
    touch(tmp_path, "flickr30k-images/1.jpg", "flickr30k-images/2.jpg")
    samples, _ = read("flickrcn", tmp_path)
    assert [(s.key, s.split, s.caption) for s in samples] == [("1", "train", "一只狗"), ("2", "val", "一只猫")]


def test_a_mask_never_becomes_the_picture_of_a_bare_id(tmp_path):
    write(tmp_path, "train", text(1, "一只狗", 1), text(2, "一只猫", 2), text(3, "鸟", 3))
    touch(tmp_path, "panoptic_train/1.png", "pngs/2.png", "panoptic_train/3.png")
    Tree(tmp_path).text("train_imgs.tsv", f"3\t{base64.b64encode(image_bytes('3')).decode()}\n")
    samples, left_out = read("flickrcn", tmp_path)
    assert samples[0].media.path == "pngs/2.png"
    assert samples[1].media.path.startswith("train_imgs.tsv#3.jpg:")
    assert left_out == {"1": "missing media"}


def test_bad_rows_take_no_other_down(tmp_path):
    write(tmp_path, "train", {"text_id": 1}, {"text": 5, "image_ids": [1]}, {"text": "x", "image_ids": 1})
    with (tmp_path / "train_texts.jsonl").open("a") as file:
        file.write("{\n" + json.dumps(text(5, "狗", 1)))
    touch(tmp_path, "1.jpg")
    (sample,), left_out = read("flickrcn", tmp_path)
    assert sample.caption == "狗"
    reasons = ["a row without text and image_ids"] * 3 + ["a line that is no JSON object"]
    assert left_out == {f"train_texts.jsonl, row {number}": reason for number, reason in enumerate(reasons, 1)}


def test_another_tree(tmp_path):
    touch(tmp_path, "train_text.jsonl")
    with pytest.raises(InputError, match=r"(?s)expected train_texts\.jsonl.*image_ids.*found:\s+train_text\.jsonl"):
        read("flickrcn", tmp_path)
