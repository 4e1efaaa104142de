"""The tree that a source's `demo` writes through: made-up texts, pictures, videos and tars. May import `store`.

What a label shows is drawn from its hash, so two labels look different and the same label always looks the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from embedshard.store import write_bytes

__all__ = ["Tree", "image_bytes", "video_bytes"]

_SIZE = (128, 96)
_FPS = 10


class Tree:
    """Writes files below `root`, each given by its path relative to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, path: str, content: str) -> None:
        """Write UTF-8 text as it is."""
        write_bytes(self.root / path, content.encode())

    def json(self, path: str, value: Any) -> None:
        """Write a JSON file."""
        self.text(path, json.dumps(value, ensure_ascii=False))

    def parquet(self, path: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a parquet table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), buffer)
        write_bytes(self.root / path, buffer.getvalue())

    def image(self, path: str, label: str) -> None:
        """Write a picture in the format of the path's extension."""
        write_bytes(self.root / path, image_bytes(label, Path(path).suffix))

    def video(self, path: str, label: str, seconds: float = 2.0) -> None:
        """Write a moving picture, H.264 (mpeg4 in AVI, VP9 in WebM) at 10 frames a second."""
        write_bytes(self.root / path, video_bytes(label, Path(path).suffix, seconds))

    def gif(self, path: str, label: str, seconds: float = 1.0) -> None:
        """Write an animated GIF of 10 frames a second."""
        first, *rest = _drawings(label, math.ceil(seconds * _FPS))
        buffer = io.BytesIO()
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=1000 // _FPS, loop=0)
        write_bytes(self.root / path, buffer.getvalue())

    def frames(self, path: str, label: str, count: int = 3) -> None:
        """Write a folder of JPEG frames `c01_1.jpeg`, `c01_2.jpeg`, ..., numbered without padding."""
        for number, drawing in enumerate(_drawings(label, count), 1):
            buffer = io.BytesIO()
            drawing.save(buffer, "JPEG", quality=90)
            write_bytes(self.root / path / f"c01_{number}.jpeg", buffer.getvalue())

    def tar(self, path: str, members: Mapping[str, bytes]) -> None:
        """Write an uncompressed tar with these members in this order."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        write_bytes(self.root / path, buffer.getvalue())


def image_bytes(label: str, extension: str = ".jpg") -> bytes:
    """Give a picture file that shows `label`."""
    buffer = io.BytesIO()
    next(_drawings(label, 1)).save(buffer, Image.registered_extensions()[extension.lower()])
    return buffer.getvalue()


def video_bytes(label: str, extension: str = ".mp4", seconds: float = 2.0) -> bytes:
    """Give a video file that shows `label` moving for `seconds`, 10 frames a second."""
    extension = extension.lower()
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(extension, "libx264")
    container_format = {".mkv": "matroska", ".m4v": "mp4"}.get(extension, extension[1:])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=_FPS)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = _SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for drawing in _drawings(label, max(1, round(seconds * _FPS))):
            frame = av.VideoFrame.from_ndarray(np.asarray(drawing), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _drawings(label: str, count: int) -> Iterator[Image.Image]:
    """Draw a disc that circles over a gradient, colours and path come from the hash."""
    seed = hashlib.sha256(label.encode()).digest()
    width, height = _SIZE
    ramp = np.linspace(0.25, 1.0, width)[None, :, None] * np.array(list(seed[:3]))[None, None, :]
    background = np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8)
    for step in range(count):
        angle = 2 * math.pi * (seed[3] / 256 + step / 20)
        x, y = width / 2 + width / 3 * math.cos(angle), height / 2 + height / 3 * math.sin(angle)
        picture = Image.fromarray(background)
        draw = ImageDraw.Draw(picture)
        draw.ellipse((x - 14, y - 14, x + 14, y + 14), fill=_colour(seed[4:7]))
        yield picture


def _colour(seed: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = (255 - value // 2 for value in seed)
    return red, green, blue
