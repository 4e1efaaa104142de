"""Video through PyAV (FFmpeg): the exact reader that decodes the least.

A pass over the packets, without decoding, gives the timeline; packets outside the container's edit list are not
shown and not counted. Frames that are neither wanted nor needed by a wanted one are not decoded: those that no other
refers to are skipped, and a run from keyframe to keyframe without a wanted frame is jumped over.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from embedshard.frames import FrameError, Pixels
from embedshard.frames.plan import Indices, Timeline

__all__ = ["PyavReader"]

# The decoders that drop a frame which no other refers to without changing any other; HEVC's may drop one that a
# higher temporal layer refers to.
_EXACT_SKIP = frozenset(["h264", "mpeg4", "mpeg2video", "mpeg1video"])
# The containers whose seek goes by an index of keyframes; others guess from the byte position.
_INDEXED = frozenset(["mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"])
_DECLARED_SHARE = 0.9


class PyavReader:
    """Reads one video file; the best video stream where there are several.

    Attributes:
        has_edit_list: Whether the container holds frames that are not to be shown.
        has_open_gop: Whether frames that follow a keyframe in the file are shown before it.
        bit_depth: Bits per colour component.
    """

    def __init__(self, media: Path | BinaryIO) -> None:
        self.warnings: list[str] = []
        self.has_edit_list = self.has_open_gop = False
        self._media = media
        self._container = self._open()
        try:
            self._index(self._video_stream())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, wanted: Indices) -> Iterator[tuple[int, Pixels]]:
        """Decode the wanted frames; see `Reader.read`."""
        for group in self._passes(wanted):
            missing = {int(self._stamps[index]): int(index) for index in group}
            key = self._keyframe_before(int(group[0]))
            if self.timeline.keyframe[group].all() and not self._in_order:
                yield from self._decode(missing, key, only_keyframes=True)
            if missing and key is not None:
                yield from self._decode(missing, key)
            if missing:
                yield from self._decode(missing, None)
            if missing:
                self.warnings.append(f"{len(missing)} of {len(group)} wanted frames do not decode")

    def _open(self) -> InputContainer:
        if not isinstance(self._media, Path):
            self._media.seek(0)
        try:
            return av.open(str(self._media) if isinstance(self._media, Path) else self._media, "r")
        except (av.FFmpegError, OSError) as error:
            raise FrameError(f"not a media file that FFmpeg can open: {_text(error)}") from error

    def _video_stream(self) -> VideoStream:
        stream = self._container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            kinds = {
                "cover art" if s.disposition & Disposition.attached_pic else s.type for s in self._container.streams
            }
            raise FrameError(f"no video stream (found: {', '.join(sorted(kinds)) or 'nothing'})")
        stream.thread_type = "NONE"
        return stream

    def _index(self, stream: VideoStream) -> None:
        """Read all packets, decode none; set `timeline` and what `read` needs to find its frames again."""
        packets: list[_Packet] = []
        keyframe: int | None = None
        for packet in self._packets(stream, self.warnings):
            self.has_edit_list |= packet.is_discard
            if packet.size and not packet.is_discard:
                if packet.is_keyframe:
                    keyframe = packet.pts
                if packet.pts is not None and keyframe is not None and packet.pts < keyframe:
                    self.has_open_gop = True
                packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, packet.duration or 0))
        if not packets:
            raise FrameError("the video stream holds no frame")
        self.bit_depth = max((part.bits for part in stream.format.components), default=8) if stream.format else 8
        time_base = stream.time_base or Fraction(1, 1000)
        # AVI stamps frames in the order of decoding; without stamps, the order of showing is all there is.
        self._in_order = self._container.format.name == "avi" or any(packet.pts is None for packet in packets)
        if any(packet.stamp is None for packet in packets):
            time_base = 1 / (stream.guessed_rate or Fraction(25))
            packets = [packet._replace(pts=number, duration=1) for number, packet in enumerate(packets)]
        packets = sorted({packet.stamp or 0: packet for packet in reversed(packets)}.values(), key=_Packet.order)
        stamps = np.array([packet.stamp for packet in packets], np.int64)
        self._stamps = np.arange(len(packets)) if self._in_order else stamps
        self._dts = np.array([packet.dts or 0 for packet in packets], np.int64)
        pts = stamps - stamps[0]
        last = packets[-1].duration or (int(np.median(np.diff(pts))) if len(pts) > 1 else 1)
        key = np.array([packet.key for packet in packets])
        self.timeline = Timeline(pts, key, time_base, int(pts[-1]) + max(1, last))
        self._warn_if_cut_off(stream)

    def _warn_if_cut_off(self, stream: VideoStream) -> None:
        declared = float((stream.duration or 0) * (stream.time_base or 0))
        if self.timeline.duration < _DECLARED_SHARE * declared and not self.has_edit_list:
            self.warnings.append(
                f"cut off: the file declares {stream.frames or 'unknown'} frames in {declared:.1f} s, "
                f"it holds {len(self._stamps)} in {self.timeline.duration:.1f} s"
            )

    def _packets(self, stream: VideoStream, warnings: list[str]) -> Iterator[av.Packet[VideoStream]]:
        """Yield the stream's packets from where the file stands; a damaged end ends them."""
        packets = self._container.demux(stream)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                warnings.append(f"the file is damaged: {_text(error)}")
                return

    def _passes(self, wanted: Indices) -> Iterator[Indices]:
        """Part the wanted frames where a whole run from keyframe to keyframe without one lies between them."""
        keys = np.flatnonzero(self.timeline.keyframe)
        run = np.searchsorted(keys, wanted, side="right")
        cuts = np.flatnonzero((np.diff(run) > 1) & self._can_seek()) + 1
        yield from np.split(wanted, cuts)

    def _can_seek(self) -> bool:
        return not self._in_order and self._container.format.name in _INDEXED

    def _keyframe_before(self, index: int) -> int | None:
        """Give the index of the keyframe to begin at for a frame; None for the beginning of the file."""
        keys = np.flatnonzero(self.timeline.keyframe[: index + 1])
        return int(keys[-1]) if len(keys) > 1 and self._can_seek() else None

    def _decode(
        self, missing: dict[int, int], key: int | None, only_keyframes: bool = False
    ) -> Iterator[tuple[int, Pixels]]:
        """Decode from a keyframe on and yield the frames whose stamps are in `missing`, taking them out.

        With `only_keyframes` the decoder sees no other; what is marked as one and needs others (a recovery point)
        stays missing.
        """
        self._container.close()
        self._container = self._open()
        stream = self._video_stream()
        context = stream.codec_context
        if key is not None and not self._seek(stream, key):
            return
        may_skip = context.name in _EXACT_SKIP and not self._in_order
        order = itertools.count()
        reformatter = VideoReformatter()
        for packet in self._packets(stream, []):
            if only_keyframes and packet.size and not packet.is_keyframe:
                continue
            if may_skip:
                needed = packet.pts is None or packet.pts in missing
                context.skip_frame = "DEFAULT" if needed else "NONREF"
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                number = next(order)
                stamp = number if self._in_order else frame.pts
                if stamp in missing and (frame.pict_type == PictureType.I or not only_keyframes):
                    yield missing.pop(stamp), _pixels(frame, reformatter)
            if not missing:
                return

    def _seek(self, stream: VideoStream, key: int) -> bool:
        """Go to a keyframe or one before it; tells whether that came right."""
        matroska = self._container.format.name.startswith("matroska")
        target = self._stamps[key] if matroska else self._dts[key]
        try:
            self._container.seek(int(target), stream=stream)
            landed = next(self._packets(stream, []), None)
            self._container.seek(int(target), stream=stream)
        except av.FFmpegError:
            return False
        return landed is not None and landed.pts is not None and landed.pts <= self._stamps[key]


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    key: bool
    duration: int

    @property
    def stamp(self) -> int | None:
        return self.dts if self.pts is None else self.pts

    def order(self) -> int:
        return self.stamp or 0


def _pixels(frame: av.VideoFrame, reformatter: VideoReformatter) -> Pixels:
    """Convert to RGB and turn by the display matrix."""
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(reformatter.reformat(frame, format="rgb24").to_ndarray(), turns))


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
