from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

SUBSET = "0_30_s_academic_v0_1"
CLIP = "academic_source/Charades/Q04US.mp4"
OPTIONS = "A. Black\nB. Silver\nC. Red"
LETTER = "Please respond with only the letter of the correct answer."
FULL = "Please provide your answer by stating the letter followed by the full option."


def row(*values: str, video: str = CLIP, **fields: object) -> dict[str, Any]:
    conversation = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return {"id": "Q04US", "conversations": conversation, "data_source": SUBSET, "video": video, **fields}


def write(root: Path, mark: str, *rows: object, subset: str = SUBSET) -> Path:
    """Write the file of a part, and the video that its rows are about."""
    Tree(root).json(f"{subset}/{subset[:-5]}_{mark}_v0_1_qa_processed.json", rows)
    touch(root, f"{subset}/{CLIP}")
    return root


def fields(root: Path) -> list[tuple[str, list[str], str]]:
    return [(s.meta["question"], s.meta["options"], s.meta["answer"]) for s in read("llava_video", root)[0]]


def test_each_question_of_a_conversation_is_a_sample(tmp_path):
    write(tmp_path, "oe", row("<image>\nWho sings?", "A man.", "where is he", "At home."), row("Why?", "For fun."))
    samples, left_out = read("llava_video", tmp_path)
    assert {s.key: s.caption for s in samples} == {
        "0_30_s_academic_oe_v0_1_Q04US_0": "Who sings? A man.",
        "0_30_s_academic_oe_v0_1_Q04US_1": "where is he? At home.",
        "0_30_s_academic_oe_v0_1_Q04US_2": "Why? For fun.",
    }
    first, second, alone = samples
    assert first.meta["conversations"] == second.meta["conversations"]
    assert len(first.meta["conversations"]) == 4
    assert "conversations" not in alone.meta
    assert (first.media, first.split, first.meta["row_id"]) == (second.media, "", "Q04US")
    assert not left_out


def test_choice_has_its_options_without_letters_and_instruction(tmp_path):
    write(tmp_path, "mc", row(f"<image>\nWhat colour is it?\n{OPTIONS}\n{FULL}", "B. Silver"))
    (sample,) = read("llava_video", tmp_path)[0]
    assert sample.caption == "What colour is it? Silver"
    names = ("question", "options", "answer", "answer_index", "answer_letter")
    choice = ("What colour is it?", ["Black", "Silver", "Red"], "Silver", 1, "B")
    assert tuple(sample.meta[name] for name in names) == choice


def test_heading_of_the_options_is_no_part_of_the_question(tmp_path):
    write(tmp_path, "mc", row(f"<image>\nwhy did he run\nOptions:\nA. to train.\nB. to hide.\n{FULL}", "A. to train."))
    (sample,) = read("llava_video", tmp_path)[0]
    assert (sample.caption, sample.meta["options"]) == ("why did he run? to train.", ["to train.", "to hide."])


def test_caption_row_is_one_sample_and_keeps_its_instruction(tmp_path):
    write(tmp_path, "cap", row("<image>\nDescribe it.", " A man sings.\nHe stops. ", "Go on.", "He leaves."))
    (sample,) = read("llava_video", tmp_path)[0]
    assert sample.caption == "A man sings.\nHe stops. He leaves."
    assert (sample.meta["captions"], sample.meta["question"]) == ([sample.caption], "Describe it.")


def test_parts(tmp_path):
    write(tmp_path, "cap", row("Describe it.", "A man sings."))
    write(tmp_path, "oe", row("Who?", "A man."))
    write(tmp_path, "mc", row(f"What?\n{OPTIONS}", "A."))
    assert len(read("llava_video", tmp_path)[0]) == 3
    for part, mark in {"caption": "cap", "open_ended": "oe", "multi_choice": "mc"}.items():
        samples, _ = read("llava_video", tmp_path, part=part)
        assert [s.key for s in samples] == [f"0_30_s_academic_{mark}_v0_1_Q04US_0"]


def test_folders_are_read_in_natural_order(tmp_path):
    for subset in ("30_60_s_academic_v0_1", "1_2_m_academic_v0_1", SUBSET):
        write(tmp_path, "oe", row("Who?", "A man."), subset=subset)
    keys = [s.key for s in read("llava_video", tmp_path)[0]]
    assert keys == [f"{name}_academic_oe_v0_1_Q04US_0" for name in ("0_30_s", "1_2_m", "30_60_s")]


def test_clips_of_one_name_in_many_folders_are_many_videos(tmp_path):
    videos = [f"academic_source/youcook2/101/{folder}/split_2.mp4" for folder in ("zukEQgbWdsY", "GLd3aX16zBg")]
    write(tmp_path, "oe", *(row("Who?", "A cook.", video=video, id=video[-20:-4]) for video in videos))
    touch(tmp_path, *(f"{SUBSET}/{video}" for video in videos))
    samples, _ = read("llava_video", tmp_path)
    assert [(s.media.id, s.media.path) for s in samples] == [
        ("zukEQgbWdsY/split_2", f"{SUBSET}/{videos[0]}"),
        ("GLd3aX16zBg/split_2", f"{SUBSET}/{videos[1]}"),
    ]


def test_a_video_of_two_folders_is_one_media_so_that_no_split_has_it_twice(tmp_path):
    copies = ("academic_source/NextQA/1202/3264772244.mp4", "NextQA/NExTVideo/1202/3264772244.mp4")
    for subset, video in zip((SUBSET, "0_30_s_nextqa_v0_1"), copies, strict=True):
        write(tmp_path, "oe", row("Who?", "A man.", video=video), subset=subset)
        touch(tmp_path, f"{subset}/{video}")
    samples, _ = read("llava_video", tmp_path)
    assert [s.media.path for s in samples] == [f"{SUBSET}/{copies[0]}", f"0_30_s_nextqa_v0_1/{copies[1]}"]
    assert {s.media.id for s in samples} == {"3264772244"}


@pytest.mark.parametrize("place", [f"{SUBSET}/data/{CLIP}", CLIP, "all/Q04US.mkv", "Q04US.MP4"])
def test_video_in_any_folder(tmp_path, place):
    Tree(tmp_path).json(f"{SUBSET}/a_oe_processed.json", [row("Who?", "A man.")])
    touch(tmp_path, place)
    assert [s.media.path for s in read("llava_video", tmp_path)[0]] == [place]


def test_videos_are_read_where_they_lie_in_the_published_archives(tmp_path):
    Tree(tmp_path).json(f"{SUBSET}/a_oe_processed.json", [row("Who?", "A man.")])
    archive = tmp_path / SUBSET / f"{SUBSET}_videos_1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo(CLIP)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"clip"))
    (archive.parent / f"{SUBSET}_videos_2.tar.gz").write_bytes(b"cut off")
    samples, left_out = read("llava_video", tmp_path)
    assert [s.media.path for s in samples] == [f"{SUBSET}/{archive.name}#{CLIP}:512+4~gzip"]
    assert list(left_out) == [f"{SUBSET}/{SUBSET}_videos_2.tar.gz"]


def test_caption_goes_to_the_video_of_its_own_folder_where_two_share_a_name(tmp_path):
    videos = {SUBSET: "academic_source/X/video_7.mp4", "0_30_s_perceptiontest": "perception_test/video_7.mp4"}
    for subset, video in videos.items():
        entry = row("Describe it.", f"It is {video}.", video=video, data_source=subset)
        Tree(tmp_path).json(f"{subset}/{subset}_cap_processed.json", [entry])
        touch(tmp_path, f"{subset}/{video}")
    expected = {f"It is {video}.": f"{subset}/{video}" for subset, video in videos.items()}
    samples, _ = read("llava_video", tmp_path)
    assert {s.caption: s.media.path for s in samples} == expected
    assert {s.media.id for s in samples} == {"X/video_7", "perception_test/video_7"}
    (tmp_path / SUBSET / videos[SUBSET]).unlink()
    samples, left_out = read("llava_video", tmp_path)
    assert [s.media.id for s in samples] == ["perception_test/video_7"]
    assert list(left_out.values()) == ["missing media"]


def test_of_two_videos_of_one_name_the_one_whose_path_is_most_alike(tmp_path):
    Tree(tmp_path).json("a_oe_processed.json", [row("Who?", "A man.")])
    touch(tmp_path, "other/Charades/Q04US.mp4", f"videos/{CLIP}")
    assert [s.media.path for s in read("llava_video", tmp_path)[0]] == [f"videos/{CLIP}"]
    touch(tmp_path, f"copy/{SUBSET}/{CLIP}", f"{SUBSET}/{CLIP}", f"{SUBSET}/{CLIP[:-4]}.avi")
    assert [s.media.path for s in read("llava_video", tmp_path)[0]] == [f"{SUBSET}/{CLIP}"]


def test_two_videos_that_are_equally_like_the_row_are_left_out(tmp_path):
    Tree(tmp_path).json("a_oe_processed.json", [row("Who?", "A man.")])
    touch(tmp_path, "one/Q04US.mp4", "two/Q04US.mp4")
    samples, left_out = read("llava_video", tmp_path)
    reason = "several videos of that name, none of which lies more like the row says than another"
    assert (samples, left_out) == ([], {"a_oe_Q04US_0": reason})


def test_a_video_that_is_unpacked_beside_its_archive_is_one(tmp_path):
    write(tmp_path, "oe", row("Who?", "A man."))
    Tree(tmp_path).tar(f"{SUBSET}/{SUBSET}_videos_1.tar", {CLIP: b"clip"})
    assert [s.media.path for s in read("llava_video", tmp_path)[0]] == [f"{SUBSET}/{CLIP}"]


@pytest.mark.parametrize(
    "asked",
    [
        "<image>\nWho sings?\nAnswer the question using a single word or phrase.",
        "<image>\nPlease respond with only the letter of the correct answer.\nWho sings?",
        "Please provide your answer by stating the letter.\nWho sings?\nplease answer briefly\n<image>",
    ],
)
def test_instruction_lines_do_not_reach_the_caption_and_stay_in_the_metadata(tmp_path, asked):
    write(tmp_path, "oe", row(asked, "A man."))
    (sample,) = read("llava_video", tmp_path)[0]
    assert (sample.caption, sample.meta["question"]) == ("Who sings? A man.", "Who sings?")
    assert sample.meta["conversations"][0]["value"] == asked


def test_instruction_before_a_choice_is_no_part_of_the_question(tmp_path):
    write(tmp_path, "mc", row(f"<image>\n{LETTER}\nWhat?\n{OPTIONS}", "B."))
    assert [s.caption for s in read("llava_video", tmp_path)[0]] == ["What? Silver"]


def test_question_that_is_an_instruction_alone_stays(tmp_path):
    write(tmp_path, "oe", row("Please state the colour of the hat.", "Red."), row("Who pleases?\nAnswers?", "A man."))
    captions = ["Please state the colour of the hat. Red.", "Who pleases?\nAnswers? A man."]
    assert [s.caption for s in read("llava_video", tmp_path)[0]] == captions


def test_letter_of_another_option_than_its_text_and_blank_options_are_left_out(tmp_path):
    odd = [
        row(f"What?\n{OPTIONS}", "B. red"),
        row("What?\nA.\nB. Silver", "A"),
        row(f"What?\n{OPTIONS}", "B.  Silver ."),
    ]
    write(tmp_path, "mc", *odd)
    samples, left_out = read("llava_video", tmp_path)
    assert [s.meta["answer"] for s in samples] == ["Silver"]
    reason = "options that are blank or not lettered A, B, C, ..., or an answer that is none of them"
    assert left_out == {f"0_30_s_academic_mc_v0_1_Q04US_{number}": reason for number in (0, 1)}


# Bugs of published scripts


def test_files_of_another_part_do_not_repeat_the_rows_of_the_last(tmp_path):
    write(tmp_path, "cap", row("Describe it.", "A man sings."))
    write(tmp_path, "mc", row(f"What?\n{OPTIONS}\n{LETTER}", "A."))
    write(tmp_path, "oe", row("Who?", "A man."))
    assert sorted(s.caption for s in read("llava_video", tmp_path)[0]) == ["A man sings.", "What? Black", "Who? A man."]


def test_last_line_is_not_dropped_where_it_is_an_option(tmp_path):
    write(tmp_path, "mc", row(f"<image>\nWhat?\n{OPTIONS}", "C. Red"))
    assert fields(tmp_path) == [("What?", ["Black", "Silver", "Red"], "Red")]


def test_lines_of_a_long_question_are_no_options(tmp_path):
    write(tmp_path, "mc", row(f"A man sings.\nWhat colour is his hat?\n{OPTIONS}\n\n{LETTER}\n", "B"))
    assert fields(tmp_path) == [("A man sings.\nWhat colour is his hat?", ["Black", "Silver", "Red"], "Silver")]


@pytest.mark.parametrize("answer", ["B.", "B", "(B)", "B) Silver", "B. Silver.", "Silver", "silver."])
def test_answer_that_is_a_letter_becomes_the_option(tmp_path, answer):
    write(tmp_path, "mc", row(f"What?\n{OPTIONS}\n{LETTER}", answer))
    assert fields(tmp_path) == [("What?", ["Black", "Silver", "Red"], "Silver")]


@pytest.mark.parametrize("asked", ["<image>\nWho?", "Who?\n<image>", "<image>Who?", "<video>\nWho?"])
def test_placeholder_before_or_after_the_question_does_not_reach_the_caption(tmp_path, asked):
    write(tmp_path, "oe", row(asked, "A man."))
    assert [s.caption for s in read("llava_video", tmp_path)[0]] == ["Who? A man."]


def test_row_without_an_id_is_not_skipped(tmp_path):
    entry = row("Who?", "A man.")
    del entry["id"]
    write(tmp_path, "oe", entry, {**entry, "id": None})
    assert [s.meta["row_id"] for s in read("llava_video", tmp_path)[0]] == ["Q04US", "Q04US"]


def test_marks_are_not_doubled(tmp_path):
    write(tmp_path, "oe", row("Who?", "A man."), row("what", "It."))
    assert [s.caption for s in read("llava_video", tmp_path)[0]] == ["Who? A man.", "what? It."]


def test_every_row_that_cannot_be_used_has_a_reason(tmp_path):
    turn = {"from": "human", "value": "Who?"}
    odd = [row("Who?"), row(), row("Who?", "A man.", conversations=[turn, turn]), row("Who?", "x", video=7), 7]
    write(
        tmp_path, "oe", *odd, row("Who?", " "), row("Who?", "x", video="v/gone.mp4", id="gone"), row("Who?", "A man.")
    )
    bad = [row("No options?", "A."), row(f"What?\n{OPTIONS}", "D."), row(f"What?\n{OPTIONS}", "Blue", "Who?", "A.")]
    write(tmp_path, "mc", *bad, row("What?\nB. x\nA. y", "A."), row(f"What?\n{OPTIONS}", "A."))
    samples, left_out = read("llava_video", tmp_path)
    assert [s.key for s in samples] == ["0_30_s_academic_mc_v0_1_Q04US_5", "0_30_s_academic_oe_v0_1_Q04US_1"]
    no_turns = "an entry that is no video and conversation of questions and answers in turn"
    no_option = "options that are blank or not lettered A, B, C, ..., or an answer that is none of them"
    file = "0_30_s_academic_oe_v0_1"
    assert left_out == {
        **{f"entry {number} of {file}_qa_processed.json": no_turns for number in range(4)},
        f"entry 4 of {file}_qa_processed.json": "an entry that is no JSON object",
        f"{file}_Q04US_0": "no answer",
        f"{file}_gone_0": "missing media",
        **{f"0_30_s_academic_mc_v0_1_Q04US_{number}": no_option for number in range(5)},
    }


def test_another_tree(tmp_path):
    with pytest.raises(
        InputError, match=r"(?s)no \*_cap_\*.json, no \*_oe_\*.json.*expected in.*_cap_processed.*found"
    ):
        read("llava_video", tmp_path)
    write(tmp_path, "oe", row("Who?", "A man."))
    with pytest.raises(InputError, match=r"found no \*_cap_\*.json\n"):
        read("llava_video", tmp_path, part="caption")
    Tree(tmp_path).text("x_oe_processed.json", '{"id": "Q04US"}')
    with pytest.raises(InputError, match="is not the JSON that was expected"):
        read("llava_video", tmp_path)


def test_a_second_copy_of_a_file_is_an_error(tmp_path):
    write(tmp_path, "oe", row("Who?", "A man."))
    write(tmp_path / "copy", "oe", row("Who?", "A man."))
    with pytest.raises(InputError, match="expected a key of its own"):
        prepare(get_source("llava_video"), tmp_path, None, PrepareOptions(), lambda n: None)
