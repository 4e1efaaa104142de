"""What every source promises; a package that adds a source calls the `check_` functions on its own."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedshard import load
from embedshard.check import check
from embedshard.demo import Tree
from embedshard.encode.clip import ClipEncoder
from embedshard.encode.run import EncodeOptions, encode
from embedshard.frames import Sampling
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, options_from, prepare
from embedshard.sample import SPLITS, LeftOut, Sample
from embedshard.shard.pack import shard
from embedshard.shard.plan import ShardOptions
from embedshard.shard.table import read_splits
from embedshard.sources import Source, all_sources

SOURCES = all_sources()
WAYS = [(name, way) for name, source in SOURCES.items() for way in source.splits]


def check_description(source: Source) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", source.name)
    assert source.title
    assert source.modality
    assert source.expects.strip()
    assert all(splits and set(splits) <= set(SPLITS) for splits in source.splits.values())
    options_from(source, next(iter(source.splits)), {})


def check_rows(source: Source, raw: Path, way: str) -> list[Sample | LeftOut]:
    """Read the raw tree twice, the same rows come, and the tree is as before."""
    before = fingerprint(raw)
    options = options_from(source, way, {})
    rows = list(source.samples(raw, options))
    assert rows == list(source.samples(raw, options))
    assert fingerprint(raw) == before
    return rows


def check_prepare(source: Source, raw: Path, way: str, out: Path) -> None:
    """Every row is a sample of the manifest, right in all it promises, or counted as left out."""
    rows = check_rows(source, raw, way)
    report = prepare(source, raw, out / "samples.parquet", PrepareOptions(split=way), lambda n: None)
    samples = list(open_manifest(out / "samples.parquet").samples())
    assert len(samples) == sum(report.samples.values())
    assert len(samples) + sum(report.left_out.values()) == len(rows)
    assert {split for split, count in report.samples.items() if count} == set(source.splits[way])
    check_samples(samples, raw)


def check_whole_way(source: Source, raw: Path, out: Path, encoder: ClipEncoder) -> None:
    """Prepare -> encode -> shard -> check -> load: every sample comes back with its own caption, media and metadata."""
    prepare(source, raw, out / "samples.parquet", PrepareOptions(), lambda n: None)
    manifest = open_manifest(out / "samples.parquet")
    report = encode(manifest, out / "processed", encoder, EncodeOptions(Sampling("fps"), workers=0))
    assert (report.samples, report.done, report.failed) == (manifest.rows, manifest.rows, 0)
    shard(out / "processed", out / "shards", ShardOptions(), lambda n: None)
    assert check(out / "shards", False, lambda n: None).problems == []
    loaded = {s["key"]: (split, s) for split in read_splits(out / "shards") for s in load(out / "shards", split)}
    assert len(loaded) == manifest.rows
    for sample in manifest.samples():
        split, found = loaded[sample.key]
        assert (split, found["text"], found["meta"]["media"]) == (sample.split, sample.caption, sample.media.path)
        assert found["embeddings"].shape == (len(found["meta"]["frame_times"]), encoder.embed_dim)
        fields = {**found["meta"], **_raw_fields(found["meta"])}
        assert {name: fields.get(name) for name in sample.meta} == sample.meta


def _raw_fields(meta: dict[str, Any]) -> dict[str, Any]:
    """Give the dataset's fields that stepped back for ours of the same name."""
    return {name.removeprefix("raw_"): value for name, value in meta.items() if name.startswith("raw_")}


def check_samples(samples: list[Sample], raw: Path) -> None:
    keys = {sample.key for sample in samples}
    assert len(keys) == len(samples)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", key) for key in keys)
    assert len({(sample.media.id, sample.split) for sample in samples}) == len({sample.media.id for sample in samples})
    for sample in samples:
        media = sample.media
        assert sample.caption.strip()
        assert 0 <= (media.start or 0) < (float("inf") if media.end is None else media.end)
        assert json.loads(json.dumps(sample.meta, allow_nan=False)) == sample.meta
        assert (raw / re.sub(r"#[^#]*$", "", media.path)).exists() or (raw / media.path).exists()


def fingerprint(raw: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(raw.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def raw_trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    trees = {}
    for name, source in SOURCES.items():
        trees[name] = tmp_path_factory.mktemp(name)
        source.demo(Tree(trees[name]))
    return trees


@pytest.mark.parametrize("name", SOURCES)
def test_describes_itself(name):
    check_description(SOURCES[name])


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_demo_becomes_a_manifest(name, way, raw_trees, tmp_path):
    check_prepare(SOURCES[name], raw_trees[name], way, tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_demo_holds_a_row_that_is_left_out(name, raw_trees, tmp_path):
    report = prepare(SOURCES[name], raw_trees[name], tmp_path / "m.parquet", PrepareOptions(), lambda n: None)
    assert report.left_out


def test_no_torch(raw_trees, tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom embedshard.prepare import PrepareOptions, prepare\n"
        "from embedshard.sources import all_sources\n"
        "for name, source in all_sources().items():\n"
        "    prepare(source, Path(sys.argv[1 + list(all_sources()).index(name)]), Path('m.parquet'),"
        " PrepareOptions(), lambda n: None)\n"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules"
    )
    trees = [str(raw_trees[name]) for name in SOURCES]
    subprocess.run([sys.executable, "-c", code, *trees], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", SOURCES)
def test_demo_goes_all_the_way_and_gives_its_captions_back(name, raw_trees, tmp_path, encoder):
    check_whole_way(SOURCES[name], raw_trees[name], tmp_path, encoder)
