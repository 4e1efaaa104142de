"""What a run would do and take, from a look at all inputs and a few measured seconds of the real thing."""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from embedshard.address import file_of, place
from embedshard.distinct import id_hash
from embedshard.encode.clip import ClipEncoder
from embedshard.encode.pipeline import EncodeOptions, Output, Pipeline
from embedshard.encode.profile import Profile, Shares
from embedshard.encode.run import loose, media_root, setting_of
from embedshard.encode.units import UnitFolder, open_plan
from embedshard.encode.work import Outcome, Problem, Work, works
from embedshard.errors import InputError
from embedshard.manifest import Manifest
from embedshard.processed import arrays, has_triple, read_failures
from embedshard.remote import AnyPath
from embedshard.sample import SPLITS, Sample

__all__ = ["Estimate", "estimate"]

_MEASURED = 256  # media at most
_SECONDS = 8.0


@dataclass(frozen=True)
class Estimate:
    """What is predicted of a run.

    Attributes:
        samples: Of the manifest.
        due: Samples that some output lacks, by split.
        media: To decode.
        missing: Media that are not there: how many, and the first ones.
        measured: Media that were encoded for this, in `shares.seconds`.
        failed: Of these, by reason.
        frames: That will be encoded, by each model.
        size: Bytes of the triples' files of all outputs together.
        seconds: That it takes.
        shares: Where the measured time went.
    """

    samples: int
    due: dict[str, int]
    media: int
    missing: tuple[int, list[str]]
    measured: int
    failed: dict[str, int]
    frames: float
    size: float
    seconds: float
    shares: Shares


@dataclass
class _Look:
    """What the manifest says, and a random choice of what is to be done."""

    due: Counter[str]
    media: int
    missing: list[str]
    missed: int
    chosen: list[Work]


def estimate(
    manifest: Manifest,
    encoders: Mapping[AnyPath, ClipEncoder],
    options: EncodeOptions,
    devices: int = 1,
    progress: Callable[[int], None] = lambda samples: None,
) -> Estimate:
    """Predict a run; nothing is written where it would write.

    Args:
        manifest: The samples.
        encoders: By the folder that each would fill, on one device.
        options: Of the run.
        devices: How many such devices would share it.
        progress: Called with the number of samples just looked at.

    Raises:
        InputError: The raw dataset is not there.
    """
    root = media_root(manifest, options)
    if not root.is_dir():
        raise InputError(f"the raw dataset {root} is not there; where it has moved to is said by: --media-root DIR")
    look = _look(manifest, list(encoders), root, progress)
    profile = Profile({"decode": options.workers, "preprocess": options.workers})
    outcomes: list[Outcome] = []
    times: list[float] = []
    with tempfile.TemporaryDirectory(prefix="embedshard-") as folder:
        outputs = [
            Output(encoder, setting_of(encoder, options), manifest.source.name, loose(Path(folder) / str(number)))
            for number, encoder in enumerate(encoders.values())
        ]
        for outcome in Pipeline(outputs, options, root, profile).run(_for_a_while(look.chosen)):
            outcomes.append(outcome)
            times.append(time.monotonic())
        shares = profile.shares()
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    if not outcomes:
        return Estimate(manifest.rows, dict(look.due), look.media, (look.missed, look.missing), 0, {}, 0, 0, 0, shares)
    share = (look.media - look.missed) / len(outcomes)
    frames = sum(max(outcome.frames.values(), default=0) for outcome in outcomes)
    reasons = Counter(problem.reason for outcome in outcomes for problem in outcome.problems)
    seconds = _seconds(times, shares.seconds) * share / devices
    if devices > 1:  # they share the workers
        seconds = max(seconds, (shares.busy["decode"] + shares.busy["preprocess"]) * shares.seconds * share)
    return Estimate(
        manifest.rows, dict(look.due), look.media, (look.missed, look.missing), len(outcomes), dict(reasons),
        frames * share, size * share, seconds, shares,
    )  # fmt: skip


def _look(manifest: Manifest, folders: Sequence[AnyPath], root: AnyPath, progress: Callable[[int], None]) -> _Look:
    """Go through the manifest once, and keep a random choice of the media that are there."""
    look, rng = _Look(Counter(), 0, [], 0, []), random.Random(0)
    exists: dict[str, bool] = {}
    packed = [_in_parts(folder) for folder in folders]

    def due(sample: Sample) -> list[int]:
        progress(1)
        key = id_hash(sample.key)
        lacking = [
            number
            for number, folder in enumerate(folders)
            if key not in packed[number]
            and not (isinstance(folder, Path) and has_triple(folder / sample.split, sample.key))
        ]
        look.due[sample.split] += bool(lacking)
        return lacking

    def fail(problem: Problem) -> None:
        """A sample that cannot be tried takes no time."""

    there = 0
    for work in works(manifest, due, fail):
        look.media += 1
        file = file_of(work.path)
        present = exists.get(file)
        if present is None:
            present = _is_there(file, root)
            if file != work.path:  # an archive holds many
                exists[file] = present
        if not present:
            look.missed += 1
            look.missing = [*look.missing, work.path][:3]
            continue
        there += 1
        if len(look.chosen) < _MEASURED:
            look.chosen.append(work)
        elif (place := rng.randrange(there)) < _MEASURED:
            look.chosen[place] = work
    rng.shuffle(look.chosen)
    return look


def _is_there(file: str, root: AnyPath) -> bool:
    path = place(file, root)
    return path.exists() or ("*" in path.name and any(path.parent.glob(path.name)))


def _in_parts(processed: AnyPath) -> set[int]:
    """Give the hashes of the keys that parts hold, by the records where there are some, without a look at the parts."""
    if plan := open_plan(processed):
        done, failed, samples = UnitFolder(processed).done(), read_failures(processed), plan.samples()
        units = (islice(samples, size) for size in plan.groups())
        keys = (sample.key for number, unit in enumerate(units) for sample in list(unit) if number in done)
        return {id_hash(key) for key in keys if key not in failed}
    if not isinstance(processed, Path):
        return set()
    return {id_hash(key) for split in SPLITS for key, _, place in arrays(processed / split) if place}


def _for_a_while(chosen: Sequence[Work]) -> Iterator[Work]:
    """Yield works until the time is up, three at least."""
    begun = time.monotonic()
    for number, work in enumerate(chosen):
        if number >= 3 and time.monotonic() - begun > _SECONDS:
            return
        yield work


def _seconds(times: Sequence[float], elapsed: float) -> float:
    """Give how long as many outcomes take once all is running: starting is paid once, and the first batch is late."""
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return sum(steps) * len(times) / len(steps) if len(steps) >= 8 else elapsed
