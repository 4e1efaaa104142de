from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from embedshard.address import AddressOpener
from embedshard.demo import Tree, image_bytes
from embedshard.errors import InputError
from embedshard.sample import Sample
from embedshard.sources import get_source
from tests.sources.rows import read

NAME = "m3it"
PICTURES = {name: image_bytes(name, name[-4:]) for name in ("1.jpg", "2.png", "3.gif")}
FIRST, SECOND, THIRD = (base64.b64encode(data).decode() for data in PICTURES.values())
ASK = {"instruction": "Answer.", "inputs": "What flies?", "outputs": "A kite."}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp(NAME)
    get_source(NAME).demo(Tree(path))
    return path


def write(root: Path, name: str, *rows: object) -> None:
    Tree(root).text(name, "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def payload(sample: Sample, root: Path) -> bytes:
    """Give the bytes of a sample's picture as a decoder gets them."""
    with AddressOpener() as opener:
        opened = opener.open(sample.media.path, root)
        assert not isinstance(opened, Path)
        return opened.read()


def test_pictures_are_read_where_they_lie(tmp_path):
    rows = [
        {**ASK, "image_base64_str": [FIRST]},
        {"image_base64_str": SECOND, **ASK},
        json.dumps({"image_base64_str": FIRST, **ASK}).replace("/", "\\/"),
        {"image_base64_str": [f"data:image/gif;base64,{THIRD}"], **ASK, "inputs": "是什么?"},
        json.dumps({"img_str": f"data:image/png;base64,{SECOND}", **ASK}, indent=None).replace("/", "\\/"),
    ]
    write(tmp_path, "data/x/train.jsonl", *rows)
    samples, _ = read(NAME, tmp_path)
    names = ("1.jpg", "2.png", "1.jpg", "3.gif", "2.png")
    assert [payload(sample, tmp_path) for sample in samples] == [PICTURES[name] for name in names]
    assert {sample.media.kind for sample in samples} == {"image"}
    assert samples[1].media.path.startswith("data/x/train.jsonl#x/train-1.jpg:")
    assert FIRST not in json.dumps([sample.meta for sample in samples])


def test_of_several_pictures_the_first_is_the_media(tmp_path):
    write(tmp_path, "data/x/train.jsonl", {**ASK, "image_base64_str": [SECOND, FIRST, THIRD]})
    (sample,), _ = read(NAME, tmp_path)
    assert (payload(sample, tmp_path), sample.meta["images"]) == (PICTURES["2.png"], 3)


def test_every_row_is_a_sample_or_left_out(raw):
    samples, left_out = read(NAME, raw)
    assert {s.meta["id"]: (s.split, s.caption, s.meta["task"], s.meta["images"]) for s in samples} == {
        "captioning/coco/train-0": ("train", "A dog runs.", "coco", 1),
        "classification/imagenet/test_2023-10-08-0": ("test", "It is a tench.", "imagenet", 1),
        "generation/vist/val-0": ("val", "A boy came.", "vist", 2),
        "vqa/viquae/train-0": ("train", "A kite.", "viquae", 1),
        "vqa/vqav2/vqa_validation-0": ("val", "两个", "vqav2", 1),
    }
    assert all(s.media.id == s.meta["id"] for s in samples)
    assert left_out == {
        "vqa/shapes/train.large-0": "a line that is no JSON object",
        "vqa/viquae/train-1": "a row without a picture",
        "vqa/viquae/train-2": "no caption",
    }


def test_fields_of_the_row_and_of_its_meta_are_kept(raw):
    meta = {s.meta["id"]: s.meta for s in read(NAME, raw)[0]}
    assert meta["vqa/viquae/train-0"]["instruction"] == "Answer the question."
    assert meta["vqa/viquae/train-0"]["meta_data"] == {"source": "demo"}
    assert meta["vqa/vqav2/vqa_validation-0"]["inputs"] == "几个人?"
    rewritten = meta["classification/imagenet/test_2023-10-08-0"]
    assert (rewritten["answer"], rewritten["outputs"], rewritten["inputs"]) == (
        "It is a tench.",
        "tench",
        "What flies?",
    )
    assert meta["captioning/coco/train-0"]["img_id"] == "1"
    assert not any(name in fields for fields in meta.values() for name in ("image", "img_str", "image_base64_str"))


def test_no_instruction_is_drawn_at_random(raw):
    meta = {s.meta["id"]: s.meta for s in read(NAME, raw)[0]}
    assert "instruction" not in meta["vqa/vqav2/vqa_validation-0"]


def test_several_outputs_are_captions_of_one_picture(raw):
    each = [s for s in read(NAME, raw, captions="each")[0] if s.meta["task"] == "coco"]
    assert [(s.key, s.caption) for s in each] == [
        ("x--captioning-2fcoco-2ftrain-2d0_0", "A dog runs."),
        ("x--captioning-2fcoco-2ftrain-2d0_1", "A brown dog."),
    ]
    assert each[0].media == each[1].media
    joined = {s.meta["task"]: s.caption for s in read(NAME, raw, captions="join")[0]}
    assert joined["vist"] == "A boy came. He left."


def test_input_and_output(raw):
    texts = {s.meta["task"]: s.caption for s in read(NAME, raw, **{"as": "qa"})[0]}
    assert (texts["viquae"], texts["coco"]) == ("What flies? A kite.", "A dog runs.")
    assert texts["vqav2"] == "几个人? 两个"
    assert read(NAME, raw, **{"as": "qa"})[1]["vqa/viquae/train-2"] == "no caption"


@pytest.mark.parametrize(
    ("task", "tasks"),
    [
        ("all", ["coco", "imagenet", "vist", "viquae", "vqav2"]),
        ("vqa", ["viquae", "vqav2"]),
        ("vqa/viquae/train", ["viquae"]),
        ("imagenet/", ["imagenet"]),
    ],
)
def test_task(raw, task, tasks):
    assert [s.meta["task"] for s in read(NAME, raw, task=task)[0]] == tasks


def test_another_task(raw):
    with pytest.raises(InputError, match="no task 'coc'; expected all, or a part of: captioning/coco/train, "):
        read(NAME, raw, task="coc")


def test_long_text_without_blanks_is_no_picture(tmp_path):
    row = {**ASK, "inputs": "两只狗在跑" * 100, "url": f"https://example.org/{'a' * 300}", "image_str": FIRST}
    write(tmp_path, "data/x/train.jsonl", row)
    (sample,), _ = read(NAME, tmp_path)
    assert (sample.meta["inputs"], sample.meta["images"]) == (row["inputs"], 1)
    assert payload(sample, tmp_path) == PICTURES["1.jpg"]


def test_one_bad_row_takes_no_other_down(tmp_path):
    odd: dict[str, Any] = {"image_str": FIRST, "id": 7, "meta": "text", "output": "fine"}
    rows: list[object] = [
        odd,
        "[1]",
        f'{{"image_str": "{FIRST}',
        {},
        "",
        {**odd, "output": 5},
        {**odd, "output": ["", 3]},
    ]
    write(tmp_path, "train.jsonl", *rows, {**odd, "input": [1]})
    samples, left_out = read(NAME, tmp_path)
    assert [(s.meta["id"], s.meta["raw_id"], s.meta["meta"]) for s in samples] == [
        ("train-0", 7, "text"),
        ("train-7", 7, "text"),
    ]
    assert left_out == {
        "train-1": "a line that is no JSON object",
        "train-2": "a line that is no JSON object",
        "train-3": "a row without a picture",
        "train-5": "no caption",
        "train-6": "no caption",
    }


def test_one_file_of_a_set(tmp_path):
    write(tmp_path, "data/vqa/st-vqa/st_vqa_validation.jsonl", {**ASK, "image_base64_str": FIRST})
    root = tmp_path / "data/vqa/st-vqa/st_vqa_validation.jsonl"
    (sample,), _ = read(NAME, root)
    assert (sample.split, sample.meta["task"]) == ("val", "st-vqa")
    assert payload(sample, root.parent) == PICTURES["1.jpg"]


@pytest.mark.parametrize("name", [".", "gone"])
def test_another_tree(tmp_path, name):
    write(tmp_path, "instructions.jsonl", ASK)
    with pytest.raises(InputError, match=r"(?s)found no train\.jsonl.*expected in.*data/captioning/coco.*found"):
        read(NAME, tmp_path / name)
