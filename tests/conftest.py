"""What several rooms' tests share: the real data where it is there, a tiny CLIP saved to disk, and an S3 server."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from embedshard import remote

from .s3 import FaultyProxy, faulty

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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server of this process."""
    server = pytest.importorskip("moto.server", reason="no S3 server: moto is not installed (pip install '.[dev]')")
    pytest.importorskip("s3fs", reason="s3fs is not installed (pip install '.[dev]')")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, which s3fs finds by the environment."""
    import s3fs

    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def proxy(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy between s3fs and the server; s3fs and its parts make one attempt, so that ours are seen."""
    import s3fs

    with faulty(s3_server) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        monkeypatch.setattr(remote, "_WAIT", 0.001)
        monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.1)
        s3fs.S3FileSystem.clear_instance_cache()
        yield running
        s3fs.S3FileSystem.clear_instance_cache()
