import io

import numpy as np
import pytest

from embedshard.shard.offsets import offsets_bytes, offsets_path, read_offsets
from embedshard.tar import write_members


def npy(frames):
    file = io.BytesIO()
    np.save(file, np.zeros((frames, 4), np.float16))
    return file.getvalue()


SAMPLES = {"a": {"json": b"{}", "npy": npy(3), "txt": b"x"}, "bb": {"npy": npy(1), "cap": b"yes"}, "c": {"npy": b"no"}}


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "ds_00000.tar"
    with path.open("wb") as file:
        write_members(file, [(f"{k}.{part}", data) for k, pieces in SAMPLES.items() for part, data in pieces.items()])
    return path


def test_every_piece_is_found_where_the_headers_say(tar):
    data = tar.read_bytes()
    for row in read_offsets(tar):
        pieces = SAMPLES[row["key"].decode()]
        for name in ("json", "npy", "txt"):
            offset, size = row[name]
            wanted = pieces.get("cap" if name == "txt" and "cap" in pieces else name)
            assert (data[offset : offset + size] if offset else None) == wanted
    assert read_offsets(tar)["frames"].tolist() == [3, 1, 0]


def test_an_idx_is_read_in_place_of_the_tar(tar):
    offsets = read_offsets(tar)
    offsets["frames"] = 7  # so that it is seen to be the idx
    offsets_path(tar).write_bytes(offsets_bytes(offsets.tolist()))
    assert (read_offsets(tar) == offsets).all()
    assert (np.load(tar.with_name("ds_00000.idx")) == offsets).all()


@pytest.mark.parametrize("idx", [b"", b"no npy", npy(2), offsets_bytes([(b"z", (20000, 1), (0, 0), (0, 0), 1)])])
def test_an_idx_of_another_tar_is_passed_over(tar, idx):
    offsets_path(tar).write_bytes(idx)
    assert [row["key"] for row in read_offsets(tar)] == [b"a", b"bb", b"c"]


def test_a_damaged_tar_is_an_error(tar):
    tar.write_bytes(tar.read_bytes()[:1500])
    with pytest.raises(ValueError, match="ends inside"):
        read_offsets(tar)
