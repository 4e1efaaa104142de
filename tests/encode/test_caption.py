from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedshard.demo import Tree
from embedshard.encode.caption import CaptionOptions, caption
from embedshard.encode.clip import ModelOptions, load_encoder
from embedshard.encode.coca import Captioner
from embedshard.errors import InputError
from embedshard.frames import Sampling, open_reader
from embedshard.manifest import Manifest, SourceInfo, open_manifest, writing_manifest
from embedshard.processed import read_failures
from embedshard.sample import Media, Sample, make_key, media_kind
from tests.conftest import save_random_coca

OPTIONS = CaptionOptions(workers=0)


@pytest.fixture(scope="module")
def captioner(tiny_coca) -> Captioner:
    return Captioner(load_encoder(ModelOptions(str(tiny_coca), device="cpu", batch_size=4)))


def manifest(folder: Path, samples: Sequence[Sample]) -> Manifest:
    with writing_manifest(folder / "given.parquet", folder / "raw", SourceInfo("folder", "A title")) as writer:
        for sample in samples:
            writer.add(sample)
    return open_manifest(folder / "given.parquet")


def sample(media: str, text: str = "", key: str = "", window=(None, None), **meta) -> Sample:
    return Sample(key or make_key(media), "train", Media(media, media, media_kind(media), *window), text, meta)


@pytest.fixture
def raw(tmp_path) -> Path:
    tree = Tree(tmp_path / "raw")
    for number in range(4):
        tree.video(f"v{number}.mp4", f"video {number}", seconds=1 + number)
    tree.image("p.jpg", "picture")
    return tmp_path / "raw"


def written(folder: Path) -> dict[str, Sample]:
    return {sample.key: sample for sample in open_manifest(folder / "samples.parquet").samples()}


def described(captioner: Captioner, path: Path, count: int, window=(None, None)) -> list[str]:
    """Caption frames of a media that are taken by the reader and shrunk by hand."""
    reader = open_reader(path, media_kind(path.name))
    wanted = Sampling("count", count).choose(reader.timeline, *window)
    shown = [captioner.encoder.preprocess.shrink(frame) for _, frame in reader.read(np.unique(wanted))]
    return [found.text for found in captioner.caption(np.stack(shown))]


def test_only_what_has_no_caption_gets_one(tmp_path, raw, captioner):
    rows = [sample("v0.mp4"), sample("v1.mp4", "given"), sample("p.jpg", " \n", note="kept"), sample("v3.mp4")]
    report = caption(manifest(tmp_path, rows), tmp_path / "out", captioner, OPTIONS)
    assert (report.samples, report.done, report.had, report.failed, report.frames) == (4, 3, 1, 0, 3)
    found = written(tmp_path / "out")
    assert list(found) == [row.key for row in rows]
    for media in ("v0.mp4", "p.jpg", "v3.mp4"):
        assert [found[make_key(media)].caption] == described(captioner, raw / media, 1)
    picture = found["x--p-2ejpg"]
    assert picture.meta == {
        "note": "kept",
        "captioner": f"coca {captioner.encoder.setting['pretrained']}",
        "generated_captions": [picture.caption],
        "caption_times": [0.0],
    }
    assert found["x--v1-2emp4"] == rows[1]
    assert found["x--v0-2emp4"].media == rows[0].media
    again = open_manifest(tmp_path / "out/samples.parquet")
    assert (again.root, again.source) == (tmp_path / "raw", SourceInfo("folder", "A title"))
    assert not (tmp_path / "out/failed.jsonl").exists()


def test_all_are_captioned_where_that_is_asked_for(tmp_path, raw, captioner):
    rows = [sample("v0.mp4"), sample("v1.mp4", "given")]
    report = caption(manifest(tmp_path, rows), tmp_path / "out", captioner, replace(OPTIONS, all_samples=True))
    assert (report.done, report.had) == (2, 0)
    found = written(tmp_path / "out")["x--v1-2emp4"]
    assert [found.caption] == described(captioner, raw / "v1.mp4", 1)
    assert found.meta["given_caption"] == "given"


def test_several_frames_of_a_clip(tmp_path, raw, captioner):
    rows = [sample("v3.mp4", key="a"), sample("v3.mp4", key="b", window=(1.0, 2.0)), sample("p.jpg")]
    report = caption(manifest(tmp_path, rows), tmp_path / "out", captioner, replace(OPTIONS, count=3))
    assert (report.done, report.frames) == (3, 7)
    found = written(tmp_path / "out")
    for key, window in (("a", (None, None)), ("b", (1.0, 2.0))):
        assert found[key].meta["generated_captions"] == described(captioner, raw / "v3.mp4", 3, window)
        assert found[key].caption in found[key].meta["generated_captions"]
    assert found["a"].meta["caption_times"] == pytest.approx([0.6, 2.0, 3.3], abs=0.11)
    assert found["b"].meta["caption_times"] == pytest.approx([1.1, 1.5, 1.8], abs=0.11)
    assert len(found["x--p-2ejpg"].meta["generated_captions"]) == 1


def test_the_caption_that_the_model_is_surest_of_is_taken(tmp_path, raw, captioner):
    caption(manifest(tmp_path, [sample("v3.mp4")]), tmp_path / "out", captioner, replace(OPTIONS, count=4))
    reader = open_reader(raw / "v3.mp4", "video")
    wanted = Sampling("count", 4).choose(reader.timeline)
    shown = np.stack([captioner.encoder.preprocess.shrink(frame) for _, frame in reader.read(wanted)])
    best = max(captioner.caption(shown), key=lambda found: found.score)
    assert written(tmp_path / "out")["x--v3-2emp4"].caption == best.text


def test_samples_of_one_clip_share_a_caption(tmp_path, raw, captioner):
    rows = [sample("v2.mp4", key=f"s{number}") for number in range(3)]
    report = caption(manifest(tmp_path, rows), tmp_path / "out", captioner, OPTIONS)
    assert (report.done, report.frames) == (3, 1)
    assert len({found.caption for found in written(tmp_path / "out").values()}) == 1


def test_what_fails_is_recorded_and_not_in_the_new_manifest(tmp_path, raw, captioner):
    (raw / "junk.mp4").write_text("junk")
    rows = [sample("gone.mp4"), sample("v0.mp4"), sample("junk.mp4"), sample("v0.mp4", key="past", window=(5.0, 6.0))]
    given = manifest(tmp_path, rows)
    report = caption(given, tmp_path / "out", captioner, replace(OPTIONS, workers=2))
    assert (report.samples, report.done, report.failed) == (4, 1, 3)
    assert sum(report.reasons.values()) == 3
    assert {key: (f.stage, f.reason.partition(":")[0]) for key, f in read_failures(tmp_path / "out").items()} == {
        "x--gone-2emp4": ("decode", "missing media"),
        "x--junk-2emp4": ("decode", "not a media file that FFmpeg can open"),
        "past": ("decode", "window [5, 6) s is empty"),
    }
    assert list(written(tmp_path / "out")) == ["x--v0-2emp4"]
    (raw / "v1.mp4").rename(raw / "gone.mp4")
    report = caption(given, tmp_path / "out", captioner, OPTIONS)
    assert (report.done_before, report.failed_before, report.done) == (1, 3, 0)
    report = caption(given, tmp_path / "out", captioner, replace(OPTIONS, retry_failed=True))
    assert (report.done_before, report.done, report.failed) == (1, 1, 2)
    assert {key: f.attempt for key, f in read_failures(tmp_path / "out").items()} == {"x--junk-2emp4": 2, "past": 2}
    assert list(written(tmp_path / "out")) == ["x--gone-2emp4", "x--v0-2emp4"]


def test_a_blank_caption_is_a_failure(tmp_path, raw, captioner, monkeypatch):
    monkeypatch.setattr(Captioner, "_text", lambda self, sequence: "")
    report = caption(manifest(tmp_path, [sample("v0.mp4")]), tmp_path / "out", captioner, OPTIONS)
    assert report.reasons == {"the model's caption is blank": 1}


def test_a_grown_manifest_is_captioned_from_where_it_was(tmp_path, raw, captioner):
    rows = [sample("v0.mp4"), sample("v1.mp4")]
    caption(manifest(tmp_path, rows), tmp_path / "out", captioner, OPTIONS)
    first = written(tmp_path / "out")
    rows[1] = sample("v1.mp4", window=(0.0, 1.0))  # another clip under the key of the old one
    report = caption(manifest(tmp_path, [*rows, sample("v2.mp4")]), tmp_path / "out", captioner, OPTIONS)
    assert (report.done_before, report.done) == (1, 2)
    found = written(tmp_path / "out")
    assert found["x--v0-2emp4"] == first["x--v0-2emp4"]
    assert found["x--v1-2emp4"].media.end == 1.0
    assert len(found) == 3


def test_a_line_that_was_cut_off_is_written_again(tmp_path, raw, captioner):
    given = manifest(tmp_path, [sample(f"v{number}.mp4") for number in range(4)])
    caption(given, tmp_path / "whole", captioner, OPTIONS)
    caption(given, tmp_path / "out", captioner, OPTIONS)
    log = tmp_path / "out/captions.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    report = caption(given, tmp_path / "out", captioner, OPTIONS)
    assert (report.done_before, report.done) == (3, 1)
    assert written(tmp_path / "out") == written(tmp_path / "whole")
    assert [json.loads(line)["key"] for line in log.read_text().splitlines()] == list(written(tmp_path / "out"))


def test_a_folder_keeps_to_one_setting(tmp_path, raw, captioner):
    given = manifest(tmp_path, [sample("v0.mp4")])
    caption(given, tmp_path / "out", captioner, OPTIONS)
    with pytest.raises(InputError, match="count: 1 there, 2 asked for"):
        caption(given, tmp_path / "out", captioner, replace(OPTIONS, count=2))
    save_random_coca(tmp_path / "coca", seed=1)
    other = Captioner(load_encoder(ModelOptions(str(tmp_path / "coca"), device="cpu")))
    with pytest.raises(InputError, match=r"pretrained: .* there, .* asked for"):
        caption(given, tmp_path / "out", other, OPTIONS)


def test_the_manifest_is_not_written_over(tmp_path, raw, captioner):
    given = manifest(tmp_path, [sample("v0.mp4")])
    given.path.rename(tmp_path / "samples.parquet")
    with pytest.raises(InputError, match="would be written over; give another folder"):
        caption(open_manifest(tmp_path / "samples.parquet"), tmp_path, captioner, OPTIONS)


def test_real_videos_and_pictures(tmp_path, captioner, shared_data):
    paths = [
        p for p in sorted(shared_data.glob("videos/*")) + sorted(shared_data.glob("images/*")) if media_kind(p.name)
    ]
    with writing_manifest(tmp_path / "given.parquet", shared_data, SourceInfo("folder")) as writer:
        for path in paths:
            writer.add(sample(str(path.relative_to(shared_data))))
    report = caption(
        open_manifest(tmp_path / "given.parquet"), tmp_path / "out", captioner, replace(OPTIONS, workers=2)
    )
    assert (report.samples, report.done, report.failed) == (len(paths), len(paths) - 1, 1)
    assert report.reasons == {"no video stream (found: audio)": 1}
    found = written(tmp_path / "out")[make_key("images/kafka.jpg")]
    shown = captioner.encoder.preprocess.shrink(np.asarray(Image.open(shared_data / "images/kafka.jpg").convert("RGB")))
    assert found.caption == captioner.caption(shown[None])[0].text


KILLED = """
import sys
from pathlib import Path
from embedshard.encode.caption import CaptionOptions, caption
from embedshard.encode.clip import ModelOptions, load_encoder
from embedshard.encode.coca import Captioner
from embedshard.manifest import open_manifest

if __name__ == "__main__":
    model, manifest, out = sys.argv[1:]
    captioner = Captioner(load_encoder(ModelOptions(model, device="cpu", batch_size=4)))
    caption(open_manifest(Path(manifest)), Path(out), captioner, CaptionOptions(workers=1))
"""


def test_kill_9_and_run_again_equals_an_uninterrupted_run(tmp_path, captioner, tiny_coca):
    tree = Tree(tmp_path / "raw")
    for number in range(40):
        tree.image(f"{number}.png", str(number))
    given = manifest(tmp_path, [sample(f"{number}.png") for number in range(40)])
    caption(given, tmp_path / "whole", captioner, OPTIONS)
    (tmp_path / "killed.py").write_text(KILLED)
    log = tmp_path / "out/captions.jsonl"
    words = [sys.executable, str(tmp_path / "killed.py"), str(tiny_coca), str(given.path), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(words, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (log.is_file() and log.stat().st_size):
        time.sleep(0.002)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    lines = log.read_bytes().count(b"\n")
    report = caption(given, tmp_path / "out", captioner, OPTIONS)
    assert (report.done_before, report.done) == (lines, 40 - lines)
    assert written(tmp_path / "out") == written(tmp_path / "whole")
