"""Recipes: one YAML file for the whole way of a dataset, checked against the commands' own options.

    out: out/kinetics700        # gets samples.parquet, processed/ and shards/
    prepare: {source: kinetics700, raw: raw/kinetics700, split: official}
    encode: {model: ViT-B-32, pretrained: laion2b_s34b_b79k, fps: 1}
    shard: {maxcount: 10000}

A section's keys are the long options of the command of that name, without the dashes; one that may be given several
times takes a list. Several models of `encode` have a folder each in processed/ and in shards/.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from embedshard.errors import InputError
from embedshard.remote import AnyPath, place

__all__ = ["Recipe", "read_recipe"]


@dataclass(frozen=True)
class Recipe:
    """A checked recipe: where it writes, and the arguments of each command."""

    out: AnyPath
    source: str
    raw: Path
    arguments: Mapping[str, list[str]]


@dataclass(frozen=True)
class _Value:
    """A value and where it was written, for error messages."""

    value: Any
    where: str


_Section = dict[str, _Value]
_NOTHING = _Value(None, "")


def read_recipe(path: Path, overrides: Mapping[str, str], commands: Mapping[str, click.Command]) -> Recipe:
    """Read and check a recipe.

    Args:
        path: The YAML file.
        overrides: Values by `out` or `section.key` that take the place of the file's.
        commands: `prepare`, `encode` and `shard`; their options are the keys of the sections.

    Raises:
        InputError: The file is no recipe; the error names the line and the key.
    """
    top, sections = _parse(path, commands)
    for name, text in overrides.items():
        section, _, key = name.rpartition(".")
        values = top if name == "out" else sections.get(section)
        if values is None:
            raise InputError(f"--set {name}: expected out or one of {', '.join(f'{s}.KEY' for s in commands)}")
        values[_option_name(key)] = _value(_compose(text, f"--set {name}"), f"--set {name}")
    prepare = sections["prepare"]
    needed = (("out", top), ("source", prepare), ("raw", prepare))
    if missing := [f"{name}:" for name, values in needed if values.get(name, _NOTHING).value is None]:
        raise InputError(f"{path}: missing {', '.join(missing)} (source and raw belong into the section prepare)")
    out, source, raw = (_text(value) for value in (top["out"], prepare.pop("source"), prepare.pop("raw")))
    if (split := prepare.get("split", _NOTHING)).value:
        prepare["split"] = _Value(_near(path, str(split.value)), split.where)
    arguments = {name: _arguments(command, sections[name], name, path) for name, command in commands.items()}
    return Recipe(place(out), source, Path(raw), arguments)


def _near(recipe: Path, split: str) -> str:
    """Give a split recipe's path as it is seen from here, from the recipe's folder or from the one above."""
    folders = (Path(), recipe.parent, recipe.parent.parent)
    return next((str(folder / split) for folder in folders if (folder / split).is_file()), split)


def _parse(path: Path, commands: Mapping[str, click.Command]) -> tuple[_Section, dict[str, _Section]]:
    """Read the file into its top values and its sections, each value with its line."""
    if not path.exists():
        raise InputError(f"no recipe {path}; see configs/ for one of each source")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{path}, line {data.count(10, 0, error.start) + 1}"
        raise InputError(f"{where}: expected a recipe in UTF-8, found {error}; save it as UTF-8") from error
    top: _Section = {}
    sections: dict[str, _Section] = {name: {} for name in commands}
    for key, (node, where) in _pairs(_compose(text, str(path)), str(path), "the file").items():
        if key == "out":
            top[key] = _value(node, f"{where}: {key}")
        elif key in sections:
            for name, (value, line) in _pairs(node, str(path), key).items():
                sections[key][name] = _value(value, f"{line}: {key}.{name}")
        else:
            raise InputError(f"{where}: no section {key!r}; expected out, {', '.join(commands)}")
    return top, sections


def _compose(text: str, where: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not YAML: {error}") from error


def _pairs(node: yaml.Node | None, where: str, name: str) -> dict[str, tuple[yaml.Node, str]]:
    """Give each value of a mapping and where its key was written."""
    if isinstance(node, yaml.ScalarNode) and not node.value:
        return {}
    if not isinstance(node, yaml.MappingNode):
        line = f", line {node.start_mark.line + 1}" if node else ""
        raise InputError(f"{where}{line}: expected {name} to hold `key: value` lines")
    pairs: dict[str, tuple[yaml.Node, str]] = {}
    for key, value in node.value:
        line = f"{where}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"{line}: expected a name as key of {name}, found a list or a mapping")
        if (word := _option_name(key.value)) in pairs:
            raise InputError(f"{line}: {name} has {word} a second time, the first is {pairs[word][1]}; remove one")
        pairs[word] = (value, line)
    return pairs


def _value(node: yaml.Node | None, where: str) -> _Value:
    """Give what a node says, None for an empty one."""
    if isinstance(node, yaml.MappingNode):
        _pairs(node, where, "the mapping")
    try:
        return _Value(yaml.constructor.SafeConstructor().construct_document(node) if node else None, where)
    except (yaml.MarkedYAMLError, ValueError) as error:
        raise InputError(f"{where}: expected a plain value, found {getattr(error, 'problem', error)}") from error


def _option_name(key: str) -> str:
    return key.replace("_", "-")


def _arguments(command: click.Command, section: _Section, name: str, path: Path) -> list[str]:
    """Give a section as the words of a command line, each value checked by the option's own type."""
    options = {
        flag.removeprefix("--"): param
        for param in command.params
        if isinstance(param, click.Option)
        for flag in param.opts
        if flag.startswith("--")
    }
    words: list[str] = []
    for key, value in section.items():
        option = options.get(key)
        if option is None:
            close = difflib.get_close_matches(key, options, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of: {', '.join(sorted(options))}"
            raise InputError(f"{value.where}: no such option of embedshard {name}; {hint}")
        words += _words(option, value)
    for flag, option in options.items():
        if option.required and section.get(flag, _NOTHING).value is None:
            raise InputError(f"{path}: missing {name}.{flag}; write it into the section {name}, as `{flag}: ...`")
    return words


def _words(option: click.Option, value: _Value) -> list[str]:
    flag = option.opts[0]
    if value.value is None:
        return []
    if option.is_flag:
        if not isinstance(value.value, bool):
            raise InputError(f"{value.where}: expected true or false, found {value.value!r}")
        off = [option.secondary_opts[0]] if option.secondary_opts else []
        return [flag] if value.value else off
    if option.multiple and option.metavar == "NAME=VALUE":
        if not isinstance(value.value, dict):
            raise InputError(f"{value.where}: expected `name: value` pairs, found {value.value!r}")
        return [f"{flag}={name}={str(v).lower() if isinstance(v, bool) else v}" for name, v in value.value.items()]
    values = value.value if option.multiple and isinstance(value.value, list) else [value.value]
    texts = [_text(_Value(one, value.where)) for one in values]
    try:
        for text in texts:
            option.type.convert(text, option, None)
    except click.BadParameter as error:
        raise InputError(f"{value.where}: {error.message}") from error
    return [f"{flag}={text}" for text in texts]


def _text(value: _Value) -> str:
    if isinstance(value.value, (dict, list)):
        raise InputError(f"{value.where}: expected one value, found {value.value!r}")
    return str(value.value)
