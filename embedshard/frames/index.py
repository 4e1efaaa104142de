"""What a video's packets say: when which frame is shown, and what has to be decoded for it. Decodes nothing.

Of an MP4 file only the tables are read, however long it is; of any other all packets are, once. Packets outside the
container's edit list are not shown and not counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from embedshard.frames import FrameError
from embedshard.frames.mp4 import SampleTables
from embedshard.frames.plan import Indices, Timeline

__all__ = ["Index", "Keys", "index_of", "packets_of"]

_DECLARED_SHARE = 0.9
_CHECKED = 16  # entries of an index
_UNKNOWN = np.iinfo(np.int64).min


class Keys(NamedTuple):
    """The packets, shown or not, that decoding can begin at, ascending by stamp.

    Attributes:
        stamps: (keyframes,) what the decoder stamps their frames with.
        dts: (keyframes,) their decoding times.
        position: (keyframes,) their places in decoding order.
    """

    stamps: Indices
    dts: Indices
    position: Indices


@dataclass(frozen=True, eq=False)
class Index:
    """The packets of a video.

    Attributes:
        timeline: When the frames are shown.
        stamps: (frames,) what the decoder stamps each shown frame with; with `in_order`, how many it gives before it.
        position: (frames,) place of each one's packet in decoding order.
        keys: Where decoding can begin.
        in_order: Whether frames can only be told by their number: the container does not say when they are shown.
        has_edit_list: Whether the container holds frames that are not to be shown.
        has_open_gop: Whether frames that follow a keyframe in the file are shown before it.
        warnings: What is wrong with the file.
    """

    timeline: Timeline
    stamps: Indices
    position: Indices
    keys: Keys
    in_order: bool
    has_edit_list: bool
    has_open_gop: bool
    warnings: tuple[str, ...]


class _Packets(NamedTuple):
    """Columns of all packets in decoding order; `_UNKNOWN` where a time is not given."""

    pts: Indices
    dts: Indices
    key: npt.NDArray[np.bool_]
    shown: npt.NDArray[np.bool_]
    duration: Indices

    def stamps(self) -> Indices:
        return np.where(self.pts == _UNKNOWN, self.dts, self.pts)


def index_of(container: InputContainer, stream: VideoStream, tables: dict[int, SampleTables], size: int) -> Index:
    """Index an open video.

    Args:
        container: Is left at any position.
        stream: Of it.
        tables: What `mp4.read_sample_tables` says of the file.
        size: Of the file in bytes.

    Raises:
        FrameError: The stream has no frame.
    """
    warnings: list[str] = []
    read = packets_of(container, stream, warnings)
    first = next(read, None)
    packets = _from_tables(stream, tables.get(stream.id), size, first)
    if packets is None:
        packets = _from_all(itertools.chain([first] if first else [], read))
    if not packets.shown.any():
        raise FrameError("the video stream holds no frame")
    return _index(packets, container, stream, warnings)


def packets_of(container: InputContainer, stream: VideoStream, warnings: list[str]) -> Iterator[av.Packet[VideoStream]]:
    """Yield a stream's packets from where the file stands; a damaged end ends them, with a warning."""
    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except (av.FFmpegError, OSError) as error:
            warnings.append(f"the file is damaged: {getattr(error, 'strerror', None) or error}")
            return


def _from_tables(
    stream: VideoStream, tables: SampleTables | None, file_size: int, first: av.Packet[VideoStream] | None
) -> _Packets | None:
    """Give the packets by the file's tables; None where FFmpeg's index of it does not agree with them."""
    entries = stream.index_entries
    if tables is None or first is None or first.pts is None or first.dts is None:
        return None
    if not len(entries) or len(entries) != len(tables.dts):
        return None
    dts, pts = tables.dts + first.dts, tables.pts + (first.pts - tables.pts[0])
    shown = np.ones(len(dts), np.bool_)
    checked = range(0, len(dts), max(1, len(dts) // _CHECKED))
    if tables.edits > 1 or entries[0].is_discard or entries[-1].is_discard:
        checked = range(len(dts))
        shown = np.array([not entry.is_discard for entry in entries])
    same = all(entries[at].timestamp == dts[at] and entries[at].is_keyframe == tables.key[at] for at in (*checked, -1))
    complete = entries[-1].pos + entries[-1].size <= file_size
    return _Packets(pts, dts, tables.key, shown, tables.duration) if same and complete else None


def _from_all(packets: Iterable[av.Packet[VideoStream]]) -> _Packets:
    """Read all packets."""
    rows = [
        (
            _UNKNOWN if packet.pts is None else packet.pts,
            _UNKNOWN if packet.dts is None else packet.dts,
            packet.is_keyframe,
            not packet.is_discard,
            packet.duration or 0,
        )
        for packet in packets
        if packet.size
    ]
    pts, dts, key, shown, duration = np.array(rows, np.int64).reshape(-1, 5).T
    return _Packets(pts, dts, key > 0, shown > 0, duration)


def _index(packets: _Packets, container: InputContainer, stream: VideoStream, warnings: list[str]) -> Index:
    time_base = stream.time_base or Fraction(1, 1000)
    # AVI stamps frames in the order of decoding; without stamps, the order of showing is all there is.
    in_order = container.format.name == "avi" or bool((packets.pts[packets.shown] == _UNKNOWN).any())
    has_open_gop = not in_order and _has_open_gop(packets)
    if (packets.stamps()[packets.shown] == _UNKNOWN).any():
        time_base = 1 / (stream.guessed_rate or Fraction(25))
        numbers = np.cumsum(packets.shown) - 1
        packets = packets._replace(pts=numbers, duration=np.ones(len(numbers), np.int64))
    stamps, (shown,) = packets.stamps(), np.nonzero(packets.shown)
    shown_stamps, first = np.unique(stamps[shown], return_index=True)
    position = shown[first]
    pts = shown_stamps - shown_stamps[0]
    last = int(packets.duration[position[-1]]) or (int(np.median(np.diff(pts))) if len(pts) > 1 else 1)
    timeline = Timeline(pts, packets.key[position], time_base, int(pts[-1]) + max(1, last))
    keys = np.flatnonzero(packets.key)
    keys = keys[np.argsort(stamps[keys], kind="stable")]
    has_edit_list = len(shown) < len(stamps)
    declared = float((stream.duration or 0) * (stream.time_base or 0))
    if timeline.duration < _DECLARED_SHARE * declared and not has_edit_list:
        warnings.append(
            f"cut off: the file declares {stream.frames or 'unknown'} frames in {declared:.1f} s, "
            f"it holds {len(pts)} in {timeline.duration:.1f} s"
        )
    stamps_out = np.arange(len(pts)) if in_order else shown_stamps
    at_keys = Keys(stamps[keys], packets.dts[keys], keys)
    return Index(timeline, stamps_out, position, at_keys, in_order, has_edit_list, has_open_gop, tuple(warnings))


def _has_open_gop(packets: _Packets) -> bool:
    """Tell whether a shown packet comes before the keyframe that precedes it in decoding order."""
    pts = packets.pts[packets.shown]
    places = np.where(packets.key[packets.shown], np.arange(len(pts)), -1)
    place = np.maximum.accumulate(places)
    return bool((pts[place[place >= 0]] > pts[place >= 0]).any())
