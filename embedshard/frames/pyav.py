"""Video through PyAV (FFmpeg): the exact reader that decodes the least.

The index (`index`) tells which packets a wanted frame needs: those from the keyframe before it on. Of these the ones
that no other refers to are skipped by the decoder unless they are wanted; all others are jumped over.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from embedshard.frames import FrameError, Pixels
from embedshard.frames.colour import Planes, planes_of
from embedshard.frames.index import index_of, packets_of
from embedshard.frames.mp4 import SampleTables, read_sample_tables
from embedshard.frames.plan import Indices, Run, plan_runs

__all__ = ["PyavReader"]

# The decoders that drop a frame which no other refers to without changing any other.
_EXACT_SKIP = frozenset(["h264", "mpeg4", "mpeg2video", "mpeg1video", "vp8"])
# The containers whose seek goes by an index of keyframes; others guess from the byte position.
_INDEXED = frozenset(["mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"])
_LAYERS_BYTE = 21  # of hvcC
_WORTH_A_SEEK = 16  # packets: a seek takes as long as reading these


class PyavReader:
    """Reads one video file; the best video stream where there are several.

    Attributes:
        has_edit_list: Whether the container holds frames that are not to be shown.
        has_open_gop: Whether frames that follow a keyframe in the file are shown before it.
        bit_depth: Bits per colour component.
        container: FFmpeg's name of the format.
    """

    def __init__(self, media: Path | BinaryIO, planes: bool = False) -> None:
        """Open a file; with `planes`, frames that can be made RGB elsewhere to the same bits are given as `Planes`."""
        self._media, self._planes = media, planes
        tables, size = _read_tables(media)
        self._container = self._open()
        try:
            self._stream = self._video_stream()
            self._index = index_of(self._container, self._stream, tables, size)
        except BaseException:
            self.close()
            raise
        self.timeline, self.warnings = self._index.timeline, list(self._index.warnings)
        self.has_edit_list, self.has_open_gop = self._index.has_edit_list, self._index.has_open_gop
        components = self._stream.format.components if self._stream.format else ()
        self.container = self._container.format.name
        self.bit_depth = max((part.bits for part in components), default=8)
        self._reformatter = VideoReformatter()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, wanted: Indices) -> Iterator[tuple[int, Pixels | Planes]]:
        """Decode the wanted frames; see `Reader.read`."""
        missing = {int(self._index.stamps[index]): int(index) for index in wanted}
        if not self._index.in_order:
            yield from self._by_runs(wanted, missing)
        if missing:
            yield from self._from_the_beginning(missing)
        if missing:
            self.warnings.append(f"{len(missing)} of {len(wanted)} wanted frames do not decode")

    def _open(self) -> InputContainer:
        if not isinstance(self._media, Path):
            self._media.seek(0)
        try:
            return av.open(str(self._media) if isinstance(self._media, Path) else self._media, "r")
        except (av.FFmpegError, OSError) as error:
            raise FrameError(f"not a media file that FFmpeg can open: {_text(error)}") from error

    def _video_stream(self) -> VideoStream:
        streams = self._container.streams
        stream = streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            kinds = {"cover art" if s.disposition & Disposition.attached_pic else s.type for s in streams}
            raise FrameError(f"no video stream (found: {', '.join(sorted(kinds)) or 'nothing'})")
        for other in streams:
            if other is not stream:
                other.discard = Discard.all
        stream.thread_type = "NONE"
        return stream

    def _reopen(self) -> None:
        self._container.close()
        self._container = self._open()
        self._stream = self._video_stream()

    def _by_runs(self, wanted: Indices, missing: dict[int, int]) -> Iterator[tuple[int, Pixels | Planes]]:
        """Decode what is planned and yield the frames whose stamps are in `missing`, taking them out."""
        index = self._index
        key = np.searchsorted(index.keys.stamps, index.stamps[wanted], side="right") - 1
        runs = plan_runs(wanted, index.position[wanted], key, index.keys.position)
        seeks = self._container.format.name in _INDEXED
        if not seeks or runs[0].key < 0:
            self._reopen()
        packets: Iterator[av.Packet[VideoStream]] = packets_of(self._container, self._stream, [])
        place = -_WORTH_A_SEEK if seeks else 0
        for run in runs:
            if seeks and run.key >= 0 and run.first - place >= _WORTH_A_SEEK:
                found = self._seek(run.key)
                if found is None:
                    return
                packets = found
            place = run.last
            yield from self._decode_run(run, packets, missing)

    def _decode_run(
        self, run: Run, packets: Iterator[av.Packet[VideoStream]], missing: dict[int, int]
    ) -> Iterator[tuple[int, Pixels | Planes]]:
        """Decode a run; one that does not begin with a true keyframe (but with a recovery point, say) is given up."""
        key = self._key_stamp(run)
        with contextlib.closing(self._frames_of(run, packets)) as frames:
            for frame in frames:
                if frame.pts == key and frame.pict_type != PictureType.I:
                    return
                if frame.pts in missing:
                    yield missing.pop(frame.pts), self._pixels(frame)

    def _frames_of(self, run: Run, packets: Iterator[av.Packet[VideoStream]]) -> Generator[av.VideoFrame]:
        """Feed the packets of a run and take all frames out, so that the decoder is as new."""
        context, stamps = self._stream.codec_context, self._index.stamps
        wanted = {int(stamps[frame]) for frame in run.frames}
        last = next(int(stamps[frame]) for frame in run.frames if self._index.position[frame] == run.last)
        may_skip = _may_skip(self._stream)
        try:
            for packet in _from(packets, self._key_stamp(run)):
                if may_skip:
                    needed = packet.pts is None or packet.pts in wanted
                    context.skip_frame = "DEFAULT" if needed else "NONREF"
                with contextlib.suppress(av.FFmpegError):
                    yield from packet.decode()
                if packet.pts == last:
                    break
            with contextlib.suppress(av.FFmpegError):
                yield from context.decode(None)
        finally:
            context.flush_buffers()

    def _pixels(self, frame: av.VideoFrame) -> Pixels | Planes:
        """Convert to RGB and turn by the display matrix."""
        turns = round(frame.rotation / 90) % 4
        if self._planes and not turns and (planes := planes_of(frame)):
            return planes
        return np.ascontiguousarray(np.rot90(self._reformatter.reformat(frame, format="rgb24").to_ndarray(), turns))

    def _key_stamp(self, run: Run) -> int | None:
        return int(self._index.keys.stamps[run.key]) if run.key >= 0 else None

    def _seek(self, key: int) -> Iterator[av.Packet[VideoStream]] | None:
        """Go to a keyframe, or one before it, and give the packets from there on; None where the container cannot.

        FFmpeg takes a time of showing or of decoding, by the container and what its file says of the first frame.
        """
        stamp, dts = int(self._index.keys.stamps[key]), int(self._index.keys.dts[key])
        for target in (stamp, dts):
            try:
                self._container.seek(target, stream=self._stream)
            except av.FFmpegError:
                return None
            packets = packets_of(self._container, self._stream, [])
            first = next(packets, None)
            if first is not None and first.pts is not None and first.pts <= stamp:
                return itertools.chain([first], packets)
        return None

    def _from_the_beginning(self, missing: dict[int, int]) -> Iterator[tuple[int, Pixels | Planes]]:
        """Decode the file from its beginning and yield the frames that are in `missing`, taking them out."""
        self._reopen()
        context, in_order = self._stream.codec_context, self._index.in_order
        may_skip, order = _may_skip(self._stream) and not in_order, itertools.count()
        for packet in packets_of(self._container, self._stream, []):
            if may_skip:
                needed = packet.pts is None or packet.pts in missing
                context.skip_frame = "DEFAULT" if needed else "NONREF"
            with contextlib.suppress(av.FFmpegError):
                for frame in packet.decode():
                    stamp = next(order) if in_order else frame.pts
                    if stamp in missing:
                        yield missing.pop(stamp), self._pixels(frame)
            if not missing:
                return


def _from(packets: Iterator[av.Packet[VideoStream]], key: int | None) -> Iterator[av.Packet[VideoStream]]:
    """Yield the packets from a keyframe on; none where a later keyframe comes first."""
    begun = key is None
    for packet in packets:
        if not packet.size:
            continue
        if not begun and packet.is_keyframe and packet.pts is not None:
            begun = packet.pts == key
            if not begun and key is not None and packet.pts > key:
                return
        if begun:
            yield packet


def _may_skip(stream: VideoStream) -> bool:
    """Tell whether a frame that no other refers to can be dropped without changing any other.

    HEVC's decoder may drop one that a higher temporal layer refers to; `hvcC` (ISO/IEC 14496-15) counts the layers.
    """
    name, extradata = stream.codec_context.name, stream.codec_context.extradata
    if name == "hevc" and extradata and len(extradata) > _LAYERS_BYTE and extradata[0] == 1:
        return (extradata[_LAYERS_BYTE] >> 3) & 7 == 1
    return name in _EXACT_SKIP


def _read_tables(media: Path | BinaryIO) -> tuple[dict[int, SampleTables], int]:
    """Give an MP4's sample tables and the size of the file."""
    try:
        with media.open("rb") if isinstance(media, Path) else contextlib.nullcontext(media) as file:
            return read_sample_tables(file), file.seek(0, os.SEEK_END)
    except OSError as error:
        raise FrameError(f"not a media file that FFmpeg can open: {_text(error)}") from error


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
