"""Which decoder is fastest: CPU time for the frames of a clip, each decoder in alternating rounds on the same clips.

    python bench/decode.py [--quick] [--json FILE] [CLIP ...]

Without clips it makes two that move like a hand-held camera (x264, default GOP and B-frames), 340x256 and 1280x720.
Wall time says what the machine's other users do; CPU time is what is compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np

from embedshard.frames import DECODERS, FrameError, Sampling, open_reader

PLANS = {"fps 1": Sampling("fps", Fraction(1)), "keyframes": Sampling("keyframes"), "all": Sampling("all")}


def make_clip(path: Path, size: tuple[int, int], seconds: int) -> None:
    """Write a clip that pans with jitter over a textured picture, with a little noise."""
    width, height = size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 16 + 20, width // 16 + 60, 3), np.uint8)
    picture = np.kron(coarse, np.ones((16, 16, 1), np.uint8)) // 2 + rng.integers(0, 60, (1, 1, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(30 * seconds):
            top, left = 40 + int(20 * np.sin(number / 9)), 2 * number % 400
            frame = picture[top : top + height, left : left + width] + rng.integers(0, 9, (height, width, 1), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def cpu_seconds(clip: Path, decoder: str, plan: Sampling) -> float:
    """Decode the frames of a plan once."""
    begun = time.process_time()
    reader = open_reader(clip, "video", decoder)
    for _ in reader.read(np.unique(plan.choose(reader.timeline))):
        pass
    reader.close()
    return time.process_time() - begun


def main() -> None:
    """Print a table; optionally write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under a minute")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else 9
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clips = arguments.clips
        if not clips:
            clips = [Path(folder) / "340x256.mp4", Path(folder) / "1280x720.mp4"]
            make_clip(clips[0], (340, 256), 10)
            make_clip(clips[1], (1280, 720), 3 if arguments.quick else 10)
        for clip in clips:
            for name, plan in PLANS.items():
                spent: dict[str, list[float]] = {decoder: [] for decoder in DECODERS}
                for _ in range(rounds + 1):  # the first round warms up
                    for decoder, times in spent.items():
                        try:
                            times.append(cpu_seconds(clip, decoder, plan))
                        except FrameError as error:
                            print(f"{clip.name}: {decoder}: {error}")
                medians = {decoder: statistics.median(times[1:]) for decoder, times in spent.items() if times[1:]}
                rows.append((clip.name, name, {decoder: 1000 * cpu for decoder, cpu in medians.items()}))
    machine = (
        f"{platform.machine()}, Python {platform.python_version()}, av {version('av')}, decord {version('decord')}"
    )
    print(f"{machine}; median CPU ms of {rounds} alternating rounds")
    print(f"{'clip':28}{'plan':12}" + "".join(f"{decoder:>10}" for decoder in DECODERS) + f"{'decord/pyav':>13}")
    for clip_name, plan_name, cpu in rows:
        cells = "".join(f"{cpu[d]:10.1f}" if d in cpu else f"{'-':>10}" for d in DECODERS)
        ratio = f"{cpu['decord'] / cpu['pyav']:13.2f}" if len(cpu) == len(DECODERS) else f"{'-':>13}"
        print(f"{clip_name:28}{plan_name:12}{cells}{ratio}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": machine, "columns": ["clip", "plan", "cpu_ms"], "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
