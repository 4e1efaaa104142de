from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from embedshard.address import AddressOpener
from embedshard.demo import Tree, image_bytes
from embedshard.errors import InputError
from embedshard.frames import open_reader
from embedshard.sources import get_source
from tests.sources.rows import read, touch

DOG = "v_-a_B3dE6gHi-Scene-001"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("sharegptvideo")
    get_source("sharegptvideo").demo(Tree(path))
    return path


def write(root: Path, *rows: object, name: str = "video_caption_pretrain") -> None:
    (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(video: str, *turns: str) -> dict[str, object]:
    roles = ("human", "gpt") * len(turns)
    talk = [{"from": role, "value": text} for role, text in zip(roles, turns, strict=False)]
    return {"id": video, "video": video, "conversations": talk}


def archive(path: Path, *videos: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for video in videos:
            info = tarfile.TarInfo(f"./{video}/c01_0001.jpeg")
            data = image_bytes(video)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_captions_to_pretrain_with(demo):
    samples, left_out = read("sharegptvideo", demo)
    assert [(s.key, s.caption) for s in samples] == [
        (DOG, "A dog runs."),
        ("v_-a_B3dE6gHi-Scene-002", "It rests."),
        ("1006512345", "Waves."),
        ("x---2dblank_7890", ""),
    ]
    assert samples[0].media == ("v_-a_B3dE6gHi", f"train_300k/{DOG}", "frames", None, None, None)
    assert samples[0].meta["frame_rate"] == 2.0
    assert samples[0].meta["conversations"][0]["value"].startswith("<video>\n")
    assert left_out == {"gone": "missing media"}


def test_frames_in_archives_are_opened_where_they_lie(demo):
    sample = read("sharegptvideo", demo)[0][1]
    with AddressOpener() as opener:
        reader = open_reader(opener.open(sample.media.path, demo), "frames", frame_rate=sample.meta["frame_rate"])
    assert list(reader.timeline.times) == [0.0, 0.5, 1.0]


def test_every_archive_is_read_and_not_the_first_alone(tmp_path):
    archive(tmp_path / "train_300k/chunk_0.tar.gz", "a", "b")
    archive(tmp_path / "train_300k/chunk_1.tar.gz", "c")
    archive(tmp_path / "train_600k/chunk_0.tar.gz", "d")
    write(tmp_path, *(row(video, "<video>\nWhat?", f"It is {video}.") for video in "abcd"))
    samples, left_out = read("sharegptvideo", tmp_path)
    assert [s.media.path.partition(":")[0] for s in samples] == [
        "train_300k/chunk_0.tar.gz#a",
        "train_300k/chunk_0.tar.gz#b",
        "train_300k/chunk_1.tar.gz#c",
        "train_600k/chunk_0.tar.gz#d",
    ]
    assert left_out == {}


def test_archive_beside_the_frames_is_no_video(tmp_path):
    archive(tmp_path / "train_300k/chunk_0.tar.gz", "a")
    write(tmp_path, row("chunk_0.tar.gz", "What?", "An archive."), row("train_300k", "What?", "A folder."))
    assert read("sharegptvideo", tmp_path) == ([], {"chunk_0.tar.gz": "missing media", "train_300k": "missing media"})


def test_damaged_archive_is_named(tmp_path):
    touch(tmp_path, "a/c01_0001.jpeg", "train_300k/chunk_0.tar.gz")
    write(tmp_path, row("a", "What?", "A cat."))
    samples, left_out = read("sharegptvideo", tmp_path)
    assert (len(samples), list(left_out)) == (1, ["train_300k/chunk_0.tar.gz"])


def test_all_turns_are_kept(demo):
    samples, _ = read("sharegptvideo", demo, file="video_240k_caption_15k")
    assert [(s.key, s.caption) for s in samples] == [(DOG, "A dog runs."), (f"{DOG}_1", "A dog. No.")]
    assert len(samples[1].meta["conversations"]) == 4


def test_placeholder_never_reaches_the_caption(tmp_path):
    touch(tmp_path, "a/1.jpeg")
    write(tmp_path, row("a", "<video>\nWhat?", "A cat.\n<video>", "<image>\nAnd?", "<video> A dog."))
    assert read("sharegptvideo", tmp_path)[0][0].caption == "A cat. A dog."


@pytest.mark.parametrize("chosen", ["A brown dog.", {"from": "gpt", "value": "A brown dog."}])
def test_preferred_answer_is_the_caption(tmp_path, chosen):
    touch(tmp_path, "a/1.jpeg")
    judged = {"chosen": chosen, "rejected": "A cat."}
    write(tmp_path, {"id": "a_1", "video": "a", "prompt": "What?", **judged}, name="sft_dpo_17k")
    write(tmp_path, row("a", "<video>\nWhat?") | judged, name="chatgpt_qa_900k")
    for name, key in (("sft_dpo_17k", "a_1"), ("chatgpt_qa_900k", "a")):
        (sample,) = read("sharegptvideo", tmp_path, file=name)[0]
        assert (sample.key, sample.caption, sample.meta["rejected"]) == (key, "A brown dog.", "A cat.")


def test_ids_that_repeat_between_files_get_their_names(demo):
    samples, left_out = read("sharegptvideo", demo, file="all")
    assert [s.key for s in samples if s.media.path.endswith(DOG)] == [
        f"video_caption_pretrain_{DOG}",
        f"video_240k_caption_15k_{DOG}",
        f"video_240k_caption_15k_{DOG}_1",
        f"sft_dpo_17k_{DOG}_1",
    ]
    assert (samples[0].meta["id"], samples[0].meta["raw_id"]) == (samples[0].key, DOG)
    assert len({s.key for s in samples}) == len(samples) == 7
    assert left_out == {"video_caption_pretrain_gone": "missing media"}


def test_one_bad_row_takes_no_other_down(tmp_path):
    touch(tmp_path, "a/1.jpeg")
    bad = [{**row("a", "What?", "A cat."), "id": None}, {"id": "b", "video": "a"}, {**row("a"), "conversations": [5]}]
    write(tmp_path, *bad, [1], {"id": "c", "video": "a", "chosen": 7}, row("a", "What?", "A cat."))
    samples, left_out = read("sharegptvideo", tmp_path)
    assert [s.key for s in samples] == ["a"]
    unreadable = "an entry without the fields that it should have"
    reasons = [unreadable, unreadable, unreadable, "a line that is no JSON object", unreadable]
    assert left_out == {f"row {n} of video_caption_pretrain.jsonl": reason for n, reason in enumerate(reasons)}


def test_another_tree(tmp_path):
    touch(tmp_path, "image_caption_pretrain.jsonl")
    with pytest.raises(InputError, match=r"(?s)no video_caption_pretrain\.jsonl.*expected in.*found:.*image_caption"):
        read("sharegptvideo", tmp_path)
    with pytest.raises(InputError, match=r"no video_caption_pretrain\.jsonl or video_caption_300k\.jsonl or"):
        read("sharegptvideo", tmp_path, file="all")
