from __future__ import annotations

import zipfile

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

CLIP = "d250521e-5197-44aa-8baa-2f42b24444d2/split_0.mp4"


def row(video: object = CLIP, question: str = "Where is it?", answer: str = "Here.") -> dict[str, object]:
    return {"video": video, "QA": [{"i": "Answer.", "q": question, "a": answer}]}


def test_question_and_answer(tmp_path):
    Tree(tmp_path).json("video/vqa/ego_qa/train.json", [row(), row(question="Who?")])
    touch(tmp_path, f"split_videos/{CLIP}")
    samples, _ = read("egoqa", tmp_path)
    source = CLIP.partition("/")[0]
    assert [(s.key, s.caption) for s in samples] == [
        (f"{source}_split_0_0", "Where is it? Here."),
        (f"{source}_split_0_1", "Who? Here."),
    ]
    assert samples[0].media == samples[1].media
    assert samples[0].media.path == f"split_videos/{CLIP}"
    assert (samples[0].meta["question"], samples[0].meta["answer"]) == ("Where is it?", "Here.")


def test_clips_of_one_video_never_lie_in_two_splits(tmp_path):
    rows = [row(f"{video}/split_{clip}.mp4") for video in ("a1", "b2", "c3") for clip in range(6)]
    Tree(tmp_path / "raw").json("ego_qa/train.json", rows)
    touch(tmp_path / "raw", *(str(entry["video"]) for entry in rows))
    Tree(tmp_path).text("recipe.yaml", "ratios: {train: 0.4, val: 0.3, test: 0.3}\nseed: 0\n")
    options = PrepareOptions(split=str(tmp_path / "recipe.yaml"))
    report = prepare(get_source("egoqa"), tmp_path / "raw", tmp_path / "m.parquet", options, lambda n: None)
    assert sum(counts.media for counts in report.splits.values()) == 3
    assert all(count % 6 == 0 for count in report.samples.values())


def test_clip_of_another_video_is_not_taken(tmp_path):
    Tree(tmp_path).json("ego_qa/train.json", [row(), row("split_0.mp4")])
    touch(tmp_path, "other/split_0.mp4")
    samples, left_out = read("egoqa", tmp_path)
    assert [s.key for s in samples] == ["split_0_0"]
    assert list(left_out.values()) == ["missing media"]


def test_clips_of_one_video_named_by_two_paths_are_one_media(tmp_path):
    Tree(tmp_path).json("ego_qa/train.json", [row("a5/split_0.mp4"), row("split_videos/a5/split_1.mp4")])
    touch(tmp_path, "split_videos/a5/split_0.mp4", "split_videos/a5/split_1.mp4")
    assert [s.media.id for s in read("egoqa", tmp_path)[0]] == ["a5", "a5"]


def test_several_files_are_told(tmp_path):
    for name in ("a", "b"):
        Tree(tmp_path).json(f"{name}/video/vqa/ego_qa/train.json", [row()])
    with pytest.raises(InputError, match=r"expected one ego_qa/train\.json, found .*a/video.* and .*b/video"):
        read("egoqa", tmp_path)


@pytest.mark.parametrize(
    "place",
    ["VideoChat2-IT/video/vqa/ego_qa/train.json", "video/vqa/ego_qa/train.json", "vqa/ego_qa/train.json", "train.json"],
)
def test_places_of_the_file(tmp_path, place):
    Tree(tmp_path).json(place, [row()])
    Tree(tmp_path).json("video/vqa/tgif_frame_qa/train.json", [row("x.gif")])
    touch(tmp_path, CLIP)
    assert len(read("egoqa", tmp_path)[0]) == 1
    if "/" not in place:
        assert read("egoqa", tmp_path / place) == read("egoqa", tmp_path)


def test_the_zip_as_it_was_downloaded(tmp_path):
    Tree(tmp_path).json("ego_qa/train.json", [row()])
    with zipfile.ZipFile(tmp_path / "egoqa_split_videos.zip", "w") as archive:
        archive.writestr(f"egoqa_split_videos/{CLIP}", b"clip")
    (sample,) = read("egoqa", tmp_path)[0]
    assert sample.media.path.startswith(f"egoqa_split_videos.zip#egoqa_split_videos/{CLIP}:")


def test_one_bad_row_takes_no_other_down(tmp_path):
    Tree(tmp_path).json("ego_qa/train.json", [{}, "text", row(5), {"video": CLIP, "QA": [{"q": "Who?"}]}, row()])
    touch(tmp_path, CLIP)
    samples, left_out = read("egoqa", tmp_path)
    assert len(samples) == 1
    assert len(left_out) == 4


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no ego_qa/train\.json.*expected in.*split_0\.mp4.*found"):
        read("egoqa", tmp_path)
