"""Runs clip-video-encode with the stub model, in the virtual environment that `encode.py` makes for it.

Reads a JSON line `{"videos": LIST_FILE, "dest": FOLDER, "every": N, "workers": N}` for each run from standard input,
and answers with `{"wall": SECONDS, "cpu": SECONDS}`. All is imported before the first one.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import open_clip
from clip_video_encode import clip_video_encode
from measure import cpu_seconds
from stub import StubModel


def main() -> None:
    """Answer until the input ends."""
    open_clip.create_model_and_transforms = lambda *args, **kwargs: (StubModel(), None, None)
    print("ready", flush=True)
    for line in sys.stdin:
        run = json.loads(line)
        cpu, wall = cpu_seconds(), time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            clip_video_encode(
                run["videos"], run["dest"], take_every_nth=run["every"], frame_workers=run["workers"],
                frame_memory_size=1,
            )  # fmt: skip
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu}), flush=True)


if __name__ == "__main__":
    main()
