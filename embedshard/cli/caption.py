"""`embedshard caption`: captions for media that have none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedshard.cli.inputs import manifest_of
from embedshard.cli.place import LOCAL, PLACE
from embedshard.cli.progress import bar

if TYPE_CHECKING:
    from embedshard.encode.caption import CaptionOptions, CaptionReport
    from embedshard.encode.coca import Captioner
    from embedshard.manifest import Manifest
    from embedshard.remote import Url

__all__ = ["caption"]

_REASONS = 5
_GOES_ON = "the same command goes on where this one was"
_OPTIONS = ("count", "all_samples", "decoder", "timeout", "retry_failed", "media_root")


@click.command(short_help="Captions for media that have none.")
@click.argument("manifest", metavar="INPUT", type=PLACE)
@click.argument("out", type=LOCAL)
@click.option("--model", required=True, help="A CoCa model of open_clip: coca_ViT-B-32, coca_ViT-L-14, or a folder.")
@click.option("--pretrained", help="Its tag, best mscoco_finetuned_laion2b_s13b_b90k, or a checkpoint file.")
@click.option(
    "--count",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="Frames of a clip; its caption is the one that the model is surest of. One is the frame in the middle.",
)
@click.option("--all", "all_samples", is_flag=True, help="Caption samples that have a caption too.")
@click.option("--decoder", default="auto", show_default=True, help="As of embedshard encode.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--precision", default="auto", show_default=True, help="auto, fp32, fp16 or bf16, of the model.")
@click.option("--batch-size", type=click.IntRange(0), default=0, help="Frames per batch.  [default: by device]")
@click.option("--workers", type=click.IntRange(0), help="Decode processes; 0: none.  [default: one for each core]")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400),
    default=300.0,
    show_default=True,
    help="Seconds without a frame to give up a video; 0: never.",
)
@click.option(
    "--media-root", type=PLACE, help="Where the media are now, if the raw tree has moved: a folder, or a URL of one."
)
@click.option("--retry-failed", is_flag=True, help="Try the samples in failed.jsonl again.")
def caption(manifest: Path | Url, out: Path, **given: Any) -> None:
    """Write OUT/samples.parquet: the samples of INPUT, those without a caption with one that a CoCa model makes.

    INPUT is a manifest (made with prepare --keep-uncaptioned), or what embedshard encode takes, here without captions
    too: a table, a list of paths (.txt), tars, or a folder of media. Next: embedshard encode OUT/samples.parquet.
    What is captioned already is not captioned again. A sample that fails is a line in OUT/failed.jsonl.
    """
    from embedshard.encode.caption import CaptionOptions
    from embedshard.encode.clip import ModelOptions, load_encoder
    from embedshard.encode.coca import Captioner
    from embedshard.engine.local import cores
    from embedshard.frames import require_decoder

    opened = manifest_of(manifest, out / "prepared", uncaptioned=True)
    require_decoder(given["decoder"])
    model = ModelOptions(*(given[name] for name in ("model", "pretrained", "device", "precision", "batch_size")))
    workers = cores() if given["workers"] is None else given["workers"]
    options = CaptionOptions(workers=workers, **{name: given[name] for name in _OPTIONS})
    captioner = Captioner(load_encoder(model))
    encoder = captioner.encoder
    click.echo(
        f"{encoder.setting['model']} ({encoder.setting['pretrained']}) on {encoder.device}, "
        f"{encoder.setting['precision']}, {captioner.batch_size} frames a batch"
    )
    report = _caption(opened, out, captioner, options)
    _summarise(report, out)


def _caption(manifest: Manifest, out: Path, captioner: Captioner, options: CaptionOptions) -> CaptionReport:
    """Caption under a progress bar."""
    from embedshard.encode.caption import caption as run_caption

    begun = time.monotonic()
    with bar(manifest.rows, "sample") as progress:

        def show(report: CaptionReport) -> None:
            rate = report.frames / max(time.monotonic() - begun, 1e-3)
            progress.set_postfix_str(f"{rate:.1f} frames/s, {report.failed} failed", refresh=False)
            progress.update(report.finished - progress.n)

        try:
            return run_caption(manifest, out, captioner, options, show)
        except KeyboardInterrupt:
            progress.close()
            raise click.ClickException(f"stopped; {_GOES_ON}") from None
        except OSError as error:
            progress.close()
            raise click.ClickException(f"{error}\n  Once that is mended, {_GOES_ON}") from error


def _summarise(report: CaptionReport, out: Path) -> None:
    failed = report.failed + report.failed_before
    click.echo(
        f"{report.samples} samples: {report.done} captioned, {report.done_before} were captioned before, "
        f"{report.had} had a caption, {failed} failed"
    )
    if report.frames:
        click.echo(f"{report.frames} frames in {report.seconds:.1f} s: {report.frames / report.seconds:.1f} frames/s")
    if failed:
        click.echo(f"why (each in {out / 'failed.jsonl'}; --retry-failed tries them again):")
        for reason, count in sorted(report.reasons.items(), key=lambda item: -item[1])[:_REASONS]:
            hint = " (has the raw tree moved? --media-root DIR)" if reason == "missing media" else ""
            click.echo(f"  {count} x {reason}{hint}")
    if failed == report.samples and failed:
        raise click.ClickException("not one sample could be captioned")
    click.echo(f"next: embedshard encode {out / 'samples.parquet'} PROCESSED --model ...")
