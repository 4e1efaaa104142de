"""Media to uint8 RGB frames at true times. Imports nothing of ours but `errors`.

`open_reader` gives a `Reader` of one media; `Sampling.choose` says which of its frames are wanted; `Reader.read`
decodes those. A decoder is one file here with one class that has the attributes of `Reader`; it is named in
`DECODERS`, and the tests of this room then run over it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError
from embedshard.frames.plan import Indices, Sampling, Timeline

__all__ = ["DECODERS", "FrameError", "Pixels", "Reader", "Sampling", "Timeline", "open_reader", "require_decoder"]

Pixels = npt.NDArray[np.uint8]

DECODERS = {
    "pyav": "embedshard.frames.pyav:PyavReader",
    "decord": "embedshard.frames.decord:DecordReader",
    "torchcodec": "embedshard.frames.torchcodec:TorchcodecReader",
    "nvdec": "embedshard.frames.torchcodec:NvdecReader",
}
_DEFAULT = "pyav"  # bench/decode.py: the fastest exact one, and the only one that reads every codec


class FrameError(ValueError):
    """A media cannot be decoded; the text says why."""


class Reader(Protocol):
    """One open media.

    Attributes:
        timeline: When its frames are shown.
        warnings: What is wrong with it although frames can be read; may grow while reading.
    """

    timeline: Timeline
    warnings: list[str]

    def read(self, wanted: Indices) -> Iterator[tuple[int, Pixels]]:
        """Decode frames.

        Args:
            wanted: Indices into the timeline, ascending, none twice.

        Yields:
            Index and frame (height, width, 3), RGB, as it is to be seen (rotation applied); with `nvdec` a uint8
            tensor on the device; with `open_reader(planes=True)` perhaps `colour.Planes`. A frame that does not
            decode is left out, with a warning.
        """
        ...

    def close(self) -> None:
        """Close the media."""
        ...


def open_reader(
    media: Path | BinaryIO,
    kind: str,
    decoder: str = "auto",
    frame_rate: float = 1.0,
    at_least: int = 0,
    planes: bool = False,
) -> Reader:
    """Open a media.

    Args:
        media: A file, a folder of pictures, or an open binary file.
        kind: `video`, `image` or `frames`.
        decoder: A name that `require_decoder` has passed; pictures and animated GIFs always go through Pillow.
        frame_rate: Frames per second of a folder of pictures.
        at_least: Pixels that the short side of a JPEG must keep; a far larger one may then be decoded smaller. 0: all.
        planes: Whether a frame may be `colour.Planes`, for RGB to be made elsewhere.

    Raises:
        FrameError: It has no frame that could be shown.
    """
    if kind != "video" or _is_gif(media):
        from embedshard.frames.pillow import PillowReader

        return PillowReader(media, frame_rate, at_least)
    module, _, reader = DECODERS[_DEFAULT if decoder == "auto" else decoder].partition(":")
    make = getattr(importlib.import_module(module), reader)
    opened: Reader = make(media, planes=True) if planes and reader == "PyavReader" else make(media)
    return opened


def _is_gif(media: Path | BinaryIO) -> bool:
    if isinstance(media, Path):
        return media.suffix.lower() == ".gif"
    head = media.read(6)
    media.seek(0)
    return head.startswith(b"GIF8")


def require_decoder(name: str) -> None:
    """Check that there is a decoder of that name, or `auto`, before a run begins.

    Raises:
        InputError: There is none, its package is not installed, or what that needs is not there.
    """
    if name != "auto" and name not in DECODERS:
        raise InputError(f"no decoder {name!r}; expected one of: auto, {', '.join(DECODERS)}")
    if name == "decord" and not importlib.util.find_spec("decord"):
        raise InputError("decord is not installed (it has no wheel for this machine); use --decoder pyav")
    if name in ("torchcodec", "nvdec"):
        from embedshard.frames.torchcodec import require_torchcodec

        require_torchcodec(on_cuda=name == "nvdec")
