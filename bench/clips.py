"""Clips for the scripts here: they move like a hand-held camera over a textured picture, and are coded by x264."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from embedshard.encode.preprocess import Preprocess
from embedshard.frames import open_reader

__all__ = ["cut_clips", "make_clip", "make_clips", "make_long"]

Frame = npt.NDArray[np.uint8]

RATE = 30
_OPTIONS = {"libx264": {"preset": "veryfast", "crf": "23"}, "libx265": {"x265-params": "log-level=none"}}


def make_clip(path: Path, size: tuple[int, int], seconds: float, seed: int = 0, codec: str = "libx264") -> Path:
    """Write a clip of (width, height) at 30 frames a second, in x264's default groups of pictures."""
    rng = np.random.default_rng(seed)
    scene, noise = _scene(rng, size), rng.integers(0, 9 + seed % 8, (size[1] + 8, size[0] + 8, 1), np.uint8)
    return encode_clip(path, _camera(scene, noise, size, round(RATE * seconds), seed), size, codec)


def make_clips(folder: Path, count: int, size: tuple[int, int] = (340, 256), seconds: float = 10) -> list[Path]:
    """Write as many clips, each of another scene; those that the folder holds are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = [folder / f"clip_{number:05d}.mp4" for number in range(count)]
    for number, clip in enumerate(clips):
        if not clip.exists():
            make_clip(clip.with_suffix(".new.mp4"), size, seconds, number).rename(clip)
    return clips


def cut_clips(
    sources: Path, folder: Path, count: int, size: tuple[int, int] = (340, 256), seconds: float = 10
) -> list[Path]:
    """Write clips cut out of real videos: each looped and shifted, every other one mirrored, coded as `make_clip` does.

    Args:
        sources: Folder of videos.
        folder: Gets the clips.
        count: Of clips.
        size: (width, height), filled by the middle of the picture.
        seconds: Of a clip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    videos = sorted(path for path in sources.iterdir() if path.suffix in (".mp4", ".mkv", ".avi", ".mov", ".webm"))
    clips = []
    for number in range(count):
        shift, source = 0.37 * (number // len(videos)), videos[number % len(videos)]
        frames = (frame[:, :: 1 - 2 * (number % 2)] for frame in _cut(source, size, shift, round(RATE * seconds)))
        clips.append(encode_clip(folder / f"clip_{number:05d}.mp4", frames, size))
    return clips


def encode_clip(path: Path, frames: Iterable[Frame], size: tuple[int, int], codec: str = "libx264") -> Path:
    """Write RGB frames of (width, height) as a clip."""
    muxing = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=muxing) as container:
        stream = container.add_stream(codec, rate=RATE, options=_OPTIONS.get(codec, {}))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def make_long(path: Path, clip: Path, seconds: float) -> Path:
    """Write a long video by repeating a clip's packets, without coding them again."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as container:
        given = source.streams.video[0]
        packets = [packet for packet in source.demux(given) if packet.size]
        stream = container.add_stream_from_template(given)
        time_base = given.time_base or Fraction(1, RATE)
        length = max((p.pts or 0) + (p.duration or 0) for p in packets) - min(p.pts or 0 for p in packets)
        copies = [(bytes(p), p.pts or 0, p.dts or 0, p.duration, p.is_keyframe) for p in packets]
        for turn in range(round(seconds / float(length * time_base))):
            for data, pts, dts, duration, is_keyframe in copies:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration = pts + turn * length, dts + turn * length, duration
                packet.is_keyframe, packet.stream, packet.time_base = is_keyframe, stream, time_base
                container.mux(packet)
    return path


def _camera(scene: Frame, noise: Frame, size: tuple[int, int], count: int, seed: int) -> Iterator[Frame]:
    """Move over a scene as a camera held by hand."""
    width, height = size
    for number in range(count):
        top = round(20 + 18 * np.sin(number / 9 + seed))
        left = round(scene.shape[1] / 3 * (1 + np.sin(number / 60 + seed)) / 2)
        shift = number % 8
        yield scene[top : top + height, left : left + width] + noise[shift : shift + height, shift : shift + width]


def _cut(source: Path, size: tuple[int, int], shift: float, count: int) -> Iterator[Frame]:
    """Give frames of a looped video from a second on, resized to fill the size and cropped to it."""
    reader = open_reader(source, "video")
    timeline, length = reader.timeline, Fraction(reader.timeline.end) * reader.timeline.time_base
    shown = [timeline.on_screen((Fraction(str(shift)) + Fraction(k, RATE)) % length) for k in range(count)]
    shrink = Preprocess((size[1], size[0]), (), ()).shrink
    frames = {index: shrink(frame) for index, frame in reader.read(np.unique(shown))}
    reader.close()
    yield from (frames[index] for index in shown)


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> Frame:
    """Draw blocks of colour of several sizes, larger than the frame."""
    width, height = size[0] * 3 // 2 + 16, size[1] + 48
    scene = np.zeros((height, width, 3), np.float32)
    for block in (64, 16, 4):
        coarse = rng.random((height // block + 2, width // block + 2, 3), np.float32)
        scene += np.kron(coarse, np.ones((block, block, 1), np.float32))[:height, :width] * block**0.5
    scaled: Frame = (240 * scene / scene.max()).astype(np.uint8)
    return scaled
