from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from embedshard.address import AddressOpener
from embedshard.frames import Sampling, open_reader
from embedshard.sample import LeftOut
from embedshard.sources._media import MediaIndex, frame_folders, media_index
from tests.sources.rows import touch


def content(address: str, root: Path) -> bytes:
    with AddressOpener() as opener:
        found = opener.open(address, root)
        return found.read_bytes() if isinstance(found, Path) else found.read()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_names_and_paths():
    index = MediaIndex([("a", "x/a.mp4"), ("猫\udc80", "b\udc80.mp4"), ("a", "y/a.mkv"), LeftOut("z", "bad")])
    assert (index["a"], index.get("猫\udc80"), index.get("b"), "a" in index) == ("x/a.mp4", "b\udc80.mp4", None, True)
    assert dict(index) == {"a": "x/a.mp4", "猫\udc80": "b\udc80.mp4"}
    assert (len(index), index.problems) == (2, [LeftOut("z", "bad")])
    assert dict(MediaIndex([])) == {}


def test_names_whose_hashes_meet(monkeypatch):
    monkeypatch.setattr("embedshard.sources._media.hash", lambda name: len(name), raising=False)
    index = MediaIndex((name, f"{name}.mp4") for name in ("aa", "b", "cc", "aa", "dd"))
    assert [index.get(name) for name in ("aa", "cc", "dd", "b", "ee", "c")] == [
        "aa.mp4",
        "cc.mp4",
        "dd.mp4",
        "b.mp4",
        None,
        None,
    ]


def test_a_media_costs_few_bytes(tmp_path):
    tracemalloc.start()
    index = MediaIndex((f"video{number:09}", f"videos/{number % 1000}/video{number:09}.mp4") for number in range(50000))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert index["video000049999"] == "videos/999/video000049999.mp4"
    assert held < 30 * 50000


def test_media_in_archives_are_media(tmp_path):
    touch(tmp_path, "d/loose.mp4", "d/a.mp4.part", "both.webm")
    write_tar(tmp_path / "d/x.tar", {"v/t.mp4": b"tar", "v/t.json": b"{}", "long" * 40 + ".mkv": b"long"})
    write_tar(tmp_path / "y.tar.gz", {"g.mp4": b"gzip", "h.mp4": b"more"}, "w:gz")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("videos/", b"")
        archive.writestr("videos/stored.mp4", b"stored")
        archive.writestr("videos/deflated.MP4", b"deflated" * 99, zipfile.ZIP_DEFLATED)
        archive.writestr("lzma.mp4", b"lzma", zipfile.ZIP_LZMA)
        archive.writestr("both.mp4", b"packed too")
    index = media_index(tmp_path, "video")
    found = {name: content(path, tmp_path) for name, path in index.items()}
    assert found == {
        "loose": b"",
        "both": b"",
        "t": b"tar",
        "long" * 40: b"long",
        "g": b"gzip",
        "h": b"more",
        "stored": b"stored",
        "deflated": b"deflated" * 99,
    }
    assert [problem.id for problem in index.problems] == ["z.zip#lzma.mp4"]


def test_a_zip_that_was_cut_is_read_as_one(tmp_path):
    noise = os.urandom(30000)
    with zipfile.ZipFile(tmp_path / "whole", "w") as archive:
        for name in ("a", "b", "c"):
            archive.writestr(f"{name}.mp4", noise + name.encode())
    subprocess.run(["split", "-b", "20000", "whole", "Set_part7_part"], cwd=tmp_path, check=True)
    (tmp_path / "whole").unlink()
    index = media_index(tmp_path, "video")
    assert {name: content(path, tmp_path)[-1:] for name, path in index.items()} == {"a": b"a", "b": b"b", "c": b"c"}
    (tmp_path / "Set_part7_partae").unlink()
    assert [problem.id for problem in media_index(tmp_path, "video").problems] == ["Set_part7_part[a-z][a-z]"]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
def test_a_damaged_archive_costs_only_itself(tmp_path, name):
    touch(tmp_path, "a.mp4")
    write_tar(tmp_path / "good.tar", {"b.mp4": b"b"})
    for data in (b"nonsense" * 200, b""):
        (tmp_path / name).write_bytes(data)
        index = media_index(tmp_path, "video")
        assert set(index) == {"a", "b"}
        assert [problem.id for problem in index.problems] == [name]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_folders_of_frames(tmp_path, name):
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (250, 0, 0)).save(picture, "PNG")
    data = picture.getvalue()
    (tmp_path / "frames/loose").mkdir(parents=True)
    (tmp_path / "frames/loose/1.png").write_bytes(data)
    members = {
        "d/v1/c_1.png": data,
        "d/v1/c_2.png": data,
        "d/v1/note.txt": b"",
        "d/v2/c_1.png": data,
        "d/v3/c_1.png": data,
        "d/v3/note.txt": b"",
        "d/v3/c_2.png": data,
        "d/v1/c_3.png": data,
    }
    write_tar(tmp_path / name, members, "w:gz" if name.endswith("gz") else "w")
    index = frame_folders(tmp_path)
    assert set(index) == {"loose", "v2", "v3"}
    assert [problem.id for problem in index.problems] == [f"{name}#d/v1"]
    with AddressOpener() as opener:
        for folder, count in (("loose", 1), ("v2", 1), ("v3", 2)):
            reader = open_reader(opener.open(index[folder], tmp_path), "frames")
            assert len(dict(reader.read(Sampling("all").choose(reader.timeline)))) == count


def test_media_index(tmp_path):
    touch(tmp_path, "b/a/v.mkv", "b/.hidden/w.mp4", "b/.x.mp4", "b/v.txt", "b/a.b.mp4")
    assert dict(media_index(tmp_path, "video")) == {"a.b": "b/a.b.mp4", "v": "b/a/v.mkv"}
    assert media_index(tmp_path, "video", "b") == media_index(tmp_path, "video")


def test_media_of_class_folders_have_their_folder_in_their_name(tmp_path):
    touch(
        tmp_path, "101/Faces/image_1.jpg", "101/ant/image_1.PNG", "101/ant/image_1.txt", "image_1.jpg", ".b/image_1.jpg"
    )
    assert dict(media_index(tmp_path, "image", folders=1)) == {
        "Faces/image_1": "101/Faces/image_1.jpg",
        "ant/image_1": "101/ant/image_1.PNG",
        "image_1": "image_1.jpg",
    }
    assert dict(media_index(tmp_path, "image", "101/ant", folders=1)) == {"ant/image_1": "101/ant/image_1.PNG"}


def test_a_thumbnail_does_not_hide_its_video(tmp_path):
    touch(tmp_path, "v.jpg", "v.mp4", "mp4", "w.GIF")
    assert dict(media_index(tmp_path, "video")) == {"v": "v.mp4", "w": "w.GIF"}
    assert dict(media_index(tmp_path, "image")) == {"v": "v.jpg"}


def test_of_several_videos_of_a_name_the_plainest_is_taken(tmp_path):
    touch(tmp_path, "audio/v.ts", "previews/v.gif", "videos/all/v.mp4", "videos/all/old/v.mkv")
    assert media_index(tmp_path, "video")["v"] == "videos/all/v.mp4"
    write_tar(tmp_path / "a.tar", {"__MACOSX/._w.mp4": b"", "w.mp4": b"", ".x/u.mp4": b""})
    assert set(media_index(tmp_path, "video")) == {"v", "w"}


def test_media_inside_a_folder(tmp_path):
    touch(tmp_path, "backup/ant/1.jpg", "x/101/ant/1.jpg")
    write_tar(tmp_path / "a.tar", {"101/bee/1.jpg": b"", "bee/2.jpg": b""})
    index = media_index(tmp_path, "image", folders=1, inside="101")
    assert set(index) == {"ant/1", "bee/1"}
    assert index["ant/1"] == "x/101/ant/1.jpg"


def test_members_that_begin_with_a_dot_and_a_slash_are_media(tmp_path):
    write_tar(tmp_path / "a.tar", {"./v.mp4": b"v", "./.hidden.mp4": b""})
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("./d/w.mp4", b"w")
    index = media_index(tmp_path, "video")
    assert {name: content(path, tmp_path) for name, path in index.items()} == {"v": b"v", "w": b"w"}


def test_a_zip_whose_list_tells_other_places_gives_no_wrong_bytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a", "b", "c"):
            archive.writestr(f"{name}.mp4", name.encode() * 1000)
    data = (tmp_path / "a.zip").read_bytes()
    for damaged in (data[:500] + data[300:], data[:1040] + b"\0" * 40 + data[1080:]):
        (tmp_path / "a.zip").write_bytes(damaged)
        index = media_index(tmp_path, "video")
        found = {name: content(path, tmp_path) for name, path in index.items()}
        assert all(set(read) == set(name.encode()) for name, read in found.items() if name != "a")
        assert [problem.id for problem in index.problems] == ["a.zip"]


def test_a_tar_behind_a_tar_is_told(tmp_path):
    write_tar(tmp_path / "a.tar", {"v.mp4": b"v"})
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes() * 2)
    assert [problem.id for problem in media_index(tmp_path, "video").problems] == ["a.tar"]
