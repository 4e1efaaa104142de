"""What one GPU gives and what bounds it: the bare model, the pipeline, decoding on cores and NVDEC, end to end.

    python bench/gpu.py [--quick] [--json FILE] [--device cuda]

Models have random weights. `pipeline` is decoded uint8 frames through the batcher; `end to end` is files to triples,
its limit the slower of the bare model and the decode processes. Under eight minutes; `--device cpu --quick` runs the
same code on a few frames. Without `--json` the figures go to bench/results/gpu-CARD.json.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from clips import make_clips
from encode import bare_clip, manifest_of, processes
from measure import machine, parser, write
from stub import MEAN, STD

from embedshard.encode.batch import Batcher
from embedshard.encode.clip import ClipEncoder, ModelOptions
from embedshard.encode.pipeline import EncodeOptions
from embedshard.encode.preprocess import Preprocess
from embedshard.encode.run import encode_by_all
from embedshard.engine.local import cores
from embedshard.errors import InputError
from embedshard.frames import Sampling, open_reader, require_decoder

SIZES = {"340x256": (340, 256), "1280x720": (1280, 720)}


def encoder(name: str, device: str, compile_: bool = False) -> ClipEncoder:
    """Give a model with random weights."""
    model = open_clip.create_model(name, device=device).eval().requires_grad_(False)
    precision = "fp16" if device.startswith("cuda") else "fp32"
    options = ModelOptions(name, device=device, precision=precision, preprocess="fast", compile=compile_)
    return ClipEncoder(model, Preprocess((224, 224), MEAN, STD), options)


def frames_per_second(run: Callable[[], int], device: str, seconds: float) -> float:
    """Repeat what encodes some frames until the time is up, after one run to warm up."""
    run()
    _wait(device)
    begun, frames = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        frames += run()
    _wait(device)
    return frames / (time.perf_counter() - begun)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def models(names: list[str], device: str, seconds: float) -> dict[str, dict[str, float]]:
    """Measure each model bare, through the batcher, and compiled."""
    found = {}
    for name in names:
        model = encoder(name, device)
        batch = torch.zeros((model.batch_size, 224, 224, 3), dtype=torch.uint8, device=device)
        chunk, turns = np.zeros((16, 224, 224, 3), np.uint8), 64 if device.startswith("cuda") else 1
        batcher = Batcher(model)

        def bare(model: ClipEncoder = model, batch: torch.Tensor = batch) -> int:
            model.encode(batch)
            return len(batch)

        def through(batcher: Batcher = batcher, chunk: np.ndarray = chunk, turns: int = turns) -> int:
            return sum(len(rows) for _ in range(turns) for _, rows, _ in batcher.add(0, np.arange(len(chunk)), chunk))

        found[name] = {
            "batch": model.batch_size,
            "bare": frames_per_second(bare, device, seconds),
            "pipeline": frames_per_second(through, device, seconds),
        }
        if device.startswith("cuda"):
            faster = encoder(name, device, compile_=True)
            found[name]["compiled"] = frames_per_second(lambda: bare(faster, batch), device, seconds)  # noqa: B023
    return found


def decoding(clips: list[Path], on_gpu: bool) -> dict[str, float]:
    """Measure decode processes on all cores, and NVDEC in one thread, in frames a second."""
    found = {}
    begun = time.perf_counter()
    with processes() as workers:
        frames = sum(workers.imap_unordered(bare_clip, clips))
    found["cores"] = frames / (time.perf_counter() - begun)
    try:
        require_decoder("nvdec")
    except InputError as error:
        print(f"without NVDEC: {error}")
        return found
    begun, frames = time.perf_counter(), 0
    for clip in clips if on_gpu else ():
        reader = open_reader(clip, "video", "nvdec")
        frames += sum(1 for _ in reader.read(np.unique(Sampling("fps").choose(reader.timeline))))
        reader.close()
    found["nvdec"] = frames / (time.perf_counter() - begun)
    return found


def end_to_end(clips: list[Path], folder: Path, model: ClipEncoder, sampling: Sampling) -> dict[str, Any]:
    """Encode clips; gives frames a second and the busy shares."""
    with tempfile.TemporaryDirectory(dir=folder) as dest:
        options = EncodeOptions(sampling, workers=cores())
        (report,), profile = encode_by_all(manifest_of(clips, folder), {Path(dest) / "out": model}, options)
    shares = profile.shares()
    return {"frames/s": report.frames / report.seconds, "busy": shares.busy, "bound": shares.sentence}


def measured(arguments: Any, folder: Path) -> dict[str, Any]:
    """Measure everything."""
    device, quick = arguments.device, arguments.quick
    names = ["ViT-B-32"] if quick else ["ViT-B-32", "ViT-L-14"]
    clips = {
        name: make_clips(folder / name, 2 if quick else 32, size, 2 if quick else 10) for name, size in SIZES.items()
    }
    decode = {name: decoding(made, device.startswith("cuda")) for name, made in clips.items()}  # before CUDA starts
    found = models(names, device, 0.5 if quick else 10.0)
    ends = {
        f"{name} {clip}": end_to_end(made, folder, encoder(name, device), Sampling("fps"))
        for name in names
        for clip, made in clips.items()
    }
    ends[f"{names[0]} 340x256, all frames"] = end_to_end(
        clips["340x256"], folder, encoder(names[0], device), Sampling("all")
    )
    ratios = {f"pipeline_of_bare {name}": rates["pipeline"] / rates["bare"] for name, rates in found.items()}
    for name in names:
        for clip in clips:
            limit = min(found[name]["bare"], max(decode[clip].values()))
            ratios[f"end_to_end_of_limit {name} {clip}"] = ends[f"{name} {clip}"]["frames/s"] / limit
    return {"decode frames/s": decode, "model frames/s": found, "end to end": ends, "ratios": ratios}


def main() -> None:
    """Print a table and write it as JSON."""
    options = parser(__doc__)
    options.add_argument("--device", default="cuda")
    arguments = options.parse_args()
    card = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        found = measured(arguments, Path(folder))
    about = f"{card}, {cores()} cores, {machine('torch', 'open_clip_torch', 'av', 'torchcodec')}"
    print(about)
    for title, rows in found.items():
        print(f"\n{title}")
        for name, row in rows.items():
            print(f"  {name:44}{row:8.3f}" if isinstance(row, float) else f"  {name:44}{_text(row)}")
    place = Path(__file__).parent / "results" / f"gpu-{re.sub('[^A-Za-z0-9]+', '-', card)}.json"
    write(arguments.json or (place if card != "cpu" else None), {"machine": about, **found})


def _text(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.0f}" if isinstance(value, (int, float)) else f"{name}: {value}" for name, value in row.items()
    )


if __name__ == "__main__":
    main()
