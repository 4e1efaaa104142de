"""Runs clip-video-encode with the stub model, in the virtual environment that `peer.py` makes for it.

Reads a JSON line `{"videos": LIST_FILE, "dest": FOLDER, "every": N, "workers": N}` for each run from standard input,
and answers with `{"wall": SECONDS, "cpu": SECONDS}`. All is imported before the first one. What clip-video-encode asks
open_clip for beside the model it does not use: it preprocesses by code of its own.
"""

from __future__ import annotations

import contextlib
import json
import sys

import open_clip
from clip_video_encode import clip_video_encode
from measure import timed
from stub import StubModel


def main() -> None:
    """Answer until the input ends."""
    open_clip.create_model_and_transforms = lambda *args, **kwargs: (StubModel(), None, None)
    print("ready", flush=True)
    for line in sys.stdin:
        run = json.loads(line)
        options = {"take_every_nth": run["every"], "frame_workers": run["workers"], "frame_memory_size": 1}
        with contextlib.redirect_stdout(sys.stderr):
            took = timed(lambda: clip_video_encode(run["videos"], run["dest"], **options))  # noqa: B023
        print(json.dumps(took._asdict()), flush=True)


if __name__ == "__main__":
    main()
