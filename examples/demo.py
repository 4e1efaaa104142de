"""The main job on a small dataset that it makes itself: raw tree -> manifest -> triples -> shards -> batches.

Run by `make demo`. The model is a tiny open_clip one with random weights, so nothing is downloaded and a CPU will do;
everything else is the real thing, done by the commands that a user types.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from embedshard import load
from embedshard.demo import Tree
from embedshard.encode.clip import save_random_model
from embedshard.frames import open_reader

SHEET_ROWS, SHEET_FRAMES, THUMB = 6, 5, (160, 120)


def main() -> None:
    """Make the dataset, run the commands on it, show what came out."""
    begun = time.monotonic()
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out")
    shutil.rmtree(out, ignore_errors=True)
    make_raw_tree(Tree(out / "raw"))
    save_random_model(out / "tiny-clip", embed_dim=512)
    embedshard("prepare", "folder", out / "raw", out / "samples.parquet")
    embedshard("encode", out / "samples.parquet", out / "processed", "--model", out / "tiny-clip", "--fps", "2")
    embedshard("shard", out / "processed", out / "shards", "--maxcount", "8")
    embedshard("check", out / "shards")
    show_shards(out / "shards")
    show_batch(out / "shards")
    sheet = contact_sheet(out)
    print(f"\nSampled frames with their times and captions: {sheet}")
    print("Weights: RANDOM (a tiny open_clip model, seed 0), so these embeddings mean nothing; for real ones give")
    print("         --model ViT-B-32 --pretrained laion2b_s34b_b79k instead of the folder.")
    print(f"Done in {time.monotonic() - begun:.0f} s.")


def make_raw_tree(tree: Tree) -> None:
    """Lay out 24 short videos with captions in three splits, a picture, and a file that is broken."""
    for number in range(24):
        split = ("train", "train", "train", "train", "val", "test")[number % 6]
        seconds = 2 + number % 3
        caption = f"a disc circles for {seconds} seconds, number {number}"
        tree.video(f"{split}/clip{number:02d}.mp4", caption, seconds)
        tree.text(f"{split}/clip{number:02d}.txt", caption)
    tree.image("train/still.jpg", "still")
    tree.text("train/still.txt", "一张静止的图片 (a still picture)")
    tree.text("train/broken.mp4", "this is not a video")
    tree.text("train/broken.txt", "a broken file")


def embedshard(*words: object) -> None:
    """Show a command as it is typed, and run it."""
    command = ["embedshard", *map(str, words)]
    print("\n$", *command, flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def show_shards(shards: Path) -> None:
    """Print the table of shards."""
    index = json.loads((shards / "index.json").read_text())
    print(f"\n{'tar':14}{'split':8}{'samples':>8}{'frames':>8}{'bytes':>9}")
    for tar in index["tars"]:
        print(f"{tar['name']:14}{tar['split']:8}{tar['samples']:8}{tar['frames']:8}{tar['bytes']:9}")


def show_batch(shards: Path) -> None:
    """Load a batch as a training loop does, and show one sample of it."""
    print('\nfor batch in load(shards, split="train", batch_size=4, shuffle=16): ...')
    batch: dict[str, Any] = next(iter(load(shards, split="train", batch_size=4, shuffle=16)))
    for name in ("embeddings", "mask"):
        print(f"  batch[{name!r}]: {tuple(batch[name].shape)} {batch[name].dtype}")
    times, frames = batch["meta"][0]["frame_times"], int(batch["mask"][0].sum())
    print(f"  the first: {batch['key'][0]} {batch['text'][0]!r}, {frames} frames at {times} s")


def contact_sheet(out: Path) -> Path:
    """Draw the sampled frames of a few samples as they were decoded, with their times and captions."""
    width, height = THUMB
    font = ImageFont.load_default(size=14)
    metas = sorted((out / "processed").glob("*/*.json"))[: SHEET_ROWS * 3 : 3]
    sheet = Image.new("RGB", (width * SHEET_FRAMES, (height + 24) * len(metas)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, path in enumerate(metas):
        meta = json.loads(path.read_text())
        top = row * (height + 24)
        draw.text((4, top + 3), f"{meta['split']}  {path.with_suffix('.txt').read_text()}", "black", font)
        reader = open_reader(out / "raw" / meta["media"], "video")
        wanted = np.searchsorted(reader.timeline.times, np.array(meta["frame_times"][:SHEET_FRAMES]) - 1e-6)
        for column, (index, frame) in enumerate(reader.read(wanted)):
            place = (column * width, top + 24)
            sheet.paste(Image.fromarray(frame).resize(THUMB), place)
            draw.text((place[0] + 4, place[1] + 2), f"{reader.timeline.times[index]:.2f} s", "white", font)
        reader.close()
    sheet.save(out / "contact_sheet.png")
    return out / "contact_sheet.png"


if __name__ == "__main__":
    main()
