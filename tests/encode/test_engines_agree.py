"""The same parts and shards whoever encodes: one process, four, Ray, two shares at once, one after another."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from embedshard.encode import parts
from embedshard.encode.parts import Share, encode_in_parts
from embedshard.engine import MakeWorker
from embedshard.engine.local import run as local
from embedshard.manifest import Manifest
from embedshard.processed import read_failures
from embedshard.shard.pack import shard
from embedshard.shard.plan import ShardOptions
from tests.encode.test_parts import ONE, is_tidy, model, part_bytes  # noqa: F401
from tests.encode.test_remote import records
from tests.encode.test_run import OPTIONS, manifest, raw_tree, sample

FOUR = replace(ONE, engine=partial(local, slots=4), devices=("cpu",) * 4)
SHARES = [replace(ONE, part=number, of=2) for number in (1, 2)]


def stopped(units: Iterable[Any], make_worker: MakeWorker) -> Iterator[Any]:
    yield next(iter(local(units, make_worker, 1)))
    raise KeyboardInterrupt


def on_ray(units: Iterable[Any], make_worker: MakeWorker) -> Iterator[Any]:
    from embedshard.engine import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path])))
        with ray.connected(None):
            yield from ray.run(units, make_worker, 2, ray.RayOptions(cpus=0.5))


RAY = replace(ONE, engine=on_ray, devices=("cpu", "cpu"))


def one_after_another(encoded: Callable[[Share], Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        encoded(replace(ONE, engine=stopped))
    encoded(RAY)


def both_at_once(encoded: Callable[[Share], Any]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(encoded, SHARES))


WAYS: dict[str, Callable[[Callable[[Share], Any]], Any]] = {
    "four": lambda encoded: encoded(FOUR),
    "ray": lambda encoded: encoded(RAY),
    "shares": both_at_once,
    "begun and ended": one_after_another,
}


@pytest.fixture
def made(tmp_path) -> Manifest:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/bad.mp4").write_bytes(b"no video")
    return manifest(tmp_path, [*raw_tree(tmp_path, videos=9), sample("gone.mp4"), sample("bad.mp4", "test")])


@pytest.fixture
def real(tmp_path, shared_data) -> Manifest:
    """Every real clip whole, and its first second, middle and end as samples of their own."""
    names = sorted(path.name for path in (shared_data / "videos").iterdir() if path.suffix != ".jsonl")
    windows = {"": (None, None), "-a": (0.0, 1.0), "-b": (1.0, 2.5), "-c": (2.0, None)}
    samples = [
        sample(name, split, f"c{number:02}{end}", window)
        for number, (name, split) in enumerate(zip(names, ("train", "train", "val", "test") * 9, strict=False))
        for end, window in windows.items()
    ]
    return manifest(tmp_path, samples, shared_data / "videos")


@pytest.mark.soak
@pytest.mark.parametrize("source", ["made", "real"])
def test_whoever_encodes_gives_the_same_parts_and_shards(source, request, tmp_path, model, monkeypatch):  # noqa: F811
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(parts, "_POLL", 0.2)
    rows, options = request.getfixturevalue(source), replace(OPTIONS, dtype="float16", workers=1)

    def encoded(out: Path, share: Share) -> None:
        encode_in_parts(rows, {out: model}, options, replace(share, size=6))

    encoded(tmp_path / "one", ONE)
    shard(tmp_path / "one", tmp_path / "one-shards", ShardOptions(), lambda *counts: None)
    shards = {path.name: path.read_bytes() for path in (tmp_path / "one-shards").glob("*.tar")}
    assert shards
    for name, way in WAYS.items():
        out = tmp_path / name
        way(partial(encoded, out))
        assert part_bytes(out) == part_bytes(tmp_path / "one"), name
        assert records(out) == records(tmp_path / "one"), name
        assert read_failures(out) == read_failures(tmp_path / "one"), name
        assert is_tidy(out), name
        shard(out, tmp_path / f"{name}-shards", ShardOptions(), lambda *counts: None)
        found = {path.name: path.read_bytes() for path in (tmp_path / f"{name}-shards").glob("*.tar")}
        assert found == shards, name
