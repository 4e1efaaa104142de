from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from embedshard.encode.clip import ModelOptions, load_encoder, save_random_model
from embedshard.errors import InputError


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3), np.uint8)


def test_equals_open_clips_own_way(tiny_model, encoder):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_model}")
    model.eval()
    shown = frames(5)
    with torch.inference_mode():
        expected = torch.stack([model.encode_image(transform(Image.fromarray(f))[None])[0] for f in shown]).numpy()
    found = encoder.embed(shown)[:5]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-5 * np.linalg.norm(expected, axis=1).min()


def test_a_row_does_not_depend_on_its_neighbours_or_its_place(encoder):
    shown = frames(encoder.batch_size)
    whole = encoder.embed(shown)
    alone = encoder.embed(shown[3:4])[0]
    turned = encoder.embed(shown[::-1])[::-1]
    assert np.array_equal(alone, whole[3])
    assert np.array_equal(turned, whole)


def test_the_setting_names_local_weights_by_content_not_by_folder(tmp_path, encoder):
    save_random_model(tmp_path / "tiny", seed=1)
    other = load_encoder(ModelOptions(str(tmp_path / "tiny"), device="cpu"))
    assert other.setting["model"] == encoder.setting["model"] == "tiny"
    assert other.setting["pretrained"] != encoder.setting["pretrained"]
    assert str(tmp_path) not in json.dumps(other.setting)


def test_saving_a_random_model_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    save_random_model(tmp_path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ModelOptions("ViT-B32"), "did you mean ViT-B-32"),
        (ModelOptions("ViT-B-32"), "needs --pretrained TAG or FILE; tags: openai"),
        (ModelOptions("ViT-B-32", "laion5b"), "no such file, and no such tag of ViT-B-32; tags: openai"),
        (ModelOptions("ViT-B-32-quickgelu", "laion2b_s34b_b79k"), "no such tag of ViT-B-32-quickgelu"),
        (ModelOptions("ViT-B-32", "openai", device="tpu"), "cannot use --device tpu"),
    ],
)
def test_wrong_options_say_what_to_type(options, said):
    with pytest.raises(InputError, match=said):
        load_encoder(options)


def test_fp16_on_the_cpu_is_refused(tiny_model):
    with pytest.raises(InputError, match="use --precision fp32"):
        load_encoder(ModelOptions(str(tiny_model), device="cpu", precision="fp16"))


def test_bf16_autocast_is_close_and_says_so(tiny_model, encoder):
    half = load_encoder(ModelOptions(str(tiny_model), device="cpu", precision="bf16", batch_size=2))
    shown = frames(2)
    exact, near = encoder.embed(shown)[:2], half.embed(shown)
    assert half.setting["precision"] == "bf16"
    assert near.dtype == np.float32
    assert 0 < np.abs(exact - near).max() < 0.1 * np.abs(exact).max()


def test_weights_beside_a_folder_that_has_its_own_are_refused(tiny_model):
    with pytest.raises(InputError, match=r"brings its weights; leave out --pretrained other\.pt"):
        load_encoder(ModelOptions(str(tiny_model), "other.pt", device="cpu"))


def test_a_batch_that_fits_nowhere(tiny_model):
    with pytest.raises(InputError, match="give a smaller --batch-size"):
        load_encoder(ModelOptions(str(tiny_model), device="cpu", batch_size=10**11))


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(InputError, match=r"no open_clip_config\.json"):
        load_encoder(ModelOptions(str(tmp_path)))


def test_a_checkpoint_of_another_model_is_named_so(tiny_model):
    weights = tiny_model / "open_clip_pytorch_model.bin"
    with pytest.raises(InputError, match="Expected an open_clip checkpoint of that model"):
        load_encoder(ModelOptions("ViT-B-32", str(weights), device="cpu"))


def test_without_a_hub_one_error_says_what_to_do(monkeypatch, tmp_path, caplog):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"the hub cannot be reached.*\n.*--pretrained FILE"):
        load_encoder(ModelOptions("ViT-B-32", "laion2b_s34b_b79k", device="cpu"))
    assert not caplog.records


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path, caplog):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(InputError, match="the hub cannot be reached"):
        load_encoder(ModelOptions("hf-hub:some/model", device="cpu"))
    assert time.monotonic() - begun < 5
    assert not caplog.records
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_checkpoint_file_of_a_named_model_loads(tmp_path):
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt", pretrained_image=False)
    path = tmp_path / "small.pt"
    torch.save(model.state_dict(), path)
    loaded = load_encoder(ModelOptions("ViT-S-32-alt", str(path), device="cpu", batch_size=2))
    shown = frames(2)
    with torch.inference_mode():
        expected = model.eval().encode_image(loaded.preprocess.normalise(torch.from_numpy(shown))).numpy()
    assert np.allclose(loaded.embed(shown), expected, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_fp16_is_close_to_the_cpu(tiny_model, encoder):
    fast = load_encoder(ModelOptions(str(tiny_model), device="cuda"))
    shown = frames(8)
    exact, near = encoder.embed(shown)[:8], fast.embed(shown)[:8]
    assert fast.setting["precision"] == "fp16"
    cosine = (exact * near).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
    assert cosine.min() > 0.999


def test_readable_by_open_clip(tiny_model: Path):
    assert open_clip.create_model(f"local-dir:{tiny_model}").visual.image_size == (224, 224)
