"""The rooms and the arrows between them (the design's section 3), walked with `ast`."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "embedshard"
FILES = sorted(PACKAGE.rglob("*.py"))

EVERYWHERE = {"", "errors"}  # "" is the package itself: its version and `load`
ARROWS = {
    "": {"load"},
    "__main__": {"cli"},
    "errors": set(),
    "remote": set(),
    "address": {"remote"},
    "sample": {"address"},
    "store": {"remote"},
    "distinct": set(),
    "demo": {"store"},
    "manifest": {"sample", "store", "distinct", "remote"},
    "tar": set(),
    "processed": {"sample", "store", "tar", "remote"},
    "split": {"sample"},
    "sources": {"sample", "address", "demo"},
    "prepare": {"sources", "split", "manifest", "sample", "distinct", "store", "remote"},
    "frames": set(),
    "encode": {"frames", "address", "manifest", "processed", "store", "sample", "distinct", "tar", "engine", "remote"},
    "engine": set(),
    "shard": {"processed", "sample", "distinct", "store", "engine", "tar", "remote"},
    "check": {"processed", "shard", "sample", "distinct", "store", "tar", "remote"},
    "repair": {"processed", "shard", "sample", "distinct", "store", "tar"},
    "load": {"shard", "tar", "remote"},
    "compat": {
        "address",
        "distinct",
        "encode",
        "frames",
        "manifest",
        "processed",
        "sample",
        "shard",
        "sources",
        "store",
        "tar",
    },
    "cli": {
        "remote",
        "sample",
        "sources",
        "prepare",
        "demo",
        "manifest",
        "frames",
        "encode",
        "shard",
        "check",
        "engine",
        "processed",
        "store",
        "split",
        "repair",
    },
}
HEAVY = {
    "open_clip": {"encode/clip.py"},
    "torch": {
        "encode/clip.py",
        "encode/coca.py",
        "encode/preprocess.py",
        "encode/resize.py",
        "encode/batch.py",
        "encode/pipeline.py",
        "encode/worker.py",
        "frames/colour.py",
        "frames/torchcodec.py",
        "load/collate.py",
        "load/pipeline.py",
        "load/position.py",
    },
    "webdataset": {"load/pipeline.py"},
    "decord": {"frames/decord.py"},
    "torchcodec": {"frames/torchcodec.py"},
    "ray": {"engine/ray.py"},
}


OTHERS_SIGNATURES = {"compat/__init__.py:clip_video_encode"}  # functions whose arguments another tool has laid down


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield node.module or ""


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_listed_arrows(path):
    here = room_of(path)
    found = {room(name) for name in imports(path) if name.split(".")[0] == "embedshard"}
    assert found - {here} <= ARROWS[here] | EVERYWHERE


def test_load_reads_only_tables_of_shard():
    names = {name for path in (PACKAGE / "load").glob("*.py") for name in imports(path)}
    assert {name for name in names if ".shard" in name} <= {"embedshard.shard.table", "embedshard.shard.offsets"}


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_have_their_places(package):
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name.split(".")[0] == package for name in imports(path))
    }
    assert users == HEAVY[package]


def test_only_sources_name_a_dataset():
    names = [path.stem for path in (PACKAGE / "sources").glob("[!_]*.py") if path.stem not in ("folder", "table")]
    for path in FILES:
        if room_of(path) not in ("sources", "load", "cli"):
            words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not words & (set(names) - {"webdataset"}), path


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(PACKAGE)}:{node.name}", node


def test_bodies_have_at_most_40_lines_and_6_arguments():
    for name, node in functions():
        body = node.body[1:] if ast.get_docstring(node) else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        given = [a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
        assert lines <= 40, f"{name}: {lines} lines"
        assert len(given) <= 6 or name in OTHERS_SIGNATURES, f"{name}: {len(given)} arguments"


def test_help_is_there_at_once():
    begun = time.monotonic()
    code = (
        "import sys; sys.argv = ['embedshard', '--help']\n"
        "from embedshard.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'open_clip', 'webdataset', 'pyarrow', 'av', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert time.monotonic() - begun < 1
