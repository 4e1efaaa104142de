"""Shards to training batches, through webdataset. May import `errors`, `remote`, `shard.table` and `tar`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webdataset import DataPipeline

    from embedshard.load.access import ShardDataset
    from embedshard.remote import Url

__all__ = ["load", "open"]


def load(path: str | Path | Url, split: str = "train", batch_size: int | None = None, **options: Any) -> DataPipeline:
    """Stream a split of a folder of shards, once through per iteration.

        for batch in embedshard.load("shards", split="train", batch_size=64, seq_len=16): ...

    Hand it to `torch.utils.data.DataLoader(..., batch_size=None, num_workers=k)` to read in k processes: each tar
    goes to one worker of one rank (`torch.distributed`, or RANK and WORLD_SIZE), so every sample comes exactly once.
    Every worker batches its own samples; so it is for each of them that `partial` decides about a short last batch.

    Args:
        path: A folder with tars and `splits.csv`, or the URL of one (`s3://bucket/shards`).
        split: A split named in `splits.csv`.
        batch_size: Samples a batch, or None for single samples.
        **options: The fields of `embedshard.load.pipeline.LoadOptions`.

    Returns:
        A `webdataset.DataPipeline`; `.compose(stage)` adds to it. Without `batch_size` it yields samples, dicts of
        `key` (str), `embeddings` (array (frames, dim), its stored dtype), `text` (str), `meta` (dict); with it,
        what `embedshard.load.collate.collate` returns. While iterating it raises InputError at a sample that
        lacks a piece or cannot be read, naming tar, key and field.

    Raises:
        InputError: No such folder, split or tar, or an option's value is out of range.
        TypeError: There is no option of that name.
    """
    from embedshard.load.pipeline import make_options, make_pipeline
    from embedshard.remote import place

    return make_pipeline(place(path), split, batch_size, make_options(options))


def open(path: str | Path | Url) -> ShardDataset:
    """Open a folder of shards for samples by number or key, without unpacking.

        shards = embedshard.open("shards")
        shards[7], shards["vid_000000007"], shards[10:20], shards[[3, 1]], "vid_1" in shards
        for sample in shards.split("val"): ...

    Opening reads `splits.csv` and `sizes.json`; a tar's idx is read when one of its samples is first asked for, and all
    of them with the first key. A tar without an idx has its headers read in its place; on a storage that means the
    whole tar, which is warned of.

    Args:
        path: A folder with tars and `splits.csv`, or the URL of one (`s3://bucket/shards`).

    Raises:
        InputError: No such folder or tar, or a table is damaged.
    """
    from embedshard.load.access import open_shards
    from embedshard.remote import place

    return open_shards(place(path))
