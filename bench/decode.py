"""Which decoder is fastest: CPU time for the frames of a plan, on short and long clips, in alternating rounds.

    python bench/decode.py [--quick] [--json FILE] [CLIP ...]

What `--decoder auto` rests on. Ours (PyAV) reads its own index first, as in a run; the others are bare loops over the
library, which are told the numbers of the frames: decord, and torchcodec at its best for the plan, `approximate` (which
takes the frame rate for granted and reads no packets beforehand) or `exact`. CPU time is what is compared: wall time
says what the machine's other users do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import decord
import numpy as np
from clips import RATE, make_clip, make_long
from measure import alternate, machine, median, parser, write

from embedshard.frames import Sampling, open_reader
from embedshard.frames.plan import Indices

PLANS = {
    "fps 1": Sampling("fps"),
    "count 8": Sampling("count", Fraction(8)),
    "keyframes": Sampling("keyframes"),
    "all": Sampling("all"),
}
WINDOWS = 8


class Case(NamedTuple):
    """A clip and the numbers of the frames that are wanted of it."""

    clip: Path
    plan: str
    wanted: Indices


def pyav(case: Case) -> None:
    """Read with this package."""
    reader = open_reader(case.clip, "video", "pyav")
    check(sum(1 for _ in reader.read(case.wanted)), case)
    reader.close()


def bare_decord(case: Case) -> None:
    """Read with decord."""
    reader = decord.VideoReader(str(case.clip), num_threads=1)
    parts = np.array_split(case.wanted, max(1, len(case.wanted) // 32))
    check(sum(len(reader.get_batch(part).asnumpy()) for part in parts), case)


def torchcodec_approximate(case: Case) -> None:
    """Read with torchcodec, trusting the frame rate."""
    _torchcodec(case, "approximate")


def torchcodec_exact(case: Case) -> None:
    """Read with torchcodec, which reads all packets first."""
    _torchcodec(case, "exact")


def _torchcodec(case: Case, mode: Any) -> None:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(case.clip), seek_mode=mode, dimension_order="NHWC", num_ffmpeg_threads=1)
    parts = np.array_split(case.wanted, max(1, len(case.wanted) // 32))
    check(sum(len(decoder.get_frames_at(part.tolist()).data) for part in parts), case)


def check(found: int, case: Case) -> None:
    """Stop where frames are missing."""
    if found != len(case.wanted):
        raise SystemExit(f"{case.clip.name}, {case.plan}: expected {len(case.wanted)} frames, found {found}")


def contenders() -> dict[str, Callable[[Case], None]]:
    """Give those that run here."""
    found: dict[str, Callable[[Case], None]] = {"pyav": pyav, "decord": bare_decord}
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        print(f"without torchcodec: {str(error).splitlines()[0]}")
        return found
    return {**found, "torchcodec approx.": torchcodec_approximate, "torchcodec exact": torchcodec_exact}


def cases(clip: Path, plans: list[str]) -> Iterator[Case]:
    """Give the plans on a clip; `windows` are a few of five seconds each at one frame a second, far apart."""
    reader = open_reader(clip, "video", "pyav")
    for plan in plans:
        if plan == "windows":
            starts = np.linspace(0, reader.timeline.duration - 6, WINDOWS)
            parts = [Sampling("fps").choose(reader.timeline, start, start + 5) for start in starts]
            yield Case(clip, plan, np.unique(np.concatenate(parts)))
        else:
            yield Case(clip, plan, np.unique(PLANS[plan].choose(reader.timeline)))
    reader.close()


def make_cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Make clips of several codecs, sizes and lengths."""
    sizes = {"340x256": (340, 256), "1280x720": (1280, 720), "1920x1080": (1920, 1080)}
    for name, size in list(sizes.items())[: 2 if quick else 3]:
        clip = make_clip(folder / f"h264 {name} 10 s.mp4", size, 3 if quick and name != "340x256" else 10)
        yield from cases(clip, ["fps 1", "count 8", "keyframes", "all"])
        if name == "1280x720":
            yield from cases(make_long(folder / f"h264 {name} 30 s.mp4", clip, 30), ["fps 1", "windows"])
            hour = make_long(folder / f"h264 {name} 1 h.mp4", clip, 600 if quick else 3600)
            yield from cases(hour, ["count 8", "windows"])
    for codec in () if quick else ("libx265", "mpeg4", "libvpx-vp9", "libsvtav1"):
        if codec in av.codecs_available:
            ending = ".webm" if "vp9" in codec else ".mkv" if "av1" in codec else ".mp4"
            clip = make_clip(folder / f"{codec} 340x256 10 s{ending}", (340, 256), 10, codec=codec)
            yield from cases(clip, ["fps 1", "keyframes"])


def measure(case: Case, who: dict[str, Callable[[Case], None]], rounds: int) -> dict[str, float]:
    """Give each contender's median CPU milliseconds; one that cannot read the clip is left out."""
    able: dict[str, Callable[[], None]] = {}
    for name, run in who.items():
        try:
            run(case)
        except (RuntimeError, ValueError, decord.DECORDError) as error:
            print(f"{case.clip.name}, {case.plan}: {name}: {str(error).strip().splitlines()[0][:80]}")
            continue
        able[name] = lambda run=run: run(case)  # type: ignore[misc]
    return {name: 1000 * median(took).cpu for name, took in alternate(able, rounds).items()}


def main() -> None:
    """Print a table; optionally write it as JSON."""
    options = parser(__doc__)
    options.add_argument("clips", nargs="*", type=Path)
    arguments = options.parse_args()
    rounds, who = 1 if arguments.quick else 5, contenders()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        given = (case for clip in arguments.clips for case in cases(clip, list(PLANS)))
        for case in given if arguments.clips else make_cases(Path(folder), arguments.quick):
            cpu = measure(case, who, rounds)
            best = min(value for name, value in cpu.items() if name != "pyav")
            rows.append(
                {"clip": case.clip.stem, "plan": case.plan, "cpu_ms": cpu, "best_other_to_pyav": best / cpu["pyav"]}
            )
    about = machine("av", "decord", "torchcodec", "torch")
    print(f"{about}; median CPU ms of {rounds} alternating rounds, {RATE} frames a second")
    print(f"{'clip':26}{'plan':12}" + "".join(f"{name:>20}" for name in who) + f"{'best other/pyav':>17}")
    for row in rows:
        cells = "".join(f"{row['cpu_ms'][name]:20.1f}" if name in row["cpu_ms"] else f"{'-':>20}" for name in who)
        print(f"{row['clip']:26}{row['plan']:12}{cells}{row['best_other_to_pyav']:17.2f}")
    write(arguments.json, {"machine": about, "rounds": rounds, "rows": rows})


if __name__ == "__main__":
    main()
