"""Who encodes and into which layout, as a user types it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from embedshard.cli import engines
from embedshard.remote import Url
from tests.cli.test_commands import encode, raw, run  # noqa: F401

PARTS = ("--layout", "parts", "--unit", 2)


@pytest.fixture
def prepared(tmp_path, raw) -> Path:  # noqa: F811
    run("prepare", "folder", raw, tmp_path / "samples.parquet")
    return tmp_path


def test_parts_and_their_status(prepared, tiny_model):
    assert "5 encoded" in encode(prepared, tiny_model, *PARTS).output
    found = run("status", prepared / "processed", "--json", prepared / "status.json").output
    assert "0 running" in found
    assert "5 encoded, 0 failed, 0 to do, of 5" in found
    assert json.loads((prepared / "status.json").read_text())["encoded"] == 5
    assert "0 encoded, 5 were there" in encode(prepared, tiny_model).output, "the layout that is there is taken"
    assert "5 samples, 0 of them to encode" in encode(prepared, tiny_model, "--dry-run").output
    output = encode(prepared, tiny_model, "--layout", "loose", code=1).output
    assert "holds parts; go on with: --layout parts" in output


def test_shares_by_any_scheduler(prepared, tiny_model):
    for part in ("1/2", "2/2"):
        encode(prepared, tiny_model, "--unit", 1, "--part", part)
    assert "5 encoded, 0 failed, 0 to do, of 5" in run("status", prepared / "processed").output
    output = encode(prepared, tiny_model, "--part", "3/2", code=2).output
    assert "expected I/N with I from 1 to N" in output


def test_large_manifests_are_encoded_in_parts(prepared, tiny_model, monkeypatch):
    monkeypatch.setattr(engines, "_LARGE", 5)
    encode(prepared, tiny_model)
    assert list((prepared / "processed").rglob("*.tar"))
    assert not list((prepared / "processed").rglob("*.npy"))


def test_loose_triples_are_for_one_process(prepared, tiny_model):
    output = encode(prepared, tiny_model, "--layout", "loose", "--slots", 2, code=1).output
    assert "one process on one device writes loose triples; leave out --slots" in output
    output = encode(prepared, tiny_model, "--layout", "loose", "--engine", "slurm", code=1).output
    assert "leave out --engine slurm" in output
    assert not (prepared / "processed/units").exists()
    encode(prepared, tiny_model)
    output = encode(prepared, tiny_model, "--slots", 2, code=1).output
    assert "holds loose triples" in output


def test_slurm_gets_the_command_again(prepared, tiny_model, monkeypatch):
    programs = prepared / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    output = encode(
        prepared, tiny_model, "--unit", 1, "--engine", "slurm", "--slots", 2, "--sbatch", "--gpus=1", "--normalize"
    ).output
    assert "Submitted batch job 7" in output
    text = (prepared / "processed/units/slurm.sh").read_text()
    assert f"encode {prepared / 'samples.parquet'} {prepared / 'processed'}" in text
    assert "--normalize --workers 0 --unit 1 --layout parts --part $SLURM_ARRAY_TASK_ID/2" in text
    assert "#SBATCH --gpus=1" in text


@pytest.mark.parametrize(
    ("words", "said"), [(("--slots", 2), "are --workers"), (("--engine", "ray", "--workers", 2), "are --slots")]
)
def test_shard_refuses_an_option_that_would_do_nothing(prepared, words, said):
    (prepared / "processed/train").mkdir(parents=True)
    assert said in run("shard", prepared / "processed", prepared / "shards", *words, code=1).output


def test_a_slurm_array_shards(prepared, tiny_model, monkeypatch):
    encode(prepared, tiny_model)
    programs = prepared / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(
        '#!/bin/sh\nfor task in 1 2; do SLURM_ARRAY_TASK_ID=$task bash "$1" || exit; done\n'
    )
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    words = ("--maxcount", 1, "--engine", "slurm", "--slots", 2)
    output = run("shard", prepared / "processed", prepared / "shards", *words).output
    assert f"how far it is: embedshard status {prepared / 'shards'}" in output
    assert "samples: 5 packed, 0 to do, of 5" in run("status", prepared / "shards").output
    run("check", prepared / "shards")


def test_ray_goes_on_with_what_a_share_began(prepared, tiny_model):
    pytest.importorskip("ray", reason="Ray is not installed")
    encode(prepared, tiny_model, "--unit", 1, "--layout", "parts")
    (prepared / "processed").rename(prepared / "one")
    encode(prepared, tiny_model, "--unit", 1, "--part", "1/2")
    output = encode(prepared, tiny_model, "--engine", "ray", "--slots", 2).output
    assert re.search(r"5 samples: \d encoded, [1-4] were there, 0 failed", output)
    assert "5 encoded, 0 failed, 0 to do, of 5" in run("status", prepared / "processed").output
    parts = [sorted((prepared / name).rglob("part-*.tar")) for name in ("one", "processed")]
    assert [path.read_bytes() for path in parts[0]] == [path.read_bytes() for path in parts[1]]


def test_parts_go_on_to_the_shards_of_loose_triples(prepared, tiny_model):
    encode(prepared, tiny_model)
    run("shard", prepared / "processed", prepared / "shards")
    (prepared / "processed").rename(prepared / "loose")
    encode(prepared, tiny_model, *PARTS, "--part", "1/2")
    output = run("shard", prepared / "processed", prepared / "early", code=1).output
    assert re.search(r"to be encoded to the end, but \d of \d units are encoded", output)
    checked = run("check", prepared / "processed", code=1).output
    assert "units are encoded; go on with the same encode command" in checked
    encode(prepared, tiny_model)
    assert "all right" in run("check", prepared / "processed").output
    run("shard", prepared / "processed", prepared / "again")
    assert [path.read_bytes() for path in sorted((prepared / "again").glob("*.tar"))] == [
        path.read_bytes() for path in sorted((prepared / "shards").glob("*.tar"))
    ]
    next((prepared / "processed").rglob("part-*.tar")).unlink()
    assert "has 0 bytes, its record" in run("check", prepared / "processed", code=1).output


def test_a_dataset_on_a_storage(prepared, tiny_model, bucket, monkeypatch):
    monkeypatch.chdir(prepared)
    processed = f"{bucket}/processed"
    run("prepare", "folder", prepared / "raw", f"{bucket}/samples.parquet")
    words = ("encode", f"{bucket}/samples.parquet", processed, "--model", tiny_model, "--device", "cpu", "--workers", 0)
    refused = run(*words, "--layout", "loose", code=1).output
    assert f"expected a folder on a disk, found {processed}" in refused
    assert "a tar for each unit: --layout parts" in refused
    assert "5 samples, 5 of them to encode" in run(*words, "--unit", 2, "--dry-run").output
    assert not Url(processed).exists()
    run(*words, "--unit", 2, "--part", "1/2")
    assert "nobody is at it" in run("status", processed).output
    output = run(*words).output
    assert re.search(r"5 samples: \d encoded, [1-4] were there, 0 failed", output)
    assert "5 encoded, 0 failed, 0 to do, of 5" in run("status", processed).output
    assert "5 samples, 0 of them to encode" in run(*words, "--dry-run").output
    encode(prepared, tiny_model, *PARTS)
    parts = [path for split in ("train", "val", "test") for path in (prepared / "processed" / split).glob("*")]
    for path in parts:
        assert (Url(processed) / path.parent.name / path.name).read_bytes() == path.read_bytes()
    assert len(parts) >= 3


def test_a_table_becomes_parts_on_a_storage(prepared, tiny_model, bucket):
    media = [path for path in sorted((prepared / "raw/train").iterdir()) if path.suffix in (".mp4", ".gif")]
    lines = "".join(f"{path},{path.stem}\n" for path in media)
    (prepared / "table.csv").write_text(f"path,caption\n{lines}")
    words = ("encode", prepared / "table.csv", f"{bucket}/out", "--model", tiny_model, "--device", "cpu")
    assert "prepared s3://" in run(*words, "--workers", 0).output
    assert re.search(r"(\d) samples: 0 encoded, \1 were there", run(*words, "--workers", 0).output)


def test_slurm_keeps_its_script_here_when_the_output_is_elsewhere(prepared, tiny_model, bucket, monkeypatch):
    monkeypatch.chdir(prepared)
    monkeypatch.setenv("PATH", "/nowhere")
    words = ("encode", prepared / "samples.parquet", f"{bucket}/processed", "--model", tiny_model, "--engine", "slurm")
    assert "there is no sbatch here" in run(*words, code=1).output
    assert f" {bucket}/processed " in (prepared / "processed-slurm/slurm.sh").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("reshard", "s3://bucket/shards", "merged"),
        ("caption", "samples.parquet", "s3://bucket/captioned", "--model", "m", "--pretrained", "p"),
    ],
)
def test_folders_that_must_be_on_a_disk(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "expected a path on a disk, found s3://bucket/" in run(*words, code=2).output
    assert not list(tmp_path.iterdir())
