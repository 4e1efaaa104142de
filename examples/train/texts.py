"""Embed every caption of the shards once, by the text tower of the CLIP model that embedded their frames.

    python texts.py SHARDS TEXTS.npz --model ViT-B-32 --pretrained laion2b_s34b_b79k

They are all held in memory, there and in every rank of a training: 2 GB for a million captions of 512 numbers.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from embedshard import load
from embedshard.encode.clip import ModelOptions, load_encoder
from embedshard.encode.text import CaptionEncoder
from embedshard.errors import InputError
from embedshard.remote import place
from embedshard.shard.table import read_splits

__all__ = ["embed", "main", "write_texts"]

_SETTING = ("model", "pretrained")
_CHUNK = 1 << 14  # captions


@dataclass
class _Seen:
    """What a pass over the shards finds."""

    encoder: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    captions: dict[str, int] = field(default_factory=dict)  # of all splits, with how often the train split has it
    frames: int = 0
    frame_sum: npt.NDArray[np.float64] | float = 0.0


def write_texts(shards: str, out: Path, options: ModelOptions) -> dict[str, int]:
    """Embed the captions of all splits, and take means over the train split.

    Args:
        shards: Folder or URL.
        out: The file to write.
        options: The model.

    Returns:
        The number of samples of each split.

    Raises:
        InputError: The frames are of another model, or of several.
    """
    seen = _Seen()
    for split in read_splits(place(shards)):
        _read_split(shards, split, seen)
    if not seen.counts.get("train"):
        raise InputError(f"{shards}: expected a train split, found {', '.join(seen.counts) or 'none'}")
    embeddings = embed(options, list(seen.captions), seen.encoder)
    often = np.fromiter(seen.captions.values(), float)
    means = seen.frame_sum / seen.frames, often @ _scaled(embeddings) / often.sum()
    frame_mean, text_mean = (np.asarray(mean, np.float32) for mean in means)
    about = {"captions": list(seen.captions), "counts": seen.counts, "encoder": seen.encoder}
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}.new")
    with new.open("wb") as file:
        said = np.frombuffer(json.dumps(about).encode(), np.uint8)
        np.savez(file, embeddings=embeddings, frame_mean=frame_mean, text_mean=text_mean, about=said)
    os.replace(new, out)
    return seen.counts


def _read_split(shards: str, split: str, seen: _Seen) -> None:
    seen.counts[split] = 0
    for sample in load(shards, split=split):
        encoder = {name: sample["meta"].get("encoder", {}).get(name) for name in _SETTING}
        seen.encoder = seen.encoder or encoder
        if encoder != seen.encoder:
            raise InputError(f"expected frames of one model, found {seen.encoder} and (key {sample['key']}) {encoder}")
        seen.counts[split] += 1
        seen.captions[sample["text"]] = seen.captions.get(sample["text"], 0) + (split == "train")
        if split == "train":
            seen.frames += len(sample["embeddings"])
            seen.frame_sum = seen.frame_sum + _scaled(sample["embeddings"]).sum(0)


def embed(options: ModelOptions, texts: list[str], wanted: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Embed texts.

    Args:
        options: The model.
        texts: Any number n of them.
        wanted: What the metadata of the frames say of their model.

    Returns:
        (n, dim), not scaled.

    Raises:
        InputError: It is another model.
    """
    encoder = load_encoder(options)
    found = {name: encoder.setting[name] for name in _SETTING}
    if wanted["model"] and found != wanted:  # the metadata of other tools' shards do not tell
        raise InputError(f"expected the model that embedded the frames, {wanted}, found {found}; see --model")
    captions = CaptionEncoder(encoder)
    parts = [captions.embed(texts[first : first + _CHUNK]) for first in range(0, len(texts), _CHUNK)]
    return np.concatenate(parts)


def _scaled(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


@click.command()
@click.argument("shards")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="As of embedshard encode.")
@click.option("--pretrained", help="As of embedshard encode.")
@click.option("--device", default="auto", show_default=True)
@click.option("--batch-size", default=256, show_default=True, help="Captions.")
def main(shards: str, out: Path, **model: Any) -> None:
    """Write OUT: the embeddings of every caption of SHARDS, which train.py and evaluate.py take."""
    counts = write_texts(shards, out, ModelOptions(**model))
    click.echo(f"{out}: captions of {', '.join(f'{count} {split}' for split, count in counts.items())} samples")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
