"""What is to be encoded, media by media, and what became of it: the rows that cross between processes."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from embedshard.distinct import id_hash
from embedshard.manifest import Manifest
from embedshard.sample import Sample

__all__ = ["Due", "Outcome", "Problem", "Window", "Work", "by_media", "works", "works_of"]

Window: TypeAlias = tuple[float | None, float | None]
Due: TypeAlias = Callable[[Sample], list[int]]


@dataclass(frozen=True)
class Work:
    """A media to decode once.

    Attributes:
        number: In order of the run.
        path: Of the media, or its address.
        kind: How it is decoded.
        frame_rate: Of a folder of pictures.
        clips: By window the samples, each with the numbers of the outputs that lack it.
    """

    number: int
    path: str
    kind: str
    frame_rate: float
    clips: dict[Window, list[tuple[Sample, list[int]]]]

    @property
    def outputs(self) -> list[int]:
        """The outputs that lack any sample of it."""
        return sorted({number for samples in self.clips.values() for _, numbers in samples for number in numbers})


@dataclass(frozen=True)
class Problem:
    """Why a sample has no triple in an output."""

    output: int
    sample: Sample
    stage: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of a work: its samples are all written, but for those with a problem.

    Attributes:
        number: Of the work.
        decoded: Whether its media was.
        frames: By output how many were encoded.
        written: By output how many triples were written, and how many of them with a warning.
        problems: Of the others.
    """

    number: int
    decoded: bool
    frames: dict[int, int]
    written: dict[int, tuple[int, int]]
    problems: list[Problem]


def works(manifest: Manifest, due: Due, fail: Callable[[Problem], None]) -> Iterator[Work]:
    """Yield a work for every media with a sample to do, all its rows together wherever they stand.

    Args:
        manifest: The samples.
        due: Gives the outputs that lack a sample.
        fail: Takes a sample that cannot even be tried.
    """
    return works_of(by_media(manifest, due), fail)


def works_of(
    groups: Iterable[list[tuple[Sample, list[int]]]], fail: Callable[[Problem], None], first: int = 0
) -> Iterator[Work]:
    """Yield works, numbered from `first` on, of samples that come with the outputs that lack them, media by media."""
    numbers = itertools.count(first)
    for samples in groups:
        found: dict[tuple[str, str, float], dict[Window, list[tuple[Sample, list[int]]]]] = {}
        for sample, outputs in samples:
            try:
                rate = _frame_rate(sample)
            except ValueError as error:
                for output in outputs:
                    fail(Problem(output, sample, "decode", str(error)))
                continue
            clips = found.setdefault((sample.media.path, sample.media.kind, rate), {})
            clips.setdefault((sample.media.start, sample.media.end), []).append((sample, outputs))
        for (path, kind, rate), clips in found.items():
            yield Work(next(numbers), path, kind, rate, clips)


def by_media(manifest: Manifest, due: Due = lambda sample: [0]) -> Iterator[list[tuple[Sample, list[int]]]]:
    """Yield the samples that are due, those of one media together; only media with several rows are held back."""
    ids, counts = np.unique(array("Q", map(id_hash, manifest.column("media"))), return_counts=True)
    several = dict(zip(ids[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True))
    held: dict[int, list[tuple[Sample, list[int]]]] = {}
    for sample in manifest.samples():
        media = id_hash(sample.media.path)
        samples = held.setdefault(media, [])
        if outputs := due(sample):
            samples.append((sample, outputs))
        several[media] = several.get(media, 1) - 1
        if not several[media]:
            del held[media], several[media]
            if samples:
                yield samples


def _frame_rate(sample: Sample) -> float:
    """Give the frames per second of a folder of pictures: `frame_rate` of its metadata, else 1."""
    if sample.media.kind != "frames":
        return 1.0
    given = sample.meta.get("frame_rate", 1.0)
    try:
        rate = float(given)
    except (TypeError, ValueError):
        rate = 0.0
    if not 0 < rate < math.inf:
        raise ValueError(f"frame_rate is {given!r}, expected frames per second")
    return rate
