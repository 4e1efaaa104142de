from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from embedshard.cli import main
from embedshard.cli.encode import encode
from embedshard.cli.prepare import prepare
from embedshard.cli.recipe import read_recipe
from embedshard.cli.shard import shard
from embedshard.demo import Tree, image_bytes
from embedshard.encode.clip import save_random_model
from embedshard.errors import InputError
from embedshard.remote import Url
from embedshard.sources import all_sources

COMMANDS = {"prepare": prepare, "encode": encode, "shard": shard}
CONFIGS = Path(__file__).parents[2] / "configs"
GOOD = """\
out: out
prepare: {source: folder, raw: raw, option: {frames: true}}
encode:
  model: ViT-B-32
  fps: 30000/1001
  normalize: true
shard: {shuffle: false, maxcount: 5}
"""


def read(tmp_path: Path, text: str, **overrides: str):
    (tmp_path / "r.yaml").write_text(text)
    return read_recipe(tmp_path / "r.yaml", {k.replace("__", "."): v for k, v in overrides.items()}, COMMANDS)


def test_sections_become_the_words_of_the_commands(tmp_path):
    recipe = read(tmp_path, GOOD)
    assert (recipe.out, recipe.source, recipe.raw) == (Path("out"), "folder", Path("raw"))
    assert recipe.arguments == {
        "prepare": ["--option=frames=true"],
        "encode": ["--model=ViT-B-32", "--fps=30000/1001", "--normalize"],
        "shard": ["--no-shuffle", "--maxcount=5"],
    }


def test_the_command_line_overrides(tmp_path):
    recipe = read(tmp_path, GOOD, out="there", encode__fps="2", encode__normalize="false", shard__seed="7")
    assert recipe.out == Path("there")
    assert recipe.arguments["encode"] == ["--model=ViT-B-32", "--fps=2"]
    assert recipe.arguments["shard"][-1] == "--seed=7"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            GOOD.replace("fps", "fsp"),
            r"r\.yaml, line 5: encode\.fsp: no such option of embedshard encode; did you mean fps",
        ),
        (GOOD.replace("30000/1001", "fast"), r"line 5: encode\.fps: expected a number or a fraction"),
        (
            GOOD.replace("normalize: true", "normalize: 3"),
            r"line 6: encode\.normalize: expected true or false, found 3",
        ),
        (GOOD.replace("maxcount: 5", "maxcount: many"), r"line 7: shard\.maxcount: 'many' is not a valid integer"),
        (GOOD.replace("out: out\n", ""), "missing out:"),
        (GOOD.replace("raw: raw, ", ""), r"missing raw: \(source and raw belong into the section prepare\)"),
        (GOOD.replace("shard:", "shards:"), "line 7: no section 'shards'; expected out, prepare, encode, shard"),
        (GOOD.replace("{frames: true}", "frames"), r"line 2: prepare\.option: expected `name: value` pairs"),
        (GOOD.replace("ViT-B-32", "[a, [b]]"), r"line 4: encode\.model: expected one value"),
        (GOOD.replace("30000/1001", "[1, 2]"), r"line 5: encode\.fps: expected one value"),
        (GOOD.replace("  model: ViT-B-32\n", ""), r"r\.yaml: missing encode\.model; write it"),
        (GOOD.replace(" ViT-B-32", ""), r"missing encode\.model"),
        (GOOD.replace("out: out", "out:"), "missing out:"),
        (GOOD.replace("fps: 30000/1001", "? [a, b]"), "line 5: expected a name as key of encode"),
        ("? [a, b]\n", "line 1: expected a name as key of the file"),
        (GOOD.replace("ViT-B-32", "!!python/object:os.x"), r"line 4: encode\.model: .*constructor"),
        (GOOD.replace("ViT-B-32", "2024-13-45"), r"line 4: encode\.model: .*month"),
        (GOOD + "encode: {fps: 2}\n", r"line 8: the file has encode a second time, the first is .*line 3"),
        (GOOD.replace("normalize", "fps"), r"line 6: encode has fps a second time, the first is .*line 5"),
        (GOOD.replace("{frames: true}", "{frames: true, frames: no}"), r"prepare\.option.* has frames a second time"),
        (GOOD.replace("30000/1001", "1\n  batch-size: 1\n  batch_size: 2"), "encode has batch-size a second time"),
        (GOOD.replace("30000/1001", "1\n  workers: -1"), r"line 6: encode\.workers: -1 is not in the range"),
        ("encode: [", "not YAML"),
        ("- a list", "line 1: expected the file to hold"),
        ("", "expected the file to hold"),
    ],
)
def test_mistakes_name_line_and_key(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read(tmp_path, text)


def test_an_override_of_nothing_known(tmp_path):
    with pytest.raises(InputError, match=r"expected out or one of prepare\.KEY"):
        read(tmp_path, GOOD, fps="2")


@pytest.mark.parametrize("value", ["[", "!!python/object:os.x"])
def test_an_override_that_is_not_yaml(tmp_path, value):
    with pytest.raises(InputError, match=r"--set encode\.fps"):
        read(tmp_path, GOOD, encode__fps=value)


def test_a_recipe_that_is_not_utf8(tmp_path):
    (tmp_path / "r.yaml").write_bytes(GOOD.encode() + b"name: \xff")
    with pytest.raises(InputError, match=r"r\.yaml, line 8: expected a recipe in UTF-8"):
        read_recipe(tmp_path / "r.yaml", {}, COMMANDS)


def test_an_override_takes_the_place_of_the_other_spelling(tmp_path):
    recipe = read(tmp_path, GOOD.replace("normalize: true", "batch_size: 4"), **{"encode__batch-size": "8"})
    assert recipe.arguments["encode"][-1] == "--batch-size=8"


def test_there_is_a_valid_recipe_for_every_source():
    recipes = {path.stem: read_recipe(path, {}, COMMANDS) for path in CONFIGS.glob("*.yaml")}
    assert {name: recipe.source for name, recipe in recipes.items()} == {name: name for name in all_sources()}
    for recipe in recipes.values():
        for (name, command), count in zip(COMMANDS.items(), (3, 2, 2), strict=True):
            command.make_context(name, [*recipe.arguments[name], "--", *["x"] * count])


def test_run_goes_the_whole_way_and_again(tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["demo", "kinetics700", "raw"]).exit_code == 0
    words = [
        "run",
        str(CONFIGS / "kinetics700.yaml"),
        "--raw",
        "raw",
        "--out",
        "out",
        "--set",
        f"encode.model={tiny_model}",
    ]
    words += ["--set", "encode.pretrained=", "--set", "encode.device=cpu", "--set", "encode.workers=0"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert result.output.index("== prepare") < result.output.index("== encode") < result.output.index("== shard")
    assert result.output.rstrip().endswith("all right")
    before = {path: path.read_bytes() for path in Path("out/shards").iterdir()}
    assert "complete already" in CliRunner().invoke(main, words).output
    assert {path: path.read_bytes() for path in Path("out/shards").iterdir()} == before


def test_run_keeps_an_allowed_leak_to_the_end(tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1,000 {a}: b").mkdir()
    (tmp_path / "1,000 {a}: b/a.png").write_bytes(image_bytes("a"))
    (tmp_path / "1,000 {a}: b/t.csv").write_text("path,caption,split,id\na.png,c,train,1\na.png,d,test,2\n")
    recipe = f"out: out\nprepare: {{source: table, allow-leak: true}}\nencode: {{model: {tiny_model}, workers: 0}}\n"
    (tmp_path / "r.yaml").write_text(recipe)
    result = CliRunner().invoke(main, ["run", "r.yaml", "--raw", "1,000 {a}: b/t.csv", "--out", "1_000"])
    assert result.exit_code == 0, result.output
    assert "1_000/shards: all right" in result.output


def test_run_stops_before_work_when_a_later_section_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(GOOD.replace("maxcount: 5", "maxcount: 5, seed: x"))
    result = CliRunner().invoke(main, ["run", "r.yaml"])
    assert "line 7: shard.seed" in result.output
    assert not (tmp_path / "out").exists()


def test_run_takes_several_models_to_shards_of_their_own(tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    save_random_model(tmp_path / "second", embed_dim=32, seed=1)
    Path("r.yaml").write_text(
        "out: out\nprepare: {source: folder, raw: raw}\n"
        f"encode: {{model: [{tiny_model}, second], device: cpu, workers: 0}}\n"
    )
    CliRunner().invoke(main, ["demo", "folder", "raw"])
    result = CliRunner().invoke(main, ["run", "r.yaml"])
    assert result.exit_code == 0, result.output
    dims = {
        path.parent.name: json.loads(path.read_text())["embed_dim"] for path in Path("out/shards").glob("*/index.json")
    }
    assert dims == {tiny_model.name: 64, "second": 32}
    assert result.output.count("all right") == 2


def test_run_goes_the_whole_way_on_a_storage(tmp_path, bucket, tiny_model):
    all_sources()["folder"].demo(Tree(tmp_path / "raw"))
    encode_ = f"{{model: [{tiny_model}], device: cpu, workers: 0, unit: 2}}"
    text = f"prepare: {{source: folder, raw: {tmp_path / 'raw'}}}\nencode: {encode_}\n"
    (tmp_path / "r.yaml").write_text(text)
    words = ["run", str(tmp_path / "r.yaml"), "--out"]
    for out in (f"{bucket}/out", str(tmp_path / "out")):
        ended = CliRunner().invoke(main, [*words, out])
        assert ended.exit_code == 0, ended.output
        assert "shards: all right" in ended.output
    assert "5 samples: 0 encoded, 5 were there" in CliRunner().invoke(main, [*words, f"{bucket}/out"]).output
    there = [path for path in (Url(f"{bucket}/out") / "shards").iterdir() if path.name.endswith(".tar")]
    assert len(there) == 3
    for tar in there:
        assert tar.read_bytes() == (tmp_path / "out/shards" / tar.name).read_bytes()
