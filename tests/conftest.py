"""What several rooms' tests share: the real data where it is there, and a tiny CLIP saved to disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

SHARED_DATA = Path(__file__).parents[1] / "../shared/data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("no real data: ../shared/data is absent")
    return SHARED_DATA.resolve()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from embedshard.encode.clip import save_random_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_random_model(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(tiny_model: Path):
    from embedshard.encode.clip import ModelOptions, load_encoder

    return load_encoder(ModelOptions(str(tiny_model), device="cpu"))


@pytest.fixture(scope="session")
def tiny_coca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CoCa of random weights whose captions end early, saved as open_clip reads it."""
    folder = tmp_path_factory.mktemp("models") / "coca"
    save_random_coca(folder)
    return folder


def save_random_coca(folder: Path, seed: int = 0) -> None:
    import open_clip
    import torch

    width = 32
    size = {"width": width, "layers": 1}
    text = {"context_length": 76, "vocab_size": 49408, "heads": 2, **size}
    pooled = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    config = {
        "embed_dim": width,
        "vision_cfg": {"image_size": 32, "head_width": 16, "patch_size": 16, **size, **pooled},
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, "attn_pooler_heads": 2},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CoCa(**config)
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.3)
            else:
                torch.nn.init.constant_(weights, float(".ln" in name and name.endswith("weight")))
        with torch.no_grad():
            model.text_decoder.text_projection[:, 49407] += 4 * torch.randn(width)  # so that the end is likely at times
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    model_cfg = {**config, "custom_text": True}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
