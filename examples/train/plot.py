"""Draw the curves of runs of train.py: `python plot.py curves.png RUN [RUN ...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from embedshard.errors import InputError

__all__ = ["main", "plot"]

_KS = (1, 5, 10)


def plot(out: Path, runs: list[Path]) -> None:
    """Draw `history.json` of the folders that train.py wrote.

    Raises:
        InputError: One has none, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib; install it with: pip install '.[examples]'") from error
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, run in enumerate(runs):
        if not (run / "history.json").is_file():
            raise InputError(f"no {run / 'history.json'}; expected the OUT of train.py")
        history = json.loads((run / "history.json").read_text())
        steps = [record for record in history if "loss" in record]
        scores = [record for record in history if "text_to_video" in record]
        left.plot([s["samples"] for s in steps], [s["loss"] for s in steps], f"C{number}", label=run.name)
        for k, style in zip(_KS, ("-", "--", ":"), strict=True):
            recalls = [score["text_to_video"][f"R@{k}"] for score in scores]
            right.plot([s["samples"] for s in scores], recalls, f"C{number}{style}", label=f"{run.name} R@{k}")
        right.axhline(scores[0]["text_to_video"]["chance R@1"], color="grey", linewidth=0.5)
    left.set(xlabel="samples", ylabel="contrastive loss")
    right.set(xlabel="samples", ylabel="text-to-video recall (grey: R@1 of chance)", ylim=(0, 1))
    left.legend()
    right.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
def main(out: Path, runs: tuple[Path, ...]) -> None:
    """Draw the curves of RUNS into the picture OUT."""
    plot(out, list(runs))
    click.echo(out)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
