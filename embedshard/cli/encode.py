"""`embedshard encode`: manifest to triples."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedshard.cli.engines import engine_options, layout_of, sharing, submit_to_slurm
from embedshard.cli.inputs import manifest_of
from embedshard.cli.place import PLACE
from embedshard.cli.progress import bar, duration
from embedshard.errors import InputError

if TYPE_CHECKING:
    from embedshard.encode.clip import ModelOptions
    from embedshard.encode.ledger import EncodeReport
    from embedshard.encode.pipeline import EncodeOptions
    from embedshard.encode.profile import Profile
    from embedshard.encode.run import Progress
    from embedshard.frames import Sampling
    from embedshard.manifest import Manifest
    from embedshard.remote import AnyPath

__all__ = ["encode", "models_of"]

_REASONS = 5
_SHARD = 10000
_SHARED = ("decoder", "dtype", "normalize", "timeout", "retry_failed", "media_root", "similarity")
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
@click.argument("manifest", metavar="INPUT", type=PLACE)
@click.argument("processed", type=PLACE)
@click.option(
    "--model",
    "models",
    required=True,
    multiple=True,
    help="open_clip model name, hf-hub:ORG/NAME, or a folder with config and weights. Several share one decode, each "
    "in its folder of PROCESSED.",
)
@click.option("--pretrained", multiple=True, help="open_clip tag, or a checkpoint file; one for each model by name.")
@click.option(
    "--fps", type=_Rate(), help="Frames per second, a fraction too: the one on screen at k/FPS.  [default: 1]"
)
@click.option("--every", type=click.IntRange(1), metavar="N", help="Every N-th frame.")
@click.option("--count", type=click.IntRange(1, 100_000), metavar="N", help="N frames spread evenly over the clip.")
@click.option("--keyframes", is_flag=True, help="The keyframes: far faster, at times the encoder of the video chose.")
@click.option("--all", "all_frames", is_flag=True, help="All frames.")
@click.option("--decoder", default="auto", show_default=True, help="auto, pyav, decord, torchcodec or nvdec.")
@click.option(
    "--preprocess",
    type=click.Choice(["exact", "fast"]),
    default="exact",
    show_default=True,
    help="open_clip's own bit for bit, or within 2 grey levels of it at a quarter of the cost on a CPU.",
)
@click.option(
    "--device", default="auto", show_default=True, help="auto (all GPUs), cpu, cuda, cuda:N, mps; or cuda:0,cuda:1,..."
)
@click.option("--precision", default="auto", show_default=True, help="auto, fp32, fp16 or bf16, of the model.")
@click.option("--compile", is_flag=True, help="Have torch compile the model: a minute at the start, faster then.")
@click.option(
    "--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True, help="Stored as."
)
@click.option("--normalize", is_flag=True, help="Scale every embedding to length 1.")
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
@engine_options
@click.option("--similarity", is_flag=True, help="Put each frame's cosine with the caption into the metadata.")
@click.option("--profile", type=click.Path(path_type=Path), help="Write to this JSON where the time went.")
@click.option("--dry-run", is_flag=True, help="Look at all inputs, measure for some seconds, predict; write nothing.")
def encode(manifest: AnyPath, processed: AnyPath, **given: Any) -> None:
    """Encode the samples of INPUT into PROCESSED/{train,val,test}/<key>.npy, .txt, .json.

    INPUT is a manifest; or a table of paths and captions (csv, tsv, jsonl, json, parquet), tars (one, a folder of them,
    or a pattern like 'tars/{00000..00012}.tar'), or a folder of media with captions beside them (a.mp4, a.txt), of
    which PROCESSED/samples.parquet is prepared first.

    What is there already is not encoded again: after a crash, or when the dataset has grown, run the same command.
    A sample that fails is a line in PROCESSED/failed.jsonl.

    In parts (PROCESSED/train/part-000000.tar: the triples of a unit of the run), any number of GPUs, machines and runs
    may share the work: --device cuda:0,cuda:1; --engine ray; --engine slurm; --part 2/16. embedshard status PROCESSED
    tells from anywhere how far they are. PROCESSED may lie on a storage, s3://bucket/processed, and is then in parts.
    """
    from embedshard.encode.clip import device_names
    from embedshard.encode.pipeline import EncodeOptions
    from embedshard.engine.local import cores
    from embedshard.frames import require_decoder

    opened = manifest_of(manifest, processed, given["dry_run"])
    sampling = _sampling(given)
    require_decoder(given["decoder"])
    models = models_of(processed, given)
    options = EncodeOptions(
        sampling,
        workers=cores() if given["workers"] is None else given["workers"],
        **{name: given[name] for name in _SHARED},
    )
    if given["dry_run"]:
        _predict(opened, models, device_names(given["device"]), options)
        return
    layout = layout_of(opened, list(models), given)
    if given["engine"] == "slurm":
        submit_to_slurm(click.get_current_context(), processed / "units", given["slots"] or 1, ("--layout", "parts"))
        return
    reports, profile = _encode(opened, models, {**given, "layout": layout}, options)
    for folder, report in zip(models, reports, strict=True):
        _summarise(report, folder, named=len(models) > 1)
    shares = profile.shares()
    if any(report.frames for report in reports):
        click.echo(shares.sentence)
    if given["profile"]:
        shares.write(given["profile"])
    if all(report.failed + report.failed_before == report.samples for report in reports) and opened.rows:
        raise click.ClickException("not one sample could be encoded")


def models_of(processed: AnyPath, given: dict[str, Any]) -> dict[AnyPath, ModelOptions]:
    """Give the models by the folder that each fills: PROCESSED itself, or one in it for each of several."""
    from embedshard.encode.clip import ModelOptions, brings_weights

    tags = list(given["pretrained"])
    by_name = [model for model in given["models"] if not brings_weights(model)]
    if len(tags) not in (0, len(by_name)) and len(given["models"]) > 1:
        raise InputError(
            f"expected a --pretrained for each of {', '.join(by_name) or 'no model'}, in their order; found {len(tags)}"
        )
    found: dict[AnyPath, ModelOptions] = {}
    for model in given["models"]:
        tag = tags.pop(0) if tags and (model in by_name or len(given["models"]) == 1) else None
        folder = processed / _slug(model, tag) if len(given["models"]) > 1 else processed
        if folder in found:
            raise InputError(f"--model {model} is given twice; expected different ones")
        shared = ("precision", "batch_size", "preprocess", "compile")
        found[folder] = ModelOptions(model, tag, **{name: given[name] for name in shared})
    return found


def _slug(model: str, tag: str | None) -> str:
    """Name a model's folder."""
    text = Path(model).name if Path(model).is_dir() else model
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{text}_{Path(tag).stem}" if tag else text)


def _encode(
    manifest: Manifest, models: dict[AnyPath, ModelOptions], given: dict[str, Any], options: EncodeOptions
) -> tuple[list[EncodeReport], Profile]:
    """Encode under a progress bar."""
    begun, lock = time.monotonic(), threading.Lock()
    with bar(manifest.rows * len(models), "sample") as progress:

        def show(reports: Sequence[EncodeReport], profile: Profile) -> None:
            seconds = max(time.monotonic() - begun, 1e-3)
            frames, media = (max(getattr(report, name) for report in reports) for name in ("frames", "media"))
            busy = " ".join(f"{stage} {share:.0%}" for stage, share in profile.shares().busy.items())
            failed = sum(report.failed for report in reports)
            with lock:
                progress.set_postfix_str(
                    f"{frames / seconds:.0f} frames/s, {media / seconds:.1f} media/s, {failed} failed; busy: {busy}",
                    refresh=False,
                )
                progress.update(sum(report.finished for report in reports) - progress.n)

        try:
            return _run(manifest, models, given, options, show)
        except KeyboardInterrupt:
            progress.close()
            raise click.ClickException(f"stopped; {_GOES_ON}") from None
        except InputError:
            progress.close()
            raise
        except OSError as error:
            progress.close()
            raise click.ClickException(f"{error}\n  Once that is mended, {_GOES_ON}") from error


def _run(
    manifest: Manifest,
    models: dict[AnyPath, ModelOptions],
    given: dict[str, Any],
    options: EncodeOptions,
    show: Progress,
) -> tuple[list[EncodeReport], Profile]:
    """Encode into loose triples in this process, or into parts by an engine."""
    names = ", ".join(folder.name if len(models) > 1 else model.model for folder, model in models.items())
    if given["layout"] == "parts":
        from embedshard.encode.parts import encode_in_parts

        with sharing(given, options) as (share, each):
            click.echo(f"{names} on {', '.join(share.devices)}; {options.sampling}; in parts")
            return encode_in_parts(manifest, models, each, share, show)
    from embedshard.encode.clip import device_names, load_encoder
    from embedshard.encode.run import encode_by_all

    (device,) = device_names(given["device"])[:1]
    local = {folder: model for folder, model in models.items() if isinstance(folder, Path)}  # `layout_of` sees to it
    encoders = {folder: load_encoder(replace(model, device=device)) for folder, model in local.items()}
    for encoder in encoders.values():
        click.echo(
            f"{encoder.setting['model']} ({encoder.setting['pretrained']}) on {encoder.device}, "
            f"{encoder.setting['precision']}, {encoder.batch_size} frames a batch; {options.sampling}"
        )
    return encode_by_all(manifest, encoders, options, show)


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


def _predict(
    manifest: Manifest, models: dict[AnyPath, ModelOptions], devices: list[str], options: EncodeOptions
) -> None:
    """Print what the run would do."""
    from embedshard.encode.clip import load_encoder
    from embedshard.encode.estimate import estimate

    encoders = {folder: load_encoder(replace(model, device=devices[0])) for folder, model in models.items()}
    with bar(manifest.rows, "sample") as progress:
        found = estimate(manifest, encoders, options, len(devices), progress.update)
    due = sum(found.due.values())
    click.echo(f"{found.samples} samples, {due} of them to encode, of {found.media} media")
    count, first = found.missing
    if count:
        click.echo(f"missing media: {count} ({', '.join(first)}{', ...' if count > len(first) else ''})")
    for reason, times in sorted(found.failed.items(), key=lambda item: -item[1])[:_REASONS]:
        click.echo(f"failed of the {found.measured} media tried: {times} x {reason}")
    if found.measured:
        shards = sum(-(-split // _SHARD) for split in found.due.values())
        click.echo(
            f"measured {found.measured} media in {found.shares.seconds:.1f} s on {devices[0]}; "
            f"{found.shares.sentence}\n"
            f"predicted: {found.frames:.0f} frames, {found.size / 1e6:.1f} MB of triples, {shards} shards of {_SHARD}, "
            f"{duration(found.seconds)} on {', '.join(devices)}"
        )
    click.echo("dry run: wrote nothing")


def _summarise(report: EncodeReport, processed: AnyPath, named: bool) -> None:
    failed = report.failed + report.failed_before
    click.echo(
        (f"{processed.name}: " if named else "")
        + f"{report.samples} samples: {report.done} encoded, {report.done_before} were there, {failed} failed"
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
