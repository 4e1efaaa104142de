"""The README says what is so."""

from __future__ import annotations

import re
from pathlib import Path

from embedshard.cli import main
from embedshard.load.options import LoadOptions
from embedshard.sources import all_sources, published

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def source_table() -> str:
    """Print the table between the README's `sources` marks from the registry."""
    columns = ("source", "dataset", "kind", "modality", "splits", "samples", "licence")
    head = f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"
    rows = [
        f"| `{s.name}` | {f'[{s.title}]({s.homepage})' if s.homepage else s.title} | {s.kind} | {s.modality} | "
        f"{', '.join(s.splits)} | {published(s) or '-'} | {s.license or '-'} |"
        for s in all_sources().values()
    ]
    return "\n".join([head, *rows])


def test_the_table_of_sources_is_the_registrys():
    written = README.partition("<!-- sources -->\n")[2].partition("\n<!-- /sources -->")[0]
    assert written.strip() == source_table()


def test_every_command_and_option_it_shows_exists():
    lines = re.findall(r"^    (embedshard .*?)(?:  +#.*)?$", README, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        _, name, *words = line.split()
        command = main.commands[name]
        options = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line


def test_every_option_in_the_text_is_one_of_some_command():
    known = {o for c in main.commands.values() for p in c.params for o in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)", README)) <= known


def test_the_options_of_load_are_named():
    for name in LoadOptions.__dataclass_fields__:
        assert f"`{name}`" in README or f"{name}=" in README
