"""The options that say who encodes and into which layout, and what they stand for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from embedshard.errors import InputError

if TYPE_CHECKING:
    from embedshard.encode.parts import Share
    from embedshard.encode.pipeline import EncodeOptions
    from embedshard.manifest import Manifest
    from embedshard.remote import AnyPath
    from embedshard.shard.job import Share as Packers

__all__ = ["engine_options", "layout_of", "packers", "shared_options", "sharing", "submit_to_slurm"]

_PAYS = 20_000  # samples of a process, below which starting it costs more than it gives
_LARGE = 100_000  # samples, from which on parts are the default
_NOT_FOR_TASKS = ("engine", "slots", "sbatch", "part", "address")


class _Part(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.4
    """A share of the units: `2/16`."""

    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)/(\d+)", str(value))
        part, of = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= part <= of:
            self.fail(f"expected I/N with I from 1 to N, such as 2/16, found {value!r}", param, ctx)
        return part, of


_SHARED = [
    click.option(
        "--part", type=_Part(), metavar="I/N", help="Do only the I-th of N shares of the work, by any scheduler."
    ),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray", "slurm"]),
        default="local",
        show_default=True,
        help="Who works; slurm writes and submits an array script.",
    ),
    click.option("--address", help="Of a Ray cluster, e.g. auto.  [default: Ray on this machine alone]"),
    click.option("--sbatch", metavar="OPTIONS", help="For Slurm, e.g. '--partition=gpu --gpus=1 --time=24:00:00'."),
]


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say by whom, and which share, to a command."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add these, and those of encoding in units, to a command."""
    options = [
        click.option(
            "--layout",
            type=click.Choice(["auto", "loose", "parts"]),
            default="auto",
            show_default=True,
            help=f"Loose files, or parts: a tar for each unit. auto: parts from {_LARGE} samples on, where several "
            "processes share the work, or on a storage.",
        ),
        click.option("--unit", type=click.IntRange(1), help="Samples of a unit.  [default: by the manifest, to 1000]"),
        click.option(
            "--slots",
            type=click.IntRange(1),
            help="Workers with a model each.  [default: one for each device; Ray: each GPU]",
        ),
    ]
    command = shared_options(command)
    for option in reversed(options):
        command = option(command)
    return command


def layout_of(manifest: Manifest, folders: Sequence[AnyPath], given: dict[str, Any]) -> str:
    """Decide between `loose` and `parts`: as asked for, as it was begun, or as many hands need it.

    Raises:
        InputError: Loose triples are asked for, and more than one process, or a storage.
    """
    from embedshard.encode.clip import device_names
    from embedshard.processed import count_triples, read_info
    from embedshard.remote import Url

    shared = [f"--{name}" for name in ("part", "unit", "slots") if given[name]]
    shared += [f"--engine {given['engine']}"] if given["engine"] != "local" else []
    shared += ["--device with several"] if len(device_names(given["device"])) > 1 else []
    if given["layout"] == "loose" and shared:
        raise InputError(f"--layout loose: one process on one device writes loose triples; leave out {shared[0]}")
    if remote := [folder for folder in folders if isinstance(folder, Url)]:
        if given["layout"] == "loose":
            raise InputError(
                f"--layout loose: expected a folder on a disk, found {remote[0]}; on a storage triples are written in "
                "parts, a tar for each unit: --layout parts"
            )
        return "parts"
    if given["layout"] != "auto":
        return str(given["layout"])
    infos = [read_info(folder) for folder in folders]
    if any(info and info.units for info in infos) or shared:
        return "parts"
    if any(infos) or any(count_triples(folder) for folder in folders if isinstance(folder, Path)):
        return "loose"
    return "parts" if manifest.rows >= _LARGE else "loose"


@contextlib.contextmanager
def sharing(given: dict[str, Any], options: EncodeOptions) -> Iterator[tuple[Share, EncodeOptions]]:
    """Give the share that is asked for, and the options of each of its slots."""
    from embedshard.encode.clip import device_names
    from embedshard.encode.parts import Share

    part, of = given["part"] or (1, 1)
    if given["engine"] == "ray":
        from embedshard.engine import ray

        with ray.connected(given["address"]) as resources:
            on_gpus = given["device"] in ("auto", "cuda") and resources.get("GPU", 0) >= 1
            slots = given["slots"] or int(resources.get("GPU", 0)) if on_gpus else given["slots"] or 1
            cores = int(resources.get("CPU", 1))
            each = replace(options, workers=_workers(given, cores // slots))
            took = ray.RayOptions(gpus=int(on_gpus), cpus=max(1, min(each.workers, cores // slots)))
            device = "cuda:0" if on_gpus else "cpu" if given["device"] == "auto" else given["device"]
            engine = partial(ray.run, slots=slots, options=took)
            yield Share(engine, (device,) * slots, part, of, given["unit"] or 0), each
        return
    from embedshard.engine import local

    names = device_names(given["device"])
    slots = given["slots"] or len(names)
    devices = tuple(names[slot % len(names)] for slot in range(slots))
    each = replace(options, workers=_workers(given, options.workers // slots))
    yield Share(partial(local.run, slots=slots), devices, part, of, given["unit"] or 0), each


def _workers(given: dict[str, Any], usual: int) -> int:
    return max(1, usual) if given["workers"] is None else int(given["workers"])


@contextlib.contextmanager
def packers(given: dict[str, Any]) -> Iterator[Packers]:
    """Give the share of sharding that is asked for."""
    from embedshard.shard.job import Share

    part, of = given["part"] or (1, 1)
    if given["engine"] == "local" and given["slots"]:
        raise InputError("--slots is for --engine ray or slurm; processes of this machine are --workers")
    if given["engine"] == "ray":
        from embedshard.engine import ray

        if given["workers"]:
            raise InputError("--workers is for this machine alone; workers of a Ray cluster are --slots")
        with ray.connected(given["address"]) as resources:
            slots = given["slots"] or int(resources.get("CPU", 1))
            yield Share(partial(ray.run, options=ray.RayOptions()), slots, _PAYS, part, of)
        return
    from embedshard.engine import local

    yield Share(local.run, given["workers"] or local.cores(), 1 if given["workers"] else _PAYS, part, of)


def submit_to_slurm(context: click.Context, folder: AnyPath, tasks: int, words: Sequence[str] = ()) -> None:
    """Write the array script of a command, beside it what the tasks print, and submit it.

    Args:
        context: Of the command.
        folder: Where to; of one on a storage it is a folder here, named after its parent.
        tasks: Of the array.
        words: That the command gets beside its own.
    """
    from embedshard.engine import slurm
    from embedshard.store import write_bytes

    here = (folder if isinstance(folder, Path) else Path(f"{folder.parent.name}-slurm")).absolute()
    command = [str(context.command.name), *_words(context), *words]
    text = slurm.script(command, tasks, (context.params["sbatch"] or "").split(), here)
    write_bytes(here / "slurm.sh", text.encode(), sync=True)
    click.echo(f"wrote {here / 'slurm.sh'}")
    click.echo(slurm.submit(here / "slurm.sh"))
    click.echo(f"how far it is: embedshard status {folder.parent}")


def _words(context: click.Context) -> list[str]:
    """Give a command's own words again, paths absolute, but for those that say who runs it."""
    words: list[str] = []
    for param in context.command.params:
        name, value = str(param.name), context.params[str(param.name)]
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if isinstance(param, click.Argument):
            words.append(str(value.absolute()))
        elif name not in (*_NOT_FOR_TASKS, "layout"):
            for one in value if param.multiple else [value]:
                text = str(one.absolute() if isinstance(one, Path) else one)
                words += [param.opts[0]] if isinstance(param, click.Option) and param.is_flag else [param.opts[0], text]
    return words
