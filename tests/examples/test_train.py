"""From raw clips to recall, on one process and on two ranks over gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import evaluate
import plot
import pytest
import texts as texts_script
import torch
import train
from click.testing import CliRunner
from data import Reading, Texts, batches, clip_of, read_texts

from embedshard.encode.clip import ModelOptions, save_random_model
from embedshard.errors import InputError

from . import two_ranks
from .conftest import SHAPES, TRAIN

CPU = torch.device("cpu")
OPTIONS = train.TrainOptions(epochs=30, batch_size=64, seq_len=8, log_every=1)


@pytest.fixture(scope="module")
def texts(out: Path) -> Texts:
    return read_texts(out / "texts.npz")


@pytest.fixture(scope="module")
def runs(out: Path, texts: Texts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a training for each pooling."""
    folder = tmp_path_factory.mktemp("runs")
    for pooling in ("mean", "attention"):
        train.train(str(out / "shards"), texts, folder / pooling, replace(OPTIONS, pooling=pooling), CPU)
    return {pooling: folder / pooling for pooling in ("mean", "attention")}


def scores(out: Path, run: Path) -> dict[str, dict[str, float]]:
    templates = [word for shape in SHAPES for word in ("--template", f"a {shape} while {{}}")]
    given = [run, out / "shards", out / "texts.npz", "--label", "change", *templates, "--model", out / "tiny-clip"]
    done = CliRunner().invoke(evaluate.main, [str(word) for word in given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_held_out_recall_is_far_above_chance_and_attention_sees_what_the_mean_cannot(out, runs):
    found = {pooling: scores(out, run) for pooling, run in runs.items()}
    for way in ("text_to_video", "video_to_text"):
        for k in (1, 5, 10):
            score, chance = (found["attention"][way][f"{word}R@{k}"] for word in ("", "chance "))
            assert score > {1: 5, 5: 4, 10: 2.5}[k] * chance, (way, k)
        assert found["attention"][way]["R@1"] > found["mean"][way]["R@1"]
    # Which of two colours came first is a coin toss for the mean.
    assert found["mean"]["zero_shot"]["top-1"] < 0.5 < found["attention"]["zero_shot"]["top-1"]


def test_no_caption_is_in_two_splits(out, texts):
    reading = Reading(str(out / "shards"), 64, 8)
    captions = [{row for b in batches(reading, texts, split) for row in b.ids[:, 0].tolist()} for split in texts.counts]
    assert sum(map(len, captions)) == len(set.union(*captions)) == len(texts.rows)
    assert texts.counts == {"train": 177, "val": 36, "test": 72}


def test_untrained_it_is_near_chance(out, texts, tmp_path):
    history = train.train(str(out / "shards"), texts, tmp_path, replace(OPTIONS, epochs=0), CPU).history
    assert history[0]["text_to_video"]["R@1"] < 4 * history[0]["text_to_video"]["chance R@1"]


def test_the_curves_are_drawn(runs, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install '.[examples]')")
    plot.plot(tmp_path / "curves.png", list(runs.values()))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"history\.json"):
        plot.plot(tmp_path / "curves.png", [tmp_path])


def test_a_run_keeps_to_its_options(out, texts, runs):
    with pytest.raises(InputError, match=r"epochs 30 \(now 31\)"):
        train.train(str(out / "shards"), texts, runs["mean"], replace(OPTIONS, pooling="mean", epochs=31), CPU)
    other = replace(texts, encoder={"model": "ViT-B-32", "pretrained": "openai"})
    with pytest.raises(InputError, match=r"now.*ViT-B-32"):
        train.train(str(out / "shards"), other, runs["mean"], replace(OPTIONS, pooling="mean"), CPU)
    with pytest.raises(InputError, match=r"found.*ViT-B-32"):
        evaluate.load_model(runs["mean"], other)


def test_a_run_that_is_done_stays_as_it_is(out, texts, runs):
    before = (runs["mean"] / "checkpoint.pt").read_bytes()
    train.train(str(out / "shards"), texts, runs["mean"], replace(OPTIONS, pooling="mean"), CPU)
    assert (runs["mean"] / "checkpoint.pt").read_bytes() == before


def test_bf16_and_reading_processes(out, texts, tmp_path):
    options = replace(OPTIONS, epochs=2, bf16=True, workers=2)
    run = train.train(str(out / "shards"), texts, tmp_path, options, CPU)
    assert run.samples == 2 * texts.counts["train"]
    losses = [record["loss"] for record in run.history if "loss" in record]
    assert losses[-1] < losses[0]


def test_two_ranks(out, texts, tmp_path):
    batch = next(batches(Reading(str(out / "shards"), 12, 8), texts, "train"))
    batch.ids[11, 0] = batch.ids[0, 0]  # a caption that samples of both ranks have
    torch.save({name: getattr(batch, name) for name in ("frames", "mask", "texts", "ids")}, tmp_path / "batch.pt")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [sys.executable, *command, Path(two_ranks.__file__), out, tmp_path]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    on_two = torch.load(tmp_path / "gradients.pt", weights_only=True)
    on_one = two_ranks.gradients(texts, tmp_path)
    assert on_two.keys() == on_one.keys()
    for name, wanted in on_one.items():
        assert torch.allclose(on_two[name], wanted, rtol=1e-4, atol=1e-6), name
    assert on_one["log_scale"].abs() > 1e-4


def test_frames_of_another_model_are_refused(out, tmp_path):
    save_random_model(tmp_path / "tiny-clip", seed=1)
    with pytest.raises(InputError, match="expected the model that embedded the frames"):
        texts_script.write_texts(str(out / "shards"), tmp_path / "t.npz", ModelOptions(str(tmp_path / "tiny-clip")))
    assert not (tmp_path / "t.npz").exists()


def test_a_caption_that_was_not_embedded_is_told(out, texts):
    with pytest.raises(InputError, match=r"run texts\.py again"):
        next(batches(Reading(str(out / "shards"), 4, 8), replace(texts, rows={}), "train"))


def test_another_file_and_no_run_are_told(out, tmp_path):
    (tmp_path / "other.npz").write_bytes(b"other")
    with pytest.raises(InputError, match=r"texts\.py"):
        read_texts(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"checkpoint\.pt"):
        evaluate.load_model(tmp_path, read_texts(out / "texts.npz"))


def test_zero_shot_needs_labels_a_place_for_them_and_clip(out, runs):
    given = [str(word) for word in (runs["mean"], out / "shards", out / "texts.npz")]
    for words, said in (
        (["--label", "lable"], "lable"),
        (["--label", "change", "--template", "a video"], "a video"),
        (["--label", "change"], "--model"),
    ):
        with pytest.raises(InputError, match=said):
            CliRunner().invoke(evaluate.main, [*given, *words], catch_exceptions=False)


def test_a_bad_input_is_one_line(out, tmp_path):
    words = [sys.executable, str(TRAIN / "train.py"), str(out / "shards"), str(tmp_path / "none"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected the file of texts.py")


def test_a_clip_is_media_and_window():
    one = {"media": "a.mp4", "start": 0.0, "end": 2.0}
    assert clip_of("k1", one) == clip_of("k2", dict(one)) != clip_of("k1", one | {"start": 1.0})
    assert clip_of("k1", {}) == "k1"
