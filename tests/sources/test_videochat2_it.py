from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

UNSURE = "files of this name, of which none, or more than one, lies in a folder named after the sub-set"
NONE = "an answer that is none of the options"
CHOICE = "Question: What falls?\nOptions:\n(A) a cup\n(B) a plate (B)\n(C) Nothing."


def turn(question: str, answer: object, instruction: str = "") -> dict[str, object]:
    return {"i": instruction, "q": question, "a": answer}


def write(root: Path, path: str, *rows: object) -> Path:
    Tree(root).json(f"{path}.json", list(rows))
    return root


def one(root: Path, folder: str, *turns: object, **fields: object):
    """Give the one sample of a row on `a.mp4` in the sub-set of that folder."""
    touch(root, "media/a.mp4")
    (sample,) = read("videochat2_it", write(root, f"{folder}/train", {"video": "a.mp4", "QA": list(turns), **fields}))[
        0
    ]
    return sample


def test_demo_reads_every_kind(tmp_path):
    source = get_source("videochat2_it")
    source.demo(Tree(tmp_path / "raw"))
    report = prepare(source, tmp_path / "raw", tmp_path / "m.parquet", PrepareOptions(), lambda n: None)
    assert report.samples == {"train": 8, "val": 0, "test": 0}
    samples, left_out = read("videochat2_it", tmp_path / "raw")
    assert {s.media.kind for s in samples} == {"video", "image", "frames"}
    assert left_out == {
        "image_vqa_okvqa_1": "an entry without the fields that it should have",
        "video_caption_webvid_1": "missing media",
        "video_reasoning_next_qa_1": "an answer that is none of the options",
        "video_vqa_ego_qa_1": "missing media",
    }


def test_caption_without_question_is_the_answer_alone(tmp_path):
    sample = one(tmp_path, "video/caption/webvid", turn("", " A boat. ", "Describe the video."))
    assert (sample.key, sample.split, sample.caption) == ("video_caption_webvid_0", "", "A boat.")
    assert sample.meta == {
        "sub_set": "video/caption/webvid/train",
        "captions": ["A boat."],
        "QA": [turn("", " A boat. ", "Describe the video.")],
        "id": "video_caption_webvid_0",
    }


def test_conversation_is_all_answers(tmp_path):
    turns = [turn("<video>\nWho?", "A boy."), {"q": "Where?", "a": "On a hill."}]
    sample = one(tmp_path, "video/conversation/videochat2", *turns)
    assert (sample.caption, sample.meta["conversations"]) == ("A boy. On a hill.", turns)


def test_placeholders_reach_no_caption(tmp_path):
    assert one(tmp_path, "video/vqa/webvid_qa", turn("<image>\nWho?", "a boy")).caption == "Who? a boy"


def test_several_questions_are_all_in_the_caption(tmp_path):
    sample = one(tmp_path, "video/vqa/webvid_qa", turn("Who", "a boy"), turn("Where?", "there"))
    assert (sample.caption, len(sample.meta["QA"])) == ("Who? a boy Where? there", 2)


@pytest.mark.parametrize("answer", ["Answer: (B) a plate (B)", "(B) A plate (B).", "(B)", "a plate (B)"])
def test_options_lose_their_letters(tmp_path, answer):
    sample = one(tmp_path, "video/reasoning/clevrer_mc", turn(CHOICE, answer))
    assert sample.caption == "What falls? a plate (B)"
    assert sample.meta["options"] == ["a cup", "a plate (B)", "Nothing."]
    assert (sample.meta["question"], sample.meta["answer"]) == ("What falls?", "a plate (B)")
    assert (sample.meta["answer_index"], sample.meta["answer_letter"]) == (1, "B")


@pytest.mark.parametrize(
    "question",
    [
        "What falls? Options: (A) cat (B) dog",
        "What falls?\nOptions: (A) cat, (B) dog",
        "What falls? Options: A. cat B. dog",
        "What falls?\nA. cat\nB. dog",
        "What falls?\nA) cat\nB) dog\nAnswer with the letter.",
        "What falls? (a) cat (b) dog",
        "What falls?\nChoices:\n(a) cat\n(b) dog",
        "What falls? choices: a) cat; b) dog",
        "What falls? A. cat B. dog",
    ],
)
@pytest.mark.parametrize("answer", ["B", "(B)", "B.", "b)", "dog", "(B) dog", "B. dog"])
def test_no_option_letter_reaches_the_caption(tmp_path, question, answer):
    sample = one(tmp_path, "video/vqa/set", turn(question, answer))
    assert (sample.caption, sample.meta["options"], sample.meta["answer"]) == (
        "What falls? dog",
        ["cat", "dog"],
        "dog",
    )


def test_letters_of_several_right_options(tmp_path):
    assert one(tmp_path, "video/vqa/set", turn(CHOICE, "A, C")).caption == "What falls? a cup; Nothing."
    assert one(tmp_path, "video/vqa/set", turn(CHOICE, "(A) a cup, (C) Nothing")).caption.endswith("a cup; Nothing.")


def test_options_in_a_talk_lose_their_letters(tmp_path):
    turns = [turn("Who?", "A boy."), turn("Where? Options: (A) here (B) there", "B")]
    assert one(tmp_path, "video/conversation/set", *turns).caption == "A boy. there"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What falls?", "B"),
        ("What falls?", "(b)"),
        ("What falls?", "(B) a dog"),
        ("What falls? Options: cat, dog", "dog"),
        ("What falls?\nOptions:\n(A) cat\n(C) dog", "(C) dog"),
        ("What falls?\nOptions:\n(A) cat", "(A) cat"),
        ("What falls?\n(A) cat\n(B) dog (C) bird", "Q"),
    ],
)
@pytest.mark.parametrize("kind", ["vqa", "conversation"])
def test_options_that_cannot_be_read_are_left_out(tmp_path, kind, question, answer):
    touch(tmp_path, "a.mp4")
    row = {"video": "a.mp4", "QA": [turn(question, answer)]}
    samples, left_out = read("videochat2_it", write(tmp_path, f"video/{kind}/set/train", row))
    assert not samples
    assert set(left_out.values()) <= {"options that cannot be read, or a letter as answer without options", NONE}
    assert len(left_out) == 1


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Which letter is on the sign?", "B"), ("Who?", "I"), ("Who is it?", "A. Lincoln"), ("What?", "vitamin A. Yes.")],
)
def test_letters_that_are_no_options_stay(tmp_path, question, answer):
    assert one(tmp_path, "video/vqa/set", turn(question, answer)).caption == f"{question} {answer}"


def test_letter_that_is_also_the_text_of_another_option(tmp_path):
    touch(tmp_path, "a.mp4")
    row = {"video": "a.mp4", "QA": [turn("Which?\n(A) B\n(B) A", "A")]}
    assert list(read("videochat2_it", write(tmp_path, "video/vqa/set/train", row))[1].values()) == [NONE]


def test_several_right_options(tmp_path):
    sample = one(tmp_path, "video/reasoning/clevrer_mc", turn(CHOICE, "(A) a cup\n(C) Nothing."))
    assert (sample.caption, sample.meta["answers"]) == ("What falls? a cup; Nothing.", ["a cup", "Nothing."])


def test_options_without_a_question_give_a_label(tmp_path):
    sample = one(
        tmp_path, "video/classification/k710", turn("Options:\n(A) eating chips\n(B) yoga", "Answer: (B) yoga")
    )
    assert (sample.caption, sample.meta["label"], sample.meta["options"]) == ("yoga", "yoga", ["eating chips", "yoga"])


def test_answer_that_is_none_of_the_options(tmp_path):
    touch(tmp_path, "a.mp4")
    rows = [{"video": "a.mp4", "QA": [turn(CHOICE, answer)]} for answer in ("(D) a fork", "(A) a plate (B)", "a fork")]
    samples, left_out = read("videochat2_it", write(tmp_path, "video/vqa/set/train", *rows))
    assert not samples
    assert set(left_out.values()) == {"an answer that is none of the options"}


def test_start_and_end_are_the_window(tmp_path):
    sample = one(tmp_path, "video/caption/videochat2", turn("", "A boat."), start="1.5", end=4)
    assert (sample.media.start, sample.media.end) == (1.5, 4.0)
    assert "start" not in sample.meta


def test_one_bad_row_takes_no_other_down(tmp_path):
    touch(tmp_path, "a.mp4")
    good = {"video": "a.mp4", "QA": [turn("Who?", "me")]}
    bad = [{}, 7, {"video": None, "QA": good["QA"]}, {"video": "a.mp4"}, {"video": "a.mp4", "QA": []}]
    bad += [{**good, "QA": "text"}, {**good, "QA": [turn("Who?", None)]}, {**good, "QA": [{"q": 5, "a": "x"}]}]
    bad += [{**good, "video": "/"}, {**good, "start": "soon"}, {**good, "end": [1]}]
    samples, left_out = read("videochat2_it", write(tmp_path, "vqa/set/train", *bad, good))
    assert [s.key for s in samples] == [f"video_vqa_set_{len(bad)}"]
    assert len(left_out) == len(bad)
    assert set(left_out.values()) == {
        "an entry without the fields that it should have",
        "an entry that is no JSON object",
        "start or end is no time",
    }


def test_sub_sets_without_the_video_folder_and_several_lists_of_one(tmp_path):
    touch(tmp_path, "media/v.mp4", "media/p.jpg")
    row = {"video": "v.mp4", "QA": [turn("Who?", "me")]}
    for path in ("video/caption/vidln/oops_train", "vqa/sharegptvideo/train_240k", "vqa/sharegptvideo/train"):
        write(tmp_path, path, row)
    write(tmp_path, "image/caption/llava/train", {"image": "p.jpg", "QA": [turn("", "a tree")]})
    write(tmp_path, "vqa/sharegptvideo/instructions", "Answer.")
    keys = {
        "image_caption_llava_0",
        "video_caption_vidln_oops_0",
        "video_vqa_sharegptvideo_0",
        "video_vqa_sharegptvideo_240k_0",
    }
    assert {s.key for s in read("videochat2_it", tmp_path)[0]} == keys
    chosen = {
        "image": ["image_caption_llava_0"],
        "vqa/sharegptvideo/train.json": ["video_vqa_sharegptvideo_0"],
        "train_240k": ["video_vqa_sharegptvideo_240k_0"],
    }
    for name, expected in chosen.items():
        assert [s.key for s in read("videochat2_it", tmp_path, sub_set=name)[0]] == expected
    with pytest.raises(InputError, match=r"no sub-set 'ego'; expected all, or a part of: image/caption/llava/train, "):
        read("videochat2_it", tmp_path, sub_set="ego")


def test_keys_do_not_change_with_where_raw_begins(tmp_path):
    touch(tmp_path, "video/vqa/ego_qa/d2/split_0.mp4")
    write(tmp_path, "video/vqa/ego_qa/train", {"video": "d2/split_0.mp4", "QA": [turn("Who?", "me")]})
    for below in ("", "video", "video/vqa", "video/vqa/ego_qa"):
        (sample,) = read("videochat2_it", tmp_path / below)[0]
        assert (sample.key, sample.media.id) == ("video_vqa_ego_qa_0", "d2")
        assert (tmp_path / below / sample.media.path).is_file()


def test_captions_of_several_sets_share_the_video(tmp_path):
    touch(tmp_path, "WebVid/000001_000050/7.mp4")
    for folder in ("video/caption/webvid", "video/vqa/webvid_qa"):
        write(tmp_path, f"{folder}/train", {"video": "000001_000050/7.mp4", "QA": [turn("Who?", "me")]})
    samples, _ = read("videochat2_it", tmp_path)
    assert len(samples) == 2
    assert samples[0].media == samples[1].media


def test_cut_clips_of_one_name_are_not_mixed_up(tmp_path):
    rows = [{"video": f"training/113/{name}/split_0.mp4", "QA": [turn("", name)]} for name in ("GLd3", "xyz", "gone")]
    write(tmp_path, "video/caption/youcook2/train", *rows)
    touch(tmp_path, "youcook/training/113/xyz/split_0.mp4", "youcook/training/113/GLd3/split_0.mkv")
    samples, left_out = read("videochat2_it", tmp_path)
    assert {s.caption: s.media.path for s in samples} == {
        "GLd3": "youcook/training/113/GLd3/split_0.mkv",
        "xyz": "youcook/training/113/xyz/split_0.mp4",
    }
    assert left_out == {"video_caption_youcook2_2": "missing media"}


def test_numbered_pictures_are_found_only_where_their_set_is(tmp_path):
    row = {"image": "12.jpg", "QA": [turn("What?", "a tree")]}
    for owner in ("okvqa", "gqa", "minigpt4", "text_vqa", "coco"):
        write(tmp_path, f"image/vqa/{owner}/train", row)
    touch(
        tmp_path, *(f"{folder}/12.jpg" for folder in ("m3it/a-okvqa", "m3it/okvqa/train", "GQA", "cc_sbu_align/image"))
    )
    samples, left_out = read("videochat2_it", tmp_path)
    assert {s.key: s.media.path for s in samples} == {
        "image_vqa_okvqa_0": "m3it/okvqa/train/12.jpg",
        "image_vqa_gqa_0": "GQA/12.jpg",
        "image_vqa_minigpt4_0": "cc_sbu_align/image/12.jpg",
    }
    assert left_out == {"image_vqa_coco_0": UNSURE, "image_vqa_text_vqa_0": UNSURE}


OKVQA = ("image/vqa/okvqa", "image", "12.jpg")
SSV2 = ("video/classification/ssv2", "video", "78687.webm")
SSV2_FOLDER = ("video/classification/ssv2", "video", "ssv2/78687.webm")
WEBVID = ("video/caption/webvid", "video", "000001_000050/78687.mp4")
CLEVRER = ("video/reasoning/clevrer_qa", "video", "video_10001.mp4")


@pytest.mark.parametrize(
    ("named", "files", "taken"),
    [
        (OKVQA, ["m3it/okvqa/train/12.jpg", "m3it/okvqa/test/12.jpg"], 0),
        (OKVQA, ["m3it/okvqa/12.jpg", "okvqa_test/12.jpg", "validation/okvqa/12.jpg"], 0),
        (OKVQA, ["m3it/okvqa/test/12.jpg"], None),
        (OKVQA, ["m3it/okvqa/val2014/12.jpg"], None),
        (OKVQA, ["m3it/okvqa/a/12.jpg", "m3it/okvqa/b/12.jpg"], None),
        (OKVQA, ["okvqa_images/12.jpg", "okvqa_extra/12.jpg"], 0),
        (("image/vqa/okvqa", "image", "val/12.jpg"), ["okvqa/train/12.jpg", "okvqa/val/12.jpg"], 1),
        (("image/vqa/okvqa", "image", "val/12.jpg"), ["okvqa/train/12.jpg"], None),
        (("image/vqa/okvqa", "image", "m3it_okvqa/12.jpg"), ["gqa/12.jpg"], None),
        (("image/reasoning/clevr", "image", "12.jpg"), ["clevrer_frames/12.jpg"], None),
        (
            ("image/caption/llava", "image", "000000033471.jpg"),
            ["coco_caption/000000033471.jpg", "x/000000033471.jpg"],
            0,
        ),
        (SSV2, ["webvid/000001_000050/78687.mp4"], None),
        (SSV2, ["webvid/000001_000050/78687.mp4", "video_pub/ssv2_video/78687.webm"], 1),
        (SSV2, ["20bn-something-something-v2/78687.webm"], 0),
        (SSV2_FOLDER, ["webvid/000001_000050/78687.mp4"], None),
        (SSV2_FOLDER, ["webvid/000001_000050/78687.mp4", "other/ssv2/78687.webm"], 1),
        (SSV2_FOLDER, ["ssv2_test/78687.webm"], None),
        (WEBVID, ["media/000001_000050/78687.mp4"], 0),
        (WEBVID, ["ssv2/78687.webm"], None),
        (WEBVID, ["WebVid10M/000001_000050/78687.mp4", "WebVid2M/000001_000050/78687.mp4"], 1),
        (WEBVID, ["a/000001_000050/78687.mp4", "b/000001_000050/78687.mp4"], None),
        (CLEVRER, ["any/video_10001.mp4"], 0),
        (CLEVRER, ["a/video_10001.mp4", "clevrer/video_train/video_10001.mp4"], 1),
        (CLEVRER, ["a/video_10001.mp4", "b/video_10001.mp4"], None),
    ],
)
def test_no_file_of_another_set_or_split_is_taken(tmp_path, named, files, taken):
    folder, modality, path = named
    write(tmp_path, f"{folder}/train", {modality: path, "QA": [turn("What?", "a tree")]})
    touch(tmp_path, *files)
    samples, left_out = read("videochat2_it", tmp_path)
    assert [s.media.path for s in samples] == ([] if taken is None else [files[taken]])
    assert list(left_out.values()) == ([UNSURE] if taken is None else [])


def test_numbered_pictures_in_an_archive_of_their_set(tmp_path):
    write(tmp_path, "image/vqa/okvqa/train", {"image": "12.jpg", "QA": [turn("What?", "a tree")]})
    for name in ("okvqa.zip", "okvqa_val.zip", "gqa.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("12.jpg", b"picture")
    (sample,) = read("videochat2_it", tmp_path)[0]
    assert sample.media.path.startswith("okvqa.zip#12.jpg:")


def test_one_file_named_by_two_paths_is_one_media(tmp_path):
    touch(tmp_path, "WebVid/000001_000050/7000.mp4", "split_videos/a5/split_0.mp4", "split_videos/a5/split_1.mp4")
    names = ["000001_000050/7000.mp4", "a5/split_0.mp4"], ["webvid/7000.mp4", "split_videos/a5/split_1.mp4"]
    for folder, paths in zip(("video/caption/webvid", "video/vqa/webvid_qa"), names, strict=True):
        write(tmp_path, f"{folder}/train", *({"video": path, "QA": [turn("Who?", "me")]} for path in paths))
    samples, left_out = read("videochat2_it", tmp_path)
    assert [s.media.id for s in samples] == ["7000", "a5", "7000", "a5"]
    assert not left_out


def test_of_two_files_that_of_the_set_or_the_extension_goes_first(tmp_path):
    touch(tmp_path, "a/v78687.mp4", "b/v78687.webm", "tgif/x.gif", "other/x.mp4")
    write(tmp_path, "video/classification/somethingelse/train", {"video": "v78687.webm", "QA": [turn("", "push")]})
    write(tmp_path, "video/vqa/tgif/train", {"video": "x.mp4", "QA": [turn("what?", "a cat")]})
    samples, _ = read("videochat2_it", tmp_path)
    assert [s.media.path for s in samples] == ["b/v78687.webm", "tgif/x.gif"]


def test_frames_and_names_without_extension(tmp_path):
    rows = [{"video": name, "QA": [turn("Who?", "me")]} for name in ("v_a-1.x", "v_b", "v_c")]
    write(tmp_path, "video/vqa/sharegptvideo/train_240k", *rows)
    touch(tmp_path, "train_300k/v_a-1.x/c01_0001.jpeg", "activitynet/v_b.mkv")
    samples, left_out = read("videochat2_it", tmp_path)
    assert [(s.media.path, s.media.kind) for s in samples] == [
        ("train_300k/v_a-1.x", "frames"),
        ("activitynet/v_b.mkv", "video"),
    ]
    assert list(left_out.values()) == ["missing media"]


def test_media_in_archives(tmp_path):
    rows = [
        {"video": path, "QA": [turn("Who?", "me")]} for path in ("d2/split_0.mp4", "p2:s3://k600/yoga/xqn_1_11.mp4")
    ]
    write(tmp_path, "video/vqa/ego_qa/train", *rows)
    with zipfile.ZipFile(tmp_path / "egoqa_split_videos.zip", "w") as archive:
        archive.writestr("split_videos/d2/split_0.mp4", b"clip")
    (tmp_path / "k.mp4").write_bytes(b"clip")
    with tarfile.open(tmp_path / "k600.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "k.mp4", "train/yoga/xqn_1_11.mp4")
    (tmp_path / "cut.zip").write_bytes(b"PK")
    samples, left_out = read("videochat2_it", tmp_path)
    assert [s.media.path.partition(":")[0] for s in samples] == [
        "egoqa_split_videos.zip#split_videos/d2/split_0.mp4",
        "k600.tar.gz#train/yoga/xqn_1_11.mp4",
    ]
    assert set(left_out) == {"cut.zip"}


def test_another_tree(tmp_path):
    touch(tmp_path, "webvid/train.json", "vqa/ego_qa/val.json")
    with pytest.raises(InputError, match=r"(?s)found no train\*.json.*expected in.*video/vqa/ego_qa.*found.*webvid/"):
        read("videochat2_it", tmp_path)
    write(tmp_path, "vqa/ego_qa/train", {}).joinpath("vqa/ego_qa/train.json").write_text("{}")
    with pytest.raises(InputError, match=r"train\.json is not the JSON that was expected: expected \[ \(a list\)"):
        read("videochat2_it", tmp_path)
