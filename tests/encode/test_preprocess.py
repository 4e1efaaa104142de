from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from embedshard.encode.preprocess import Preprocess
from embedshard.frames import open_reader

CLIP = Preprocess((224, 224), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
SIZES = [(224, 224), (256, 340), (720, 1280), (1, 300), (97, 223), (456, 123), (224, 500), (333, 333), (10, 12)]


def prepared(preprocess: Preprocess, frame: np.ndarray) -> torch.Tensor:
    return preprocess.normalise(torch.from_numpy(preprocess.shrink(frame)[None].copy()))[0]


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_equals_open_clip_bit_for_bit(resize_mode, interpolation, size):
    cfg = PreprocessCfg(size=size, resize_mode=resize_mode, interpolation=interpolation, fill_color=7)
    theirs = image_transform_v2(cfg, is_train=False)
    ours = Preprocess(size, cfg.mean, cfg.std, interpolation, resize_mode, 7)
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        if resize_mode == "longest" and min(height, width) == 1:
            continue  # open_clip rounds the short side to 0
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        assert torch.equal(prepared(ours, frame), theirs(Image.fromarray(frame))), (height, width)


def test_golden_pictures_give_the_published_tensors(shared_data: Path):
    expected = json.loads((shared_data / "golden_clip/golden.json").read_text())["preprocess_sha256"]["values"]
    assert len(expected) == 8
    for name, digest in expected.items():
        ((_, frame),) = open_reader(shared_data / "images" / name, "image").read(np.array([0]))
        tensor = prepared(CLIP, frame).numpy().astype("<f4")
        assert hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest() == digest, name


def test_golden_tensor_value_by_value(shared_data: Path):
    ((_, frame),) = open_reader(shared_data / "images/kafka.jpg", "image").read(np.array([0]))
    golden = np.load(shared_data / "golden_clip/kafka_preprocessed.npy")
    assert np.array_equal(prepared(CLIP, frame).numpy(), golden.reshape(3, 224, 224))


def on_tensors(preprocess: Preprocess, frame: np.ndarray, fast: bool) -> np.ndarray:
    return preprocess.shrink_on_device(torch.from_numpy(frame.copy())[None], fast)[0].numpy()


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_tensors_are_shrunk_as_pillow_does_bit_for_bit(resize_mode, interpolation, size):
    ours = Preprocess(size, (0.5,) * 3, (0.5,) * 3, interpolation, resize_mode, 7)
    rng = np.random.default_rng(0)
    for height, width in (*SIZES, (1080, 1920), (2160, 3840), (1200, 540)):
        if resize_mode == "longest" and min(height, width) == 1:
            continue
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        expected = ours.shrink(frame)
        assert np.array_equal(on_tensors(ours, frame, fast=False), expected), (height, width)
        near = np.abs(on_tensors(ours, frame, fast=True).astype(int) - expected)
        assert near.mean() < 0.5, (height, width)  # of noise, the worst case for another order of the passes


def test_golden_pictures_on_tensors(shared_data: Path):
    for path in sorted((shared_data / "images").glob("cr_*.jpg")):
        ((_, frame),) = open_reader(path, "image").read(np.array([0]))
        exact = CLIP.shrink(frame)
        assert np.array_equal(on_tensors(CLIP, frame, fast=False), exact), path.name
        assert np.abs(on_tensors(CLIP, frame, fast=True).astype(int) - exact).max() <= 2, path.name


def test_models_that_differ_in_colours_only_share_shrunk_frames():
    assert CLIP.geometry == Preprocess((224, 224), (0.5,) * 3, (0.5,) * 3).geometry
    assert CLIP.geometry != Preprocess((336, 336), CLIP.mean, CLIP.std).geometry
