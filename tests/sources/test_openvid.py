from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from embedshard.address import AddressOpener
from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read, touch

HEADER = "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds"
RECIPE = Path(__file__).parents[2] / "splits/ratio-80-10-10.yaml"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("openvid")
    get_source("openvid").demo(Tree(path))
    return path


def write(root: Path, *lines: str, name: str = "OpenVid-1M.csv") -> None:
    Tree(root).text(f"data/train/{name}", "\n".join([HEADER, *lines]))


def line(name: str, caption: str = "A cat.", seconds: str = "2.0") -> str:
    return f"{name},{caption},5.6,4.1,0.99,static,20,10.0,{seconds}"


def test_clips_and_their_fields(demo):
    samples, left_out = read("openvid", demo)
    assert [(s.key, s.caption) for s in samples] == [
        ("x---2d-2d-2d_iRTHryQ_13_0to241", 'Two cats, one "black", sleep on a sofa.'),
        ("x---2d-2d-2d_iRTHryQ_2_18to37", "A cat wakes.\nIt looks at the other."),
        ("celebv_-_Bdf9C0SAU_0", "一个人在笑"),
        ("mixkit-waves-1", ""),
    ]
    assert samples[0].media == (("---_iRTHryQ", "video/---_iRTHryQ_13_0to241.mp4", "video", None, None, 2.0))
    assert samples[0].meta == {
        "id": "---_iRTHryQ_13_0to241",
        "video": "---_iRTHryQ_13_0to241.mp4",
        "aesthetic score": 5.6,
        "motion score": 4.1,
        "temporal consistency score": 0.99,
        "camera motion": "pan_left",
        "frame": 20.0,
        "fps": 10.0,
    }
    assert left_out == {"gone_0_0to10": "missing media"}


def test_name_that_ends_in_mp4_gets_no_second_mp4(tmp_path):
    write(tmp_path, line("a.mp4"), line("b.mp4"))
    touch(tmp_path, "video_folder/a.mp4", "video_folder/b.mkv")
    samples, _ = read("openvid", tmp_path)
    assert [s.media.path for s in samples] == ["video_folder/a.mp4", "video_folder/b.mkv"]


def test_capitals_and_folders_in_names_hide_no_clip(tmp_path):
    write(tmp_path, *map(line, ("a.MP4", "sub/d.mp4", "e.mkv", "f", "v1.5_x.mp4")))
    touch(tmp_path, "video/a.mp4", "video/sub/d.MP4", "video/e.mkv", "video/f.mp4", "video/v1.5_x.mp4")
    samples, left_out = read("openvid", tmp_path)
    assert [s.media.id for s in samples] == ["a", "d", "e", "f", "v1.5_x"]
    assert samples[1].meta["video"] == "sub/d.mp4"
    assert not left_out


def test_outer_blanks_are_not_in_captions(tmp_path):
    write(tmp_path, line("a.mp4", '"\n A cat.  "'))
    touch(tmp_path, "a.mp4")
    assert [s.caption for s in read("openvid", tmp_path)[0]] == ["A cat."]


def test_two_versions_of_the_table_are_an_error(tmp_path):
    for folder in ("old", "new"):
        Tree(tmp_path).text(f"{folder}/OpenVid-1M.csv", "\n".join([HEADER, line("a.mp4", folder)]))
    with pytest.raises(InputError, match=r"expected one OpenVid-1M\.csv, found .*new.* and .*old.*"):
        read("openvid", tmp_path)
    Tree(tmp_path).text("OpenVid-1M.csv", "\n".join([HEADER, line("a.mp4", "here")]))
    touch(tmp_path, "a.mp4")
    assert [s.caption for s in read("openvid", tmp_path)[0]] == ["here"]


def test_every_zip_is_read_and_not_the_first_alone(tmp_path):
    write(tmp_path, *(line(f"{number}.mp4") for number in range(3)))
    for number in range(3):
        with zipfile.ZipFile(tmp_path / f"OpenVid_part{number}.zip", "w") as archive:
            archive.writestr(f"folder/{number}.mp4", f"clip {number}")
    samples, left_out = read("openvid", tmp_path)
    with AddressOpener() as opener:
        found = [opener.open(s.media.path, tmp_path) for s in samples]
    assert [file.read() for file in found if not isinstance(file, Path)] == [b"clip 0", b"clip 1", b"clip 2"]
    assert left_out == {}


def test_cut_zip_is_read_where_its_pieces_lie(tmp_path):
    write(tmp_path, line("a.mp4"))
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("a.mp4", b"a clip that lies in two pieces")
    data = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "whole.zip").unlink()
    (tmp_path / "OpenVid_part73_partaa").write_bytes(data[:45])
    (tmp_path / "OpenVid_part73_partab").write_bytes(data[45:])
    (sample,) = read("openvid", tmp_path)[0]
    with AddressOpener() as opener:
        found = opener.open(sample.media.path, tmp_path)
        assert not isinstance(found, Path)
        assert found.read() == b"a clip that lies in two pieces"


def test_damaged_zip_is_named(tmp_path):
    write(tmp_path, line("a.mp4"))
    touch(tmp_path, "a.mp4", "OpenVid_part0.zip")
    samples, left_out = read("openvid", tmp_path)
    assert (len(samples), list(left_out)) == (1, ["OpenVid_part0.zip"])


def test_hd_rows_are_never_read_beside_those_they_repeat(demo):
    assert len(read("openvid", demo)[0]) == 4
    assert [s.media.id for s in read("openvid", demo, hd="true")[0]] == ["---_iRTHryQ"]


def test_only_the_hd_table(tmp_path):
    write(tmp_path, line("a.mp4"), name="OpenVidHD.csv")
    touch(tmp_path, "a.mp4")
    assert [s.key for s in read("openvid", tmp_path)[0]] == ["a"]


def test_clips_of_one_video_are_in_one_split(tmp_path):
    names = [f"{video}_{shot}_0to99" for video in range(20) for shot in range(3)]
    names += [f"celebv_{video}_{shot}" for video in range(20) for shot in range(3)]
    write(tmp_path / "raw", *(line(f"{name}.mp4") for name in names))
    touch(tmp_path / "raw", *(f"{name}.mp4" for name in names))
    prepare(get_source("openvid"), tmp_path / "raw", tmp_path / "m.parquet", PrepareOptions(split=str(RECIPE)), print)
    splits: dict[str, set[str]] = {}
    for sample in open_manifest(tmp_path / "m.parquet").samples():
        splits.setdefault(sample.key.removeprefix("celebv_").partition("_")[0], set()).add(sample.split)
    assert {len(found) for found in splits.values()} == {1}
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_names_that_only_look_like_clips(tmp_path):
    names = ("mixkit-waves_12", "pexels_1to2", "a_b_1to2", "celebv_3", "x_1_2toy")
    write(tmp_path, *(line(f"{name}.mp4") for name in names))
    touch(tmp_path, *(f"{name}.mp4" for name in names))
    assert tuple(s.media.id for s in read("openvid", tmp_path)[0]) == names


def test_one_bad_row_takes_no_other_down(tmp_path):
    write(tmp_path, line("a.mp4", seconds="nan"), "b.mp4,too few", line(""), line("c.mp4", seconds="soon"))
    touch(tmp_path, "a.mp4", "c.mp4")
    samples, left_out = read("openvid", tmp_path)
    assert [(s.key, s.media.duration) for s in samples] == [("a", None), ("c", None)]
    assert left_out == {
        "row 1 of OpenVid-1M.csv": "a row with more or fewer cells than the header",
        "a row without a name": "missing media",
    }


def test_another_tree(tmp_path):
    (tmp_path / "OpenVid_part0.zip").touch()
    with pytest.raises(InputError, match=r"(?s)no OpenVid-1M\.csv or OpenVidHD\.csv.*expected in.*found:.*part0\.zip"):
        read("openvid", tmp_path)
    with pytest.raises(InputError, match=r"found no OpenVidHD\.csv"):
        read("openvid", tmp_path, hd="true")
    (tmp_path / "OpenVid-1M.csv").write_text("path,text\na.mp4,A cat.\n")
    with pytest.raises(InputError, match=r"OpenVid-1M\.csv: expected the columns video,caption,.*found path,text"):
        read("openvid", tmp_path)
