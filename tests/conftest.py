"""What several rooms' tests share: the real data where it is there, and a tiny CLIP saved to disk."""

from __future__ import annotations

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
