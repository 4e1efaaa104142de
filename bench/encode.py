"""Videos a second from files to embeddings where decoding is all that takes time, beside clip-video-encode and others.

    python bench/encode.py [--quick] [--json FILE] [--clips FOLDER] [--cache FOLDER]

The model is a stub, so the way to it decides: 50 clips of ten seconds, 340x256, one frame a second. In alternating
rounds: this package (exact and fast preprocessing), clip-video-encode 1.3.0 at its best number of workers, a plain loop
over decord in a process for each core, and our bare decoder in as many. `steady` is what another clip costs when all
runs: the difference between twice as many clips and these.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path

import decord
import numpy as np
import torch
from clips import make_clips
from measure import Round, alternate, machine, median, parser, write
from PIL import Image
from stub import MEAN, STD, StubEncoder, StubModel

from embedshard.encode.pipeline import EncodeOptions, cores
from embedshard.encode.preprocess import Preprocess
from embedshard.encode.run import encode
from embedshard.frames import Sampling, open_reader
from embedshard.manifest import Manifest, SourceInfo, open_manifest, writing_manifest
from embedshard.sample import Media, Sample, make_key

HERE = Path(__file__).parent
NEEDED = (
    "clip-video-encode==1.3.0 video2numpy==2.3.0 opencv-python-headless fire termcolor pandas python-dateutil pytz six "
    "tzdata youtube-dl ffmpeg requests urllib3 certifi charset-normalizer"
)
SHRINK = Preprocess((224, 224), MEAN, STD)


class ClipVideoEncode:
    """clip-video-encode in a process and a virtual environment of its own."""

    def __init__(self, cache: Path) -> None:
        python = cache / "clip-video-encode" / "bin" / "python"
        if not (cache / "clip-video-encode" / "installed").exists():
            _install(cache / "clip-video-encode")
        self._process = subprocess.Popen(
            [python, HERE / "clip_video_encode_driver.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def run(self, clips: list[Path], folder: Path, workers: int) -> Round:
        """Encode clips into a new folder, and check that none is lost."""
        with tempfile.TemporaryDirectory(dir=folder) as dest:
            videos = Path(dest) / "videos.txt"
            videos.write_text("\n".join(map(str, clips)))
            request = {"videos": str(videos), "dest": dest, "every": 30, "workers": workers}
            assert self._process.stdin
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            took = json.loads(self._answer())
            check(len(list(Path(dest).glob("*.npy"))), len(clips), "clip-video-encode")
            return Round(**took)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"clip-video-encode ended with exit code {self._process.wait()}")
        return line


def _install(folder: Path) -> None:
    """Install it without what it pins; it takes torch and the rest from the environment of this process."""
    venv.create(folder, with_pip=True, clear=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    paths = [path for path in sys.path if path.endswith("site-packages")] + [str(HERE.parent)]
    (site / "parent.pth").write_text("\n".join(paths))
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", *NEEDED.split()]
    subprocess.run(pip, check=True)
    (folder / "installed").touch()


def check(found: int, expected: int, who: str) -> None:
    """Stop where videos are lost."""
    if found != expected:
        raise SystemExit(f"{who}: expected {expected} videos, found {found}")


def decord_clip(path: Path) -> tuple[str, np.ndarray]:
    """Decode and preprocess as a plain script does."""
    reader = decord.VideoReader(str(path), num_threads=1)
    frames = reader.get_batch(range(0, len(reader), 30)).asnumpy()
    return path.stem, np.stack([SHRINK.shrink(np.asarray(Image.fromarray(frame))) for frame in frames])


def bare_clip(path: Path) -> int:
    """Decode with our reader, and do nothing with the frames."""
    reader = open_reader(path, "video")
    wanted = Sampling("fps").choose(reader.timeline)
    count = sum(1 for _ in reader.read(np.unique(wanted)))
    reader.close()
    return count


def pool() -> Pool:
    """Give a process for each core; they start with all imported."""
    return multiprocessing.get_context("fork").Pool(cores())


def decord_loop(clips: list[Path], folder: Path) -> None:
    """Encode with decord in two processes."""
    model = StubModel()
    with pool() as workers, tempfile.TemporaryDirectory(dir=folder) as dest, torch.inference_mode():
        for name, frames in workers.imap_unordered(decord_clip, clips):
            pixels = SHRINK.normalise(torch.from_numpy(frames))
            np.save(f"{dest}/{name}.npy", model.encode_image(pixels).numpy())
        check(len(os.listdir(dest)), len(clips), "decord")


def bare(clips: list[Path]) -> None:
    """Decode only."""
    with pool() as workers:
        check(sum(count > 0 for count in workers.imap_unordered(bare_clip, clips)), len(clips), "the bare decoder")


def ours(manifest: Manifest, folder: Path, encoder: StubEncoder) -> None:
    """Encode with this package."""
    with tempfile.TemporaryDirectory(dir=folder) as dest:
        report = encode(manifest, Path(dest) / "out", encoder, EncodeOptions(Sampling("fps"), workers=cores()))
        check(report.done, manifest.rows, "embedshard")


def manifest_of(clips: list[Path], folder: Path) -> Manifest:
    """Make a manifest of clips."""
    path = folder / f"{len(clips)}.parquet"
    with writing_manifest(path, clips[0].parent, SourceInfo("folder")) as writer:
        for clip in clips:
            writer.add(Sample(make_key(clip.stem), "train", Media(clip.name, clip.name, "video"), "a clip"))
    return open_manifest(path)


def contenders(
    clips: list[Path], folder: Path, other: ClipVideoEncode | None, workers: int
) -> dict[str, Callable[[], Round | None]]:
    """Give all that are compared on some clips."""
    manifest, encoders = manifest_of(clips, folder), {name: StubEncoder(name) for name in ("exact", "fast")}
    found: dict[str, Callable[[], Round | None]] = {
        "bare decoder": lambda: bare(clips),
        "exact": lambda: ours(manifest, folder, encoders["exact"]),
        "fast": lambda: ours(manifest, folder, encoders["fast"]),
        "decord loop": lambda: decord_loop(clips, folder),
    }
    if other:
        found["clip-video-encode"] = lambda: other.run(clips, folder, workers)
    return found


def best_workers(other: ClipVideoEncode, clips: list[Path], folder: Path) -> int:
    """Give the number of workers at which clip-video-encode is fastest."""
    other.run(clips[:4], folder, 1)
    return min((1, 2), key=lambda workers: min(other.run(clips, folder, workers).wall for _ in range(2)))


def ratios_of(walls: dict[str, float], steady: dict[str, float]) -> dict[str, float]:
    """Compare this package with the others: above 1 it is faster."""
    found = {f"vs_{name.replace('-', '_').replace(' ', '_')}": wall / walls["fast"] for name, wall in walls.items()}
    found.pop("vs_fast")
    found["vs_exact"], found["of_bare_decoder"] = walls["exact"] / walls["fast"], found.pop("vs_bare_decoder")
    for name in ("exact", "fast"):
        found[f"of_bare_decoder_steady_{name}"] = steady["bare decoder"] / steady[name]
    if "clip-video-encode" in walls:
        found["exact_vs_clip_video_encode"] = walls["clip-video-encode"] / walls["exact"]
    found["exact_vs_decord_loop"] = walls["decord loop"] / walls["exact"]
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Print a table; optionally write it as JSON."""
    options = parser(__doc__)
    options.add_argument("--clips", type=Path, help="take the clips of this folder (mp4) instead of making some")
    options.add_argument("--cache", type=Path, default=Path.home() / ".cache/embedshard-bench")
    arguments = options.parse_args()
    torch.set_num_threads(1)  # before the processes are forked
    rounds, count = (1, 16) if arguments.quick else (5, 50)
    other: ClipVideoEncode | None = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = sorted(arguments.clips.glob("*.mp4")) if arguments.clips else make_clips(folder / "clips", 2 * count)
        clips, twice = made[: len(made) // 2], made
        try:
            other = ClipVideoEncode(arguments.cache)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            print(f"without clip-video-encode, which does not install here: {error}")
        workers = best_workers(other, clips, folder) if other else 0
        once = alternate(contenders(clips, folder, other, workers), rounds)
        double = alternate({k: v for k, v in contenders(twice, folder, None, 0).items() if k != "decord loop"}, rounds)
    if other:
        other.close()
    found = {contender: median(took) for contender, took in once.items()}
    walls = {contender: took.wall for contender, took in found.items()}
    steady = {contender: median(took).wall - walls[contender] for contender, took in double.items()}
    about = machine("av", "decord", "torch", "open_clip_torch", "numpy", "pillow")
    print(f"{about}; {len(clips)} clips, {cores()} cores, median of {rounds} rounds; cve at {workers} workers")
    print(f"{'':20}{'wall s':>9}{'CPU s':>9}{'videos/s':>10}{'steady videos/s':>17}")
    for contender, took in found.items():
        extra = f"{(len(twice) - len(clips)) / steady[contender]:17.1f}" if contender in steady else ""
        print(f"{contender:20}{took.wall:9.2f}{took.cpu:9.2f}{len(clips) / took.wall:10.1f}{extra}")
    ratios = ratios_of(walls, steady)
    print("\n".join(f"{name:36}{value:8.2f}" for name, value in ratios.items()))
    write(arguments.json, {"machine": about, "clips": len(clips), "rounds": rounds, "wall_s": walls, "ratios": ratios})


if __name__ == "__main__":
    main()
