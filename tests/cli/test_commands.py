"""The commands as a user types them, from a raw tree to checked shards, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from embedshard.address import Url
from embedshard.cli import main
from embedshard.demo import Tree
from embedshard.manifest import open_manifest


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def raw(tmp_path) -> Path:
    run("demo", "folder", tmp_path / "raw")
    return tmp_path / "raw"


def encode(folder: Path, model: Path, *more: object, code: int = 0) -> Result:
    words = (folder / "samples.parquet", folder / "processed", "--model", model, "--device", "cpu", "--workers", 0)
    return run("encode", *words, *more, code=code)


def test_three_commands_and_a_check(tmp_path, raw, tiny_model):
    prepared = run("prepare", "folder", raw, tmp_path / "samples.parquet").output
    assert "left out: 1 x missing media (test/gone)" in prepared
    (raw / "train/10.gif").write_text("broken since")
    encoded = encode(tmp_path, tiny_model).output
    assert "5 samples: 4 encoded, 0 were there, 1 failed" in encoded
    assert "1 x not a picture that Pillow knows" in encoded
    assert "5 samples: 0 encoded, 4 were there, 1 failed" in encode(tmp_path, tiny_model).output
    sharded = run("shard", tmp_path / "processed", tmp_path / "shards").output
    assert "4 samples" in sharded
    assert "complete already; nothing changed" in run("shard", tmp_path / "processed", tmp_path / "shards").output
    assert "all right" in run("check", tmp_path / "shards").output
    assert "all right" in run("check", tmp_path / "processed").output


def test_a_dry_run_shows_all_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("demo", "msrvtt", "raw")
    before = sorted(tmp_path.rglob("*"))
    output = run("prepare", "msrvtt", "raw", "--split", "1k-A", "--captions", "each", "--dry-run").output
    assert sorted(tmp_path.rglob("*")) == before
    assert re.search(r"train +\d+ +\d+ +\d+ +0 +-", output)
    assert "note: expected train 9000, test 1000 media in the complete dataset as published" in output
    assert output.count("\n  caption  ") == 3
    assert "missing media (" in output
    assert output.endswith("dry run: wrote nothing\n")


def test_check_lists_what_is_wrong_and_exits_with_1(tmp_path, raw, tiny_model):
    run("prepare", "folder", raw, tmp_path / "samples.parquet")
    encode(tmp_path, tiny_model)
    run("shard", tmp_path / "processed", tmp_path / "shards")
    (tmp_path / "shards/ds_00000.tar").write_bytes(b"\0" * 10240)
    assert "wrong: ds_00000.tar" in run("check", tmp_path / "shards", code=1).output
    report = json.loads(run("check", tmp_path / "shards", "--json", code=1).stdout)
    assert report["ok"] is False
    assert report["problems"][0].keys() == {"where", "what"}


def test_a_moved_raw_tree_is_found_by_media_root(tmp_path, raw, tiny_model):
    run("prepare", "folder", raw, tmp_path / "samples.parquet")
    raw.rename(tmp_path / "moved")
    assert (
        "is not there; where it has moved to is said by: --media-root DIR"
        in encode(tmp_path, tiny_model, code=1).output
    )
    (tmp_path / "wrong").mkdir()
    failed = encode(tmp_path, tiny_model, "--media-root", tmp_path / "wrong", code=1).output
    assert "5 x missing media (has the raw tree moved? --media-root DIR)" in failed
    assert "not one sample could be encoded" in failed
    assert "5 encoded" in encode(tmp_path, tiny_model, "--media-root", tmp_path / "moved", "--retry-failed").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prepare", "kinetics", "x", "y"), "did you mean kinetics700 or kinetics710?"),
        (("prepare", "kinetics700", "nowhere", "y"), "nothing of that name"),
        (("prepare", "folder", "raw", "y", "--option", "caption"), "expected --option NAME=VALUE"),
        (("prepare", "folder", "raw", "--dry-run", "--as", "qa"), "folder has no option 'as'"),
        (("prepare", "folder", "raw"), "expected MANIFEST"),
        (("prepare", "folder", "raw", "y", "--split", "official"), "expected given, train, val, test, or the path"),
        (("encode", "none.parquet", "out", "--model", "x"), "embedshard prepare SOURCE RAW none.parquet"),
        (("encode", "samples.parquet", "out", "--model", "ViT-B-32"), "needs --pretrained"),
        (("encode", "samples.parquet", "out", "--model", "x", "--fps", "fast"), "like 1, 0.5 or 30000/1001"),
        (("encode", "samples.parquet", "out", "--model", "x", "--fps", "0"), "like 1, 0.5 or 30000/1001"),
        (("encode", "samples.parquet", "out", "--model", "x", "--fps", "1", "--all"), "expected one of --fps"),
        (("encode", "samples.parquet", "out", "--model", "x", "--decoder", "vlc"), "auto, pyav, decord"),
        (("shard", "raw/nothing", "out"), "embedshard encode"),
        (("check", "nowhere"), "nowhere"),
        (("demo", "folder", "raw"), "not empty"),
        (("run", "none.yaml"), "no recipe none.yaml"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(tmp_path, monkeypatch, raw, words, said):
    monkeypatch.chdir(tmp_path)
    run("prepare", "folder", raw, "samples.parquet")
    result = CliRunner().invoke(main, words)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert isinstance(result.exception, SystemExit)


def test_sources_are_listed_and_shown():
    listed = run("sources").output
    assert all(name in listed for name in ("folder", "kinetics700", "msrvtt", "table", "webdataset"))
    shown = run("sources", "show", "msrvtt").output
    assert "1k-A: train, test" in shown
    assert "captions=first" in shown
    assert "MSRVTT_data.json" in shown


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path, tiny_model):
    tree = Tree(tmp_path / "raw")
    for number in range(60):
        tree.video(f"{number}.mp4", str(number), seconds=4)
        tree.text(f"{number}.txt", "a disc")
    run("prepare", "folder", tmp_path / "raw", tmp_path / "samples.parquet")
    words = ["encode", tmp_path / "samples.parquet", tmp_path / "processed", "--model", tiny_model, "--workers", 1]
    command = [sys.executable, "-m", "embedshard", *map(str, words), "--all"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    while process.poll() is None and not list((tmp_path / "processed").glob("train/*.npy")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "stopped; the same command goes on where this one was" in errors
    assert "Traceback" not in errors
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "60 samples" in done.stdout
    assert " 0 failed" in done.stdout
    assert done.stderr == ""  # no bar where there is no terminal


# -- encode


def test_several_models_share_a_run_each_in_its_folder(tmp_path, raw, tiny_model):
    from embedshard.encode.clip import save_random_model

    save_random_model(tmp_path / "other", embed_dim=32, seed=1)
    run("prepare", "folder", raw, tmp_path / "samples.parquet")
    output = encode(tmp_path, tiny_model, "--model", tmp_path / "other").output
    assert "tiny: 5 samples: 5 encoded" in output
    assert "other: 5 samples: 5 encoded" in output
    assert "all right" in run("check", tmp_path / "processed/other").output
    assert (
        "tiny: 5 samples: 0 encoded, 5 were there" in encode(tmp_path, tiny_model, "--model", tmp_path / "other").output
    )
    said = encode(tmp_path, tiny_model, "--model", tiny_model, code=1).output
    assert f"--model {tiny_model} is given twice" in said
    said = encode(tmp_path, tiny_model, "--model", "ViT-B-32", "--pretrained", "a", "--pretrained", "b", code=1).output
    assert "expected a --pretrained for each of ViT-B-32, in their order; found 2" in said


def test_several_devices_and_a_profile(tmp_path, raw, tiny_model):
    run("prepare", "folder", raw, tmp_path / "samples.parquet")
    output = encode(tmp_path, tiny_model, "--device", "cpu,cpu", "--profile", tmp_path / "profile.json").output
    assert "on cpu, cpu; fps 1" in output
    assert "5 samples: 5 encoded" in output
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile.keys() == {"seconds", "busy", "queue_depth", "bound"}
    assert profile["busy"].keys() == {"decode", "preprocess", "encode", "write"}
    assert profile["bound"] in output


def test_fast_preprocessing_is_another_setting(tmp_path, raw, tiny_model):
    run("prepare", "folder", raw, tmp_path / "samples.parquet")
    encode(tmp_path, tiny_model, "--preprocess", "fast")
    said = encode(tmp_path, tiny_model, code=1).output
    assert "preprocess: 'fast' there, 'exact' asked for" in said


def test_a_dry_run_of_encode_predicts_and_writes_nothing(tmp_path, raw, tiny_model):
    run("prepare", "folder", raw, tmp_path / "samples.parquet")
    first = next(media for media in open_manifest(tmp_path / "samples.parquet").column("media") if ".mp4" in media)
    (raw / first).unlink()
    before = sorted(tmp_path.rglob("*"))
    output = encode(tmp_path, tiny_model, "--dry-run").output
    assert sorted(tmp_path.rglob("*")) == before
    assert "5 samples, 5 of them to encode, of 5 media" in output
    assert f"missing media: 1 ({first})" in output
    frames = int(
        re.search(r"predicted: (\d+) frames, [\d.]+ MB of triples, 3 shards of 10000, \d+ s on cpu", output)[1]
    )
    assert output.endswith("dry run: wrote nothing\n")
    encoded = encode(tmp_path, tiny_model).output
    assert int(re.search(r"(\d+) frames of 4 media", encoded)[1]) == frames
    assert "5 samples, 1 of them to encode, of 1 media" in encode(tmp_path, tiny_model, "--dry-run").output


def test_a_dataset_that_lies_on_a_storage(tmp_path, raw, tiny_model, bucket):
    for path in raw.rglob("*.*"):
        Url(f"{bucket}/raw/{path.relative_to(raw).as_posix()}").upload(path)
    manifest = f"{bucket}/out/samples.parquet"
    assert f"wrote {manifest}" in run("prepare", "folder", raw, manifest).output
    run("prepare", "folder", raw, manifest)
    assert [one.name for one in Url(f"{bucket}/out").iterdir()] == ["left_out.jsonl", "prepare.json", "samples.parquet"]
    words = ("--model", tiny_model, "--device", "cpu", "--workers", 0, "--media-root", f"{bucket}/raw")
    raw.rename(tmp_path / "elsewhere")
    assert "5 samples, 5 of them to encode" in run("encode", manifest, tmp_path / "p", *words, "--dry-run").output
    assert "5 samples: 5 encoded, 0 were there, 0 failed" in run("encode", manifest, tmp_path / "p", *words).output
    said = run("prepare", "folder", f"{bucket}/raw", tmp_path / "m.parquet", code=1).output
    assert f"--media-root {bucket}/raw" in said
    assert (
        f"no manifest {bucket}/no.parquet"
        in run("encode", f"{bucket}/no.parquet", tmp_path / "p", *words, code=1).output
    )
    gone = run("encode", manifest, tmp_path / "p", *words[:-1], f"{bucket}/no", code=1).output
    assert f"the raw dataset {bucket}/no is not there" in gone
