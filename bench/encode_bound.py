"""Frames a second where the model is all that takes time, and what a second model costs in the same run.

    python bench/encode_bound.py [--quick] [--json FILE]

`pipeline`: decoded frames through the batcher, against the bare model on batches of the same shape, in alternating
rounds; ViT-B-32 with random weights. `two models`: ViT-B-32 and ViT-B-16 over clips in one run, against the same
decode alone plus both models alone on as many frames.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from clips import make_clips
from encode import bare_clip, manifest_of
from measure import Round, alternate, machine, median, parser, write
from stub import MEAN, STD

from embedshard.encode.batch import Batcher
from embedshard.encode.clip import ClipEncoder, ModelOptions
from embedshard.encode.pipeline import EncodeOptions
from embedshard.encode.preprocess import Preprocess
from embedshard.encode.run import encode_by_all
from embedshard.engine.local import cores
from embedshard.frames import Sampling

CHUNK = 10  # frames of a clip


def encoder(name: str, batch_size: int = 0) -> ClipEncoder:
    """Give a model with random weights."""
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    options = ModelOptions(name, device="cpu", precision="fp32", preprocess="fast", batch_size=batch_size)
    return ClipEncoder(model, Preprocess((224, 224), MEAN, STD), options)


def through_batcher(model: ClipEncoder, frames: np.ndarray) -> None:
    """Encode frames as the pipeline does, clip after clip."""
    batcher, back = Batcher(model), 0
    for owner, low in enumerate(range(0, len(frames), CHUNK)):
        part = frames[low : low + CHUNK]
        back += sum(len(rows) for _, rows, _ in batcher.add(owner, np.arange(len(part)), part))
    back += sum(len(rows) for _, rows, _ in batcher.flush())
    if back != len(frames):
        raise SystemExit(f"expected {len(frames)} embeddings, found {back}")


def bare(model: ClipEncoder, frames: np.ndarray) -> None:
    """Encode the same frames batch by batch."""
    batches = torch.from_numpy(frames).split(model.batch_size)  # type: ignore[no-untyped-call]
    for batch in batches:
        model.encode(batch)


def decode(clips: list[Path]) -> None:
    """Decode clips and throw the frames away."""
    for clip in clips:
        bare_clip(clip)


def two_models(count: int, rounds: int, folder: Path) -> tuple[dict[str, list[Round]], int]:
    """Measure both models in one run and apart."""
    clips = make_clips(folder / "clips", count)
    manifest, models = manifest_of(clips, folder), [encoder(name, CHUNK) for name in ("ViT-B-32", "ViT-B-16")]
    frames = np.zeros((10 * count, 224, 224, 3), np.uint8)

    def both() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as dest:
            folders = {Path(dest) / str(number): model for number, model in enumerate(models)}
            reports, _ = encode_by_all(manifest, folders, EncodeOptions(Sampling("fps"), workers=cores()))
            if [report.done for report in reports] != [count, count]:
                raise SystemExit(f"expected {count} triples of each model, found {reports}")
        torch.set_num_threads(cores())

    parts: dict[str, Callable[[], None]] = {
        "both in one run": both,
        "decode alone": lambda: decode(clips),
        "first model alone": lambda: bare(models[0], frames),
        "second model alone": lambda: bare(models[1], frames),
    }
    return alternate(parts, rounds), len(frames)


def main() -> None:
    """Print a table; optionally write it as JSON."""
    arguments = parser(__doc__).parse_args()
    rounds, batches = (1, 3) if arguments.quick else (5, 8)
    torch.set_num_threads(cores())
    model = encoder("ViT-B-32")
    frames = np.random.default_rng(0).integers(0, 256, (batches * model.batch_size, 224, 224, 3), np.uint8)
    found = alternate(
        {"bare model": lambda: bare(model, frames), "pipeline": lambda: through_batcher(model, frames)}, rounds
    )
    with tempfile.TemporaryDirectory() as folder:
        several, encoded = two_models(2 if arguments.quick else 8, rounds, Path(folder))
    cpu = {name: median(took).cpu for name, took in {**found, **several}.items()}
    alone = sum(cpu[name] for name in ("decode alone", "first model alone", "second model alone"))
    ratios = {
        "pipeline_of_bare_model": round(cpu["bare model"] / cpu["pipeline"], 3),
        "two_models_in_one_run_to_parts": round(cpu["both in one run"] / alone, 3),
    }
    about = machine("torch", "open_clip_torch", "av", "numpy")
    print(f"{about}; median CPU seconds of {rounds} alternating rounds, {len(frames)} and {encoded} frames")
    print("\n".join(f"{name:24}{value:9.2f} s" for name, value in cpu.items()))
    print("\n".join(f"{name:36}{value:8.3f}" for name, value in ratios.items()))
    write(arguments.json, {"machine": about, "rounds": rounds, "cpu_s": cpu, "ratios": ratios})


if __name__ == "__main__":
    main()
