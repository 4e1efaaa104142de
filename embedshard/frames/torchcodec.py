"""Video through torchcodec: on the CPU with the system's FFmpeg, or on CUDA with NVDEC. Imports torch where it is used.

PyAV's timeline says what is shown. torchcodec numbers the frames in a pass of its own over the packets, and each frame
it gives is held to the timeline by its time. That pass (`seek_mode="exact"`) is cheaper than handing it a mapping made
from the timeline, which goes through JSON; `approximate` takes numbers for times at the average rate.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from embedshard.errors import InputError
from embedshard.frames import FrameError, Pixels
from embedshard.frames.plan import Indices
from embedshard.frames.pyav import PyavReader

if TYPE_CHECKING:
    import torch

__all__ = ["NvdecReader", "TorchcodecReader", "require_torchcodec"]

_BATCH = 16
_BATCH_BYTES = 8 << 20  # larger pieces come anew from the system each time, and clearing them costs as much as decoding
_ATTEMPTS = 8  # each gets past one damaged packet
# What swscale turns into RGB without interpolating colour, and so alike in every FFmpeg.
_ALIKE = frozenset("yuv420p yuvj420p yuv422p yuvj422p yuv444p yuvj444p nv12 gray gbrp rgb24 bgr24".split())
_WITHOUT_PAIRS = frozenset("yuv444p yuvj444p gray gbrp rgb24 bgr24".split())
_PLACE = re.compile(r"^.*\.(?:cpp|h):\d+, ")


def require_torchcodec(on_cuda: bool) -> None:
    """Check that torchcodec runs here.

    Args:
        on_cuda: Whether it is to decode with NVDEC.

    Raises:
        InputError: It is not installed, or what it needs is not.
    """
    otherwise = "or use --decoder pyav"
    if not importlib.util.find_spec("torchcodec"):
        raise InputError(f"torchcodec is not installed; pip install 'embedshard[torchcodec]', {otherwise}")
    import torch

    try:
        from torchcodec import ffmpeg_major_version
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"torchcodec does not load ({_text(error)}); pip install -U torchcodec, {otherwise}"
        ) from error
    if ffmpeg_major_version is None:
        raise InputError(
            "torchcodec finds no shared libraries of FFmpeg 4 to 9 (apt install ffmpeg; conda install ffmpeg), or is "
            f"made for another torch than {torch.__version__} (pip install -U torch torchcodec); "
            f"install these, {otherwise}"
        )
    if on_cuda and not torch.cuda.is_available():
        raise InputError(
            f"--decoder nvdec needs an NVIDIA GPU and a torch with CUDA; found neither or one, {otherwise}"
        )
    if on_cuda and not _has_nvcuvid():
        raise InputError(
            "the NVIDIA driver's libnvcuvid.so.1 is not there, without which there is no NVDEC; in a container, give "
            f"it the driver capability `video` (NVIDIA_DRIVER_CAPABILITIES=compute,utility,video), {otherwise}"
        )


def _has_nvcuvid() -> bool:
    for name in ("libnvcuvid.so", "libnvcuvid.so.1"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


class _DeviceReader:
    """Reads one video file into tensors on a device."""

    def __init__(self, media: Path | BinaryIO, device: str) -> None:
        index = PyavReader(media)
        self.timeline, self.warnings = index.timeline, index.warnings
        self._has_open_gop = index.has_open_gop
        index.close()
        if index.container == "avi":
            raise FrameError("torchcodec gets the order of an AVI's frames wrong; use --decoder pyav")
        self._decoder = _open(media, device)
        data = self._decoder.metadata
        if len(self._decoder) != len(self.timeline.pts):
            raise FrameError(
                f"torchcodec counts {len(self._decoder)} frames, FFmpeg shows {len(self.timeline.pts)}; "
                "use --decoder pyav"
            )
        self._begin: float = data.begin_stream_seconds
        self._batch = max(1, min(_BATCH, _BATCH_BYTES // (3 * data.width * data.height)))

    def read(self, wanted: Indices) -> Iterator[tuple[int, torch.Tensor]]:
        """Decode the wanted frames; see `Reader.read`.

        Yields:
            Index and uint8 tensor (height, width, 3) on the device.
        """
        lost, is_checked = 0, False
        for low in range(0, len(wanted), self._batch):
            part = wanted[low : low + self._batch]
            frames = self._together(part)
            if frames is not None:
                yield from zip(part.tolist(), frames, strict=True)
                continue
            if not is_checked and self._alone(0) is None:
                raise FrameError("torchcodec does not find this file's first frame; use --decoder pyav")
            is_checked = True
            found = ((index, self._alone(index)) for index in part.tolist())
            there = [(index, frame) for index, frame in found if frame is not None]
            lost += len(part) - len(there)
            if lost and self._has_open_gop:
                raise FrameError("torchcodec loses frames between open groups of pictures; use --decoder pyav")
            yield from there
        if lost:
            self.warnings.append(f"{lost} of {len(wanted)} wanted frames do not decode")

    def close(self) -> None:
        """Close the file."""
        del self._decoder

    def _together(self, part: Indices) -> torch.Tensor | None:
        """Decode frames by their numbers; None where one fails or is another than the timeline's."""
        try:
            batch = self._decoder.get_frames_at(part.tolist())
        except (RuntimeError, ValueError, IndexError) as error:
            _raise_if_of_the_device(error)
            return None
        frames: torch.Tensor = batch.data
        return frames if self._is_timely(batch.pts_seconds.cpu().numpy(), part) else None

    def _alone(self, index: int) -> torch.Tensor | None:
        """Decode the frame on screen at a time; None where it does not decode."""
        seconds = self._begin + float(self.timeline.times[index]) + float(self.timeline.time_base) / 4
        for _ in range(_ATTEMPTS):
            try:
                found = self._decoder.get_frame_played_at(seconds)
            except (RuntimeError, ValueError, IndexError) as error:
                _raise_if_of_the_device(error)
                continue
            frame: torch.Tensor = found.data
            return frame if self._is_timely(np.array([found.pts_seconds]), np.array([index])) else None
        return None

    def _is_timely(self, seconds: Any, part: Indices) -> bool:
        late = np.abs(seconds - self._begin - self.timeline.times[part])
        return bool(late.max() <= float(self.timeline.rounding))


class TorchcodecReader:
    """Reads one video file on the CPU."""

    def __init__(self, media: Path | BinaryIO) -> None:
        self._tensors = _DeviceReader(media, "cpu")
        self.timeline, self.warnings = self._tensors.timeline, self._tensors.warnings
        _refuse_other_colours(self._tensors._decoder.metadata)

    def read(self, wanted: Indices) -> Iterator[tuple[int, Pixels]]:
        """Decode the wanted frames; see `Reader.read`."""
        for index, frame in self._tensors.read(wanted):
            yield index, frame.numpy()

    def close(self) -> None:
        """Close the file."""
        self._tensors.close()


class NvdecReader(_DeviceReader):
    """Reads one video file with NVDEC; frames are tensors that stay on the device.

    NVDEC's colours are not PyAV's to the bit. What it does not take, torchcodec decodes on the CPU, with a warning.
    """

    def __init__(self, media: Path | BinaryIO, device: str = "cuda") -> None:
        super().__init__(media, device)
        if self._decoder.cpu_fallback:
            reason = str(self._decoder.cpu_fallback).rpartition("due to: ")[2]
            self.warnings.append(f"decoded on the CPU instead of NVDEC ({reason})")


def _open(media: Path | BinaryIO, device: str) -> Any:
    from torchcodec.decoders import VideoDecoder

    if not isinstance(media, Path):
        media.seek(0)
    try:
        return VideoDecoder(media, dimension_order="NHWC", num_ffmpeg_threads=1, device=device)
    except (RuntimeError, ValueError) as error:
        _raise_if_of_the_device(error)
        raise FrameError(f"torchcodec cannot read it; try --decoder pyav ({_text(error)})") from error


def _refuse_other_colours(data: Any) -> None:
    """Refuse a video whose colour samples have to be interpolated: each version of FFmpeg does so in its own way."""
    is_turned = round((data.rotation or 0) / 90) % 2
    height = data.width if is_turned else data.height
    if data.pixel_format not in _ALIKE or (height % 2 and data.pixel_format not in _WITHOUT_PAIRS):
        raise FrameError(
            f"torchcodec gives {data.pixel_format} video of {data.width}x{data.height} other colours than PyAV does; "
            "use --decoder pyav"
        )


def _raise_if_of_the_device(error: Exception) -> None:
    import torch

    if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)):
        raise error


def _text(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _PLACE.sub("", lines[0])
