"""Clips for the scripts here: they move like a hand-held camera over a textured picture, and are coded by x264."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

__all__ = ["make_clip", "make_clips", "make_long"]

RATE = 30
_OPTIONS = {"libx264": {"preset": "veryfast", "crf": "23"}, "libx265": {"x265-params": "log-level=none"}}


def make_clip(path: Path, size: tuple[int, int], seconds: float, seed: int = 0, codec: str = "libx264") -> Path:
    """Write a clip of (width, height) at 30 frames a second, in x264's default groups of pictures."""
    width, height = size
    rng = np.random.default_rng(seed)
    scene, noise = _scene(rng, size), rng.integers(0, 9 + seed % 8, (height + 8, width + 8, 1), np.uint8)
    options = _OPTIONS.get(codec, {})
    muxing = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=muxing) as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(round(RATE * seconds)):
            top = round(20 + 18 * np.sin(number / 9 + seed))
            left = round(scene.shape[1] / 3 * (1 + np.sin(number / 60 + seed)) / 2)
            frame = scene[top : top + height, left : left + width]
            shift = number % 8
            frame = frame + noise[shift : shift + height, shift : shift + width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def make_clips(folder: Path, count: int, size: tuple[int, int] = (340, 256), seconds: float = 10) -> list[Path]:
    """Write as many clips, each of another scene."""
    folder.mkdir(parents=True, exist_ok=True)
    return [make_clip(folder / f"clip_{number:05d}.mp4", size, seconds, number) for number in range(count)]


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


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Draw blocks of colour of several sizes, larger than the frame."""
    width, height = size[0] * 3 // 2 + 16, size[1] + 48
    scene = np.zeros((height, width, 3), np.float32)
    for block in (64, 16, 4):
        coarse = rng.random((height // block + 2, width // block + 2, 3), np.float32)
        scene += np.kron(coarse, np.ones((block, block, 1), np.float32))[:height, :width] * block**0.5
    scaled: npt.NDArray[np.uint8] = (240 * scene / scene.max()).astype(np.uint8)
    return scaled
