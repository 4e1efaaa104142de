from __future__ import annotations

import json
import sys

import numpy as np
import open_clip
import pytest
import torch

from embedshard.encode.clip import ModelOptions, load_encoder, load_tokenizer
from embedshard.encode.text import CaptionEncoder, caption_similarity, cosines
from embedshard.errors import InputError

CAPTIONS = ["a dog", "那只狗停下来了。", "", "two cats on a couch, " * 60, "a 🐈"]


def clips(dim: int = 64) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=(count, dim)).astype(np.float32) for count in (3, 1, 2, 5, 4)]


def test_equals_open_clips_own_way(tiny_model, encoder):
    model = open_clip.create_model(f"local-dir:{tiny_model}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tiny_model}")(CAPTIONS)
    found = caption_similarity(CaptionEncoder(encoder), clips(), CAPTIONS)
    with torch.inference_mode():
        texts = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
        for values, frames, text in zip(found, clips(), texts, strict=True):
            expected = torch.nn.functional.normalize(torch.from_numpy(frames), dim=-1) @ text
            assert values == pytest.approx(expected.tolist(), abs=2e-6)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_caption_does_not_depend_on_its_neighbours_or_its_place(tiny_model):
    texts = CaptionEncoder(load_encoder(ModelOptions(str(tiny_model), device="cpu", batch_size=2)))
    whole = texts.embed(CAPTIONS)
    assert whole.shape == (5, 64)
    assert np.array_equal(texts.embed(CAPTIONS[3:4])[0], whole[3])
    assert np.array_equal(texts.embed(CAPTIONS[::-1])[::-1], whole)
    assert texts.embed([]).shape == (0, 64)


def test_half_precision_is_close(tiny_model, encoder):
    half = CaptionEncoder(load_encoder(ModelOptions(str(tiny_model), device="cpu", precision="bf16")))
    exact = CaptionEncoder(encoder).embed(CAPTIONS)
    assert min(cosines(half.embed(CAPTIONS)[[k]], exact[k])[0] for k in range(5)) > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_fp16_is_close_to_the_cpu(tiny_model, encoder):
    fast = CaptionEncoder(load_encoder(ModelOptions(str(tiny_model), device="cuda"))).embed(CAPTIONS)
    exact = CaptionEncoder(encoder).embed(CAPTIONS)
    assert min(cosines(fast[[k]], exact[k])[0] for k in range(5)) > 0.999


def test_cosines_whatever_the_length_and_the_dtype():
    frames, text = np.array([[3, 0], [0, 0.5], [-2, 2], [0, 0]], np.float16), np.array([2, 0], np.float32)
    assert cosines(frames, text).tolist() == pytest.approx([1, 0, -(0.5**0.5), 0])
    assert cosines(frames, np.zeros(2, np.float32)).tolist() == [0, 0, 0, 0]
    assert cosines(np.full((1, 512), 60000, np.float16), np.full(512, 60000, np.float16))[0] == pytest.approx(1)


def test_real_clip_embeddings_find_their_words(shared_data):
    pictures = np.load(shared_data / "golden_clip/clip_vitb32_images.npz")
    words = np.load(shared_data / "golden_clip/clip_vitb32_lvis_text.npz")
    best = {}
    for name, picture in zip(pictures["files"], pictures["image_embs"], strict=True):
        values = cosines(words["text_embs"], picture)
        assert 0.2 < values.max() < 0.3  # what ViT-B/32 gives for a fitting word
        best[str(name)] = [str(words["names"][k]) for k in np.argsort(-values)[:2]]
    assert best["cr_456_123.jpg"][0] == "kitten"
    assert "cat" in best["cr_123_456.jpg"]
    assert best["cr_389_535.jpg"][0] == "street_sign"
    assert "coconut" in best["cr_321_421.jpg"]


def test_the_tokenizer_of_a_folder_has_its_context_length(tmp_path, tiny_model):
    config = json.loads((tiny_model / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["context_length"] = 32
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert load_tokenizer(ModelOptions(str(tmp_path)))(["a"]).shape == (1, 32)
    assert load_tokenizer(ModelOptions("ViT-B-32", "laion2b_s34b_b79k"))(["a"]).shape == (1, 77)


def test_a_tokenizer_that_cannot_be_had(tmp_path, tiny_model, monkeypatch):
    config = json.loads((tiny_model / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "roberta-base"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="pip install transformers"):
        load_tokenizer(ModelOptions(str(tmp_path)))
