"""A raw dataset becomes a manifest. May import `sources`, `manifest`, `sample`, `split`, `distinct` and `store`.

Reads annotations only, one row at a time: memory does not grow with their number, and no media is opened. Beside
the manifest lie `prepare.json` (source, options, counts, what was left out and why) and, where anything was,
`left_out.jsonl` (id and reason of each such row).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shutil
import tempfile
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from embedshard.distinct import DistinctIds, id_hash
from embedshard.errors import InputError
from embedshard.manifest import ManifestWriter, SourceInfo, open_manifest, writing_manifest
from embedshard.remote import Url
from embedshard.sample import SPLITS, LeftOut, Sample, make_key, raw_id
from embedshard.sources import Options, Source, tree_error
from embedshard.sources._read import NO_CAPTION, media_root
from embedshard.split import FROZEN_HEADER, SplitRecipe, read_split_recipe
from embedshard.store import publish, write_json

__all__ = ["PrepareOptions", "PrepareReport", "SplitCounts", "options_from", "prepare"]

_SHOWN = 5
_REASONS = 100
_PROGRESS = 1000
_FIRST = 3
_TAGS = {split: tag for tag, split in enumerate(SPLITS)}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_NO_SPLIT = (
    "the raw dataset gives no split for some or all samples: they went to train; to split them by media, give "
    "--split RECIPE.yaml with the lines `ratios: {train: 0.9, val: 0.05, test: 0.05}` and `seed: 0`"
)

_COMPRESSED = (
    "media lie in compressed tars, which are read from their beginning whenever they are not read in order: "
    "gunzip them (gzip -d *.tar.gz) and prepare again where encode is to be fast"
)

_UNCAPTIONED = "{} samples have no caption, with which shard leaves them out; some are made by: embedshard caption"

Rows = Callable[[], Iterator[Sample | LeftOut]]


@dataclass(frozen=True)
class PrepareOptions:
    """What a user can choose.

    Attributes:
        split: One of the source's `splits`; `train`, `val` or `test` to put all samples there; or the path of a
            split recipe. None is the source's first way, and `train` where the raw dataset gives no split.
        settings: Options of the source, as texts.
        allow_leak: Keep media that lie in two splits, and note them.
        freeze_split: Csv to write the split of every media to; a recipe for a later `split`.
        keep_uncaptioned: Keep media without a caption, which are left out otherwise.
    """

    split: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    allow_leak: bool = False
    freeze_split: Path | None = None
    keep_uncaptioned: bool = False


@dataclass(frozen=True)
class SplitCounts:
    """What a split holds.

    Attributes:
        samples: Number of samples.
        media: Number of different videos and pictures.
        captions: Number of captions, those that only the metadata has as well.
        windows: Number of samples with a window.
        hours: Length of the videos whose duration the annotations tell.
    """

    samples: int
    media: int
    captions: int
    windows: int
    hours: float


@dataclass(frozen=True)
class PrepareReport:
    """What became of the raw rows.

    Attributes:
        splits: The counts of each split.
        left_out: Number of rows for each reason.
        examples: The first ids for each reason.
        notes: What the user should know.
        first: The first samples.
    """

    splits: Mapping[str, SplitCounts]
    left_out: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    first: tuple[Sample, ...]

    @property
    def samples(self) -> dict[str, int]:
        """Number of samples in each split."""
        return {split: counts.samples for split, counts in self.splits.items()}


def prepare(
    source: Source,
    root: Path | Url,
    manifest: Path | Url | None,
    options: PrepareOptions,
    progress: Callable[[int], None],
) -> PrepareReport:
    """Write the manifest of a raw dataset, or nothing at all.

    Args:
        source: Its reader.
        root: The raw dataset, as the source's `expects` shows it, in a local folder.
        manifest: The parquet file to write, on a storage too; `prepare.json` and `left_out.jsonl` go beside it. None
            to read and check everything and write nothing.
        options: What the user chose.
        progress: Called with the number of rows read since its last call.

    Returns:
        The counts that `prepare.json` has too.

    Raises:
        InputError: The raw tree or an option is wrong, a file to write would take the place of the raw dataset or
            of a file that is no manifest, there is no sample at all, two samples share a key, or media lie in two
            splits.
    """
    root = _local(root)
    if manifest:
        _require_free(root, manifest, options.freeze_split)
    scheme, recipe = _choose_split(source, root, options.split)
    read = options_from(source, scheme, options.settings)
    judge = _Judge(recipe, options.keep_uncaptioned)

    def rows() -> Iterator[Sample | LeftOut]:
        return map(judge, source.samples(root, read))

    info = SourceInfo(source.name, source.title, source.homepage, source.license)
    tally = _Tally()
    freeze_split = options.freeze_split if manifest else None
    with writing_manifest(manifest, media_root(root), info) as writer, _freezing(freeze_split) as freeze:
        _fill(writer, rows(), tally, freeze, progress)
        if not tally.samples:
            raise tree_error(source, root, f"not one sample; left out: {tally.reasons() or 'nothing, there is no row'}")
        notes = _leak(rows, tally, options) + (_COMPRESSED,) * tally.compressed + (_NO_SPLIT,) * judge.without_split
        _require_own_keys(source, rows, tally)
        counts = tally.splits()
        notes += _unmet(recipe) if recipe else _compared(source, read, counts)
        if tally.uncaptioned:
            notes += (_UNCAPTIONED.format(tally.uncaptioned),)
        if manifest:
            (manifest.parent / "prepare.json").unlink(missing_ok=True)
    report = tally.report(counts, notes)
    if manifest:
        _publish_left_out(manifest.parent / "left_out.jsonl", tally)
        record = {"source": asdict(info), "root": str(root), "split": options.split or scheme, "options": asdict(read)}
        chosen = {"allow_leak": options.allow_leak, "keep_uncaptioned": options.keep_uncaptioned}
        write_json(manifest.parent / "prepare.json", {**record, **_record(report), **chosen})
    return report


def _record(report: PrepareReport) -> dict[str, Any]:
    """Give the counts of a report as `prepare.json` has them."""
    names = [field.name for field in fields(SplitCounts)]
    counts = {name: {split: getattr(found, name) for split, found in report.splits.items()} for name in names}
    return {**counts, "left_out": report.left_out, "notes": report.notes}


def _compared(source: Source, options: Options, counts: Mapping[str, SplitCounts]) -> tuple[str, ...]:
    """Say whether the counts are the published ones, where any are published."""
    ways = {"media": source.published_media}
    if options == source.options(split=options.split):
        ways["samples"] = source.published_samples
    notes = []
    for unit, published in ways.items():
        stated = published.get(options.split, {})
        found = {split: getattr(counts[split], unit) for split in stated}
        if stated:
            text = _listed(stated)
            notes.append(
                f"as published: {text} {unit}"
                if found == stated
                else f"expected {text} {unit} in the complete dataset as published, found {_listed(found)}"
            )
    return tuple(notes)


def _unmet(recipe: SplitRecipe) -> tuple[str, ...]:
    """Say which media the recipe lists that gave no sample."""
    unmet = recipe.unmet()
    what = "media that the split recipe lists have no sample (no row, or left out)"
    return (f"{len(unmet)} {what}: {_first(unmet, len(unmet))}",) if unmet else ()


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())


def _local(root: Path | Url) -> Path:
    if isinstance(root, Url):
        raise InputError(
            f"expected the raw dataset in a local folder, for prepare reads annotations there, found {root}\n  Prepare "
            f"it where it is local; its media may lie on the storage by: embedshard encode --media-root {root}"
        )
    return Path(os.path.abspath(root))


def _require_free(root: Path, manifest: Path | Url, freeze: Path | None) -> None:
    """Raise InputError where what is to be written would replace what is not ours to replace."""
    beside = [manifest.parent / name for name in ("prepare.json", "left_out.jsonl")]
    taken: set[Path] = set()
    for path in (manifest, *beside, *([freeze] if freeze else [])):
        if isinstance(path, Url):
            continue
        real = path.resolve()
        if real.is_relative_to(root.resolve()):
            raise InputError(f"{path} would change the raw dataset {root}; give a path outside it")
        if real.is_dir() or real in taken:
            found = "a folder" if real.is_dir() else "the name of another file that prepare writes"
            raise InputError(f"{path}: expected the name of a file to write, found {found}; give another name")
        taken.add(real)
    if manifest.exists():
        try:
            open_manifest(manifest)
        except InputError as error:
            raise InputError(
                f"{manifest}: expected a free name or an older manifest to replace, found another file; "
                f"give another name, or remove it first ({str(error).splitlines()[0]})"
            ) from error


def options_from(source: Source, split: str, settings: Mapping[str, str]) -> Options:
    """Give a source's options from the texts of the command line.

    Args:
        source: The source.
        split: Name of one of its `splits`.
        settings: Option names and values.

    Raises:
        InputError: There is no such option, or the value is not of its type; lists the options.
    """
    types = typing.get_type_hints(source.options)
    known = {option.name.rstrip("_"): option for option in fields(source.options) if option.name != "split"}
    values: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in known:
            raise InputError(f"{source.name} has no option {name!r}; {_describe(source)}")
        field, choices = known[name].name, known[name].metadata["choices"]
        try:
            values[field] = _WORDS[text.lower()] if types[field] is bool else types[field](text)
        except (KeyError, ValueError):
            expected = "true or false" if types[field] is bool else f"a value of type {types[field].__name__}"
            raise InputError(f"option {name}: expected {expected}, found {text!r}; {_describe(source)}") from None
        if choices and values[field] not in choices:
            raise InputError(f"option {name}: expected one of {', '.join(choices)}, found {text!r}")
    return source.options(split=split, **values)


def _describe(source: Source) -> str:
    options = [option for option in fields(source.options) if option.name != "split"]
    lines = [f"\n  --option {o.name.rstrip('_')}=...  {o.metadata['help']} (now: {o.default!r})" for o in options]
    return f"the options of {source.name}:{''.join(lines)}" if lines else f"{source.name} has no options"


def _choose_split(source: Source, root: Path, wanted: str | None) -> tuple[str, SplitRecipe | None]:
    """Give the name of the source's way to split, and the recipe that decides in its place."""
    default = next(iter(source.splits), "")
    if wanted is None or wanted in source.splits:
        return wanted or default, None
    if wanted in SPLITS:
        return default, SplitRecipe(lambda _: wanted)
    if Path(wanted).suffix.lower() in (".yaml", ".yml", ".csv"):
        recipe = read_split_recipe(Path(wanted), media_root(root))
        if recipe.way and recipe.way not in source.splits:
            known = ", ".join(source.splits)
            raise InputError(f"{wanted}, key way: expected one of {known} ({source.name}), found {recipe.way!r}")
        return recipe.way or default, recipe
    known = ", ".join([*source.splits, *SPLITS])
    raise InputError(f"no split {wanted!r}; expected {known}, or the path of a split recipe (.yaml, .csv)")


class _Judge:
    """Puts a sample into its split, or tells why it can be in none."""

    def __init__(self, recipe: SplitRecipe | None, keep_uncaptioned: bool) -> None:
        self._assign = recipe.split if recipe else None
        self._keep_uncaptioned = keep_uncaptioned
        self.without_split = False

    def __call__(self, row: Sample | LeftOut) -> Sample | LeftOut:
        """Give the sample as it goes into the manifest."""
        if isinstance(row, LeftOut):
            return row
        media = row.media
        start, last = media.start or 0.0, media.duration or math.inf
        end = last if media.end is None else min(media.end, last)
        if media.end is not None and end < media.end:
            row = row._replace(media=media._replace(end=end))
        split = self._assign(media.id) if self._assign else row.split or "train"
        if not (row.caption.strip() or self._keep_uncaptioned):
            reason = NO_CAPTION
        elif not 0 <= start < end:
            reason = "start is negative, or not before the end of the window or of the media"
        elif not split:
            reason = "not in the split recipe"
        elif split not in SPLITS:
            reason = f"unknown split {split!r} (expected train, val or test)"
        else:
            self.without_split |= not (self._assign or row.split)
            return row if split == row.split else Sample(row.key, split, row.media, row.caption, row.meta)
        return LeftOut(_raw_id(row), reason)


def _raw_id(row: Sample) -> str:
    """Give the id that the key was made of; the media's where that cannot be told."""
    candidates = (str(row.meta.get("id", "")), row.media.id, raw_id(row.key) or "")
    return next((raw for raw in candidates if raw and make_key(raw) == row.key), row.media.id)


class _Tally:
    """Counts what comes, and spools what is left out."""

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        self.windows: Counter[str] = Counter()
        self.captions: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.first: list[Sample] = []
        self.compressed = False
        self.uncaptioned = 0
        self.keys, self.media = DistinctIds(), DistinctIds()
        self.lengths, self.listed = DistinctIds(amounts=1), DistinctIds(amounts=1)
        self.spool = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the object)

    def add(self, sample: Sample) -> None:
        """Count a sample."""
        split, media = sample.split, sample.media
        self.samples[split] += 1
        captions = sample.meta.get("captions")
        if isinstance(captions, list):
            self.listed.add(f"{media.path}\0{media.start}\0{media.end}", _TAGS[split], (len(captions),))
        else:
            self.captions[split] += bool(sample.caption.strip())
        self.uncaptioned += not sample.caption.strip()
        self.compressed |= media.path.endswith("~gzip")
        if media.duration:
            self.lengths.add(media.path, _TAGS[split], (media.duration,))
        if media.start is not None or media.end is not None:
            self.windows[split] += 1
        self.keys.add(sample.key)
        self.media.add(media.id, _TAGS[split])
        if len(self.first) < _FIRST:
            self.first.append(sample)

    def leave_out(self, row: LeftOut) -> None:
        """Count and spool a row that gives no sample."""
        known = row.reason in self.left_out or len(self.left_out) < _REASONS
        reason = row.reason if known else "other reasons (see left_out.jsonl)"
        self.left_out[reason] += 1
        if self.left_out[reason] <= _SHOWN:
            self.examples.setdefault(reason, []).append(row.id)
        line = json.dumps({"id": row.id, "reason": row.reason}, ensure_ascii=False) + "\n"
        self.spool.write(line.encode("utf-8", "backslashreplace"))

    def reasons(self) -> str:
        """Give all reasons with their counts and first ids as a text."""
        return "; ".join(f"{reason} {n} ({_first(self.examples[reason], n)})" for reason, n in self.left_out.items())

    def splits(self) -> dict[str, SplitCounts]:
        """Give the counts of each split."""
        media, lengths, listed = (ids.totals() for ids in (self.media, self.lengths, self.listed))
        return {
            split: SplitCounts(
                samples=self.samples[split],
                media=int(media[tag, 0]),
                captions=self.captions[split] + int(listed[tag, 1]),
                windows=self.windows[split],
                hours=round(float(lengths[tag, 1]) / 3600, 3),
            )
            for split, tag in _TAGS.items()
        }

    def report(self, counts: Mapping[str, SplitCounts], notes: tuple[str, ...]) -> PrepareReport:
        """Give all that was counted."""
        examples = {reason: tuple(ids) for reason, ids in self.examples.items()}
        return PrepareReport(counts, dict(self.left_out), examples, notes, tuple(self.first))


def _fill(
    writer: ManifestWriter,
    rows: Iterator[Sample | LeftOut],
    tally: _Tally,
    freeze: Callable[[Sample], None],
    progress: Callable[[int], None],
) -> None:
    number = 0
    for number, row in enumerate(rows, 1):
        if isinstance(row, LeftOut):
            tally.leave_out(row)
        else:
            try:
                writer.add(row)
            except InputError:
                tally.leave_out(LeftOut(_raw_id(row), "a text that is not UTF-8, or metadata that is not JSON"))
            else:
                tally.add(row)
                freeze(row)
        if number % _PROGRESS == 0:
            progress(_PROGRESS)
    progress(number % _PROGRESS)


def _require_own_keys(source: Source, rows: Rows, tally: _Tally) -> None:
    """Raise InputError where two samples share a key; a second pass over the rows tells which."""
    if not (hashes := tally.keys.repeated()):
        return
    numbered = ((number, row) for number, row in enumerate(rows()) if isinstance(row, Sample))
    found = (
        (row.key, f"row {number} in {row.split}, {row.media.path}")
        for number, row in numbered
        if id_hash(row.key) in hashes
    )
    if repeated := _conflicts(found):
        raise InputError(
            f"expected a key of its own for every sample of all splits, found {len(hashes)} keys more than once: "
            f"{_first(repeated, len(hashes))}\n"
            f"Mend the ids in the raw dataset, or change how they are made; {_describe(source)}"
        )


def _leak(rows: Rows, tally: _Tally, options: PrepareOptions) -> tuple[str, ...]:
    """Give a note on media that lie in two splits, found by a second pass over the rows, where that is allowed."""
    if not (hashes := tally.media.under_two_tags()):
        return ()
    samples = (row for row in rows() if isinstance(row, Sample) and id_hash(row.media.id) in hashes)
    media = _conflicts((sample.media.id, sample.split) for sample in samples)
    if not media:
        return ()
    leak = f"{len(hashes)} media lie in two splits: {_first(media, len(hashes))}"
    if options.freeze_split:
        raise InputError(f"{leak}\nA split can be frozen with every media in one; leave out --freeze-split")
    if options.allow_leak:
        return (leak,)
    raise InputError(
        f"{leak}\nSplit by media with a recipe: --split RECIPE.yaml with the lines\n"
        "  ratios: {train: 0.9, val: 0.05, test: 0.05}\n  seed: 0\nor keep them so with: --allow-leak"
    )


def _conflicts(found: Iterable[tuple[str, str]]) -> list[str]:
    """Give the first names that are found in two places, with both."""
    first: dict[str, str] = {}
    conflicts: dict[str, str] = {}
    for name, place in found:
        if first.setdefault(name, place) != place:
            conflicts.setdefault(name, f"{name} ({first[name]} and {place})")
            if len(conflicts) == _SHOWN:
                break
    return list(conflicts.values())


def _publish_left_out(path: Path | Url, tally: _Tally) -> None:
    if not tally.left_out:
        path.unlink(missing_ok=True)
        return
    tally.spool.seek(0)
    with publish(path) as file:
        shutil.copyfileobj(tally.spool, file)


@contextlib.contextmanager
def _freezing(path: Path | None) -> Iterator[Callable[[Sample], None]]:
    """Write the split of the media of every sample that is given; holds the hash of each in memory."""
    if path is None:
        yield lambda _: None
        return
    seen: set[int] = set()
    with publish(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(FROZEN_HEADER)

        def freeze(sample: Sample) -> None:
            if (media := id_hash(sample.media.id)) not in seen:
                seen.add(media)
                table.writerow((sample.media.id, sample.split))

        yield freeze
        text.detach()


def _first(ids: list[str], count: int) -> str:
    return ", ".join(ids[:_SHOWN]) + (", ..." if count > len(ids[:_SHOWN]) else "")
