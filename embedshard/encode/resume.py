"""Triples that are there already: are they the manifest's, and up to date?

A key alone does not tell: a manifest may have new captions or splits, other windows, or be of another dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedshard.errors import InputError
from embedshard.manifest import Manifest
from embedshard.processed import (
    DatasetInfo,
    count_triples,
    has_triple,
    move_triple,
    read_info,
    read_texts,
    remove_triple,
    require_same_setting,
    write_info,
    write_texts,
)
from embedshard.sample import SPLITS, Sample

__all__ = ["OWN_FIELDS", "claim", "dataset_fields", "take_over"]

OWN_FIELDS = (
    "key", "source", "split", "media", "media_id", "start", "end", "duration", "frame_times", "encoder", "warnings",
    "caption_similarity",
)  # fmt: skip


def claim(processed: Path, manifest: Manifest, wanted: DatasetInfo, moved: bool) -> DatasetInfo:
    """Write `dataset.json`, or check that the folder was begun with the same setting on the same raw dataset.

    Args:
        processed: The folder.
        manifest: What is to be encoded into it.
        wanted: What its `dataset.json` would be.
        moved: Whether the user says that the raw tree has moved.

    Returns:
        What `dataset.json` says; its `manifest` is `wanted.manifest` if the triples are known to agree with that.

    Raises:
        InputError: The setting or the raw dataset is another one, or the folder is not embedshard's.
    """
    before = read_info(processed)
    if before is None:
        if count_triples(processed):
            raise InputError(
                f"{processed} holds triples but no dataset.json that says how they were made; give another folder"
            )
        manifest.validate()
        write_info(processed, wanted)
        return wanted
    if before.units:
        raise InputError(f"{processed} holds parts; go on with: --layout parts")
    require_same_setting(processed, before.encoder, wanted.encoder)
    other_root = before.root != wanted.root and not moved
    if other_root or before.source.get("name") != wanted.source["name"]:
        raise InputError(
            f"{processed} was begun with the raw dataset {before.source.get('name')} in {before.root}, the manifest is "
            f"of {wanted.source['name']} in {wanted.root}\n  Give another folder; if it is the same dataset in a new "
            f"place, add: --media-root {wanted.root}"
        )
    if before.manifest != wanted.manifest:
        manifest.validate()
    return before


def take_over(processed: Path, sample: Sample) -> bool:
    """Tell whether there is a triple of a sample's own clip, and bring its caption, metadata and split up to date.

    A triple of that key that is of another clip is removed.
    """
    for split in dict.fromkeys((sample.split, *SPLITS)):
        if not has_triple(processed / split, sample.key):
            continue
        caption, meta = read_texts(processed / split, sample.key)
        if not _is_clip(meta, sample):
            remove_triple(processed / split, sample.key)
            continue
        own = {name: meta[name] for name in OWN_FIELDS if name in meta}
        if caption != sample.caption:
            own.pop("caption_similarity", None)  # of the old one
        current = {**dataset_fields(sample), **own, "split": sample.split, "media_id": sample.media.id}
        if (caption, meta) != (sample.caption, current):
            write_texts(processed / sample.split, sample.key, sample.caption, current)
        if split != sample.split:
            move_triple(processed / split, sample.key, processed / sample.split)
        return True
    return False


def dataset_fields(sample: Sample) -> dict[str, Any]:
    """Give the dataset's own fields, as `raw_<name>` where the name is one of ours."""
    return {f"raw_{name}" if name in OWN_FIELDS else name: value for name, value in sample.meta.items()}


def _is_clip(meta: Mapping[str, Any], sample: Sample) -> bool:
    """Compare media, window and what decides the times; the stored end is clamped to the media's duration."""
    media, duration = sample.media, meta.get("duration")
    if meta.get("media") != media.path:
        return False
    if media.kind == "frames" and meta.get("frame_rate") != sample.meta.get("frame_rate"):
        return False
    if duration is None:
        return media.kind == "image"
    end = duration if media.end is None else min(media.end, duration)
    return bool(meta.get("start") == float(media.start or 0.0) and abs(meta.get("end", -1.0) - end) < 1e-5)
