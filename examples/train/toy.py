"""The whole way on clips that it draws itself: raw clips -> shards -> two poolings trained, scored and plotted.

    python toy.py OUT

A white shape wanders over a ground whose colour turns into another. The validation and test splits have pairs of
colours that the train split never has in that order, of words that it does have. The CLIP model is a tiny one with
random weights, so nothing is downloaded; its embeddings still tell colours and shapes apart, and its captions words:
what is to be learnt is how the two belong together. Whether red turned blue or blue turned red is in the order of the
frames only, which attention pooling can see and mean pooling cannot.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from embedshard.encode.clip import save_random_model

COLOURS = {
    "black": (15, 15, 15),
    "blue": (40, 60, 220),
    "cyan": (40, 200, 220),
    "green": (30, 170, 50),
    "orange": (245, 140, 20),
    "pink": (250, 150, 190),
    "purple": (130, 40, 160),
    "red": (220, 30, 30),
    "yellow": (235, 220, 40),
}
SHAPES = ("disc", "ring", "square")
SIZE, RATE, FRAMES = (128, 96), 10, 20
SPLITS = ("test", "test", "val", "train", "train", "train", "train", "train")  # dealt to the pairs of colours in turn
SETTING = ("--epochs", "40", "--batch-size", "128", "--seq-len", "8", "--log-every", "1")
Colour = tuple[int, int, int]
HERE = Path(__file__).parent


def main() -> None:
    """Make the clips, run the commands on them, print the scores."""
    begun = time.monotonic()
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "train-out")
    shutil.rmtree(out, ignore_errors=True)
    make_raw_tree(out / "raw")
    make_shards(out)
    scores = {}
    for pooling in ("mean", "attention"):
        script("train", out / "shards", out / "texts.npz", out / pooling, "--pooling", pooling, *SETTING)
        scores[pooling] = evaluate(out, out / pooling)
    script("plot", out / "curves.png", out / "mean", out / "attention")
    print_scores(scores)
    print(f"Done in {time.monotonic() - begun:.0f} s. The curves: {out / 'curves.png'}")


def make_raw_tree(root: Path, shapes: Sequence[str] = SHAPES, takes: int = 3) -> None:
    """Lay out clips as the source `folder` reads them, with captions and, in the metadata, the change of colour.

    Args:
        root: Gets train, val and test.
        shapes: Of `SHAPES`.
        takes: Clips of each caption, different in what it does not say.
    """
    rng = random.Random(0)
    pairs = list(itertools.permutations(COLOURS, 2))
    rng.shuffle(pairs)
    for number, (first, then) in enumerate(pairs):
        folder = root / SPLITS[number % len(SPLITS)]
        folder.mkdir(parents=True, exist_ok=True)
        for shape, take in itertools.product(shapes, range(takes)):
            path = folder / f"{first}_{then}_{shape}_{take}.mp4"
            path.with_suffix(".txt").write_text(f"a {shape} while {first} turns {then}")
            path.with_suffix(".json").write_text(json.dumps({"change": f"{first} turns {then}"}))
            write_video(path, draw(shape, COLOURS[first], COLOURS[then], rng))


def draw(shape: str, first: Colour, then: Colour, rng: random.Random) -> Iterator[Image.Image]:
    """Draw the frames of a clip; size, way and moment of the change are of `rng`."""
    radius, turn = rng.uniform(20, 30), rng.uniform(0.3, 0.7) * FRAMES
    x, y = (rng.uniform(radius, side - radius) for side in SIZE)
    step_x, step_y = rng.uniform(-2, 2), rng.uniform(-2, 2)
    for number in range(FRAMES):
        picture = Image.new("RGB", SIZE, first if number < turn else then)
        x, y = x + step_x, y + step_y
        box = (x - radius, y - radius, x + radius, y + radius)
        pen = ImageDraw.Draw(picture)
        if shape == "ring":
            pen.ellipse(box, outline="white", width=8)
        else:
            (pen.ellipse if shape == "disc" else pen.rectangle)(box, fill="white")
        yield picture


def write_video(path: Path, pictures: Iterator[Image.Image]) -> None:
    """Write an H.264 clip."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        container.mux(stream.encode())


def make_shards(out: Path) -> None:
    """Take OUT/raw to OUT/shards, and embed the captions."""
    save_random_model(out / "tiny-clip")
    embedshard = ("-m", "embedshard")
    run(*embedshard, "prepare", "folder", out / "raw", out / "samples.parquet")
    encode = ("--model", out / "tiny-clip", "--count", "8", "--device", "cpu")
    run(*embedshard, "encode", out / "samples.parquet", out / "processed", *encode)
    run(*embedshard, "shard", out / "processed", out / "shards", "--maxcount", "32")  # tars enough for some ranks
    script("texts", out / "shards", out / "texts.npz", "--model", out / "tiny-clip")


def evaluate(out: Path, run: Path, shapes: Sequence[str] = SHAPES) -> dict[str, Any]:
    """Score a run on the test split."""
    templates = [word for shape in shapes for word in ("--template", f"a {shape} while {{}}")]
    prompts = ("--label", "change", *templates, "--model", out / "tiny-clip")
    scores: dict[str, Any] = json.loads(script("evaluate", run, out / "shards", out / "texts.npz", *prompts))
    return scores


def script(name: str, *words: object) -> str:
    """Run a script that lies beside this one; see `run`."""
    return run(HERE / f"{name}.py", *words)


def run(*words: object) -> str:
    """Show a command as it is typed, run it, and give what it prints."""
    print("\n$ python", *words, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a model as small as this is slower with more
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    print(done.stdout, end="", flush=True)
    return done.stdout


def print_scores(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print a line for each pooling and one for chance."""
    columns = [("text_to_video", f"R@{k}") for k in (1, 5, 10)] + [("video_to_text", f"R@{k}") for k in (1, 5, 10)]
    columns.append(("zero_shot", "top-1"))
    first = next(iter(scores.values()))
    lines = {name: [found[way][score] for way, score in columns] for name, found in scores.items()}
    lines["chance"] = [first[way][f"chance {score}"] for way, score in columns]
    print(f"\n{'test split':12}{'text to video':^24}{'video to text':^24}{'change':>8}")
    print(f"{'':12}" + "".join(f"{score:>8}" for _, score in columns))
    for name, values in lines.items():
        print(f"{name:12}" + "".join(f"{value:8.3f}" for value in values))


if __name__ == "__main__":
    main()
