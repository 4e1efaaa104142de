from __future__ import annotations

import pytest

from embedshard.errors import InputError
from embedshard.shard.table import read_splits


def test_the_ending_may_be_left_out(tmp_path):
    (tmp_path / "splits.csv").write_text("tar_file,split\r\nds_000000,train\r\nds_000001.tar,val\r\n")
    assert read_splits(tmp_path) == {"train": ["ds_000000.tar"], "val": ["ds_000001.tar"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tar_file,split\na.tar,train\na,val\n", "line 3: expected every tar once, found a.tar again"),
        ("tar,split\n", "expected the header tar_file,split, found tar,split"),
        ("", "found nothing"),
        ("tar_file,split\na.tar\n", "line 2: expected a tar file and a split"),
    ],
)
def test_a_table_that_is_wrong_says_where(tmp_path, text, said):
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_splits(tmp_path)
