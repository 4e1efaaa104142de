"""Captions for media that have none: a manifest in, a manifest with captions out. May import as `run` does.

The folder it writes to has `samples.parquet`, which `encode` takes, once all is done; `captions.jsonl`, a line a sample
as it is captioned, from which a run that was stopped goes on; `failed.jsonl`; and `captioner.json`, the setting.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from embedshard import __version__
from embedshard.address import Url
from embedshard.distinct import id_hash
from embedshard.encode.coca import Caption, Captioner
from embedshard.encode.work import Problem, Work, works
from embedshard.encode.worker import DecodeOptions, Done, Failed, Frames, Job, Message, Opened, decoded
from embedshard.errors import InputError
from embedshard.frames import Pixels, Sampling
from embedshard.manifest import Manifest, writing_manifest
from embedshard.processed import (
    FAILED,
    Failure,
    FailureLog,
    read_failures,
    require_same_setting,
    write_failures,
)
from embedshard.sample import Sample
from embedshard.store import exclusive, write_json

__all__ = ["CaptionOptions", "CaptionReport", "caption"]

_SETTING, _LOG, _MANIFEST = "captioner.json", "captions.jsonl", "samples.parquet"


@dataclass(frozen=True)
class CaptionOptions:
    """What is captioned.

    Attributes:
        count: Frames of a clip, evenly over it; 1 is the one in the middle.
        all_samples: Caption samples that have a caption too; theirs is kept in the metadata.
        decoder: `auto` or a name in `frames.DECODERS`.
        workers: Decode processes; 0 decodes in this one.
        timeout: Seconds without a frame after which a media is given up; 0 for none.
        retry_failed: Whether samples in `failed.jsonl` are tried again.
        media_root: Where the raw tree is now, if it has moved since `prepare`.
    """

    count: int = 1
    all_samples: bool = False
    decoder: str = "auto"
    workers: int = 1
    timeout: float = 300.0
    retry_failed: bool = False
    media_root: Path | Url | None = None


@dataclass
class CaptionReport:
    """Counts: `samples` = `done` + `done_before` + `had` (a caption) + `failed` + `failed_before`.

    `frames` were captioned in `seconds`; `reasons` counts all failed samples.
    """

    samples: int = 0
    done: int = 0
    done_before: int = 0
    had: int = 0
    failed: int = 0
    failed_before: int = 0
    frames: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """Samples that are done with, one way or the other."""
        return self.done + self.done_before + self.had + self.failed + self.failed_before


def caption(
    manifest: Manifest,
    out: Path,
    captioner: Captioner,
    options: CaptionOptions,
    progress: Callable[[CaptionReport], None] = lambda report: None,
) -> CaptionReport:
    """Caption the samples of a manifest that have no caption; a clip that several share is captioned once.

    Args:
        manifest: The samples.
        out: Folder to write to.
        captioner: The model.
        options: What to caption.
        progress: Called with the counts so far.

    Returns:
        The counts, which add up to the samples of the manifest. Samples that fail are not in the new manifest.

    Raises:
        InputError: The raw dataset is not there, `out` was begun with another setting or holds the manifest itself,
            or another process writes to it.
    """
    begun = time.monotonic()
    root = (options.media_root or manifest.root).absolute()
    if not root.is_dir():
        raise InputError(f"the raw dataset {root} is not there; where it has moved to is said by: --media-root DIR")
    if manifest.path.resolve() == (out / _MANIFEST).resolve():
        raise InputError(f"{manifest.path} would be written over; give another folder than {out}")
    with exclusive(out):
        _claim(out, captioner, options)
        manifest.validate()
        with _Ledger(out, manifest, options) as ledger:
            run = _Run(captioner, options, root, ledger, lambda: progress(ledger.report))
            run.run(works(manifest, ledger.due, ledger.fail))
            ledger.finish()
            _write_manifest(manifest, out, ledger, _name(captioner))
    ledger.report.seconds = time.monotonic() - begun
    return ledger.report


def _claim(out: Path, captioner: Captioner, options: CaptionOptions) -> None:
    """Note the setting, or check that `out` was begun with it."""
    setting = {**captioner.encoder.setting, "count": options.count, "all": options.all_samples, "version": __version__}
    path = out / _SETTING
    if path.is_file():
        require_same_setting(out, json.loads(path.read_bytes()), setting)
    else:
        write_json(path, setting)


def _name(captioner: Captioner) -> str:
    setting = captioner.encoder.setting
    return " ".join(str(setting[part]) for part in ("model", "pretrained") if setting[part])


class _Ledger:
    """What is captioned, and counts that add up; each caption is on disk before it counts.

    Attributes:
        report: The counts so far.
    """

    def __init__(self, out: Path, manifest: Manifest, options: CaptionOptions) -> None:
        self.report = CaptionReport(samples=manifest.rows)
        self._out, self._options = out, options

    def __enter__(self) -> _Ledger:
        self._failures = read_failures(self._out)
        self._places = dict(_read_log(self._out / _LOG))
        with contextlib.ExitStack() as stack:
            self._failed = FailureLog(self._out)
            stack.callback(self._failed.close)
            self._log: IO[bytes] = stack.enter_context((self._out / _LOG).open("a+b"))
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.close()

    def due(self, sample: Sample) -> list[int]:
        """Give [0] for a sample that is to be captioned; counts it if it is not."""
        if not self._wanted(sample):
            self.report.had += 1
        elif _place(sample) in self._places:
            self.report.done_before += 1
        elif sample.key in self._failures and not self._options.retry_failed:
            self.report.failed_before += 1
        else:
            return [0]
        return []

    def add(self, sample: Sample, captions: list[Caption], times: list[float]) -> None:
        """Note the captions of a sample; the one that the model is surest of is the sample's."""
        media, best = sample.media, max(captions, key=lambda found: found.score)
        row = {
            **{"key": sample.key, "split": sample.split, "media": media.path, "start": media.start, "end": media.end},
            **{"caption": best.text, "captions": [found.text for found in captions], "times": times},
        }
        self._places[_place(sample)] = self._log.seek(0, 2)
        self._log.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._log.flush()
        self._failures.pop(sample.key, None)
        self.report.done += 1

    def fail(self, problem: Problem) -> None:
        """Note a sample that gets no caption."""
        sample, before = problem.sample, self._failures.get(problem.sample.key)
        attempt = before.attempt + 1 if before else 1
        failure = Failure(sample.key, sample.split, sample.media.path, problem.stage, problem.reason, attempt)
        self._failures[sample.key] = failure
        self._failed.add(failure)
        self.report.failed += 1

    def captioned(self, sample: Sample) -> Mapping[str, Any] | None:
        """Give what was noted of a sample; None where it has no caption to be, an empty one where its own counts."""
        if not self._wanted(sample):
            return {}
        if (place := self._places.get(_place(sample))) is None:
            return None
        self._log.seek(place)
        row: dict[str, Any] = json.loads(self._log.readline())
        return row

    def finish(self) -> None:
        """Tidy `failed.jsonl`."""
        self._failed.close()
        for failure in self._failures.values():
            self.report.reasons[failure.reason] = self.report.reasons.get(failure.reason, 0) + 1
        if self._failures:
            write_failures(self._out, self._failures.values())
        else:
            (self._out / FAILED).unlink(missing_ok=True)

    def _wanted(self, sample: Sample) -> bool:
        return self._options.all_samples or not sample.caption.strip()


def _place(sample: Sample) -> int:
    """Give what a sample's line is found by: its key and its clip."""
    media = sample.media
    return id_hash(json.dumps([sample.key, media.path, media.start, media.end]))


def _read_log(path: Path) -> Iterator[tuple[int, int]]:
    """Yield what each line is found by and where it begins; a line that a crash cut off is removed."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        place = 0
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(place)
                return
            row = json.loads(line)
            yield id_hash(json.dumps([row[name] for name in ("key", "media", "start", "end")])), place
            place += len(line)


def _write_manifest(manifest: Manifest, out: Path, ledger: _Ledger, name: str) -> None:
    """Write the manifest anew with the captions, without the samples that have none."""
    with writing_manifest(out / _MANIFEST, manifest.root, manifest.source) as writer:
        for sample in manifest.samples():
            found = ledger.captioned(sample)
            if found:
                own = {"captioner": name, "generated_captions": found["captions"], "caption_times": found["times"]}
                given = {"given_caption": sample.caption} if sample.caption.strip() else {}
                writer.add(sample._replace(caption=found["caption"], meta={**sample.meta, **given, **own}))
            elif found is not None:
                writer.add(sample)


@dataclass
class _Media:
    """A work on its way: what has come back of it."""

    work: Work
    opened: Opened | None = None
    captions: dict[int, Caption] = field(default_factory=dict)
    out: int = 0
    ended: Done | Failed | None = None


class _Run:
    """Decodes works, captions their frames in batches, and notes the captions."""

    def __init__(
        self, captioner: Captioner, options: CaptionOptions, root: Path | Url, ledger: _Ledger, show: Callable[[], None]
    ) -> None:
        self._captioner, self._options, self._root = captioner, options, root
        self._ledger, self._show = ledger, show
        self._media: dict[int, _Media] = {}
        self._waiting: list[tuple[int, int, Pixels]] = []

    def run(self, found: Iterable[Work]) -> None:
        """Caption works."""
        sampling = Sampling("count", Fraction(self._options.count))
        shrink = (self._captioner.encoder.preprocess.geometry,)
        decoding = DecodeOptions(sampling, shrink, decoder=self._options.decoder, timeout=self._options.timeout)
        with contextlib.closing(decoded(self._jobs(found), decoding, self._options.workers)) as messages:  # type: ignore[type-var]
            for number, message in messages:
                self._take(number, message)
                while len(self._waiting) >= self._captioner.batch_size:
                    self._caption()
                self._show()
        while self._waiting:
            self._caption()
        self._show()

    def _jobs(self, found: Iterable[Work]) -> Iterator[Job]:
        for work in found:
            self._media[work.number] = _Media(work)
            yield Job(work.number, work.path, str(self._root), work.kind, tuple(work.clips), work.frame_rate)

    def _take(self, number: int, message: Message) -> None:
        media = self._media[number]
        if isinstance(message, Opened):
            media.opened = message
        elif isinstance(message, Frames):
            rows = zip(message.rows.tolist(), message.layers[0], strict=True)
            self._waiting += [(number, row, pixels.copy()) for row, pixels in rows]
            media.out += len(message.rows)
            message.release()
        else:
            media.ended = message
            self._complete(number)

    def _caption(self) -> None:
        import numpy as np

        batch = self._waiting[: self._captioner.batch_size]
        del self._waiting[: len(batch)]
        found = self._captioner.caption(np.stack([pixels for _, _, pixels in batch]))
        self._ledger.report.frames += len(batch)
        for (number, row, _), text in zip(batch, found, strict=True):
            self._media[number].captions[row] = text
            self._media[number].out -= 1
            self._complete(number)

    def _complete(self, number: int) -> None:
        """Note a media's captions once it is decoded and all its frames are captioned."""
        media = self._media[number]
        if media.ended is None or media.out:
            return
        del self._media[number]
        for place, samples in enumerate(media.work.clips.values()):
            reason = _reason(media, place)
            for sample, _ in samples:
                if reason:
                    self._ledger.fail(Problem(0, sample, *reason))
                else:
                    assert media.opened
                    rows = [row for row in _rows(media, place) if media.captions[row].text]
                    times = [round(float(media.opened.times[row]), 6) for row in rows]
                    self._ledger.add(sample, [media.captions[row] for row in rows], times)


def _rows(media: _Media, place: int) -> list[int]:
    """Give the frames of a clip that are captioned, each once."""
    assert media.opened
    return [row for row in dict.fromkeys(map(int, media.opened.clips[place])) if row in media.captions]


def _reason(media: _Media, place: int) -> tuple[str, str] | None:
    """Give the stage and the reason for which a clip has no caption, None where it has."""
    ended = media.ended.reason if isinstance(media.ended, Failed) else ""
    if not media.opened:
        return "decode", ended
    clip = media.opened.clips[place]
    if isinstance(clip, str):
        return "decode", clip
    there = _rows(media, place)
    if not there or (ended and len(there) < len(set(clip.tolist()))):
        warnings = media.ended.warnings if isinstance(media.ended, Done) else ()
        return "decode", ended or "; ".join(("no frame decodes", *warnings))
    if not any(media.captions[row].text for row in there):
        return "caption", "the model's caption is blank"
    return None
