"""Shards to training batches. May import `errors`, `remote`, `shard.table`, `shard.offsets` and `tar`.

`order` says, by arithmetic alone, which samples a worker gives in an epoch, one after another; `position` which worker
this is, which epoch, and where it stands; `tars` where the samples lie, of which `cache` keeps copies; `decode` and
`collate` make samples and batches; `join` finds other models' embeddings; `pipeline` has the two backends.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from embedshard.load.access import ShardDataset
    from embedshard.load.pipeline import NativeDataset, WebdatasetPipeline
    from embedshard.remote import Url

__all__ = ["load", "open"]


@overload
def load(
    path: str | Path | Url | Mapping[str, str | Path | Url],
    split: str = "train",
    batch_size: int | None = None,
    *,
    backend: Literal["native"],
    **options: Any,
) -> NativeDataset: ...


@overload
def load(
    path: str | Path | Url | Mapping[str, str | Path | Url],
    split: str = "train",
    batch_size: int | None = None,
    **options: Any,
) -> WebdatasetPipeline: ...


def load(
    path: str | Path | Url | Mapping[str, str | Path | Url],
    split: str = "train",
    batch_size: int | None = None,
    **options: Any,
) -> NativeDataset | WebdatasetPipeline:
    """Stream a split of a folder of shards, once through per iteration.

        for batch in embedshard.load("shards", split="train", batch_size=64, seq_len=16): ...

    Hand it to `torch.utils.data.DataLoader(..., batch_size=None, num_workers=k)` to read in k processes. Ranks, and the
    workers of a rank, share the samples evenly, however few tars there are: over all of them every sample comes exactly
    once. Only a rank's last batch may be short (`partial`). Where the number of samples is no multiple of the number of
    ranks, some ranks have one sample more, and may so have one batch more: `uneven` decides. With "drop" and "pad" all
    ranks have the same number of batches, which training in lockstep needs.

    `set_epoch`, `state_dict` and `load_state_dict` of what it returns save and resume at any batch. `len` counts the
    batches of an epoch of this rank. Ranks must be in the same epoch: where one of them iterates more often than
    others, `set_epoch` says which. Tars that neither `index.json` nor `sizes.json` counts are counted here by a pass
    over their headers, for which remote ones are fetched whole.

    Args:
        path: A folder with tars and `splits.csv`, or the URL of one (`s3://bucket/shards`). Or one for each model, as
            `{"clip": "shards-a", "siglip": "shards-b"}`: the samples of the first one, by whose texts and metadata they
            come, with the embeddings of all, joined by key.
        split: A split named in `splits.csv`.
        batch_size: Samples a batch, or None for single samples.
        **options: The fields of `embedshard.load.options.LoadOptions`.

    Returns:
        An iterable dataset; a `webdataset.DataPipeline`, whose `.compose(stage)` adds to it, unless `backend="native"`.
        Without `batch_size` it yields samples, dicts of `key` (str), `embeddings` (array (frames, dim), its stored
        dtype, or one for each model), `text` (str) and `meta` (dict); with it, what `embedshard.load.collate.collate`
        returns. While iterating it raises InputError at a sample that lacks a piece or cannot be read, naming tar,
        key and field.

    Raises:
        InputError: No such folder, split or tar, or an option's value is out of range.
        TypeError: There is no option of that name.
    """
    from embedshard.load.options import make_options

    chosen = make_options(options)
    from embedshard.load.pipeline import make_dataset

    return make_dataset(path, split, batch_size, chosen)


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
