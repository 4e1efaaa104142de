from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

REAL = Path(__file__).parents[2] / "../shared/data/annotations/youcook2"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real heads of YouCook2 are not in ../shared/data")

NAME = "youcook2"
ANNOTATIONS = "youcookii_annotations_trainval.json"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp(NAME)
    get_source(NAME).demo(Tree(path))
    return path


def annotate(root: Path, annotations: object, **fields: object) -> None:
    """Write the annotations of one training video, and make the video."""
    entry = {"duration": 20.5, "subset": "training", "recipe_type": "113", "annotations": annotations, **fields}
    Tree(root).json(ANNOTATIONS, {"database": {"-aB3dE6gHi0": entry}})
    touch(root, "-aB3dE6gHi0.mp4")


@real
def test_real_steps_have_their_windows(tmp_path):
    shutil.copytree(REAL, tmp_path, dirs_exist_ok=True)
    videos = json.loads((REAL / ANNOTATIONS).read_text())["database"]
    touch(tmp_path, *(f"raw_videos/{v['subset']}/{v['recipe_type']}/{name}.mkv" for name, v in videos.items()))
    samples, left_out = read(NAME, tmp_path)
    assert left_out == {}
    found = [(s.media.id, s.split, s.media.start, s.media.end, s.media.duration, s.caption) for s in samples]
    splits = {"training": "train", "validation": "val"}
    assert found == [
        (name, splits[video["subset"]], *step["segment"], video["duration"], step["sentence"])
        for name, video in videos.items()
        for step in video["annotations"]
    ]
    assert (samples[0].key, samples[0].media.path) == ("GLd3aX16zBg_0", "raw_videos/training/113/GLd3aX16zBg.mkv")


@real
def test_real_videos_with_all_their_sentences(tmp_path):
    shutil.copytree(REAL, tmp_path, dirs_exist_ok=True)
    videos = json.loads((REAL / ANNOTATIONS).read_text())["database"]
    touch(tmp_path, *(f"{name}.webm" for name in videos))
    samples, _ = read(NAME, tmp_path, **{"as": "caption"})
    assert [s.key for s in samples] == list(videos)
    for sample in samples:
        steps = videos[sample.key]["annotations"]
        assert sample.caption == " ".join(f"{step['sentence']}." for step in steps)
        assert sample.meta["segments"] == [step["segment"] for step in steps]
        assert (sample.media.start, sample.media.end) == (None, None)


def test_steps_share_the_video_and_have_the_name_of_the_recipe(raw):
    samples, left_out = read(NAME, raw)
    assert [(s.media.id, s.split, s.caption) for s in samples] == [
        ("-aB3dE6gHi0", "train", "toast the bread"),
        ("-aB3dE6gHi0", "train", "cut it in half"),
        ("val_5678901", "val", "chop lettuce"),
        ("val_5678901", "val", "pour the dressing over the salad."),
    ]
    assert samples[0].media.path == samples[1].media.path == "raw_videos/training/113/-aB3dE6gHi0.mkv"
    own = {"id": "-aB3dE6gHi0_1", "segment_index": 1}
    assert samples[1].meta == {"recipe_type": "113", "recipe": "grilled cheese", **own}
    assert left_out == {
        "-aB3dE6gHi0_2": "no caption",
        "goneE6gHi0__0": "missing media",
        "test5678901_0": "no caption",
    }


def test_sentences_of_a_video_are_joined_as_sentences(raw):
    samples, left_out = read(NAME, raw, **{"as": "caption"})
    assert {s.media.id: s.caption for s in samples} == {
        "-aB3dE6gHi0": "toast the bread. cut it in half.",
        "val_5678901": "chop lettuce. pour the dressing over the salad.",
    }
    assert left_out == {"goneE6gHi0_": "missing media", "test5678901": "no caption"}


def test_window_ends_with_the_video(tmp_path):
    steps = [{"segment": [12, 30], "id": 0, "sentence": "stir"}, {"segment": [25, 30], "id": 1, "sentence": "serve"}]
    annotate(tmp_path / "raw", steps)
    report = prepare(get_source(NAME), tmp_path / "raw", tmp_path / "m.parquet", PrepareOptions(), lambda n: None)
    assert [(s.media.start, s.media.end) for s in report.first] == [(12, 20.5)]
    assert sum(report.left_out.values()) == 1


def test_subset_decides_and_not_the_folder(tmp_path):
    annotate(tmp_path, [{"segment": [0, 1], "id": 0, "sentence": "stir"}], subset="validation")
    (tmp_path / "-aB3dE6gHi0.mp4").unlink()
    touch(tmp_path, "raw_videos/training/113/-aB3dE6gHi0.mp4")
    assert [s.split for s in read(NAME, tmp_path)[0]] == ["val"]


def test_videos_in_the_authors_archive(tmp_path):
    annotate(tmp_path, [{"segment": [0, 1], "id": 0, "sentence": "stir"}])
    with tarfile.open(tmp_path / "raw_videos.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "-aB3dE6gHi0.mp4", "raw_videos/training/113/-aB3dE6gHi0.mp4")
    (tmp_path / "-aB3dE6gHi0.mp4").unlink()
    (sample,), _ = read(NAME, tmp_path)
    assert sample.media.path.startswith("raw_videos.tar.gz#")


def test_damaged_archive_is_counted(tmp_path):
    annotate(tmp_path, [{"segment": [0, 1], "id": 0, "sentence": "stir"}])
    (tmp_path / "raw_videos.zip").write_bytes(b"PK cut off")
    samples, left_out = read(NAME, tmp_path)
    assert len(samples) == 1
    assert list(left_out) == ["raw_videos.zip"]


def test_copies_cut_into_steps_are_not_taken_for_whole_videos(tmp_path):
    annotate(tmp_path, [{"segment": [5, 9], "id": 0, "sentence": "stir"}])
    (tmp_path / "-aB3dE6gHi0.mp4").rename(tmp_path / "-aB3dE6gHi0_0.mp4")
    assert read(NAME, tmp_path) == ([], {"-aB3dE6gHi0_0": "missing media"})


def test_one_bad_row_takes_no_other_down(tmp_path):
    windows = [[0, 1], None, [1], "ab", [1, "x"], [1, None], {}]
    steps: list[object] = [{"segment": window, "sentence": "stir"} for window in windows]
    steps += [7, {"segment": [0, 1], "sentence": 5}, {"sentence": "stir"}]
    annotate(tmp_path, steps, duration="unknown", recipe_type=None)
    table = json.loads((tmp_path / ANNOTATIONS).read_text())
    table["database"] |= {"none": None, "text": {"annotations": "stir"}}
    Tree(tmp_path).json(ANNOTATIONS, table)
    samples, left_out = read(NAME, tmp_path)
    assert [s.meta["id"] for s in samples] == ["-aB3dE6gHi0_0"]
    assert samples[0].media.duration is None
    unreadable = "an entry without the fields that it should have"
    assert left_out == {
        **{f"-aB3dE6gHi0_{number}": "a sentence without a start and an end" for number in (1, 2, 3, 4, 5, 6, 9)},
        **{f"-aB3dE6gHi0_{number}": "no caption" for number in (7, 8)},
        **dict.fromkeys(("none", "text"), unreadable),
    }


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no youcookii.*expected in.*raw_videos/training.*found"):
        read(NAME, tmp_path)
    Tree(tmp_path).json(ANNOTATIONS, {"GLd3aX16zBg": {}})
    with pytest.raises(InputError, match="expected the videos under database, found the keys GLd3aX16zBg"):
        read(NAME, tmp_path)
