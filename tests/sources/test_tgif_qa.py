from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sources import get_source
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/tgif_qa"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real heads of TGIF-QA are not in ../shared/data")

NAME = "tgif_qa"
FRAMEQA = "gif_name question answer type vid_id key description"
CHOICES = "gif_name question a1 a2 a3 a4 a5 answer vid_id key"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp(NAME)
    get_source(NAME).demo(Tree(path))
    return path


def write(path: Path, header: str, *rows: Iterable[str]) -> None:
    lines = [header.replace(" ", "\t"), *("\t".join(cells) for cells in rows)]
    Tree(path.parent).text(path.name, "\n".join(lines))


@real
@pytest.mark.parametrize("task", ["frameqa", "transition", "action", "count"])
def test_real_questions(task, tmp_path):
    shutil.copytree(REAL, tmp_path, dirs_exist_ok=True)
    tables = {split: REAL / f"{split}_{task}_question.csv" for split in ("Train", "Test")}
    expected = []
    for split, path in tables.items():
        if path.exists():
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            expected += [(split.lower(), row) for row in rows]
    touch(tmp_path, *(f"gifs/{row['gif_name']}.gif" for _, row in expected))
    samples, left_out = read(NAME, tmp_path, task=task)
    assert left_out == {}
    for sample, (split, row) in zip(samples, expected, strict=True):
        answer = row[f"a{int(row['answer']) + 1}"] if "a1" in row else row["answer"]
        assert sample.caption == f"{row['question']}{'' if row['question'].endswith(('?', '.')) else '?'} {answer}"
        assert (sample.key, sample.split, sample.media.id) == (row["vid_id"], split, row["gif_name"])
        assert (sample.media.path, sample.media.kind) == (f"gifs/{row['gif_name']}.gif", "video")
        assert str(sample.meta["answer"]) == answer
        assert sample.meta["key"] == row["key"]


def test_id_is_vid_id_and_key_is_the_number_that_all_questions_on_a_gif_share(tmp_path):
    rows = [("g", f"how often {n} ?", "2", f"COUNT{n}", "52") for n in (1, 2)]
    swapped = ("g", "how often 3 ?", "2", "52", "COUNT3")
    write(tmp_path / "Train_count_question.csv", "gif_name question answer vid_id key", *rows, swapped)
    touch(tmp_path, "g.gif")
    samples, left_out = read(NAME, tmp_path, task="count")
    assert ([s.key for s in samples], left_out) == (["COUNT1", "COUNT2", "COUNT3"], {})
    assert [(s.meta["id"], s.meta.get("key"), s.meta.get("vid_id")) for s in samples] == [
        ("COUNT1", "52", None),
        ("COUNT2", "52", None),
        ("COUNT3", None, "52"),
    ]


def test_row_without_its_id_is_left_out(tmp_path):
    rows = [("g", "how often ?", "2", *ids) for ids in (("7", "52"), ("COUNT1", "52"), (" ", " "))]
    write(tmp_path / "Train_count_question.csv", "gif_name question answer vid_id key", *rows)
    touch(tmp_path, "g.gif")
    samples, left_out = read(NAME, tmp_path, task="count")
    reason = "a row without an id that begins with FRAMEQA, TRANS, ACTION, COUNT as vid_id or key"
    assert [s.key for s in samples] == ["COUNT1"]
    assert left_out == {f"line {number} of Train_count_question.csv": reason for number in (2, 4)}


@real
def test_real_tasks_train_and_test_on_one_gif():
    names = [
        {line.split("\t")[0] for line in (REAL / name).read_text().splitlines()[1:]}
        for name in ("Train_count_question.csv", "Test_action_question.csv")
    ]
    assert names[0] & names[1]  # why there is no option to read all tasks


def test_questions_of_frameqa(raw):
    samples, left_out = read(NAME, raw)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("FRAMEQA1", "train", 'who says "hi ? cat'),
        ("FRAMEQA2", "train", "what is the color of the cat ? white"),
        ("FRAMEQA4", "test", "how many dogs repeat it ? two"),
    ]
    assert samples[1].meta == {
        "id": "FRAMEQA2",
        "gif_name": "tumblr_a1_250",
        "question": "what is the color of the cat ?",
        "answer": "white",
        "type": "2",
        "type_name": "color",
        "key": "7",
        "description": "a white cat sits .",
    }
    assert samples[0].media == samples[1].media
    assert left_out == {"FRAMEQA3": "missing media", "FRAMEQA5": "a row with a blank cell that should have a text"}


def test_quotes_are_plain_text(raw):
    assert read(NAME, raw)[0][0].meta["description"] == 'the cat says "hi .'


def test_words_broken_by_the_key_of_the_task_are_mended(tmp_path):
    row = ("g", "what sits at the fiFRAMEQAlace ?", "FRAMEQAtile", "0", "FRAMEQA1", "1", "a FRAMEQAtile sits .")
    write(tmp_path / "Test_frameqa_question.csv", FRAMEQA, row)
    touch(tmp_path, "g.gif")
    (sample,), _ = read(NAME, tmp_path)
    assert (sample.key, sample.caption) == ("FRAMEQA1", "what sits at the fireplace ? reptile")
    assert sample.meta["description"] == "a reptile sits ."


@pytest.mark.parametrize(("task", "key"), [("transition", "TRANS"), ("action", "ACTION")])
def test_answer_of_a_choice_counts_from_0(task, key, raw):
    (sample,), left_out = read(NAME, raw, task=task)
    assert (sample.key, sample.caption) == (f"{key}1", "What does the cat do before sit ? blink")
    assert sample.meta["options"] == ["wave", "sit", "jump", "nod", "blink"]
    assert [sample.meta[name] for name in ("answer", "answer_index", "answer_letter")] == ["blink", 4, "E"]
    assert "a1" not in sample.meta
    assert left_out == {f"{key}2": "an answer that is no count, or no number of an option"}


def test_count_is_a_number(raw):
    (sample,), _ = read(NAME, raw, task="count")
    assert (sample.caption, sample.meta["answer"]) == ("How many times does the cat nod ? 10", 10)


def test_descriptions_of_a_gif(raw):
    samples, left_out = read(NAME, raw, **{"as": "caption"})
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("tumblr_a1_250", "train", 'the cat says "hi .'),
        ("tumblr_b2_r1_400", "test", "two dogs run ."),
    ]
    assert samples[0].meta["captions"] == ['the cat says "hi .', "a white cat sits ."]
    assert left_out == {"tumblr_gone_250": "missing media"}
    each, _ = read(NAME, raw, captions="each", **{"as": "caption"})
    assert [s.key for s in each] == ["tumblr_a1_250_0", "tumblr_a1_250_1", "tumblr_b2_r1_400_0"]


def test_only_frameqa_has_descriptions(raw):
    with pytest.raises(InputError, match=r"only task=frameqa has descriptions.*found task=count"):
        read(NAME, raw, task="count", **{"as": "caption"})


def test_total_is_never_added_to_train_and_test(raw, tmp_path):
    shutil.copytree(raw, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dataset/Train_frameqa_question.csv").unlink()
    assert [s.key for s in read(NAME, tmp_path)[0]] == ["FRAMEQA4"]
    (tmp_path / "dataset/Test_frameqa_question.csv").unlink()
    assert [(s.key, s.split) for s in read(NAME, tmp_path)[0]] == [("FRAMEQA1", ""), ("FRAMEQA2", ""), ("FRAMEQA4", "")]


def test_gifs_in_a_zip_and_converted_ones(tmp_path):
    rows = [(gif, "who ?", "cat", "9", f"FRAMEQA{gif}", "1", "a cat .") for gif in ("1", "2")]
    write(tmp_path / "Train_frameqa_question.csv", FRAMEQA, *rows)
    with zipfile.ZipFile(tmp_path / "gifs.zip", "w") as archive:
        archive.writestr("gifs/1.gif", b"GIF89a")
    touch(tmp_path, "mp4/2.mp4")
    samples, _ = read(NAME, tmp_path)
    assert samples[0].media.path.startswith("gifs.zip#")
    assert samples[1].media.path == "mp4/2.mp4"
    assert (samples[0].meta["type"], "type_name" in samples[0].meta) == ("9", False)


def test_damaged_archive_is_counted(raw, tmp_path):
    shutil.copytree(raw, tmp_path, dirs_exist_ok=True)
    (tmp_path / "more.zip").write_bytes(b"PK cut off")
    assert "more.zip" in read(NAME, tmp_path)[1]


def test_one_bad_row_takes_no_other_down(tmp_path):
    good = ("g", "how often ?", "2", "COUNT1", "1")
    bad = [("g", "how often ?"), ("", *good[1:]), (" ", *good[1:]), (*good, "more"), ("",)]
    wrong = ("g", "how often ?", "two", "COUNT7", "1")
    write(tmp_path / "Train_count_question.csv", "gif_name question answer vid_id key", *bad, wrong, good)
    touch(tmp_path, "g.gif")
    samples, left_out = read(NAME, tmp_path, task="count")
    assert [s.key for s in samples] == ["COUNT1"]
    blank, cells = "a row with a blank cell that should have a text", "a row with more or fewer cells than the header"
    reasons = {2: cells, 3: blank, 4: blank, 5: cells, 6: cells}
    assert left_out == {
        **{f"line {number} of Train_count_question.csv": reason for number, reason in reasons.items()},
        "COUNT7": "an answer that is no count, or no number of an option",
    }


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no Train_frameqa_question.*expected in.*gifs/tumblr.*found"):
        read(NAME, tmp_path)
    Tree(tmp_path).text("Train_frameqa_question.csv", "gif_name,question,answer,key\n")
    with pytest.raises(InputError, match=r"expected the columns gif_name.*with tabs, found gif_name,question"):
        read(NAME, tmp_path)
