from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from embedshard.processed import write_triple
from tests.cli.test_commands import run


def test_check_repair_prints_counts_that_add_up(tmp_path: Path) -> None:
    for number in range(3):
        write_triple(tmp_path / "in/train", f"k{number}", np.zeros((1, 4), np.float16), "c", {"media_id": str(number)})
    run("shard", tmp_path / "in", tmp_path / "out")
    data = bytearray((tmp_path / "out/ds_00000.tar").read_bytes())
    data[3 * 1024] ^= 1
    (tmp_path / "out/ds_00000.tar").write_bytes(data)
    run("check", tmp_path / "out", code=1)
    (tmp_path / "in/train/k0.txt").write_bytes(b"")
    result = run("check", tmp_path / "out", "--repair", "--json")
    assert "found 4: 2 kept, 0 there twice, 2 damaged" in result.stderr
    assert "written anew: ds_00000.tar, ds_00000.idx, sizes.json" in result.stderr
    assert json.loads(result.stdout)["ok"]
    assert "found 3: 2 kept, 0 there twice, 1 damaged" in run("check", tmp_path / "in", "--repair").output
