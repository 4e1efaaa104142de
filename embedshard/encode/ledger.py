"""One processed dataset during a run: which samples it lacks, which failed, and counts that add up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from embedshard.encode.resume import claim, take_over
from embedshard.encode.work import Problem
from embedshard.manifest import Manifest
from embedshard.processed import (
    DatasetInfo,
    Failure,
    FailureLog,
    count_triples,
    has_triple,
    read_failures,
    remove_triple,
    write_failures,
    write_info,
)
from embedshard.sample import SPLITS, Sample
from embedshard.store import exclusive, remove_temporary

__all__ = ["EncodeReport", "Ledger"]


@dataclass
class EncodeReport:
    """Counts of a run: `samples` = `done` + `done_before` + `failed` + `failed_before`.

    `frames` were encoded in `seconds`; `reasons` counts all failed samples; `warned` have a warning in their json;
    `strangers` are triples in the folder that are of another manifest.
    """

    samples: int = 0
    done: int = 0
    done_before: int = 0
    failed: int = 0
    failed_before: int = 0
    warned: int = 0
    strangers: int = 0
    media: int = 0
    frames: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """Samples that are done with, one way or the other."""
        return self.done + self.done_before + self.failed + self.failed_before


class Ledger:
    """Holds a processed dataset for this process from `with` on.

    Args:
        processed: The folder.
        manifest: What is encoded into it.
        wanted: What its `dataset.json` would be.
        retry_failed: Whether samples in `failed.jsonl` are tried again.
        moved: Whether the user says that the raw tree has moved.

    Attributes:
        report: The counts so far.
        info: What `dataset.json` says.

    Raises:
        InputError: From `with`: it was made with another setting or of another raw dataset, or another process
            writes to it.
    """

    def __init__(
        self, processed: Path, manifest: Manifest, wanted: DatasetInfo, retry_failed: bool = False, moved: bool = False
    ) -> None:
        self.report = EncodeReport(samples=manifest.rows)
        self.info = wanted
        self._processed, self._manifest, self._wanted = processed, manifest, wanted
        self._retry_failed, self._moved = retry_failed, moved
        self._failing = threading.Lock()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Ledger:
        with contextlib.ExitStack() as stack:
            stack.enter_context(exclusive(self._processed))
            self.info = claim(self._processed, self._manifest, self._wanted, self._moved)
            for split in ("", *SPLITS):
                remove_temporary(self._processed / split)
            self._trusts = self.info.manifest == self._wanted.manifest
            if not self._trusts:
                write_info(self._processed, replace(self.info, manifest=""))
            self._failures = read_failures(self._processed)
            self._log = FailureLog(self._processed)
            stack.callback(self._log.close)
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.close()

    @property
    def encoder(self) -> Mapping[str, Any]:
        """The setting that the triples' metadata names."""
        return self.info.encoder

    def lacks(self, sample: Sample) -> bool:
        """Tell whether a sample is to be encoded; counts it if not."""
        folder = self._processed / sample.split
        if has_triple(folder, sample.key) if self._trusts else take_over(self._processed, sample):
            self.report.done_before += 1
        elif sample.key in self._failures and not self._retry_failed:
            self.report.failed_before += 1
        else:
            return True
        return False

    def fail(self, problem: Problem) -> None:
        """Note a sample that has no triple; on disk before this returns."""
        sample = problem.sample
        attempt = self._failures[sample.key].attempt + 1 if sample.key in self._failures else 1
        failure = Failure(sample.key, sample.split, sample.media.path, problem.stage, problem.reason, attempt)
        remove_triple(self._processed / sample.split, sample.key)
        with self._failing:  # samples that cannot be tried fail in the thread that reads the manifest
            self._failures[sample.key] = failure
            self._log.add(failure)
            self.report.failed += 1

    def finish(self) -> None:
        """Tidy `failed.jsonl`, and note that all triples agree with the manifest."""
        self._log.close()
        failures = {k: f for k, f in self._failures.items() if not has_triple(self._processed / f.split, k)}
        if self._failures:
            write_failures(self._processed, failures.values())
        for failure in failures.values():
            self.report.reasons[failure.reason] = self.report.reasons.get(failure.reason, 0) + 1
        if not self._trusts:
            self.report.strangers = count_triples(self._processed) - self.report.done - self.report.done_before
            write_info(self._processed, replace(self.info, manifest=self._wanted.manifest))
