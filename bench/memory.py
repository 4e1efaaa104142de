"""Peak memory of an encode run (Linux), main process and decode process, as videos grow in number and in length.

    python bench/memory.py [--quick] [--json FILE]

The model is a stub. Videos are 1280x720, one frame a second; long ones repeat a clip's packets.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from clips import make_clip, make_long
from measure import machine, parser, write

RUN = """
import contextlib, json, os, sys, threading, time
from pathlib import Path
import torch
from encode import manifest_of
from stub import StubEncoder
from embedshard.encode.pipeline import EncodeOptions
from embedshard.encode.run import encode
from embedshard.frames import Sampling
folder = Path(sys.argv[1])
clips = sorted(folder.glob("*.mp4"))
torch.set_num_threads(1)
peak = {os.getpid(): 0}

def look():
    children = [task.read_text() for task in Path("/proc/self/task").glob("*/children")]
    for process in [os.getpid(), *map(int, " ".join(children).split())]:
        with contextlib.suppress(OSError):
            _, found, size = Path(f"/proc/{process}/status").read_text().partition("VmHWM:")
            if found:  # a process that has ended has no memory
                peak[process] = int(size.split()[0]) // 1024

def watch():
    while True:
        look()
        time.sleep(0.01)

options = EncodeOptions(Sampling("fps"), workers=1)
encoder = StubEncoder("fast")
threading.Thread(target=watch, daemon=True).start()
report = encode(manifest_of(clips, folder), folder / "out", encoder, options)
look()
main, decoder = peak.pop(os.getpid()), max(peak.values())
print(json.dumps({"done": report.done, "frames": report.frames, "main_mib": main, "decoder_mib": decoder}))
"""


def measure(folder: Path) -> dict[str, int]:
    """Encode the clips of a folder in a process of its own; gives what it says."""
    command = [sys.executable, "-c", RUN, str(folder)]
    ended = subprocess.run(command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, int] = json.loads(ended.stdout)
    return found


def main() -> None:
    """Print a table; optionally write it as JSON."""
    arguments = parser(__doc__).parse_args()
    counts, minutes = ((2, 8), (1, 4)) if arguments.quick else ((10, 80), (1, 10, 60))
    rows: list[dict[str, int | str]] = []
    with tempfile.TemporaryDirectory() as name:
        clip = make_clip(Path(name) / "clip.mp4", (1280, 720), 10)
        for count in counts:
            folder = Path(name) / f"count{count}"
            folder.mkdir()
            for number in range(count):
                (folder / f"{number}.mp4").hardlink_to(clip)
            rows.append({"videos": f"{count} of 10 s", **measure(folder)})
        for length in minutes:
            folder = Path(name) / f"length{length}"
            folder.mkdir()
            make_long(folder / "long.mp4", clip, 60 * length)
            rows.append({"videos": f"1 of {length} min", **measure(folder)})
    about = machine("av", "torch", "numpy")
    print(f"{about}\n{'videos':16}{'frames':>8}{'main MiB':>10}{'decoder MiB':>13}")
    for row in rows:
        print(f"{row['videos']:16}{row['frames']:8}{row['main_mib']:10}{row['decoder_mib']:13}")
    write(arguments.json, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
