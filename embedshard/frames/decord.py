"""Video through decord (its own FFmpeg 4, last released in 2021): no AV1, no files that end early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from embedshard.frames import FrameError, Pixels
from embedshard.frames.plan import Indices
from embedshard.frames.pyav import PyavReader

__all__ = ["DecordReader"]

_BATCH = 16
_TOLERANCE = 2e-3


class DecordReader:
    """Reads one video file with decord; PyAV's timeline, whose frames are found by their time, says what is shown."""

    def __init__(self, media: Path | BinaryIO) -> None:
        import decord

        self._decord: Any = decord
        index = PyavReader(media)
        self.timeline, self.warnings = index.timeline, index.warnings
        index.close()
        wrong = {
            "frames outside the edit list": index.has_edit_list,
            "open groups of pictures": index.has_open_gop,
            f"{index.bit_depth}-bit colour": index.bit_depth > 8,
            "streams without an index": index.container in ("mpegts", "mpeg"),
        }
        if any(wrong.values()):
            what = " and ".join(name for name, there in wrong.items() if there)
            raise FrameError(f"decord gets {what} wrong; use --decoder pyav")
        if not isinstance(media, Path):
            media.seek(0)
        try:
            self._reader: Any = decord.VideoReader(str(media) if isinstance(media, Path) else media, num_threads=1)
            times = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0].astype(np.float64)
        except (decord.DECORDError, RuntimeError) as error:
            raise FrameError(f"decord cannot read it; try --decoder pyav ({_text(error)})") from error
        times -= times[0]
        self._number = np.clip(np.searchsorted(times, self.timeline.times - _TOLERANCE), 0, len(times) - 1)
        if np.abs(times[self._number] - self.timeline.times).max() > _TOLERANCE:
            raise FrameError("decord gives this file's frames other times than FFmpeg does; use --decoder pyav")

    def read(self, wanted: Indices) -> Iterator[tuple[int, Pixels]]:
        """Decode the wanted frames; see `Reader.read`."""
        for low in range(0, len(wanted), _BATCH):
            part = wanted[low : low + _BATCH]
            try:
                frames = self._reader.get_batch(self._number[part]).asnumpy()
            except (self._decord.DECORDError, RuntimeError) as error:
                self.warnings.append(f"{len(part)} wanted frames do not decode ({_text(error)})")
                continue
            if frames.shape[1] % 2 or frames.shape[2] % 2:
                raise FrameError("decord gets the colours of odd-sized video wrong; use --decoder pyav")
            yield from zip(part.tolist(), frames, strict=True)

    def close(self) -> None:
        """Close the file."""
        del self._reader


def _text(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rpartition(": ")[2]
