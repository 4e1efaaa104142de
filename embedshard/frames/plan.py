"""Which frames are wanted: a media's timeline and the sampling plans. Imports nothing of ours but `errors`.

Time 0 is the first frame that is shown. All arithmetic is on the container's integer timestamps, so 29.97 frames a
second and variable rates are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import floor
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from embedshard.errors import InputError

__all__ = ["Indices", "Run", "Sampling", "Timeline", "plan_runs"]

Indices = npt.NDArray[np.int64]

_ROUNDING = Fraction(1, 2000)


@dataclass(frozen=True, eq=False)
class Timeline:
    """When the frames of a media are shown.

    Attributes:
        pts: (frames,) timestamps of the shown frames in units of `time_base`, ascending, the first one 0.
        keyframe: (frames,) which of them can be decoded without another.
        time_base: Seconds per unit.
        end: Timestamp at which the last frame leaves the screen.
    """

    pts: Indices
    keyframe: npt.NDArray[np.bool_]
    time_base: Fraction
    end: int

    @property
    def duration(self) -> float:
        """Seconds from the first frame's appearance to the last one's end."""
        return float(self.end * self.time_base)

    @cached_property
    def times(self) -> npt.NDArray[np.float64]:
        """(frames,) seconds at which each frame appears."""
        return np.multiply(self.pts, float(self.time_base), dtype=np.float64)

    @property
    def rounding(self) -> Fraction:
        """Seconds by which a stamp may be off, as the container rounds it: half a unit, half a millisecond at most."""
        return min(self.time_base / 2, _ROUNDING)

    def on_screen(self, seconds: Fraction) -> int:
        """Give the index of the frame that is on screen at a time.

        A frame counts as shown from `rounding` before its stamp: frame 2 of a 30-fps mkv is stamped 0.067 and is on
        screen at 2/30.
        """
        stamp = floor((seconds + self.rounding) / self.time_base)
        return max(0, int(np.searchsorted(self.pts, stamp, side="right")) - 1)


class Run(NamedTuple):
    """Packets that are decoded in one go: from a keyframe to the last one that is wanted.

    Attributes:
        key: Number of the keyframe; -1 for the beginning of the file.
        first: Place in decoding order of the first packet.
        last: Place of the last one.
        frames: The wanted frames among them.
    """

    key: int
    first: int
    last: int
    frames: Indices


def plan_runs(wanted: Indices, places: Indices, key: Indices, key_places: Indices) -> list[Run]:
    """Plan the least that has to be decoded: for every wanted frame, from the keyframe shown last before it.

    Args:
        wanted: (n,) frames.
        places: (n,) place of each one's packet in decoding order.
        key: (n,) number of the keyframe that is shown last before it or is itself; -1 where there is none.
        key_places: (keyframes,) places of their packets.

    Returns:
        Runs that share no packet, in decoding order; what lies between two is not decoded.
    """
    first = np.where(key < 0, 0, key_places[key] if len(key_places) else 0)
    order = np.lexsort((places, first))
    wanted, places, key, first = wanted[order], places[order], key[order], first[order]
    last = np.maximum.accumulate(places)
    cuts = np.flatnonzero(first[1:] > last[:-1] + 1) + 1
    return [
        Run(int(key[part[0]]), int(first[part[0]]), int(last[part[-1]]), np.sort(wanted[part]))
        for part in np.split(np.arange(len(wanted)), cuts)
    ]


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are encoded.

    Attributes:
        mode: `fps`: the frame on screen at start + k / value. `every`: each value-th shown frame. `count`: value
            frames, each at the middle of one of value equal parts of the clip. `keyframes`: the keyframes.
            `all`: all shown frames.
        value: Frames per second (any fraction), or a whole number.
    """

    mode: Literal["fps", "every", "count", "keyframes", "all"]
    value: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise InputError(f"--{self.mode} must be above 0, found {self}")
        if self.mode in ("every", "count") and self.value.denominator != 1:
            raise InputError(f"--{self.mode} must be a whole number, found {self}")

    def __str__(self) -> str:
        return self.mode if self.mode in ("keyframes", "all") else f"{self.mode} {self.value}"

    def choose(self, timeline: Timeline, start: float | None = None, end: float | None = None) -> Indices:
        """Choose the frames of the clip [start, end).

        Args:
            timeline: Of the media.
            start: Seconds, None for the beginning.
            end: Seconds, None for the end of the media; a later time counts as the end of the media.

        Returns:
            Indices into the timeline, ascending, at least one; an index is repeated where a frame stays on screen
            for more than one wanted time.

        Raises:
            InputError: The window is empty, or begins after the media's end.
        """
        first = Fraction(str(start or 0.0))
        media_end = timeline.end * timeline.time_base
        last = media_end if end is None else min(Fraction(str(end)), media_end)
        if first >= last:
            raise InputError(
                f"window [{start or 0:g}, {'end' if end is None else format(end, 'g')}) s is empty: "
                f"the media lasts {timeline.duration:.3f} s"
            )
        return np.array(self._choose(timeline, first, last), np.int64)

    def _choose(self, timeline: Timeline, first: Fraction, last: Fraction) -> list[int]:
        if self.mode == "fps":
            rounding = 2 * timeline.rounding  # of the last frame's stamp and of its duration
            steps = max(1, _ceil((last - first - rounding) * self.value))
            return [timeline.on_screen(first + k / self.value) for k in range(steps)]
        if self.mode == "count":
            part = (last - first) / self.value
            return [timeline.on_screen(first + (k + Fraction(1, 2)) * part) for k in range(int(self.value))]
        low, high = np.searchsorted(timeline.pts, [_ceil(first / timeline.time_base), _ceil(last / timeline.time_base)])
        shown = np.arange(low, high)
        if self.mode == "keyframes":
            shown = shown[timeline.keyframe[shown]]
        chosen = [int(index) for index in shown[:: int(self.value)]]
        return chosen or [timeline.on_screen(first)]


def _ceil(value: Fraction) -> int:
    return -floor(-value)
