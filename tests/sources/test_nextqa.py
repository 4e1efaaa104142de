from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.encode.run import EncodeOptions, encode
from embedshard.errors import InputError
from embedshard.frames import Sampling
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

SHARED = Path(__file__).parents[2] / "../shared/data/annotations"
OPEN = "video,frame_count,width,height,question,answer,qid,type"
CHOICE = f"{OPEN},a0,a1,a2,a3,a4"

real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real heads of NExT-QA are not in ../shared/data")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("nextqa")
    get_source("nextqa").demo(Tree(path))
    return path


def write(root: Path, *lines: str, name: str = "train.csv") -> Path:
    Tree(root).text(name, "\n".join([CHOICE if lines[0].count(",") > 7 else OPEN, *lines, ""]))
    touch(root, "v/11.mp4", "v/12.mp4")
    return root


@real
def test_real_heads_of_both_forms_in_one_tree(tmp_path):
    shutil.copytree(SHARED / "nextqa_oe", tmp_path / "OE")
    shutil.copytree(SHARED / "nextqa_mc", tmp_path / "MC")
    touch(tmp_path, "NExTVideo/1164/3606518674.mp4", "3233088823.mkv", "4010069381.mp4", "NExTVideo/2574374895.mp4")
    samples, left_out = read("nextqa", tmp_path)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("oe_3606518674_1", "train", "is the man on guitar proficient in playing it? yes"),
        ("oe_3233088823_3", "val", "how is the bulldozer controlled? from the drivers cabin"),
    ]
    assert samples[0].media.path == "NExTVideo/1164/3606518674.mp4"
    assert samples[0].meta == {
        "video": "3606518674",
        "frame_count": 2622,
        "width": 640,
        "height": 480,
        "question": "is the man on guitar proficient in playing it",
        "answer": "yes",
        "qid": 1,
        "type": "DB",
        "id": "oe_3606518674_1",
    }
    assert len(left_out) == 10
    assert set(left_out.values()) == {"missing media"}
    samples, left_out = read("nextqa", tmp_path, form="mc")
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("mc_4010069381_6", "val", "how do the two man play the instrument? roll the handle"),
        (
            "mc_2574374895_8",
            "test",
            "what did the baby do after throwing the green cup away while on the floor near the end? lay on floor",
        ),
    ]
    meta = samples[1].meta
    assert meta["options"] == ["clap proudly", "the lady sitting down", "lay on floor", "just picked it up", "crawl"]
    assert (meta["answer"], meta["answer_index"], meta["answer_letter"]) == ("lay on floor", 2, "C")
    assert len(left_out) == 6


def test_questions_on_one_video_share_one_decode(demo, tmp_path, encoder):
    """47692 questions are on 5440 videos."""
    for form in ("oe", "mc"):
        options = PrepareOptions(settings={"form": form})
        prepare(get_source("nextqa"), demo, tmp_path / f"{form}.parquet", options, lambda n: None)
        manifest = open_manifest(tmp_path / f"{form}.parquet")
        report = encode(manifest, tmp_path / form, encoder, EncodeOptions(Sampling("fps"), workers=0))
        assert (report.done, report.media, report.failed) == (5, 4, 0)
        assert report.frames == 4 * 2  # of 2 seconds each


def test_qid_alone_would_collide(demo):
    samples = [sample for form in ("oe", "mc") for sample in read("nextqa", demo, form=form)[0]]
    assert len({s.key for s in samples}) == len(samples) == 10
    assert len({s.meta["qid"] for s in samples}) == 3
    assert len({(s.media.id, s.meta["qid"]) for s in samples}) == 5


def test_tables_of_the_hub(tmp_path):
    row = {"video": 11, "frame_count": 20, "question": "who runs", "answer": "a man", "qid": 3, "type": "DO"}
    tree = Tree(tmp_path)
    for name in ("train", "validation", "test"):
        tree.parquet(f"OE/{name}-00000-of-00001.parquet", [{**row, "additional_ref_answer": None}])
    choices = {f"a{n}": f"man {n}" for n in range(5)}
    tree.parquet("MC/test-00000-of-00001.parquet", [{**row, "video": "11", "answer": 4, **choices}])
    touch(tmp_path, "videos/11.mp4")
    samples, _ = read("nextqa", tmp_path)
    assert [(s.key, s.split, s.caption) for s in samples] == [
        ("oe_11_3", split, "who runs? a man") for split in ("train", "val", "test")
    ]
    assert (samples[0].media.id, samples[0].meta["video"], samples[0].meta["qid"]) == ("11", "11", 3)
    (sample,) = read("nextqa", tmp_path, form="mc")[0]
    assert (sample.key, sample.split, sample.caption) == ("mc_11_3", "test", "who runs? man 4")
    assert (sample.meta["options"][0], sample.meta["answer_letter"]) == ("man 0", "E")


def test_all_shards_of_a_table_are_read_and_missing_ones_told(tmp_path):
    row = {"video": "11", "question": "who runs", "answer": "a man", "type": "DO"}
    for number in (0, 1):
        Tree(tmp_path).parquet(f"OE/train-0000{number}-of-00003.parquet", [{**row, "qid": number}])
        Tree(tmp_path).parquet(f"copy/train-0000{number}-of-00003.parquet", [{**row, "qid": number}])
    touch(tmp_path, "11.mp4")
    samples, left_out = read("nextqa", tmp_path)
    assert [s.key for s in samples] == ["oe_11_0", "oe_11_1"]
    assert left_out == {"train-00002-of-00003.parquet": "a table that is not there"}
    samples, left_out = read("nextqa", tmp_path / "OE/train-00001-of-00003.parquet")
    assert left_out == {"oe_11_1": "missing media"}


def test_shard_with_other_columns_takes_no_other_down(tmp_path):
    row = {"video": "11", "question": "who runs", "answer": "a man", "qid": 1}
    for number, name in enumerate(("video", "id")):
        Tree(tmp_path).parquet(
            f"train-0000{number}-of-00002.parquet", [{name: row["video"], **dict(list(row.items())[1:])}]
        )
    touch(tmp_path, "11.mp4")
    samples, left_out = read("nextqa", tmp_path)
    assert [s.key for s in samples] == ["oe_11_1"]
    assert left_out == {"row 0 of train-00001-of-00002.parquet": "an entry without the fields that it should have"}


@pytest.mark.parametrize("answers", ["null", '["a second"]', '"a second"'])
def test_second_answers_that_are_no_object_are_an_error(tmp_path, answers):
    write(tmp_path, "1,20,6,4,who,7,0,DO", name="test.csv")
    Tree(tmp_path).text("add_reference_answer_test.json", f'{{"1": {answers}}}')
    with pytest.raises(InputError, match=r"add_reference_answer_test.json: expected .* for video 1, found"):
        read("nextqa", tmp_path)


def test_files_named_as_in_vidor(demo):
    (sample,) = [s for s in read("nextqa", demo)[0] if s.media.id == "2414793083"]
    assert sample.media.path == "NExTVideo/0093/24147.mp4"


def test_videos_in_the_zip(tmp_path):
    write(tmp_path, "99,20,6,4,who runs,a man,0,DO")
    with zipfile.ZipFile(tmp_path / "NExTVideo.zip", "w") as archive:
        archive.writestr("NExTVideo/1164/99.mp4", "a video")
    (sample,) = read("nextqa", tmp_path)[0]
    assert sample.media.path.startswith("NExTVideo.zip#NExTVideo/1164/99.mp4:")


def test_no_full_stop_after_a_question_mark(tmp_path):
    write(tmp_path, "11,20,6,4,who runs?,a man,0,DO", "11,20,6,4,who sits,a dog,1,DO")
    assert [s.caption for s in read("nextqa", tmp_path)[0]] == ["who runs? a man", "who sits? a dog"]


def test_answers_that_look_like_nothing_are_texts(tmp_path):
    write(tmp_path, *(f"11,20,6,4,what is it,{word},{n},DO" for n, word in enumerate(("none", "NA", "null", "no"))))
    assert [s.meta["answer"] for s in read("nextqa", tmp_path)[0]] == ["none", "NA", "null", "no"]


def test_hidden_answers(tmp_path):
    write(tmp_path, "11,20,6,4,who runs,,0,DO", name="test.csv")
    write(tmp_path, "11,20,6,4,who runs,,0,DO,a,b,c,d,e", name="MC/test.csv")
    for form in ("oe", "mc"):
        (sample,) = read("nextqa", tmp_path, form=form)[0]
        assert (sample.caption, sample.meta["answer"]) == ("who runs?", None)
    assert (sample.meta["answer_index"], sample.meta["options"]) == (None, ["a", "b", "c", "d", "e"])


def test_second_right_answers_are_those_of_test(demo, tmp_path):
    answers = {s.split: s.meta.get("additional_ref_answer") for s in read("nextqa", demo)[0]}
    assert answers == {"train": None, "val": None, "test": "at home"}
    assert not any("additional_ref_answer" in s.meta for s in read("nextqa", demo, form="mc")[0])


def test_bad_rows_take_no_other_down(tmp_path):
    lines = ["11,20,6,4,who,7,0,DO", "11,1,1", ",20,6,4,who,7,1,DO", "11,20,6,4, ,7,2,DO", "11,x,6,4,who,8,3,DO"]
    samples, left_out = read("nextqa", write(tmp_path, *lines))
    assert [(s.key, s.meta["frame_count"]) for s in samples] == [("oe_11_0", 20), ("oe_11_3", "x")]
    assert list(left_out) == ["row 1 of train.csv", "row 2 of train.csv", "oe_11_2"]
    lines = [f"11,20,6,4,who,{answer},{n},DO,a,b,c,d,e" for n, answer in enumerate(("4", "5", "-1", "b", "1.5"))]
    samples, left_out = read("nextqa", write(tmp_path, *lines, name="mc/train.csv"), form="mc")
    assert [s.caption for s in samples] == ["who? e"]
    assert left_out == {f"mc_11_{n}": "an answer that is none of the five options" for n in (1, 2, 3, 4)}


def test_a_table_as_the_raw_dataset(tmp_path):
    write(tmp_path, "11,20,6,4,who,7,0,DO")
    assert [s.media.path for s in read("nextqa", tmp_path / "train.csv")[0]] == ["v/11.mp4"]


def test_another_tree(tmp_path):
    write(tmp_path, "11,20,6,4,who,7,0,DO")
    Tree(tmp_path).text("val.csv", "video_id,question\n1,who\n")
    assert {s.split for s in read("nextqa", tmp_path)[0]} == {"train"}
    with pytest.raises(InputError, match=r"(?s)columns of form=mc.*expected in.*a0,a1,a2,a3,a4.*found:.*train\.csv"):
        read("nextqa", tmp_path, form="mc")
    with pytest.raises(InputError, match="nothing of that name"):
        read("nextqa", tmp_path / "gone")
