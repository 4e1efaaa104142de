"""Retrieval and zero-shot classification by a trained model.

    python evaluate.py RUN SHARDS TEXTS.npz
    python evaluate.py RUN SHARDS TEXTS.npz --label label --template 'a video of {}' --model ... --pretrained ...

The second one needs the CLIP model, for its prompts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import click
import metrics
import ranks
import torch
from data import Reading, Texts, batches, read_texts
from model import VideoText
from torch.nn import functional

from embedshard.encode.clip import ModelOptions
from embedshard.errors import InputError

__all__ = ["Encoded", "encode_split", "load_model", "main", "retrieve", "zero_shot"]


@dataclass(frozen=True)
class Encoded:
    """The n samples of a split: `rows` of captions, `clips`, `meta`, and `videos` (n, dim), the model's features."""

    rows: Sequence[int]
    clips: Sequence[str]
    meta: Sequence[Mapping[str, Any]]
    videos: torch.Tensor

    def once(self) -> Encoded:
        """Give the first sample of every clip."""
        first = {clip: number for number, clip in reversed(list(enumerate(self.clips)))}
        numbers = sorted(first.values())
        return Encoded(
            [self.rows[number] for number in numbers],
            [self.clips[number] for number in numbers],
            [self.meta[number] for number in numbers],
            self.videos[numbers],
        )


@torch.no_grad()
def encode_split(model: VideoText, reading: Reading, texts: Texts, split: str, device: torch.device) -> Encoded:
    """Encode the clips of a split, each rank its share; every rank gets all.

    Raises:
        InputError: The split has no sample.
    """
    mine = [
        (batch.ids[:, 0].tolist(), batch.clips, batch.meta, model.embed_videos(batch.frames, batch.mask).cpu())
        for batch in (batch.to(device) for batch in batches(reading, texts, split))
    ]
    found = list(chain.from_iterable(ranks.gather_objects(mine)))
    if not found:
        raise InputError(f"expected samples in the split {split!r} of {reading.shards}, found none")
    rows, clips, meta, videos = zip(*found, strict=True)
    return Encoded(list(chain(*rows)), list(chain(*clips)), list(chain(*meta)), torch.cat(videos))


@torch.no_grad()
def retrieve(model: VideoText, encoded: Encoded, texts: Texts) -> dict[str, dict[str, float]]:
    """Score retrieval between the captions and the clips of a split; see `metrics.retrieval`."""
    candidates = encoded.once()
    column = {clip: number for number, clip in enumerate(candidates.clips)}
    queries = sorted(set(encoded.rows))
    line = {row: number for number, row in enumerate(queries)}
    relevant = torch.zeros(len(queries), len(column), dtype=torch.bool)
    for row, clip in zip(encoded.rows, encoded.clips, strict=True):
        relevant[line[row], column[clip]] = True
    device = model.text_mean.device
    captions = model.embed_texts(texts.embeddings[queries].to(device)).cpu()
    return metrics.retrieval(captions @ candidates.videos.T, relevant)


@torch.no_grad()
def zero_shot(model: VideoText, texts: Texts, prompts: Sequence[Sequence[str]], clip: ModelOptions) -> torch.Tensor:
    """Make a classifier of prompts: the mean of what the templates say of a class, as in Radford et al. 2021.

    Args:
        model: A trained one.
        texts: Tells the CLIP model.
        prompts: Of each class, as many of each.
        clip: That CLIP model.

    Returns:
        (classes, dim), of length 1.
    """
    from texts import embed

    found = torch.from_numpy(embed(clip, [prompt for one in prompts for prompt in one], texts.encoder))
    features = model.embed_texts(found.to(model.text_mean.device)).cpu()
    return functional.normalize(features.view(len(prompts), -1, features.shape[1]).mean(1), dim=-1)


def load_model(run: Path, texts: Texts) -> tuple[VideoText, Mapping[str, Any]]:
    """Load the model of a folder that `train.py` wrote, and what it was trained with.

    Raises:
        InputError: There is none, or it was trained on embeddings of another CLIP model than that of `texts`.
    """
    path = run / "checkpoint.pt"
    if not path.is_file():
        raise InputError(f"no {path}; expected the folder OUT of train.py")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    setting = checkpoint["setting"]
    if setting["encoder"] != texts.encoder:
        raise InputError(f"expected embeddings by {setting['encoder']}, as {run} was trained on, found {texts.encoder}")
    model = VideoText(setting["pooling"], setting["seq_len"], texts.frame_mean, texts.text_mean)
    model.load_state_dict(checkpoint["model"])
    return model.eval(), setting


def _classes(encoded: Encoded, field: str) -> tuple[list[str], list[str]]:
    """Give the label of each sample, and all labels."""
    missing = next((clip for clip, meta in zip(encoded.clips, encoded.meta, strict=True) if field not in meta), None)
    if missing is not None:
        raise InputError(f"expected {field!r} in the metadata of every sample, found {missing} without; see --label")
    labels = [str(meta[field]) for meta in encoded.meta]
    return labels, sorted(set(labels))


def _prompts(templates: Sequence[str], name: str) -> list[str]:
    for template in templates:
        if "{}" not in template:
            raise InputError(f"expected a template with {{}} in the place of the class, found {template!r}")
    return [template.replace("{}", name) for template in templates]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("shards")
@click.argument("texts")
@click.option("--split", default="test", show_default=True)
@click.option("--label", help="Metadata field with a clip's class: classify, by the classes that the split has.")
@click.option(
    "--template", multiple=True, default=["a video of {}"], show_default=True, help="Of a prompt; repeatable."
)
@click.option("--model", "clip", help="With --label: the CLIP model, as of embedshard encode.")
@click.option("--pretrained", help="With --label: as of embedshard encode.")
def main(run: Path, shards: str, texts: str, **given: Any) -> None:
    """Print, as JSON, how well the model of the folder RUN retrieves (and classifies) the clips of SHARDS."""
    known = read_texts(texts)
    model, setting = load_model(run, known)
    with ranks.started() as device:
        reading = Reading(shards, setting["batch_size"], setting["seq_len"])
        encoded = encode_split(model.to(device), reading, known, given["split"], device)
        scores: dict[str, Mapping[str, float]] = dict(retrieve(model, encoded, known))
        if given["label"]:
            once = encoded.once()
            labels, classes = _classes(once, given["label"])
            prompts = [_prompts(given["template"], name) for name in classes]
            if not given["clip"]:
                raise InputError("expected --model (and --pretrained) beside --label: prompts are embedded by CLIP")
            classifier = zero_shot(model, known, prompts, ModelOptions(given["clip"], given["pretrained"]))
            scores["zero_shot"] = metrics.accuracy(once.videos @ classifier.T, labels, classes)
        if ranks.rank() == 0:
            click.echo(json.dumps(scores, indent=2))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
