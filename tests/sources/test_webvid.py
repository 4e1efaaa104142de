from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from embedshard.address import AddressOpener
from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import Sample
from tests.sources.rows import read, touch

SHARED = Path(__file__).parents[2] / "../shared/data/annotations/webvid"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real heads of WebVid are not in ../shared/data")
LONG = "videoid,name,page_idx,page_dir,duration,contentUrl\n"
SHORT = "videoid,contentUrl,duration,page_dir,name\n"


def pair(video: str, text: str = "a dog", stem: str = "", **fields: object) -> dict[str, bytes]:
    meta = {"<ID>": video, "<SCENECUT_SECS>": [[0.0, 26.96]], "text": text, **fields}
    return {f"{stem or video}.mp4": f"of {video}".encode(), f"{stem or video}.json": json.dumps(meta).encode()}


def content(sample: Sample, root: Path) -> bytes:
    with AddressOpener() as opener:
        opened = opener.open(sample.media.path, root)
        return opened.read_bytes() if isinstance(opened, Path) else opened.read()


@real
def test_real_csv(tmp_path):
    shutil.copy(SHARED / "results_2M_val.csv", tmp_path)
    touch(tmp_path, "videos/027701_027750/1053841541.mp4", "5641526.mkv")
    samples, left_out = read("webvid", tmp_path)
    assert [(s.key, s.split, s.media.duration, s.media.path) for s in samples] == [
        ("1053841541", "val", 17.0, "videos/027701_027750/1053841541.mp4"),
        ("5641526", "val", 24.0, "5641526.mkv"),
    ]
    assert samples[1].caption == "Horse grazing - seperated on green screen"
    assert samples[1].meta["page_dir"] == "054101_054150"
    assert samples[1].meta["contentUrl"].startswith("https://")
    assert set(left_out.values()) == {"missing media"}


def test_columns_in_either_order_give_the_same(tmp_path):
    Tree(tmp_path).text("a/results_2M_train.csv", f'{SHORT}7,u,PT01H00M01S,p,"a dog, a cat"\n')
    Tree(tmp_path).text("b/results_2M_train.csv", f'{LONG}7,"a dog, a cat",3,p,PT01H00M01S,u\n')
    touch(tmp_path, "a/p/7.mp4", "b/p/7.mp4")
    (first,), (second,) = (read("webvid", tmp_path / name)[0] for name in "ab")
    assert first.meta == {"contentUrl": "u", "page_dir": "p", "id": "7"}
    assert first == second._replace(meta={name: second.meta[name] for name in first.meta})
    assert (first.caption, first.media.duration) == ("a dog, a cat", 3601.0)


@pytest.mark.parametrize(("text", "seconds"), [("PT17S", 17), ("PT00H02M", 120), ("PT", None), ("", None), ("x", None)])
def test_durations(tmp_path, text, seconds):
    Tree(tmp_path).text("results_2M_val.csv", f"{SHORT}7,u,{text},p,a dog\n")
    touch(tmp_path, "7.mp4")
    assert read("webvid", tmp_path)[0][0].media.duration == seconds


def test_2m_and_10m_are_never_both_read(tmp_path):
    for name in ("2M_train", "2M_val", "10M_train", "10M_val"):
        Tree(tmp_path).text(f"results_{name}.csv", f"{SHORT}{len(name)},u,PT00H00M02S,p,of {name}\n")
    touch(tmp_path, "6.mp4", "7.mp4", "8.mp4", "9.mp4")
    assert [s.caption for s in read("webvid", tmp_path)[0]] == ["of 10M_train", "of 10M_val"]
    assert [s.caption for s in read("webvid", tmp_path, size="2M")[0]] == ["of 2M_train", "of 2M_val"]
    (tmp_path / "results_10M_train.csv").unlink()
    (tmp_path / "results_10M_val.csv").unlink()
    assert [s.caption for s in read("webvid", tmp_path)[0]] == ["of 2M_train", "of 2M_val"]
    with pytest.raises(InputError, match="found no results_10M_train"):
        read("webvid", tmp_path, size="10M")


@pytest.mark.parametrize("names", [("10M_train", "2M_val"), ("10M_val", "2M_train", "2M_val")])
def test_splits_of_two_sizes_are_neither_mixed_nor_dropped(tmp_path, names):
    for name in names:
        Tree(tmp_path).text(f"results_{name}.csv", f"{SHORT}{name},u,PT00H00M02S,p,of {name}\n")
    touch(tmp_path, *(f"{name}.mp4" for name in names))
    found = rf"found results_{names[0]}\.csv beside results_{' and results_'.join(names[1:])}".replace(
        " and", r"\.csv and"
    )
    with pytest.raises(InputError, match=rf"{found}\.csv\n.*size=10M or size=2M"):
        read("webvid", tmp_path)
    assert [s.caption for s in read("webvid", tmp_path, size="10M")[0]] == [f"of {names[0]}"]


def test_two_csv_files_of_one_name_are_an_error(tmp_path):
    for folder in ("old", "new"):
        Tree(tmp_path).text(f"{folder}/results_2M_val.csv", f"{SHORT}7,u,PT00H00M02S,p,{folder}\n")
    with pytest.raises(InputError, match=r"expected one results_2M_val\.csv, found .*new.* and .*old.*"):
        read("webvid", tmp_path)


def test_one_csv_and_videos_in_archives(tmp_path):
    Tree(tmp_path).text("results_2M_val.csv", f"{SHORT}7,u,PT00H00M02S,p,seven\n8,u,,p,eight\n9,x\n10,u,PT1S,p,ten\n")
    Tree(tmp_path).tar("00000000.tar", pair("7"))
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("p/8.mp4", "of 8")
    samples, left_out = read("webvid", tmp_path / "results_2M_val.csv")
    assert [(s.caption, s.split, content(s, tmp_path)) for s in samples] == [
        ("seven", "val", b"of 7"),
        ("eight", "val", b"of 8"),
    ]
    unlike = "a row with more or fewer cells than the header"
    assert left_out == {"row 2 of results_2M_val.csv": unlike, "10": "missing media"}


def test_every_tar_is_read_and_its_ids_have_angle_brackets(tmp_path):
    Tree(tmp_path).tar("00000000.tar", {**pair("15966265", " a dog ", "000001"), **pair("204", stem="000002")})
    Tree(tmp_path).tar("00000001.tar", pair("77", "a cat"))
    samples, left_out = read("webvid", tmp_path)
    assert [(s.key, s.media.id, s.split, s.caption) for s in samples] == [
        ("15966265", "15966265", "", "a dog"),
        ("204", "204", "", "a dog"),
        ("77", "77", "", "a cat"),
    ]
    assert [content(s, tmp_path) for s in samples] == [b"of 15966265", b"of 204", b"of 77"]
    assert samples[0].meta == {"<SCENECUT_SECS>": [[0.0, 26.96]], "id": "15966265"}
    assert not left_out


def test_filtered_train_json_is_no_sample(tmp_path):
    prompts = json.dumps([{"QA": [{"i": "Describe the video."}]}])
    Tree(tmp_path).text("filtered_train.json", prompts)
    Tree(tmp_path).tar("0.tar", {**pair("7"), "filtered_train.json": prompts.encode()})
    samples, left_out = read("webvid", tmp_path)
    assert [s.key for s in samples] == ["7"]
    assert not left_out


def test_unpacked_tars_and_siblings_with_other_names(tmp_path):
    for name, data in {**pair("7"), **pair("8", text="", caption="a cat", duration=12.5, fps=25)}.items():
        touch(tmp_path, f"data/{name}")
        (tmp_path / "data" / name).write_bytes(data)
    (tmp_path / "data/9.json").write_text(json.dumps({"caption": "no id", "duration": "PT00H00M09S"}))
    touch(tmp_path, "data/9.webm", "data/9.txt")
    samples, left_out = read("webvid", tmp_path)
    assert [(s.key, s.caption, s.media.duration, s.media.path) for s in samples] == [
        ("7", "a dog", None, "data/7.mp4"),
        ("8", "a cat", 12.5, "data/8.mp4"),
        ("9", "no id", 9.0, "data/9.webm"),
    ]
    assert samples[1].meta["fps"] == 25
    assert not left_out


def test_a_tar_a_pattern_and_a_folder_of_a_split(tmp_path):
    for number in range(3):
        Tree(tmp_path).tar(f"val/{number}.tar", pair(f"{number}"))
    (sample,) = read("webvid", tmp_path / "val/1.tar")[0]
    assert (sample.key, sample.split, content(sample, tmp_path / "val")) == ("1", "val", b"of 1")
    assert [s.key for s in read("webvid", tmp_path / "val/{0..1}.tar")[0]] == ["0", "1"]
    assert [(s.key, s.split) for s in read("webvid", tmp_path / "*/[12].tar")[0]] == [("1", "val"), ("2", "val")]
    assert {s.split for s in read("webvid", tmp_path)[0]} == {"val"}
    with pytest.raises(InputError, match=r"no file .*3\.tar"):
        read("webvid", tmp_path / "val/{2..3}.tar")


def test_csv_files_go_before_tars_unless_tars_are_asked_for(tmp_path):
    Tree(tmp_path).text("results_2M_train.csv", f"{SHORT}7,u,PT00H00M02S,p,of the csv\n")
    Tree(tmp_path).tar("0.tar", pair("7", "of the tar"))
    texts = [[s.caption for s in read("webvid", tmp_path, way)[0]] for way in ("official", "tars")]
    assert texts == [["of the csv"], ["of the tar"]]
    with pytest.raises(InputError, match=r"size=2M chooses among csv files, and --split tars reads none"):
        read("webvid", tmp_path, "tars", size="2M")


def test_pairs_that_are_apart_or_not_whole(tmp_path):
    apart = {**pair("1"), **pair("2"), **pair("3"), "3.webm": b"another", "4.mp4": b"", "5.json": b"{}", "6.mp4": b""}
    members = {name: apart[name] for name in sorted(apart, key=lambda name: name[::-1])}
    members |= {"6.json": b"[1]", "7.mp4": b"", "7.json": b"\xff", "8.mp4": b"", "8.json": b"{}"}
    Tree(tmp_path).tar("0.tar", members)
    samples, left_out = read("webvid", tmp_path)
    assert [(s.key, s.caption) for s in samples] == [("1", "a dog"), ("2", "a dog"), ("3", "a dog"), ("8", "")]
    reasons = {name.partition("#")[2].partition(":")[0] or name: reason for name, reason in left_out.items()}
    assert reasons == {
        "3.webm": "another media file of the same name is used",
        "4.mp4": "a video without its json",
        "5.json": "missing media",
        "6": "a json that holds no JSON object",
        "7": "a json that holds no JSON object",
    }


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_headers_that_are_not_plain(tmp_path, form):
    with tarfile.open(tmp_path / "0.tar", "w", format=form) as tar:
        tar.addfile(folder := tarfile.TarInfo("data"))
        folder.type = tarfile.DIRTYPE
        for stem in ("1", "long" * 40, "2"):
            for name, data in pair(stem, stem=f"data/{stem}").items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 1.5 if form == tarfile.PAX_FORMAT else 1
                tar.addfile(info, io.BytesIO(data))
    samples, left_out = read("webvid", tmp_path)
    assert [content(s, tmp_path) for s in samples] == [b"of 1", b"of " + b"long" * 40, b"of 2"]
    assert not left_out


def test_a_tar_that_is_cut_off_keeps_what_comes_before(tmp_path):
    Tree(tmp_path).tar("0.tar", {**pair("1"), **pair("2"), "3.mp4": b"0" * 5000})
    whole = (tmp_path / "0.tar").read_bytes()
    Tree(tmp_path).tar("1.tar", pair("4"))
    for end in (4 * 1024 + 512, 4 * 1024 + 100, 4 * 1024 + 2000):
        (tmp_path / "0.tar").write_bytes(whole[:end])
        samples, left_out = read("webvid", tmp_path)
        assert [s.key for s in samples] == ["1", "2", "4"]
        assert left_out == {"0.tar": "the archive is damaged or cut off (from here on its members are missing)"}
    for damaged in (b"", b"no tar" * 200, whole[:4096] + b"no header" * 100):
        (tmp_path / "0.tar").write_bytes(damaged)
        assert "0.tar" in read("webvid", tmp_path)[1]


def test_other_archives_of_pairs(tmp_path):
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz") as tar:
        for name, data in pair("1").items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(tmp_path / "1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**pair("2"), **pair("3")}.items():
            archive.writestr(name, data)
    packed = (tmp_path / "1.zip").read_bytes()
    start = packed.index(b"3.json") + len("3.json")
    (tmp_path / "1.zip").write_bytes(packed[:start] + b"\xff" * 10 + packed[start + 10 :])
    samples, left_out = read("webvid", tmp_path)
    assert [(s.key, content(s, tmp_path)) for s in samples] == [("1", b"of 1"), ("2", b"of 2")]
    assert left_out == {"3": "a json that holds no JSON object"}


def test_another_tree(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no results_\*\.csv.*expected in.*00000000\.tar.*found"):
        read("webvid", tmp_path)
    (tmp_path / "results_2M_train.csv").write_text("videoID,caption\n7,a dog\n")
    with pytest.raises(InputError, match="expected the columns videoid and name, found videoID, caption"):
        read("webvid", tmp_path)
    with pytest.raises(InputError, match="no file"):
        read("webvid", tmp_path / "nothing.tar")
