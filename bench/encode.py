"""Videos a second from files to embeddings where decoding is all that takes time, beside clip-video-encode and others.

    python bench/encode.py [--quick] [--json FILE] [--clips FOLDER] [--cache FOLDER]

50 clips of ten seconds, 340x256, one frame a second, and a model that costs next to nothing. In alternating rounds:
this package with `exact` preprocessing (its default) and `fast`; clip-video-encode 1.3.0 at its best number of workers;
a plain loop over decord, and our bare decoder, in a process for each core, which stand before the clock starts while
our own decode processes start within it. `free device` is the way of a GPU: it gets the planes, and shrinking and
normalising cost the cores nothing; what is left is decoding, the way of the frames, and the files. `long` are four
times as many clips. A ratio is the median of each round's.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, NamedTuple

import decord
import numpy as np
import numpy.typing as npt
import torch
from clips import cut_clips, make_clips
from measure import Round, alternate, machine, median, parser, ratio, timed, write
from peer import ClipVideoEncode
from stub import MEAN, STD, StubEncoder, StubModel

from embedshard.encode.pipeline import EncodeOptions
from embedshard.encode.preprocess import Preprocess
from embedshard.encode.run import encode
from embedshard.engine.local import cores
from embedshard.frames import Sampling, open_reader
from embedshard.manifest import Manifest, SourceInfo, open_manifest, writing_manifest
from embedshard.sample import Media, Sample, make_key

COUNT, LONGER = 50, 4
PEER = "clip-video-encode"
SHRINK = Preprocess((224, 224), MEAN, STD)


class Bench(NamedTuple):
    """Where the contenders run: a folder for what they write, and the processes of those that need some."""

    folder: Path
    pool: Pool
    peer: ClipVideoEncode | None


def processes() -> Pool:
    """Give a process for each core, with all imported."""
    return multiprocessing.get_context("fork").Pool(cores())


def spread(pool: Pool, function: Callable[[Path], Any], clips: list[Path]) -> Iterator[tuple[Any, float]]:
    """Yield what a function gives for each clip, and the CPU seconds that it took in its process."""
    return pool.imap_unordered(partial(_with_cpu, function), clips)


def _with_cpu(function: Callable[[Path], Any], clip: Path) -> tuple[Any, float]:
    begun = time.process_time()
    return function(clip), time.process_time() - begun


def decord_clip(path: Path) -> tuple[str, npt.NDArray[np.uint8]]:
    """Decode and shrink as a plain script does."""
    reader = decord.VideoReader(str(path), num_threads=1)
    return path.stem, np.stack([SHRINK.shrink(f) for f in reader.get_batch(range(0, len(reader), 30)).asnumpy()])


def bare_clip(path: Path) -> int:
    """Decode with our reader, and do nothing with the frames."""
    reader = open_reader(path, "video")
    wanted = Sampling("fps").choose(reader.timeline)
    count = sum(1 for _ in reader.read(np.unique(wanted)))
    reader.close()
    return count


def decord_loop(bench: Bench, clips: list[Path], dest: Path) -> Round:
    """Encode with decord."""
    model, elsewhere = StubModel(), 0.0

    def run() -> None:
        nonlocal elsewhere
        for (name, frames), cpu in spread(bench.pool, decord_clip, clips):
            elsewhere += cpu
            with torch.inference_mode():
                np.save(dest / f"{name}.npy", model.encode_image(SHRINK.normalise(torch.from_numpy(frames))).numpy())

    took = timed(run)
    return took._replace(cpu=took.cpu + elsewhere)


def bare_decoder(bench: Bench, clips: list[Path]) -> Round:
    """Decode only."""
    counts: list[tuple[int, float]] = []
    took = timed(lambda: counts.extend(spread(bench.pool, bare_clip, clips)))
    if any(count not in (10, 11) for count, _ in counts):
        raise SystemExit(f"the bare decoder: expected 10 or 11 frames of each clip, found {counts}")
    return took._replace(cpu=took.cpu + sum(cpu for _, cpu in counts))


def ours(manifest: Manifest, encoder: StubEncoder, dest: Path) -> Round:
    """Encode with this package."""
    options = EncodeOptions(Sampling("fps"), workers=cores())
    return timed(lambda: encode(manifest, dest / "out", encoder, options))


def lost_of(folder: Path, expected: int) -> int:
    """Count the clips that have no embeddings of 10 or 11 frames."""
    found = [np.load(path).shape for path in folder.rglob("*.npy")]
    return expected - sum(shape in ((10, 512), (11, 512)) for shape in found)


def manifest_of(clips: list[Path], folder: Path) -> Manifest:
    """Make a manifest of clips."""
    path = folder / f"{len(clips)}.parquet"
    with writing_manifest(path, clips[0].parent, SourceInfo("folder")) as writer:
        for clip in clips:
            writer.add(Sample(make_key(clip.stem), "train", Media(clip.name, clip.name, "video"), "a clip"))
    return open_manifest(path)


def contenders(
    bench: Bench, clips: list[Path], workers: int, lost: dict[str, int]
) -> dict[str, Callable[[], Round | None]]:
    """Give all that are compared on some clips; what each loses is noted in `lost`."""
    manifest = manifest_of(clips, bench.folder)
    encoders = {
        "exact": StubEncoder("exact"),
        "fast": StubEncoder("fast"),
        "free device": StubEncoder("exact", free=True),
    }
    runs: dict[str, Callable[[Path], Round]] = {
        **{name: partial(ours, manifest, encoder) for name, encoder in encoders.items()},
        "decord loop": partial(decord_loop, bench, clips),
    }
    if bench.peer:
        runs[PEER] = partial(bench.peer.run, clips, workers=workers)

    def checked(name: str, run: Callable[[Path], Round]) -> Round:
        with tempfile.TemporaryDirectory(dir=bench.folder) as dest:
            took = run(Path(dest))
            lost[name] = max(lost.get(name, 0), lost_of(Path(dest), len(clips)))
        return took

    found: dict[str, Callable[[], Round | None]] = {"bare decoder": lambda: bare_decoder(bench, clips)}
    return found | {name: partial(checked, name, run) for name, run in runs.items()}


def best_workers(bench: Bench, clips: list[Path]) -> int:
    """Give the number of workers at which clip-video-encode is fastest."""
    tried = {
        str(workers): contenders(bench, clips, workers, {})[PEER] for workers in (1, cores(), 2 * cores()) if bench.peer
    }
    walls = {workers: median(rounds).wall for workers, rounds in alternate(tried, 2).items()}
    print(f"{PEER}: " + ", ".join(f"{wall:.2f} s with {workers} workers" for workers, wall in walls.items()))
    return int(min(walls, key=lambda workers: walls[workers]))


def ratios_of(once: dict[str, list[Round]], long: dict[str, list[Round]]) -> dict[str, float]:
    """Compare this package with the others: above 1 it is faster, `cpu` that it takes less CPU time."""
    found = {}
    for ours, prefix in (("fast", ""), ("exact", "exact_")):
        for other in {"decord loop", PEER} & once.keys():
            name = f"vs_{other.replace('-', '_').replace(' ', '_')}"
            found[prefix + name] = ratio(once[other], once[ours])
            found[f"{prefix}cpu_{name}"] = ratio(once[other], once[ours], "cpu")
    for ours, name in (("free device", "of_bare_decoder"), ("fast", "fast_of_bare_decoder")):
        found[name] = ratio(once["bare decoder"], once[ours])
        found[f"cpu_{name}"] = ratio(once["bare decoder"], once[ours], "cpu")
        if long:
            found[f"{name}_long"] = ratio(long["bare decoder"], long[ours])
    return dict(sorted(found.items()))


def measured(bench: Bench, clips: list[Path], quick: bool) -> dict[str, Any]:
    """Measure everything, print a table, and give the figures."""
    workers = cores() if quick or not bench.peer else best_workers(bench, clips)
    lost: dict[str, int] = {}
    alternate(contenders(bench, clips[:2], workers, {}), 1, warm_up=False)
    once = alternate(contenders(bench, clips, workers, lost), 2 if quick else 5, warm_up=False)
    long: dict[str, list[Round]] = {}
    if not quick:
        links = [bench.folder / f"{turn}_{clip.name}" for turn in range(LONGER) for clip in clips]
        for link in links:
            link.symlink_to(clips[0].parent / link.name.partition("_")[2])
        runs = contenders(bench._replace(peer=None), links, 0, lost)
        long = alternate({name: runs[name] for name in ("bare decoder", "fast", "free device")}, 5, warm_up=False)
    print(f"{'':20}{'wall s':>9}{'CPU s':>9}{'videos/s':>10}{'lost':>6}{'long videos/s':>15}")
    for name, rounds in once.items():
        took, lasted = median(rounds), f"{LONGER * len(clips) / median(long[name]).wall:15.1f}" if name in long else ""
        rate = len(clips) / took.wall
        print(f"{name:20}{took.wall:9.2f}{took.cpu:9.2f}{rate:10.1f}{lost.get(name, 0):6}{lasted}")
    return {
        "clips": len(clips),
        "workers": {PEER: workers} if bench.peer else {},
        "rounds": {name: [took._asdict() for took in rounds] for name, rounds in once.items()},
        "long_rounds": {name: [took._asdict() for took in rounds] for name, rounds in long.items()},
        "lost": lost,
        "ratios": ratios_of(once, long),
    }


def main() -> None:
    """Print a table; optionally write it as JSON."""
    options = parser(__doc__)
    options.add_argument(
        "--clips", type=Path, help="cut the clips out of the videos of this folder, not out of the air"
    )
    options.add_argument("--cache", type=Path, default=Path.home() / ".cache/embedshard-bench")
    arguments = options.parse_args()
    torch.set_num_threads(1)  # before the processes are forked
    about = f"{machine('av', 'decord', 'torch', 'open_clip_torch', 'numpy', 'pillow')}, {cores()} cores"
    print(about)
    with processes() as pool, tempfile.TemporaryDirectory() as name:
        if arguments.clips:
            clips = cut_clips(arguments.clips, Path(name) / "clips", COUNT)
        else:
            clips = make_clips(arguments.cache / "clips", COUNT)
        bench = Bench(Path(name), pool, peer_in(arguments.cache))
        found = measured(bench, clips, arguments.quick)
        if bench.peer:
            bench.peer.close()
    print("\n".join(f"{name:36}{value:8.2f}" for name, value in found["ratios"].items()))
    write(arguments.json, {"machine": about, **found})


def peer_in(cache: Path) -> ClipVideoEncode | None:
    """Start clip-video-encode where it can be installed."""
    try:
        return ClipVideoEncode(cache)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"without {PEER}, which does not install here: {error}")
        return None


if __name__ == "__main__":
    main()
