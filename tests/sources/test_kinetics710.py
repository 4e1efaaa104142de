from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

NAME = "kinetics710"
REAL = Path(__file__).parents[2] / "../shared/data/annotations/kinetics710"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real labels of Kinetics-710 are not in ../shared/data")


def lay_out(root: Path, **lists: list[str]) -> None:
    """Write labels a to e, the lists given as k400_train=[lines], and make no clip."""
    Tree(root).text("lists/label_map_k710.txt", "a\nb\nc\nd\ne\n")
    for name, lines in lists.items():
        Tree(root).text(f"lists/{name}_list_videos.txt", "".join(f"{line}\n" for line in lines))


@real
def test_real_labels(tmp_path):
    shutil.copytree(REAL, tmp_path, dirs_exist_ok=True)
    labels = (REAL / "label_map_k710.txt").read_text().splitlines()
    clips = [f"_-3456789{number:02d}_000001_000011.mp4" for number in range(len(labels))]
    Tree(tmp_path).text("k700_val_list_videos.txt", "".join(f"{clip} {n}\n" for n, clip in enumerate(clips)))
    touch(tmp_path, *(f"k700/{clip}" for clip in clips))
    samples, left_out = read(NAME, tmp_path)
    assert left_out == {}
    assert [(s.split, s.caption, s.meta["label_id"]) for s in samples] == [("val", t, n) for n, t in enumerate(labels)]


def test_a_video_of_several_editions_is_one_sample(tmp_path):
    lay_out(
        tmp_path,
        k400_train=["aaaaaaaaaaa.mp4 0", "bbbbbbbbbbb.mp4 1"],
        k600_train=["vol_00/aaaaaaaaaaa_000001_000011.mp4 0", "vol_00/bbbbbbbbbbb_000002_000012.mp4 1"],
        k700_train=["vol_00/aaaaaaaaaaa_000005_000015.mp4 2"],
    )
    touch(tmp_path, "k400/aaaaaaaaaaa.mp4", "k600/aaaaaaaaaaa_000001_000011.mp4", "k600/bbbbbbbbbbb_000002_000012.mkv")
    samples, left_out = read(NAME, tmp_path)
    assert [(s.key, s.media.id, s.media.path, s.meta["edition"]) for s in samples] == [
        ("aaaaaaaaaaa", "aaaaaaaaaaa", "k400/aaaaaaaaaaa.mp4", "k400"),
        ("bbbbbbbbbbb", "bbbbbbbbbbb", "k600/bbbbbbbbbbb_000002_000012.mkv", "k600"),
    ]
    assert left_out == {
        "bbbbbbbbbbb": "missing media",
        "aaaaaaaaaaa_000001_000011": "another clip of the video is used",
        "aaaaaaaaaaa_000005_000015": "another clip of the video is used",
    }


def test_a_video_in_val_of_any_edition_is_not_in_train(tmp_path):
    lay_out(
        tmp_path,
        k400_val=["aaaaaaaaaaa.mp4 0", "ccccccccccc.mp4 2"],
        k700_train=[
            "aaaaaaaaaaa_000001_000011.mp4 0",
            "bbbbbbbbbbb_000001_000011.mp4 1",
            "ccccccccccc_000003_000013.mp4 2",
        ],
        k600_val=["aaaaaaaaaaa_000009_000019.mp4 0"],
    )
    clips = ("aaaaaaaaaaa_000001_000011", "bbbbbbbbbbb_000001_000011", "ccccccccccc_000003_000013", "aaaaaaaaaaa")
    touch(tmp_path, *(f"clips/{clip}.mp4" for clip in clips))
    report = prepare(get_source(NAME), tmp_path, None, PrepareOptions(), lambda n: None)
    assert report.samples == {"train": 1, "val": 1, "test": 0}
    assert report.left_out == {
        "a video of train that some edition has in val": 2,
        "missing media": 1,
        "another clip of the video is used": 1,
    }


def test_paths_with_blanks_and_ids_with_underscores(tmp_path):
    lines = ["air drumming/_A5JFdMXB__000018_000028.mp4 1", "/data/my clips/000001_0000.mp4 2", "-00000_1111 4"]
    lay_out(tmp_path, k600_train=lines)
    touch(tmp_path, "air drumming/_A5JFdMXB__000018_000028.mp4", "000001_0000.webm", "x/-00000_1111.mp4")
    samples, _ = read(NAME, tmp_path)
    assert [(s.media.id, s.caption) for s in samples] == [
        ("_A5JFdMXB_", "b"),
        ("000001_0000", "c"),
        ("-00000_1111", "e"),
    ]


def test_clips_named_by_the_id_alone(tmp_path):
    lay_out(tmp_path, k600_train=["vol_00/aaaaaaaaaaa_000001_000011.mp4 3"])
    touch(tmp_path, "clips/aaaaaaaaaaa.mp4")
    (sample,), _ = read(NAME, tmp_path)
    assert (sample.media.path, sample.meta["clip"]) == ("clips/aaaaaaaaaaa.mp4", "aaaaaaaaaaa_000001_000011")


def test_clips_in_a_zip_and_a_damaged_one(tmp_path):
    lay_out(tmp_path, k400_train=["aaaaaaaaaaa.mp4 0"])
    with zipfile.ZipFile(tmp_path / "videos_train.zip", "w") as archive:
        archive.writestr("videos_train/aaaaaaaaaaa.mp4", b"video")
    (tmp_path / "videos_val.zip").write_bytes(b"PK cut off")
    (sample,), left_out = read(NAME, tmp_path)
    assert sample.media.path.startswith("videos_train.zip#")
    assert set(left_out) == {"videos_val.zip"}


def test_one_bad_line_takes_no_other_down(tmp_path):
    lay_out(
        tmp_path, k400_train=["", "aaaaaaaaaaa.mp4", "b.mp4 x", "c.mp4 5", "d.mp4 -1", "dir/ 1", "eeeeeeeeeee.mp4 4  "]
    )
    touch(tmp_path, *(f"{name}.mp4" for name in ("aaaaaaaaaaa", "b", "c", "d", "eeeeeeeeeee")))
    (sample,), left_out = read(NAME, tmp_path)
    assert (sample.media.id, sample.caption) == ("eeeeeeeeeee", "e")
    unreadable, unknown = "a line that is not PATH LABEL", "a label number that label_map_k710.txt does not have"
    assert left_out == {
        "line 2 of k400_train_list_videos.txt": unreadable,
        "line 6 of k400_train_list_videos.txt": unreadable,
        **dict.fromkeys("bcd", unknown),
    }


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no list as k400_train_list_videos\.txt.*expected in.*found"):
        read(NAME, tmp_path)
    Tree(tmp_path).text("k600_val_list_videos.txt", "a.mp4 0\n")
    with pytest.raises(InputError, match=r"(?s)found no label_map_k710\.txt.*expected in.*found:.*k600_val"):
        read(NAME, tmp_path)
