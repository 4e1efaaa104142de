"""The encode run: which samples are still to do, every clip once, triples and failures to disk, counts that add up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedshard import __version__
from embedshard.address import Url
from embedshard.encode.clip import ClipEncoder
from embedshard.encode.ledger import EncodeReport, Ledger
from embedshard.encode.pipeline import WRITERS, EncodeOptions, Output, Pipeline, Triple
from embedshard.encode.profile import Profile
from embedshard.encode.text import add_similarity
from embedshard.encode.work import Outcome, Problem, Work, works
from embedshard.errors import InputError
from embedshard.manifest import Manifest
from embedshard.processed import DatasetInfo, write_triple
from embedshard.sample import Sample
from embedshard.store import exclusive

__all__ = ["EncodeOptions", "EncodeReport", "encode", "encode_by_all"]

Progress = Callable[[Sequence[EncodeReport], Profile], None]
Runner = Callable[[Iterable[Work]], Iterator[Outcome]]


def encode(
    manifest: Manifest,
    processed: Path,
    encoder: ClipEncoder,
    options: EncodeOptions,
    progress: Callable[[EncodeReport], None] = lambda report: None,
) -> EncodeReport:
    """Encode every sample of a manifest that has no triple yet.

    Args:
        manifest: The samples.
        processed: Gets `train/ val/ test/`, `dataset.json`, and `failed.jsonl` if any sample fails.
        encoder: The model.
        options: What to encode.
        progress: Called with the counts so far whenever they change, from two threads.

    Returns:
        The counts, which add up to the samples of the manifest.

    Raises:
        InputError: The raw dataset is not there, the manifest is wrong, the folder was made with another encoder
            setting or of another raw dataset, or another process writes to it.
        OSError: The disk is full, or cannot be written.
    """
    (report,), _ = encode_by_all(manifest, {processed: encoder}, options, lambda reports, _: progress(reports[0]))
    return report


def encode_by_all(
    manifest: Manifest,
    encoders: Mapping[Path, ClipEncoder],
    options: EncodeOptions,
    progress: Progress = lambda reports, profile: None,
) -> tuple[list[EncodeReport], Profile]:
    """Encode by several models, each into its own folder; a media is decoded once for all.

    Args:
        manifest: The samples.
        encoders: By the folder that each fills.
        options: What to encode.
        progress: Called with the counts of every folder.

    Returns:
        The counts of every folder, and where the time went.

    Raises:
        InputError, OSError: As `encode`.
    """
    profile = Profile({"decode": options.workers, "preprocess": options.workers, "write": WRITERS})

    def runner(ledgers: Sequence[Ledger]) -> Runner:
        outputs = [
            Output(encoder, ledger.info.encoder, ledger.info.source["name"], loose(folder))
            for (folder, encoder), ledger in zip(encoders.items(), ledgers, strict=True)
        ]
        return Pipeline(outputs, options, media_root(manifest, options), profile).run

    settings = {folder: setting_of(encoder, options) for folder, encoder in encoders.items()}
    reports = run(manifest, settings, options, runner, lambda reports: progress(reports, profile))
    for (folder, encoder), report in zip(encoders.items(), reports, strict=True):
        if options.similarity and report.done_before:
            with exclusive(folder):
                add_similarity(folder, manifest.samples(), encoder)
    return reports, profile


def run(
    manifest: Manifest,
    settings: Mapping[Path, Mapping[str, Any]],
    options: EncodeOptions,
    make_runner: Callable[[Sequence[Ledger]], Runner],
    progress: Callable[[Sequence[EncodeReport]], None],
) -> list[EncodeReport]:
    """Keep the ledgers of a run, whoever runs the works.

    Args:
        manifest: The samples.
        settings: Of the encoder, by the folder that it fills.
        options: What to encode.
        make_runner: Gives what turns works into outcomes.
        progress: Called with the counts of every folder.

    Returns:
        The counts of every folder.
    """
    begun = time.monotonic()
    root = media_root(manifest, options)
    raw, digest = str(manifest.root.absolute()), manifest.digest()
    if not root.is_dir():
        raise InputError(f"the raw dataset {root} is not there; where it has moved to is said by: --media-root DIR")
    with contextlib.ExitStack() as stack:
        ledgers = []
        for folder, setting in settings.items():
            wanted = DatasetInfo(setting, asdict(manifest.source), raw, digest)
            ledger = Ledger(folder, manifest, wanted, options.retry_failed, options.media_root is not None)
            ledgers.append(stack.enter_context(ledger))
        reports = [ledger.report for ledger in ledgers]

        def due(sample: Sample) -> list[int]:
            lacking = [number for number, ledger in enumerate(ledgers) if ledger.lacks(sample)]
            if len(lacking) < len(ledgers):
                progress(reports)
            return lacking

        def fail(problem: Problem) -> None:
            ledgers[problem.output].fail(problem)
            progress(reports)

        for outcome in make_runner(ledgers)(works(manifest, due, fail)):
            _count(outcome, reports)
            for problem in outcome.problems:
                fail(problem)
            progress(reports)
        for ledger in ledgers:
            ledger.finish()
            ledger.report.seconds = time.monotonic() - begun
        return reports


def _count(outcome: Outcome, reports: Sequence[EncodeReport]) -> None:
    for output, (done, warned) in outcome.written.items():
        report = reports[output]
        report.done += done
        report.warned += warned
        report.media += outcome.decoded
        report.frames += outcome.frames.get(output, 0)


def loose(processed: Path) -> Callable[[int, Triple], None]:
    """Give what writes triples as loose files into a processed dataset."""

    def write(number: int, triple: Triple) -> None:
        write_triple(processed / triple.split, triple.key, triple.array, triple.caption, triple.meta)

    return write


def media_root(manifest: Manifest, options: EncodeOptions) -> Path | Url:
    """Give the folder that the media's paths start from."""
    return (options.media_root or manifest.root).absolute()


def setting_of(encoder: ClipEncoder, options: EncodeOptions) -> dict[str, Any]:
    """Give what identifies the embeddings, as it stands in `dataset.json` and in every triple's json."""
    sampling = options.sampling
    return {
        **encoder.setting,
        "embed_dim": encoder.embed_dim,
        "dtype": options.dtype,
        "normalized": options.normalize,
        "sampling": str(sampling),
        "fps": float(sampling.value) if sampling.mode == "fps" else None,
        "version": __version__,
    }
