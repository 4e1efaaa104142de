from __future__ import annotations

from pathlib import Path

from embedshard.tar import write_members
from tests.cli.test_commands import run
from tests.shard.test_reshard import sample


def test_reshard_prints_counts_that_add_up(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with (tmp_path / "old/a.tar").open("wb") as file:
        write_members(file, [*sample("a"), *sample("b"), *sample("a"), ("c.npy", b""), ("c.jpg", b"")])
    out = tmp_path / "out"
    words = ("reshard", tmp_path / "old", out, "--split-as", "train")
    output = run(*words, "--dtype", "float32", "--maxcount", 1).output
    assert "found 4: 2 packed, 1 there before, 1 left out" in output
    assert "1 x no caption" in output
    assert "1 members of other kinds were passed over: 1 .jpg" in output
    assert "complete already" in run(*words, "--dtype", "float32", "--maxcount", 1).output
    assert "all right" in run("check", out).output
    (tmp_path / "split.yaml").write_text("lists: {val: val.txt}")
    (tmp_path / "val.txt").write_text("ma\nmz\n")
    anew = run("reshard", out, tmp_path / "anew", "--split", tmp_path / "split.yaml").output
    assert "1 x the split recipe does not list its media" in anew
    assert "lists 1 media without a sample, such as mz" in anew
    assert "found both" in run(*words, "--split", tmp_path / "split.yaml", code=1).output
