"""Train a temporal head on shards by CLIP's contrastive loss, on one device or several.

    python train.py SHARDS TEXTS.npz RUN --pooling attention
    torchrun --nproc-per-node=2 train.py SHARDS TEXTS.npz RUN --pooling attention

The same command goes on where RUN was stopped, to the same weights as without the stop.
"""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import click
import ranks
import torch
from data import Batch, Reading, Texts, batches, empty_batch, read_texts
from evaluate import encode_split, retrieve
from loss import contrastive_loss
from model import POOLINGS, VideoText
from torch import nn

from embedshard.errors import InputError

__all__ = ["Run", "TrainOptions", "main", "train"]


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        pooling: A name in `model.POOLINGS`.
        epochs: Passes over the train split.
        batch_size: Samples of a step on each rank.
        seq_len: Frames of a clip, see `data.Reading`.
        lr: Peak of the learning rate, which rises over `warmup` (a part of the run) and falls as a cosine.
        warmup: See `lr`.
        weight_decay: Of matrices; vectors and scalars have none.
        bf16: Whether the head runs under bfloat16 autocast; the loss never does.
        log_every: Steps between records of the loss.
        save_every: Steps between checkpoints within an epoch, 0 for none; each epoch ends with one.
        val: The split that is evaluated after each epoch.
        workers: Reading processes of each rank.
        seed: Of first weights, order and windows.
    """

    pooling: str = "attention"
    epochs: int = 20
    batch_size: int = 256
    seq_len: int = 32
    lr: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    bf16: bool = False
    log_every: int = 10
    save_every: int = 0
    val: str = "val"
    workers: int = 0
    seed: int = 0


@dataclass
class Run:
    """A training that is under way.

    Attributes:
        options: Of it.
        model: On its device.
        optimizer: Of the model.
        setting: What a training that was stopped has to be gone on with.
        epoch: That is running, from 0.
        batch: Steps of this epoch that are done.
        samples: Seen since the start, on all ranks.
        history: What there is to plot: the loss of some steps, and the scores of every evaluation.
    """

    options: TrainOptions
    model: VideoText
    optimizer: torch.optim.Optimizer
    setting: dict[str, Any]
    epoch: int = 0
    batch: int = 0
    samples: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(shards: str, texts: Texts, out: Path, options: TrainOptions, device: torch.device) -> Run:
    """Train, or go on with the training that `out` holds; on every rank.

    Args:
        shards: Folder or URL.
        texts: Of these shards.
        out: Folder for `checkpoint.pt` and `history.json`.
        options: How.
        device: This rank's.

    Raises:
        InputError: `out` holds a training with another setting, or a split is missing.
    """
    run = _begin(texts, options, device)
    _restore(run, out)
    reading = Reading(shards, options.batch_size, options.seq_len, options.workers, options.seed)
    wrapped = nn.parallel.DistributedDataParallel(run.model) if ranks.count() > 1 else run.model
    if not run.history:
        _evaluate(run, reading, texts, device)
    while run.epoch < options.epochs:
        mine = islice(batches(reading, texts, "train", run.epoch), run.batch, None)
        while True:
            batch = next(mine, None)
            sizes = ranks.gather_sizes(len(batch.clips) if batch else 0, device)
            if not any(sizes):
                break
            _step(run, wrapped, (batch or empty_batch(reading, texts)).to(device), sizes, texts.counts["train"])
            if options.save_every and run.batch % options.save_every == 0:
                _save(run, out)
        run.epoch, run.batch = run.epoch + 1, 0
        _evaluate(run, reading, texts, device)
        _save(run, out)
    return run


def _begin(texts: Texts, options: TrainOptions, device: torch.device) -> Run:
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = VideoText(options.pooling, options.seq_len, texts.frame_mean, texts.text_mean).to(device)
    matrices = [weights for weights in model.parameters() if weights.ndim > 1]
    others = [weights for weights in model.parameters() if weights.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    setting = {"ranks": ranks.count(), "encoder": texts.encoder, "train": texts.counts["train"], **asdict(options)}
    return Run(options, model, torch.optim.AdamW(groups, options.lr, weight_decay=options.weight_decay), setting)


def _step(run: Run, wrapped: nn.Module, batch: Batch, sizes: list[int], in_epoch: int) -> None:
    """Learn from the batches of all ranks; `sizes` are theirs, `in_epoch` the samples of the split."""
    options = run.options
    rate = _rate(options, run.samples / (options.epochs * in_epoch))
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=options.bf16):
        features = wrapped(batch.frames, batch.mask, batch.texts)
    loss = contrastive_loss(features, batch.ids, sizes)
    run.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    run.batch += 1
    run.samples += sum(sizes)
    if run.batch % options.log_every == 0:
        run.history.append({"epoch": run.epoch, "samples": run.samples, "loss": ranks.mean(loss), "lr": rate})


def _rate(options: TrainOptions, progress: float) -> float:
    """Give the learning rate at a `progress` of 0 to 1."""
    if progress < options.warmup:
        return options.lr * progress / options.warmup
    fallen = min(1.0, (progress - options.warmup) / (1 - options.warmup))
    return options.lr * (1 + math.cos(math.pi * fallen)) / 2


def _evaluate(run: Run, reading: Reading, texts: Texts, device: torch.device) -> None:
    scores = retrieve(run.model, encode_split(run.model, reading, texts, run.options.val, device), texts)
    run.history.append({"epoch": run.epoch, "samples": run.samples, **scores})
    if ranks.rank() == 0:
        recalls = ", ".join(f"{way.replace('_', ' ')} R@1 {found['R@1']:.3f}" for way, found in scores.items())
        losses = [record["loss"] for record in run.history if "loss" in record and record["epoch"] == run.epoch - 1]
        loss = f"loss {sum(losses) / len(losses):.3f}, " if losses else ""
        chance = scores["text_to_video"]["chance R@1"]
        print(
            f"epoch {run.epoch}/{run.options.epochs}: {loss}{run.options.val}: {recalls} (chance {chance:.3f})",
            flush=True,
        )


def _save(run: Run, out: Path) -> None:
    if ranks.rank() != 0:
        return
    state = {
        "setting": run.setting,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        **{name: getattr(run, name) for name in ("epoch", "batch", "samples", "history")},
    }
    out.mkdir(parents=True, exist_ok=True)
    torch.save(state, out / ".checkpoint.new")
    os.replace(out / ".checkpoint.new", out / "checkpoint.pt")
    (out / "history.json").write_text(json.dumps(run.history))


def _restore(run: Run, out: Path) -> None:
    path = out / "checkpoint.pt"
    if not path.is_file():
        return
    state = torch.load(path, map_location=run.model.frame_mean.device, weights_only=True)
    then, now = state["setting"], run.setting
    changed = [f"{name} {then[name]} (now {now[name]})" for name in now if now[name] != then[name]]
    if changed:
        raise InputError(
            f"{out} holds a training with {', '.join(changed)}; "
            "go on with what it was begun with, or begin another folder"
        )
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.epoch, run.batch, run.samples = state["epoch"], state["batch"], state["samples"]
    run.history = state["history"]


@click.command()
@click.argument("shards")
@click.argument("texts")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--pooling", type=click.Choice(list(POOLINGS)), default="attention", show_default=True)
@click.option("--epochs", type=click.IntRange(0), default=20, show_default=True)
@click.option("--batch-size", default=256, show_default=True, help="Samples of a step on each rank.")
@click.option("--seq-len", default=32, show_default=True, help="Most frames of a clip.")
@click.option("--lr", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option(
    "--warmup",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Part of the run in which it rises.",
)
@click.option("--weight-decay", default=0.05, show_default=True)
@click.option("--bf16", is_flag=True, help="bfloat16 autocast.")
@click.option(
    "--log-every", type=click.IntRange(1), default=10, show_default=True, metavar="STEPS", help="Records of the loss."
)
@click.option(
    "--save-every",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="STEPS",
    help="Checkpoints within an epoch.",
)
@click.option("--val", default="val", show_default=True, help="Split to evaluate.")
@click.option("--workers", default=0, show_default=True, help="Reading processes of each rank.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(shards: str, texts: str, out: Path, device: str, **options: Any) -> None:
    """Train on SHARDS with the captions of TEXTS (by texts.py) into OUT; run again, it goes on."""
    with ranks.started(device) as chosen:
        train(shards, read_texts(texts), out, TrainOptions(**options), chosen)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
