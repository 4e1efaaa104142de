"""`embedshard encode`: manifest to triples."""

from __future__ import annotations

import os
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedshard.cli.progress import bar
from embedshard.errors import InputError

if TYPE_CHECKING:
    from embedshard.encode.clip import ClipEncoder
    from embedshard.encode.run import EncodeOptions, EncodeReport
    from embedshard.frames import Sampling
    from embedshard.manifest import Manifest

__all__ = ["encode"]

_REASONS = 5
_MOST_FPS = 1000
_GOES_ON = "the same command goes on where this one was"


class _Rate(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.4
    """A number of frames per second: `1`, `0.5`, `1/3`, `30000/1001`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        try:
            rate = Fraction(str(value))
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 0 < rate <= _MOST_FPS:
            self.fail(f"expected a number or a fraction like 1, 0.5 or 30000/1001, found {value!r}", param, ctx)
        return rate


@click.command(short_help="Manifest to triples.")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("processed", type=click.Path(path_type=Path))
@click.option(
    "--model", required=True, help="open_clip model name, hf-hub:ORG/NAME, or a folder with config and weights."
)
@click.option("--pretrained", help="open_clip tag, or a checkpoint file.")
@click.option(
    "--fps", type=_Rate(), help="Frames per second, a fraction too: the one on screen at k/FPS.  [default: 1]"
)
@click.option("--every", type=click.IntRange(1), metavar="N", help="Every N-th frame.")
@click.option("--count", type=click.IntRange(1, 100_000), metavar="N", help="N frames spread evenly over the clip.")
@click.option("--keyframes", is_flag=True, help="The keyframes: far faster, at times the encoder of the video chose.")
@click.option("--all", "all_frames", is_flag=True, help="All frames.")
@click.option("--decoder", default="auto", show_default=True, help="auto, pyav or decord.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--precision", default="auto", show_default=True, help="auto, fp32, fp16 or bf16, of the model.")
@click.option(
    "--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True, help="Stored as."
)
@click.option("--normalize", is_flag=True, help="Scale every embedding to length 1.")
@click.option("--batch-size", type=click.IntRange(0), default=0, help="Frames per batch.  [default: by device]")
@click.option("--workers", type=click.IntRange(0), help="Decode processes; 0: none.  [default: by cores and device]")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400),
    default=300.0,
    show_default=True,
    help="Seconds without a frame to give up a video; 0: never.",
)
@click.option(
    "--media-root", type=click.Path(path_type=Path), help="Where the media are now, if the raw tree has moved."
)
@click.option("--retry-failed", is_flag=True, help="Try the samples in failed.jsonl again.")
def encode(manifest: Path, processed: Path, **options: Any) -> None:
    """Encode the samples of MANIFEST into PROCESSED/{train,val,test}/<key>.npy, .txt, .json.

    What is there already is not encoded again: after a crash, or when the dataset has grown, run the same command.
    A sample that fails is a line in PROCESSED/failed.jsonl.
    """
    from embedshard.encode.clip import ModelOptions, load_encoder
    from embedshard.encode.pipeline import EncodeOptions
    from embedshard.frames import require_decoder
    from embedshard.manifest import open_manifest

    opened = open_manifest(manifest)
    sampling = _sampling(options)
    require_decoder(options["decoder"])
    model = ModelOptions(*(options[name] for name in ("model", "pretrained", "device", "precision", "batch_size")))
    encoder = load_encoder(model)
    click.echo(
        f"{encoder.setting['model']} ({encoder.setting['pretrained']}) on {encoder.device}, "
        f"{encoder.setting['precision']}, {encoder.batch_size} frames a batch; {sampling}"
    )
    chosen = EncodeOptions(
        sampling,
        decoder=options["decoder"],
        dtype=options["dtype"],
        normalize=options["normalize"],
        workers=_workers(encoder.device) if options["workers"] is None else options["workers"],
        timeout=options["timeout"],
        retry_failed=options["retry_failed"],
        media_root=options["media_root"],
    )
    _summarise(_encode(opened, processed, encoder, chosen), processed)


def _encode(manifest: Manifest, processed: Path, encoder: ClipEncoder, options: EncodeOptions) -> EncodeReport:
    """Encode under a progress bar."""
    from embedshard.encode.run import encode as run_encode

    begun, lock = time.monotonic(), threading.Lock()
    with bar(manifest.rows, "sample") as progress:

        def show(report: EncodeReport) -> None:
            seconds = max(time.monotonic() - begun, 1e-3)
            rates = f"{report.frames / seconds:.0f} frames/s, {report.media / seconds:.1f} media/s"
            with lock:
                progress.set_postfix_str(f"{rates}, {report.failed} failed", refresh=False)
                progress.update(report.finished - progress.n)

        try:
            return run_encode(manifest, processed, encoder, options, show)
        except KeyboardInterrupt:
            progress.close()
            raise click.ClickException(f"stopped; {_GOES_ON}") from None
        except OSError as error:
            progress.close()
            raise click.ClickException(f"{processed}: {error}\n  Once that is mended, {_GOES_ON}") from error


def _sampling(options: dict[str, Any]) -> Sampling:
    from embedshard.frames import Sampling

    given = {
        "fps": options["fps"],
        "every": options["every"],
        "count": options["count"],
        "keyframes": Fraction(1) if options["keyframes"] else None,
        "all": Fraction(1) if options["all_frames"] else None,
    }
    chosen = {mode: Fraction(value) for mode, value in given.items() if value is not None} or {"fps": Fraction(1)}
    if len(chosen) > 1:
        raise InputError(
            f"expected one of --fps, --every, --count, --keyframes, --all; found --{' and --'.join(chosen)}"
        )
    ((mode, value),) = chosen.items()
    return Sampling(mode, value)  # type: ignore[arg-type]


def _workers(device: str) -> int:
    """All cores feed a GPU; on the CPU the model needs them, and one decoder keeps several of them busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 8) if device == "cpu" else cores


def _summarise(report: EncodeReport, processed: Path) -> None:
    failed = report.failed + report.failed_before
    click.echo(
        f"{report.samples} samples: {report.done} encoded, {report.done_before} were there, {failed} failed"
        + (f", {report.warned} with a warning in their json" if report.warned else "")
    )
    if report.frames:
        rate = report.frames / report.seconds, report.media / report.seconds
        click.echo(
            f"{report.frames} frames of {report.media} media in {report.seconds:.1f} s: "
            f"{rate[0]:.1f} frames/s, {rate[1]:.1f} media/s"
        )
    if failed:
        click.echo(f"why (each in {processed / 'failed.jsonl'}; --retry-failed tries them again):")
        for reason, count in sorted(report.reasons.items(), key=lambda item: -item[1])[:_REASONS]:
            hint = " (has the raw tree moved? --media-root DIR)" if reason == "missing media" else ""
            click.echo(f"  {count} x {reason}{hint}")
    if report.strangers:
        click.echo(f"note: {report.strangers} more triples in {processed} are of no sample of this manifest")
    if failed == report.samples and failed:
        raise click.ClickException("not one sample could be encoded")
