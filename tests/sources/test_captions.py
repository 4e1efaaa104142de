from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedshard.sample import LeftOut, Media, Sample
from embedshard.sources._captions import (
    answered,
    caption_samples,
    choice_fields,
    closed,
    joined,
    turns,
    without_letters,
    without_placeholders,
)

MEDIA = Media("v.1", "v.1.mp4", "video", 1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "full_stop", "question"),
    [
        (" a dog ", "a dog.", "a dog?"),
        ("a dog.", "a dog.", "a dog."),
        ('he said "hi."', 'he said "hi."', 'he said "hi."'),
        ('he said "hi"', 'he said "hi".', 'he said "hi"?'),
        ("一只狗", "一只狗。", "一只狗？"),
        ("which of these:", "which of these:", "which of these:"),
        ("a dog?\n", "a dog?", "a dog?"),
        ("一只狗。", "一只狗。", "一只狗。"),
        ("wait…", "wait…", "wait…"),
        (" ", "", ""),
    ],
)
def test_closed(text, full_stop, question):
    assert (closed(text), closed(text, "?")) == (full_stop, question)


@given(st.text(), st.sampled_from(".?"))
def test_closing_twice_changes_nothing(text, mark):
    assert closed(closed(text, mark), mark) == closed(text, mark)


def test_joined():
    assert joined(["a dog ", "", "runs!", " \n", "它跑。"]) == "a dog. runs! 它跑。"
    assert joined([]) == ""


@pytest.mark.parametrize(
    ("question", "answer", "caption"),
    [
        ("is it red", "no", "is it red? no"),
        ("Is it red?", " no ", "Is it red? no"),
        ("Describe it.", "A dog.", "Describe it. A dog."),
        ("is it red", None, "is it red?"),
        ("is it red", " ", "is it red?"),
        (" ", "no", "no"),
        ("", None, ""),
    ],
)
def test_answered(question, answer, caption):
    assert answered(question, answer) == caption


def test_choice():
    assert choice_fields("which", ("a dog", "a cat"), 1) == {
        "question": "which",
        "options": ["a dog", "a cat"],
        "answer": "a cat",
        "answer_index": 1,
        "answer_letter": "B",
    }


def test_choice_whose_answer_is_hidden():
    fields = choice_fields("which", ["a dog"], None)
    assert (fields["answer"], fields["answer_index"], fields["answer_letter"]) == (None, None, None)


@pytest.mark.parametrize("index", [-1, 2])
def test_choice_of_no_option(index):
    with pytest.raises(IndexError, match=f"no option {index} among 2"):
        choice_fields("which", ["a dog", "a cat"], index)


@pytest.mark.parametrize(
    "options",
    [
        ["A. a dog", "B. E. coli"],
        ["(A) a dog", "(b) E. coli"],
        [" A: a dog", "B)E. coli"],
        ["A、a dog", "( B ) E. coli"],
    ],
)
def test_without_letters(options):
    assert without_letters(options) == ["a dog", "E. coli"]


@pytest.mark.parametrize("options", [["E. coli", "J. K. Rowling"], ["A. one", "two"], ["A dog", "B cat"], ["3. x"], []])
def test_options_without_letters_of_their_own_stay(options):
    assert without_letters(options) == options


@pytest.mark.parametrize(
    "text", ["<image>\nwho runs?", "who runs?\n<video>", "<Video><VideoHere></Video>who runs?", "who <image_1>runs?"]
)
def test_without_placeholders(text):
    assert without_placeholders(text) == "who runs?"


@pytest.mark.parametrize("text", ["a < b > c", "<b>bold</b>", "a video", "two\nlines"])
def test_text_without_placeholders_stays(text):
    assert without_placeholders(text) == text


def samples(captions: list[str], which: str) -> list[Sample | LeftOut]:
    return list(caption_samples("v.1", "val", MEDIA, captions, which, {"x": 1}))


def test_samples_of_captions():
    captions = ["", " a dog ", "it runs!"]
    texts = {which: [(s.key, s.caption) for s in samples(captions, which)] for which in ("first", "each", "join")}
    assert texts["first"] == [("x--v-2e1", "a dog")]
    assert texts["join"] == [("x--v-2e1", "a dog. it runs!")]
    assert texts["each"] == [("x--v-2e1_0", ""), ("x--v-2e1_1", "a dog"), ("x--v-2e1_2", "it runs!")]


@pytest.mark.parametrize("which", ["first", "each", "join"])
def test_every_sample_has_the_media_and_all_captions(which):
    for sample in samples(["a dog ", "it runs"], which):
        assert (sample.split, sample.media) == ("val", MEDIA)
        assert sample.meta == {"x": 1, "captions": ["a dog", "it runs"]}


@pytest.mark.parametrize("which", ["first", "each", "join"])
@pytest.mark.parametrize("captions", [[], [" ", ""]])
def test_media_without_any_caption_are_one_row(which, captions):
    assert samples(captions, which) == [LeftOut("v.1", "no caption")]


def test_captions_that_are_no_texts_cost_nothing_else():
    assert [s.caption for s in caption_samples("v", "val", MEDIA, [None, "a dog", 3], "join", {})] == ["a dog."]  # type: ignore[list-item,union-attr]
    assert [s.caption for s in samples("a dog", "each")] == ["a dog"]  # type: ignore[arg-type,union-attr]


def test_turns():
    human = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "A dog."}]
    user = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?<video>"}]
    assert turns(human) == (["Who?"], ["A dog."])
    assert turns([*user, {"role": "assistant", "content": "A dog."}]) == (["Who?"], ["A dog."])
    for wrong in (None, [1], [{"from": "human"}], [{"from": "cat", "value": "x"}], [{"role": "user", "content": None}]):
        with pytest.raises(ValueError, match="expected turns"):
            turns(wrong)
