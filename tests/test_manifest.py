from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedshard.address import Url
from embedshard.errors import InputError
from embedshard.manifest import SCHEMA, SourceInfo, open_manifest, writing_manifest
from embedshard.sample import Media, Sample

INFO = SourceInfo("table", "A table")


def sample(number: int, **changes) -> Sample:
    media = Media(f"m{number}", f"v/{number}.mp4", "video", None, number + 0.5)
    return Sample(**{"key": f"k{number}", "split": "train", "media": media, "caption": "c", "meta": {}} | changes)


def write(path: Path, samples: list[Sample]) -> None:
    with writing_manifest(path, path.parent, INFO) as writer:
        for one in samples:
            writer.add(one)


@pytest.mark.parametrize("count", [0, 1, 16384, 16385])
def test_samples_come_back(tmp_path, count):
    samples = [sample(number) for number in range(count)]
    write(tmp_path / "m.parquet", samples)
    manifest = open_manifest(tmp_path / "m.parquet")
    assert (manifest.rows, manifest.root, manifest.source) == (count, tmp_path, INFO)
    assert list(manifest.samples()) == samples
    assert list(manifest.column("key")) == [one.key for one in samples]


def test_captions_and_metadata_are_kept_as_they_are(tmp_path):
    odd = sample(1, caption=' "狗"\r\n\t🐕 ', meta={"名": ["a", None, 1.5], "id": "-x|y.z", "": {"b": True}})
    write(tmp_path / "m.parquet", [odd])
    assert list(open_manifest(tmp_path / "m.parquet").samples()) == [odd]


@pytest.mark.parametrize(
    "changes",
    [{"meta": {"a": {1, 2}}}, {"caption": "\ud800"}, {"meta": {"a": "\udc80"}}],
)
def test_a_sample_that_cannot_be_written_harms_no_other(tmp_path, changes):
    with writing_manifest(tmp_path / "m.parquet", tmp_path, INFO) as writer:
        writer.add(sample(1))
        with pytest.raises(InputError, match="k2"):
            writer.add(sample(2, **changes))
        writer.add(sample(3))
    assert list(open_manifest(tmp_path / "m.parquet").column("key")) == ["k1", "k3"]


def test_nothing_is_left_of_a_failed_write(tmp_path):
    with pytest.raises(AttributeError):
        write(tmp_path / "m.parquet", [sample(1), None])
    assert not list(tmp_path.iterdir())


def test_what_is_no_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match="no manifest"):
        open_manifest(tmp_path / "gone.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(InputError, match="not a parquet file"):
        open_manifest(tmp_path / "text.parquet")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="missing: split, media"):
        open_manifest(tmp_path / "other.parquet")


def test_without_a_root_media_start_from_the_manifest(tmp_path):
    write(tmp_path / "m.parquet", [sample(1)])
    pq.write_table(pq.read_table(tmp_path / "m.parquet").replace_schema_metadata(None), tmp_path / "n.parquet")
    manifest = open_manifest(tmp_path / "n.parquet")
    assert (manifest.root, manifest.source.name) == (tmp_path, "unknown")


GOOD = {"key": "a", "split": "train", "media": "a.mp4", "kind": "video", "start": None, "end": 2.0, "caption": "c"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"key": "../../escaped"}, "row 1: expected a key of letters, digits, _ and -"),
        ({"key": "first"}, "expected every key once, found 1 again, the first 'first'"),
        ({"split": "foo"}, "row 1: expected split to be one of train, val, test, found 'foo'"),
        ({"kind": "audio"}, "expected kind to be one of"),
        ({"caption": None}, "row 1: expected text in caption, found None"),
        ({"meta": "not json"}, "expected a JSON object in meta"),
        ({"meta": "[1]"}, "expected a JSON object in meta"),
    ],
)
def test_rows_that_prepare_never_wrote_are_named(tmp_path, changed, said):
    rows = [{**GOOD, "key": "first", "meta": "{}"}, {**GOOD, "meta": "{}", **changed}]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "m.parquet")
    with pytest.raises(InputError, match=said):
        open_manifest(tmp_path / "m.parquet").validate()
    pq.write_table(pa.Table.from_pylist([{**GOOD, "meta": "{}"}], SCHEMA), tmp_path / "m.parquet")
    open_manifest(tmp_path / "m.parquet").validate()


def test_a_manifest_on_a_storage(bucket):
    samples = [sample(number) for number in range(16385)]
    write(Url(bucket) / "d/m.parquet", samples)
    manifest = open_manifest(f"{bucket}/d/m.parquet")
    assert (manifest.rows, manifest.root) == (16385, Url(f"{bucket}/d"))
    assert list(manifest.samples()) == samples
    assert manifest.digest() == open_manifest(Url(f"{bucket}/d/m.parquet")).digest()
    with pytest.raises(InputError, match=rf"no manifest {bucket}/gone\.parquet"):
        open_manifest(f"{bucket}/gone.parquet")
    with pytest.raises(AttributeError):
        write(Url(bucket) / "bad.parquet", [sample(1), None])
    assert not Url(f"{bucket}/bad.parquet").exists()
