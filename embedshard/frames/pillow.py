"""Pictures, animated GIFs and WebPs, folders of pictures, through Pillow; turned upright as their EXIF data says.

JPEGs of grey or YCbCr go through simplejpeg, which gives Pillow's pixels in less time (bench/pictures.py).
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, ImageOps, ImageSequence, UnidentifiedImageError

from embedshard.frames import FrameError, Pixels
from embedshard.frames.plan import Indices, Timeline

__all__ = ["EXTENSIONS", "PillowReader"]

EXTENSIONS = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"])

_ORIENTATION = 0x0112
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: np.rot90(pixels.transpose(1, 0, 2), 2),
    8: np.rot90,
}
_FACTORS = (2, 4, 8)  # other ones shift the picture by parts of a pixel
_MILLISECOND = Fraction(1, 1000)
_SHORTEST_MS, _DEFAULT_MS = 10, 100


class PillowReader:
    """Reads a picture as one frame at time 0, an animation by its delays.

    A folder of pictures, or a part of a tar that holds one, is read in natural order of the names.
    """

    def __init__(self, media: Path | BinaryIO, frame_rate: float = 1.0, at_least: int = 0) -> None:
        """Open a picture or a folder; a JPEG may be decoded smaller, its short side `at_least` so many pixels long."""
        self.warnings: list[str] = []
        self._media, self._at_least = media, at_least
        folder = _folder(media)
        self._pictures = [folder[name] for name in sorted(folder, key=_natural)] if folder else []
        if folder is not None:
            if not self._pictures:
                raise FrameError("the folder holds no picture")
            step = Fraction(1) / Fraction(str(frame_rate))
            count = len(self._pictures)
            self.timeline = Timeline(np.arange(count), np.ones(count, np.bool_), step, count)
        else:
            delays = _delays(media)
            pts = np.concatenate([[0], np.cumsum(delays)])
            self.timeline = Timeline(pts[:-1], np.arange(len(delays)) == 0, _MILLISECOND, int(pts[-1]))

    def read(self, wanted: Indices) -> Iterator[tuple[int, Pixels]]:
        """Decode the wanted pictures; see `Reader.read`."""
        if self._pictures:
            for index in wanted:
                yield from self._picture(int(index), self._pictures[index])
        elif len(self.timeline.pts) == 1:
            yield from self._picture(0, self._media)
        else:
            yield from self._animation({int(index) for index in wanted})

    def close(self) -> None:
        """Nothing stays open between reads."""

    def _picture(self, index: int, media: Path | BinaryIO) -> Iterator[tuple[int, Pixels]]:
        try:
            with Image.open(media) as picture:
                pixels = _jpeg(picture, self._at_least)
                if pixels is None:
                    pixels = _rgb(ImageOps.exif_transpose(picture))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.warnings.append(f"frame {index} does not decode: {error}")
        else:
            yield index, pixels

    def _animation(self, wanted: set[int]) -> Iterator[tuple[int, Pixels]]:
        with Image.open(self._media) as animation:
            try:
                for index, picture in enumerate(ImageSequence.Iterator(animation)):
                    if index in wanted:
                        yield index, _rgb(picture)
            except (OSError, SyntaxError, ValueError) as error:
                self.warnings.append(f"frames from {index + 1} on do not decode: {error}")


def _folder(media: Path | BinaryIO) -> dict[str, Path | BinaryIO] | None:
    """Give the pictures of a folder by their names; None for media that is none."""
    pictures: dict[str, Path | BinaryIO]
    if isinstance(media, Path):
        if not media.is_dir():
            return None
        pictures = {path.name: path for path in media.iterdir()}
    else:
        tar = tarfile.is_tarfile(media)
        media.seek(0)
        if not tar:
            return None
        with tarfile.open(fileobj=media, mode="r:") as members:
            files = [(info.name.rpartition("/")[2], members.extractfile(info)) for info in members if info.isreg()]
            pictures = {name: io.BytesIO(file.read()) for name, file in files if file}
    return {
        name: picture
        for name, picture in pictures.items()
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
    }


def _delays(media: Path | BinaryIO) -> list[int]:
    """Give how long each frame is shown, in ms; delays of 10 ms and less count as 100 ms, as browsers take them."""
    try:
        with Image.open(media) as picture:
            count = getattr(picture, "n_frames", 1)
            if count == 1 or picture.format not in ("GIF", "WEBP", "PNG"):
                return [1]
            delays = [int(frame.info.get("duration", 0)) for frame in ImageSequence.Iterator(picture)]
    except UnidentifiedImageError as error:
        raise FrameError("not a picture that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FrameError(f"the picture is damaged: {error}") from error
    return [delay if delay > _SHORTEST_MS else _DEFAULT_MS for delay in delays]


def _jpeg(picture: ImageFile.ImageFile, at_least: int) -> Pixels | None:
    """Decode a JPEG to Pillow's pixels; None for what is none, is of other colours, or is damaged."""
    if picture.format != "JPEG" or picture.mode not in ("L", "RGB") or picture.fp is None:
        return None
    factor = max((f for f in _FACTORS if min(picture.size) >= f * at_least), default=1) if at_least else 1
    width, height = (-(-side // factor) for side in picture.size)
    turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    picture.fp.seek(0)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            picture.fp.read(), "RGB", fastdct=False, fastupsample=False, min_height=height, min_width=width
        )
    except ValueError:
        picture.fp.seek(0)
        return None
    return np.ascontiguousarray(turn(pixels)) if turn else pixels


def _rgb(picture: Image.Image) -> Pixels:
    """Convert to RGB before any resizing, so that palettes are filtered as colours; 16-bit grey loses its low byte."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture)
        picture = Image.fromarray((np.clip(grey, 0, 65535) >> 8).astype(np.uint8))
    if picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")
    return np.asarray(picture.convert("RGB"))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
