from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from embedshard.address import AddressOpener
from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
from tests.sources.rows import read

FIRST = "data/train-00000-of-01357.parquet"
UNREADABLE = "a row, question or scene without the fields that it should have"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("finevideo")
    get_source("finevideo").demo(Tree(path))
    return path


def video(name: str | None = "O-w6CSLiRsA.mp4", **content: Any) -> dict[str, Any]:
    metadata = {"description": "A man mends a net.", "qAndA": [], "scenes": [], **content}
    return {"original_video_filename": name, "duration_seconds": 60, "content_metadata": metadata}


def scene(start: str | None, end: str, title: str | None = "Mending", activities: Any = ()) -> dict[str, Any]:
    times = {"start_timestamp": start, "end_timestamp": end}
    return {"sceneId": 1, "title": title, "timestamps": times, "activities": list(activities), "mood": {"score": 0.5}}


def write(root: Path, *videos: Any, name: str = FIRST) -> Path:
    Tree(root).parquet(name, [{"mp4": b"a video", "json": fields} for fields in videos])
    return root


def test_descriptions_of_videos_that_stay_in_the_table(demo):
    samples, _ = read("finevideo", demo)
    assert [(s.key, s.media.id, s.media.path) for s in samples] == [
        ("a1B2c3D4e5F", "a1B2c3D4e5F", "data/train-00000-of-00011.parquet#mp4:0~parquet"),
        ("nodescribed", "nodescribed", "data/train-00000-of-00011.parquet#mp4:1~parquet"),
        ("x---2d_2B2c3D4e5", "-_2B2c3D4e5", "data/train-00010-of-00011.parquet#mp4:0~parquet"),
        ("10-1", "10-1", "data/train-00010-of-00011.parquet#mp4:1~parquet"),
    ]
    assert samples[0].caption == "A man mends a net."
    assert (samples[0].media.kind, samples[0].media.duration, samples[0].media.end) == ("video", 2.0, None)
    assert samples[0].meta == {
        "content_fine_category": "Crafts",
        "content_parent_category": "Hobbies",
        "original_video_filename": "a1B2c3D4e5F.mp4",
        "youtube_tags": ["sea"],
        "id": "a1B2c3D4e5F",
        "title": "A man mends a net. A film",
    }


def test_questions_of_a_video_share_it(tmp_path):
    pairs = [{"question": "Who mends", "answer": "A man."}, {"question": "What?", "answer": "A net."}]
    samples, _ = read("finevideo", write(tmp_path, video(qAndA=pairs)), **{"as": "qa"})
    assert [(s.key, s.caption) for s in samples] == [
        ("O-w6CSLiRsA_0", "Who mends? A man."),
        ("O-w6CSLiRsA_1", "What? A net."),
    ]
    assert samples[0].media == samples[1].media
    assert (samples[0].meta["question"], samples[0].meta["answer"]) == ("Who mends", "A man.")


def test_questions_may_be_none(tmp_path):
    pairs = [None, {"question": "Who?", "answer": None}, {"question": "What?", "answer": "A net."}]
    root = write(tmp_path, video("a.mp4", qAndA=None), video("b.mp4"), video("c.mp4", qAndA=pairs))
    samples, left_out = read("finevideo", root, **{"as": "qa"})
    assert [s.key for s in samples] == ["c_2"]
    none = "a video without questions"
    assert left_out == {"a": none, "b": none, "c_0": UNREADABLE, "c_1": UNREADABLE}


def test_scenes_have_windows(tmp_path):
    activities = [{"description": "He pulls a thread"}, {"description": None}, {"description": "He smiles!"}]
    scenes = [scene("00:00:00.000", "00:00:05.500", activities=activities), scene("00:00:05.500", "00:01:00.000")]
    samples, _ = read("finevideo", write(tmp_path, video(scenes=scenes)), **{"as": "segment"})
    assert [(s.key, s.media.start, s.media.end, s.media.duration, s.caption) for s in samples] == [
        ("O-w6CSLiRsA_0", 0.0, 5.5, 60.0, "Mending. He pulls a thread. He smiles!"),
        ("O-w6CSLiRsA_1", 5.5, 60.0, 60.0, "Mending."),
    ]
    assert len({s.media.path for s in samples}) == 1
    meta = samples[1].meta
    assert (meta["segment_index"], meta["sceneId"], meta["title"], meta["mood"]) == (1, 1, "Mending", {"score": 0.5})
    assert "timestamps" not in meta


def test_an_activity_that_is_none_takes_no_scene_down(tmp_path):
    activities = [None, {"description": "He smiles"}, {"timestamp": None}]
    root = write(tmp_path, json.dumps(video(scenes=[scene("00:00:00.000", "00:00:05.500", activities=activities)])))
    samples, left_out = read("finevideo", root, **{"as": "segment"})
    assert [s.caption for s in samples] == ["Mending. He smiles."]
    assert not left_out


def test_outer_blanks_are_not_in_descriptions(tmp_path):
    samples, _ = read("finevideo", write(tmp_path, video(description="\n A net. ")))
    assert [s.caption for s in samples] == ["A net."]


def test_bytes_in_a_struct_and_columns_of_another_type(tmp_path):
    Tree(tmp_path).parquet(FIRST, [{"mp4": {"bytes": b"a video", "path": "a.mp4"}, "json": video()}])
    (sample,) = read("finevideo", tmp_path)[0]
    assert sample.media.path == f"{FIRST}#mp4.bytes:0~parquet"
    with AddressOpener() as opener:
        opened = opener.open(sample.media.path, tmp_path)
        assert not isinstance(opened, Path)
        assert opened.read() == b"a video"
    for content in ("videos/a.mp4", {"path": "a.mp4"}, {"bytes": "a.mp4"}, [b"a video"]):
        Tree(tmp_path).parquet(FIRST, [{"mp4": content, "json": video()}])
        with pytest.raises(InputError, match=r"parquet: expected the column mp4 to be bytes or a struct.*, found .*"):
            read("finevideo", tmp_path)


def test_scenes_without_times_or_texts(tmp_path):
    scenes = [scene(None, "00:00:05.000"), scene("soon", "late"), scene("00:00:01.000", "00:00:02.000", None), None]
    scenes += [scene("00:00:02.000", "00:00:03.000", None, [{"description": "He smiles"}])]
    root = write(tmp_path / "raw", video(scenes=scenes), video("b.mp4", scenes=None))
    options = PrepareOptions(settings={"as": "segment"})
    report = prepare(get_source("finevideo"), root, tmp_path / "m.parquet", options, lambda n: None)
    assert report.left_out == {UNREADABLE: 3, "no caption": 1, "a video without scenes": 1}
    (sample,) = open_manifest(tmp_path / "m.parquet").samples()
    assert (sample.key, sample.caption) == ("O-w6CSLiRsA_4", "He smiles.")


def test_videos_are_not_read_before_encode(tmp_path):
    Tree(tmp_path).parquet(FIRST, [{"mp4": bytes(100_000), "json": video()}])
    chunk = pq.read_metadata(tmp_path / FIRST).row_group(0).column(0)
    assert chunk.path_in_schema == "mp4"
    start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    with (tmp_path / FIRST).open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * chunk.total_compressed_size)
    with pytest.raises(OSError, match=r"."):
        pq.read_table(tmp_path / FIRST)
    assert [s.caption for s in read("finevideo", tmp_path)[0]] == ["A man mends a net."]


def test_fields_as_text(tmp_path):
    fields = video(qAndA=[{"question": "Who?", "answer": "A man."}], scenes=[scene("00:00:00.000", "00:00:05.000")])
    write(tmp_path / "struct", fields)
    write(tmp_path / "text", json.dumps(fields), "{", "[]")
    for way in ("caption", "qa", "segment"):
        samples, left_out = read("finevideo", tmp_path / "text", **{"as": way})
        assert samples == read("finevideo", tmp_path / "struct", **{"as": way})[0]
        assert list(left_out.items()) == [(f"row {n} of {Path(FIRST).name}", UNREADABLE) for n in (1, 2)]


def test_files_come_in_natural_order_whatever_the_folder_lists(tmp_path):
    for number in (10, 2, 1):
        write(tmp_path, video(f"v{number}.mp4"), name=f"data/train-{number}-of-1357.parquet")
    assert [s.key for s in read("finevideo", tmp_path)[0]] == ["v1", "v2", "v10"]


def test_the_youtube_id_is_not_lost(tmp_path):
    other = {**video(None), "original_json_filename": "-_2B2c3D4e5.json"}
    write(tmp_path, video(), other, video(""), name="train-00012-of-01357.parquet")
    assert [s.media.id for s in read("finevideo", tmp_path)[0]] == ["O-w6CSLiRsA", "-_2B2c3D4e5", "12-2"]


def test_a_damaged_file_is_named_and_not_passed_over(tmp_path):
    write(tmp_path, video())
    write(tmp_path, video("b.mp4"), name="data/train-00001-of-01357.parquet")
    path = tmp_path / "data/train-00001-of-01357.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"train-00001-of-01357\.parquet is not a parquet file, or a damaged one"):
        read("finevideo", tmp_path)


@pytest.mark.parametrize("content", [None, "none", [1]])
def test_video_without_metadata_takes_no_other_down(tmp_path, content):
    fields = {**video(), "content_metadata": content}
    write(tmp_path, json.dumps(fields), json.dumps({**video(), "duration_seconds": "long"}))
    samples, left_out = read("finevideo", tmp_path)
    assert [(s.key, s.media.duration) for s in samples] == [("O-w6CSLiRsA", None)]
    assert list(left_out.values()) == [UNREADABLE]


def test_other_trees(tmp_path):
    with pytest.raises(InputError, match=r"(?s)found no parquet file.*train-00000-of-01357\.parquet.*found:.*empty"):
        read("finevideo", tmp_path)
    Tree(tmp_path).parquet("other.parquet", [{"video": b"a video", "json": video()}])
    with pytest.raises(InputError, match=r"other\.parquet: expected the columns mp4 and json, found video, json"):
        read("finevideo", tmp_path)
    write(tmp_path, video())
    assert [s.media.path for s in read("finevideo", tmp_path / FIRST)[0]] == [f"{Path(FIRST).name}#mp4:0~parquet"]
