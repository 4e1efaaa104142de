from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sources import get_source
from tests.sources.rows import read, touch

NAME = "sthsthv2"
REAL = Path(__file__).parents[2] / "../shared/data/annotations/sthsthv2"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real head of Something-Something V2 is not in ../shared/data")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp(NAME)
    get_source(NAME).demo(Tree(path))
    return path


def entry(clip: object, label: object = "pushing a cup", template: object = "Pushing [something]") -> dict[str, Any]:
    return {"id": clip, "label": label, "template": template, "placeholders": ["a cup"]}


@real
def test_real_entries_and_labels(tmp_path):
    shutil.copy(REAL / "finetune_5shot_training.json", tmp_path / "something-something-v2-train.json")
    shutil.copy(REAL / "labels.json", tmp_path / "something-something-v2-labels.json")
    table, label_ids = (
        json.loads((REAL / name).read_text()) for name in ("finetune_5shot_training.json", "labels.json")
    )
    known = next(iter(label_ids))
    Tree(tmp_path).json(
        "something-something-v2-validation.json", [entry("1", "x", known.replace("something", "[something]"))]
    )
    touch(tmp_path, "videos/1.webm", *(f"videos/{row['id']}.webm" for row in table))
    samples, left_out = read(NAME, tmp_path)
    assert left_out == {}
    assert [(s.key, s.caption) for s in samples] == [(row["id"], row["label"]) for row in table] + [("1", "x")]
    assert {name: samples[0].meta[name] for name in table[0]} == table[0]
    assert samples[-1].meta["label_id"] == label_ids[known]


@real
def test_real_class_names_are_templates_without_brackets(tmp_path):
    names = (REAL / "label_map.txt").read_text().splitlines()
    Tree(tmp_path).json("labels.json", {name: str(number) for number, name in enumerate(names)})
    templates = [name.replace("something", "[something]") for name in names]
    Tree(tmp_path).json("train.json", [entry(str(number), "x", text) for number, text in enumerate(templates)])
    touch(tmp_path, *(f"{number}.webm" for number in range(len(names))))
    samples, _ = read(NAME, tmp_path, **{"as": "classification"})
    assert [(s.caption, s.meta["label_id"]) for s in samples] == [(name, n) for n, name in enumerate(names)]


def test_sentence_or_class(raw):
    sentences = {s.key: s.caption for s in read(NAME, raw)[0]}
    classes = {s.key: s.caption for s in read(NAME, raw, **{"as": "classification"})[0]}
    assert (sentences["44745"], classes["44745"]) == (
        "stuffing pill boxes into a bag",
        "Stuffing something into something",
    )
    assert sentences["1420"] == classes["1420"] == "Pushing something"
    assert read(NAME, raw)[0][0].meta["placeholders"] == ["pill boxes", "a bag"]


def test_test_clips_without_an_answer_have_no_caption(raw, tmp_path):
    assert read(NAME, raw)[1] == {"404": "missing media", "1421": "no caption"}
    shutil.copytree(raw, tmp_path, dirs_exist_ok=True)
    (tmp_path / "labels/test-answers.csv").unlink()
    samples, left_out = read(NAME, tmp_path)
    assert {s.split for s in samples} == {"train", "val"}
    assert left_out["1420"] == left_out["1421"] == "no caption"


def test_numbers_as_texts_or_numbers(tmp_path):
    Tree(tmp_path).json(
        "train.json", [entry("1"), entry(2), entry("3", template="Poking [something]"), entry("4", template=5)]
    )
    touch(tmp_path, *(f"v/{number}.mp4" for number in (1, 2, 3, 4)))
    for number in ("40", 40):
        Tree(tmp_path).json("labels.json", {"Pushing something": number})
        samples, _ = read(NAME, tmp_path)
        assert [(s.meta["id"], s.meta.get("label_id")) for s in samples] == [
            ("1", 40),
            ("2", 40),
            ("3", None),
            ("4", None),
        ]


@pytest.mark.parametrize(
    "name", ["something-something-v2-validation.json", "labels/validation.json", "labels/val.json"]
)
def test_names_of_the_validation_file(tmp_path, name):
    Tree(tmp_path).json(name, [entry("1")])
    touch(tmp_path, "1.webm")
    assert [(s.split, s.caption) for s in read(NAME, tmp_path)[0]] == [("val", "pushing a cup")]


def test_answers_with_a_semicolon_and_windows_lines(tmp_path):
    Tree(tmp_path).json("test.json", [{"id": "1"}, {"id": "2"}])
    Tree(tmp_path).text("test-answers.csv", "\ufeff1;Pushing something; slowly\r\n2;Poking something\r\n")
    touch(tmp_path, "1.webm", "2.webm")
    assert [s.caption for s in read(NAME, tmp_path)[0]] == ["Pushing something; slowly", "Poking something"]


def test_clips_in_a_zip_and_a_damaged_one(tmp_path):
    Tree(tmp_path).json("train.json", [entry("1")])
    with zipfile.ZipFile(tmp_path / "20bn.zip", "w") as archive:
        archive.writestr("20bn-something-something-v2/1.webm", b"video")
    (tmp_path / "more.zip").write_bytes(b"PK cut off")
    (sample,), left_out = read(NAME, tmp_path)
    assert sample.media.path.startswith("20bn.zip#")
    assert set(left_out) == {"more.zip"}


def test_one_bad_row_takes_no_other_down(tmp_path):
    rows = [entry("1"), 7, {"label": "whose"}, entry(None), entry(""), entry("5", label=["x"]), entry("6", label=None)]
    Tree(tmp_path).json("train.json", rows)
    touch(tmp_path, *(f"{number}.webm" for number in range(7)))
    samples, left_out = read(NAME, tmp_path)
    assert [s.meta["id"] for s in samples] == ["1"]
    assert left_out == {
        "entry 1 of train.json": "an entry that is no JSON object",
        **{f"entry {number} of train.json": "an entry without the id that it should have" for number in (2, 3, 4)},
        "5": "no caption",
        "6": "no caption",
    }


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no something-something-v2-train\.json.*expected in.*found"):
        read(NAME, tmp_path)
    Tree(tmp_path).json("train.json", [entry("1")])
    Tree(tmp_path).json("labels.json", {"Pushing something": "forty"})
    with pytest.raises(InputError, match=r"labels\.json: expected the number of each class, found .*forty"):
        read(NAME, tmp_path)
