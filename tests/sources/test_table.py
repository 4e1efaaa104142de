from __future__ import annotations

import datetime
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedshard.errors import InputError
from tests.sources.rows import read, touch


def written(folder, name, text, *media):
    touch(folder, *(media or ("a.mp4", "b.mp4")))
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'path,caption\na.mp4,"one, ""1"""\nb.mp4,"two\nlines"\n'),
        ("t.csv", '\ufeffvideoLoc,videoID,caption\r\na.mp4,1,"one, ""1"""\r\nb.mp4,2,"two\nlines"\r\n'),
        ("t.tsv", 'Filename\tTitle\na.mp4\t"one, ""1"""\nb.mp4\t"two\nlines"\n'),
        ("t.jsonl", '{"video": "a.mp4", "text": "one, \\"1\\""}\n\n{"video": "b.mp4", "text": "two\\nlines"}'),
        ("t.json", '[{"file": "a.mp4", "sentence": "one, \\"1\\""}, {"file": "b.mp4", "sentence": "two\\nlines"}]'),
        ("t.csv", 'image,url,label,caption\na.mp4,http://x,l,"one, ""1"""\nb.mp4,http://x,l,"two\nlines"\n'),
    ],
)
def test_containers_and_usual_names(tmp_path, name, text):
    samples, left_out = read("table", written(tmp_path, name, text))
    assert [(s.media.path, s.caption) for s in samples] == [("a.mp4", 'one, "1"'), ("b.mp4", "two\nlines")]
    assert not left_out


def test_parquet_of_many_types(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    columns = {
        "path": ["a.mp4", "b.mp4"],
        "caption": ["c", None],
        "key": [7, 8],
        "when": [datetime.datetime(2024, 1, 2, 3), None],
        "score": [float("nan"), float("-inf")],
        "price": [Decimal("1.50"), None],
        "boxes": [{"xy": [1.0, float("inf")]}, None],
        "jpg": [b"\xff", b""],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    first, second = read("table", tmp_path / "t.parquet")[0]
    assert (first.key, second.key, second.caption) == ("7", "8", "")
    when, boxes = "2024-01-02T03:00:00", {"xy": [1.0, None]}
    assert first.meta == {"id": "7", "key": 7, "when": when, "score": None, "price": "1.50", "boxes": boxes}
    json.dumps(second.meta, allow_nan=False)


def test_windows_and_default_ids(tmp_path):
    text = "path,caption,start_time,end_time\na.mp4,c,1.5,00:01:02.5\na.mp4,c,,\na.mp4,c,nan,3\na.mp4,c,soon,3\n"
    samples, left_out = read("table", written(tmp_path, "t.csv", text))
    assert [(s.media.start, s.media.end) for s in samples] == [(1.5, 62.5), (None, None), (None, 3.0)]
    assert [s.meta["id"] for s in samples] == ["a.mp4_1.5_00:01:02.5", "a.mp4", "a.mp4_nan_3"]
    assert {s.media.id for s in samples} == {"a.mp4"}
    assert list(left_out) == ["a.mp4_soon_3"]


def test_columns_named_by_options(tmp_path):
    path = written(tmp_path, "t.csv", "f,c,who,s\na.mp4,one,p1,dev\nb.mp4,two,p1,other\n")
    columns = {"path_column": "f", "caption_column": "c", "group_column": "who", "split_column": "s"}
    samples, _ = read("table", path, **columns)
    assert [(s.media.id, s.split, s.meta["who"]) for s in samples] == [("p1", "val", "p1"), ("p1", "other", "p1")]


@pytest.mark.parametrize(
    ("header", "settings", "message"),
    [
        ("f,caption", {}, "expected a column path, found the columns: 'f', 'caption'\n.*--option path_column=NAME"),
        ("path,words", {}, "--option caption_column=NAME"),
        ("path,title,text", {}, "one column for caption, not title and text"),
        ("path,caption", {"id_column": "ID"}, "expected the column 'ID', found"),
        ("path,path", {}, "path twice"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, header, settings, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        read("table", written(tmp_path, "t.csv", f"{header}\n{','.join('x' * (header.count(',') + 1))}\n"), **settings)


def test_without_captions_where_that_is_asked_for(tmp_path):
    path = written(tmp_path, "t.csv", "f,who\na.mp4,one\nb.mp4,two\n")
    samples, _ = read("table", path, path_column="f", uncaptioned="true")
    assert [(s.caption, s.meta["who"]) for s in samples] == [("", "one"), ("", "two")]
    samples, left_out = read("table", written(tmp_path, "l.txt", "a.mp4\n\nb.mp4\r\ngone.mp4\n"), uncaptioned="true")
    assert [(s.media.path, s.caption) for s in samples] == [("a.mp4", ""), ("b.mp4", "")]
    assert left_out == {"gone.mp4": "missing media"}
    with pytest.raises(InputError, match="expected a column caption"):
        read("table", tmp_path / "l.txt")


def test_media_that_are_not_there(tmp_path):
    rows = ["a.mp4", "gone.mp4", "https://x.org/a.mp4", "t.csv", "frames", ""]
    touch(tmp_path, "frames/1.jpg")
    text = "id,path,caption\n" + "".join(f"{number},{path},c\n" for number, path in enumerate(rows))
    samples, left_out = read("table", written(tmp_path, "t.csv", text))
    assert [(s.key, s.media.kind) for s in samples] == [("0", "video"), ("4", "frames")]
    assert [left_out[key].split(" ")[0] for key in ("1", "2", "3", "5")] == ["missing", "remote", "neither", "an"]


def test_paths_below_the_media_folder(tmp_path):
    touch(tmp_path, "other/a.mp4", "raw/b.mp4")
    path = written(tmp_path / "raw", "t.csv", "path,caption\na.mp4,c\n../raw/./b.mp4,c\n../other/a.mp4,c\n", "x.mp4")
    samples, _ = read("table", path)
    assert [s.media.path for s in samples] == ["b.mp4", str(tmp_path / "other/a.mp4")]
    samples, _ = read("table", path, media=str(tmp_path / "other"))
    assert [s.media.path for s in samples] == [str(tmp_path / "other/a.mp4"), "b.mp4", str(tmp_path / "other/a.mp4")]


def test_a_broken_row_takes_no_other_down(tmp_path):
    text = 'path,caption\na.mp4,"one" more\na.mp4,two,three\na.mp4\n\nb.mp4,"good"\n'
    samples, left_out = read("table", written(tmp_path, "t.csv", text))
    assert [s.caption for s in samples] == ["good"]
    assert list(left_out) == ["row 0", "row 1", "row 2"]
    text = '{"path": "a.mp4", "caption": \n[1]\n{"path": "b.mp4", "caption": "good"}\n'
    samples, left_out = read("table", written(tmp_path, "t.jsonl", text))
    assert [s.caption for s in samples] == ["good"]
    assert len(left_out) == 2


def test_an_open_quote_is_an_error_with_its_line(tmp_path):
    with pytest.raises(InputError, match="line 3 is never closed"):
        read("table", written(tmp_path, "t.csv", 'path,caption\na.mp4,one\nb.mp4,"two\na.mp4,three\n'))


@pytest.mark.parametrize("header", ['path,"caption', '"path"x,caption\n'])
def test_a_header_with_a_bad_quote(tmp_path, header):
    with pytest.raises(InputError, match=r"t\.csv, line 1: expected a header"):
        read("table", written(tmp_path, "t.csv", header))


def test_a_damaged_parquet_is_named(tmp_path):
    pq.write_table(pa.table({"path": ["a.mp4"] * 5000, "caption": list(map(str, range(5000)))}), tmp_path / "t.parquet")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[4:4000] = b"\xff" * 3996
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"t\.parquet is not a parquet file, or a damaged one"):
        read("table", tmp_path / "t.parquet")


def test_the_media_id_does_not_depend_on_the_spelling_or_the_place(tmp_path):
    touch(tmp_path / "disk", "v/a.mp4", "../out.mp4")
    paths = ["v/a.mp4", "./v//a.mp4", str(tmp_path / "disk/v/a.mp4"), "../disk/v/a.mp4", "../out.mp4"]
    path = written(tmp_path / "raw", "t.csv", "path,caption\n" + "".join(f"{path},c\n" for path in paths))
    samples, _ = read("table", path, media=str(tmp_path / "disk"))
    assert [s.media.id for s in samples] == ["v/a.mp4"] * 4 + ["../out.mp4"]


def test_a_column_id_does_not_hide_the_raw_id(tmp_path):
    path = written(tmp_path, "t.csv", "path,caption,key,id\na.mp4,c,k,other\n")
    (sample,), _ = read("table", path, id_column="key")
    assert (sample.key, sample.meta["id"], sample.meta["raw_id"]) == ("k", "k", "other")


def test_hidden_tables_are_passed_over(tmp_path):
    written(tmp_path, "t.csv", "path,caption\na.mp4,one\n")
    written(tmp_path, "._t.csv", "\0")
    assert [s.caption for s in read("table", tmp_path)[0]] == ["one"]


def test_a_long_caption(tmp_path):
    samples, _ = read("table", written(tmp_path, "t.csv", f"path,caption\na.mp4,{'x' * 300_000}\n"))
    assert len(samples[0].caption) == 300_000


def test_a_folder_of_tables_named_by_split(tmp_path):
    written(tmp_path, "train_9k.csv", "path,caption\na.mp4,one\n")
    written(tmp_path, "validation-00000-of-00001.jsonl", '{"path": "b.mp4", "caption": "two"}\n')
    written(tmp_path, "notes.json", "{}")
    written(tmp_path, "notes.txt", "no table")
    samples, _ = read("table", tmp_path)
    assert [(s.caption, s.split) for s in samples] == [("one", "train"), ("two", "val")]


@pytest.mark.parametrize(("name", "text"), [("t.json", "{}"), ("t.json", "[1"), ("t.parquet", "x"), ("t.xlsx", "x")])
def test_what_is_no_table(tmp_path, name, text):
    with pytest.raises(InputError, match=f"{name}"):
        read("table", written(tmp_path, name, text))


def test_no_table(tmp_path):
    for root in (tmp_path, tmp_path / "gone.csv"):
        with pytest.raises(InputError, match="expected a table"):
            read("table", root)


def test_media_on_a_storage_are_taken_as_they_stand(tmp_path):
    text = "path,caption\ns3://b/c/a.mp4,one\nd/b.png,two\nhttps://x.org/a.mp4,three\ngs://b/notes.txt,four\n"
    table = written(tmp_path, "t.csv", text, "d/b.png")
    samples, left_out = read("table", table)
    assert [(s.media.path, s.media.kind) for s in samples] == [("s3://b/c/a.mp4", "video"), ("d/b.png", "image")]
    assert sorted(reason.split(" (")[0] for reason in left_out.values()) == [
        "neither a video nor a picture by its extension",
        "remote media",
    ]
    moved, _ = read("table", table, media="s3://b/raw")
    assert [s.media.path for s in moved] == ["s3://b/c/a.mp4", "s3://b/raw/d/b.png"]
    assert [(s.key, s.media.id) for s in moved] == [(s.key, s.media.id) for s in samples]
