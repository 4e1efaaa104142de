from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sources import get_source
from tests.sources.rows import read, touch

CLIP = "Z4DDrBjEBHE"
TRAIN = "v2/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("cinepile")
    get_source("cinepile").demo(Tree(path))
    return path


def row(**fields: Any) -> dict[str, Any]:
    choices = ["The hall", "A lamp", "A letter", "Nothing", "The maid"]
    return {"question": "What?", "choices": choices, "answer_key_position": 2, "videoID": CLIP, **fields}


def write(root: Path, *rows: dict[str, Any], name: str = TRAIN) -> Path:
    Tree(root).parquet(name, rows)
    touch(root, f"videos/{CLIP}.mp4")
    return root


def test_the_whole_clip_and_its_subtitles(demo):
    sample = read("cinepile", demo)[0][0]
    assert (sample.key, sample.split, sample.caption) == (f"{CLIP}_269ef00e", "train", "What does he hold? A lamp")
    assert (sample.media.path, sample.media.start, sample.media.end) == (f"videos/{CLIP}.mp4", None, None)
    assert (sample.meta["subtitles"], sample.meta["genre"]) == ("\n<subtitle> Good evening!", ["Drama"])
    assert sample.meta["options"] == ["The hall", "A lamp", "A letter", "Nothing", "The maid"]
    assert [sample.meta[f"answer{name}"] for name in ("", "_index", "_letter")] == ["A lamp", 1, "B"]
    assert not {"choices", "answer_key_position"} & set(sample.meta)


def test_both_versions_read_alike(demo):
    new, left_out = read("cinepile", demo)
    old, left_out_of_old = read("cinepile", demo, version="v1")
    assert [s[:4] for s in old] == [s[:4] for s in new]
    assert "videoID" not in old[0].meta
    assert left_out == left_out_of_old
    reasons = {raw_id.rpartition("_")[0]: reason for raw_id, reason in left_out.items()}
    assert reasons == {"gone_-12345": "missing media", "-a1_b2C3d4E": "an answer that is none of the choices"}


def test_questions_on_a_clip_share_it_over_all_tables(demo):
    samples = [s for s in read("cinepile", demo)[0] if s.media.id == CLIP]
    assert [s.caption for s in samples] == ["What does he hold? A lamp", "Where is he? The hall"]
    assert samples[0].media == samples[1].media


def test_keys_do_not_depend_on_which_tables_are_there(tmp_path):
    for number in (0, 1):
        write(tmp_path, row(question=f"What {number}"), name=f"v2/train-0000{number}-of-00002.parquet")
    both = {s.key: s.caption for s in read("cinepile", tmp_path)[0]}
    (tmp_path / "v2/train-00000-of-00002.parquet").unlink()
    samples, left_out = read("cinepile", tmp_path)
    assert [(s.key, both[s.key]) for s in samples] == [(samples[0].key, "What 1? A letter")]
    assert left_out == {"train-00000-of-00002.parquet": "a table that is not there"}


def test_only_exact_repeats_count(tmp_path):
    other = row(choices=["A", "B", "C"])
    first, second, third = (s.key for s in read("cinepile", write(tmp_path, row(), other, row()))[0])
    assert (third, second.startswith(first)) == (f"{first}_1", False)


def test_only_the_folder_of_the_version_is_read_where_there_are_several(tmp_path):
    for folder in ("data", "v2", "v3"):
        write(tmp_path, row(question=folder), name=f"{folder}/train-00000-of-00001.parquet")
    assert [s.meta["question"] for s in read("cinepile", tmp_path)[0]] == ["v2"]
    with pytest.raises(InputError, match=r"tables of version=v1 in one folder, found .*/data and .*/v3"):
        read("cinepile", tmp_path, version="v1")


def test_tables_in_a_folder_for_each_split(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, row(), name=f"data/{split}/{split}-00000-of-00001.parquet")
    assert [s.split for s in read("cinepile", tmp_path)[0]] == ["train", "test"]


def test_the_answer_is_taken_by_its_position_and_not_by_its_text(tmp_path):
    same = row(choices=["Red", "Blue", "Red.", "Red", "Grey"], answer_key="Red", answer_key_position=3)
    other = row(answer_key="a lamp, of course", answer_key_position=1)
    samples, left_out = read("cinepile", write(tmp_path, same, other))
    assert [(s.meta["answer_index"], s.meta["answer"]) for s in samples] == [(3, "Red"), (1, "A lamp")]
    assert samples[1].meta["answer_key"] == "a lamp, of course"
    assert not left_out


def test_letters_and_instructions_do_not_reach_the_caption(tmp_path):
    choices = [f"{letter}) choice {n}" for n, letter in enumerate("ABCDE")]
    (sample,) = read("cinepile", write(tmp_path, row(question=" What is it ", choices=choices)))[0]
    assert (sample.caption, sample.meta["options"][4]) == ("What is it? choice 2", "choice 4")


@pytest.mark.parametrize(
    ("link", "video"),
    [
        ("https://www.youtube.com/watch?v=-a1_b2C3d4E", "-a1_b2C3d4E"),
        ("https://www.youtube.com/watch?pv=1&v=-a1_b2C3d4E&t=3", "-a1_b2C3d4E"),
        ("https://youtu.be/-a1_b2C3d4E?si=x", "-a1_b2C3d4E"),
        ("https://www.youtube.com/watch?v=short", ""),
        (None, ""),
    ],
)
def test_youtube_id_of_the_first_version(tmp_path, link, video):
    rows = [row(videoID=None, yt_clip_link=link), row(yt_clip_link="")]
    touch(write(tmp_path, *rows), "-a1_b2C3d4E.mkv")
    samples, left_out = read("cinepile", tmp_path)
    assert [s.media.id for s in samples] == [video, CLIP][not video :]
    assert left_out == ({} if video else {"row 0 of train-00000-of-00001.parquet": "no YouTube id"})


def test_all_tables_of_both_splits_are_read_train_first(tmp_path):
    for name in ("test-00000-of-00001", *(f"train-0000{n}-of-00003" for n in (2, 0, 1))):
        write(tmp_path, row(question=name[:11]), name=f"v2/{name}.parquet")
    samples, _ = read("cinepile", tmp_path)
    assert [s.meta["question"] for s in samples] == ["train-00000", "train-00001", "train-00002", "test-00000-"]
    assert [s.split for s in samples] == ["train", "train", "train", "test"]


def test_clips_in_a_zip(tmp_path):
    Tree(tmp_path).parquet(TRAIN, [row()])
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.writestr(f"videos/{CLIP}.mp4", "a video")
    (sample,) = read("cinepile", tmp_path)[0]
    assert sample.media.path.startswith(f"videos.zip#videos/{CLIP}.mp4:")


def test_bad_rows_take_no_other_down(tmp_path):
    wrong = [row(question=None), row(choices=None), row(choices=["a", None]), row(answer_key_position=None)]
    positions = [row(answer_key_position=position) for position in (-1, 5)]
    samples, left_out = read("cinepile", write(tmp_path, *wrong, *positions, row(question="Who?")))
    assert [s.caption for s in samples] == ["Who? A letter"]
    unreadable, none = "an entry without the fields that it should have", "an answer that is none of the choices"
    assert list(left_out.values()) == [unreadable] * 4 + [none] * 2


@pytest.mark.parametrize("position", [1.7, True])
def test_position_is_a_whole_number(tmp_path, position):
    samples, left_out = read("cinepile", write(tmp_path, row(answer_key_position=position)))
    assert (samples, list(left_out.values())) == ([], ["an entry without the fields that it should have"])


def test_a_folder_or_a_table_as_the_raw_dataset(tmp_path):
    write(tmp_path, row(), name="v1/train-00000-of-00001.parquet")
    touch(tmp_path, f"v1/{CLIP}.mp4")
    assert len(read("cinepile", tmp_path / "v1")[0]) == 1
    assert len(read("cinepile", tmp_path / "v1/train-00000-of-00001.parquet")[0]) == 1


def test_another_tree(tmp_path):
    write(tmp_path, row(), name="v1/train-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"(?s)parquet of version=v2.*--option version=v1.*found:.*v1/"):
        read("cinepile", tmp_path)
    Tree(tmp_path).parquet(TRAIN, [{"video": 1, "question": "who"}])
    with pytest.raises(InputError, match=r"columns question, choices, answer_key_position, found video, question"):
        read("cinepile", tmp_path)
