from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from embedshard.errors import InputError
from embedshard.load import load

from .shards import triple, write_tar

BACKENDS = pytest.mark.parametrize("backend", ["webdataset", "native"])


def write(folder, tars: list[list[int]]):
    folder.mkdir(exist_ok=True)
    for number, indices in enumerate(tars):
        write_tar(folder / f"ds_{number:05d}.tar", {f"vid_{i}": triple(i) for i in indices})
    (folder / "splits.csv").write_text(
        "tar_file,split\n" + "".join(f"ds_{n:05d}.tar,train\n" for n in range(len(tars)))
    )
    return folder


@BACKENDS
@pytest.mark.parametrize("other", [[[0, 1, 2], [3, 4]], [[4, 2], [0], [1, 9, 3]]], ids=["alike", "otherwise"])
def test_models_are_joined_by_key(tmp_path, backend, other) -> None:
    folders = {"clip": write(tmp_path / "a", [[0, 1, 2], [3, 4]]), "siglip": write(tmp_path / "b", other)}
    samples = list(load(folders, backend=backend))
    assert [sample["key"] for sample in samples] == [f"vid_{i}" for i in range(5)]
    for i, sample in enumerate(samples):
        assert list(sample["embeddings"]) == ["clip", "siglip"]
        for array in sample["embeddings"].values():
            assert array[:, 0].tolist() == [100 * i + frame for frame in range(1 + i % 7)]
    stream = load(folders, backend=backend)
    assert next(iter(stream))["key"] == "vid_0"
    spawned = DataLoader(stream, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    stream.set_epoch(0)
    assert len(list(spawned)) == 5
    batches = list(load(folders, batch_size=2, seq_len=2, crop="random", shuffle=5, bucket=2, backend=backend))
    assert sorted(key for batch in batches for key in batch["key"]) == [f"vid_{i}" for i in range(5)]
    for batch in batches:
        assert batch["embeddings"]["clip"].equal(batch["embeddings"]["siglip"]), "one window for all models"
        assert batch["mask"]["clip"].equal(batch["mask"]["siglip"])


@BACKENDS
def test_a_key_that_a_model_lacks_is_an_error_or_dropped(tmp_path, backend) -> None:
    folders = {"clip": write(tmp_path / "a", [[0, 1, 2], [3, 4]]), "siglip": write(tmp_path / "b", [[0, 2], [4, 5, 3]])}
    with pytest.raises(
        InputError, match=r"a/ds_00000\.tar, key vid_1: expected it in the shards of siglip .*missing='drop'"
    ):
        list(load(folders, backend=backend))
    stream = load(folders, batch_size=3, missing="drop", backend=backend)
    batches = list(stream)
    assert [key for batch in batches for key in batch["key"]] == ["vid_0", "vid_2", "vid_3", "vid_4"]
    assert len(stream) == 2
    np.testing.assert_array_equal(batches[0]["embeddings"]["siglip"][:, 0, 0], [0, 200, 300])
    with pytest.raises(InputError, match="no split 'val'"):
        load(folders, "val", backend=backend)
    with pytest.raises(InputError, match="folder of each model"):
        load({}, backend=backend)
