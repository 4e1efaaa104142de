"""What `embedshard.load` can be told. Imports nothing but `errors` and this room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from embedshard.errors import InputError
from embedshard.load.collate import Crop, Dtype, Tokenizer
from embedshard.load.decode import RESERVED, Captions
from embedshard.load.order import Uneven

__all__ = ["LoadOptions", "make_options"]

_CHOICES = {
    "crop": Crop,
    "dtype": Dtype,
    "captions": Captions,
    "mode": Literal["epoch", "resampled"],
    "uneven": Uneven,
    "missing": Literal["error", "drop"],
    "backend": Literal["webdataset", "native"],
}
_LEAST = {"seq_len": 1, "shuffle": 0, "seed": 0, "bucket": 1, "epoch_length": 1, "cache_size": 1}


@dataclass(frozen=True)
class LoadOptions:
    """What `embedshard.load` takes beside path, split and batch size.

    Attributes:
        seq_len: Frames a sample: longer ones are cropped, and in a batch shorter ones padded, to it. None keeps all
            frames and pads to the longest of the batch.
        crop: What is kept of a longer sample: `head`, its first frames; `uniform`, frames spread evenly over it;
            `random`, a window that follows from seed, epoch and key.
        dtype: What embeddings are cast to (`float16`, `float32`); None keeps what is stored.
        bucket: So many batches are filled from samples sorted by length, which saves padding; 1 does not sort.
        tokenizer: Makes `tokens` of the captions, as `open_clip.get_tokenizer(MODEL)` does.
        captions: `first`, the sample's own caption; `random`, one of the metadata's list `captions` that follows from
            seed, epoch and key; `all`, the list. Blank ones are passed over; without a list the own caption is it.
        fields: Metadata fields that stand in a sample under their own names, in place of all as `meta`. `()` takes
            none, and no json is read.
        missing: What is done about a sample that another model's shards lack: `error`, or `drop` it.
        shuffle: A sample comes up to so many samples earlier or later than it is read, 0 for the order on disk. So
            many are kept in memory by `webdataset`, none by `native`. Above 0 the tars are shuffled too.
        seed: Decides, with the epoch, every random choice. The epoch counts the iterations, from 0, in DataLoader
            workers too.
        mode: `epoch`, every sample once; `resampled`, tars drawn at random, without end.
        epoch_length: Samples after which an iteration of `resampled` ends, over all ranks; None for never. The next
            one goes on where it ended.
        uneven: What is done where samples do not divide by the ranks: `keep`, so that some ranks have one more;
            `drop` the rest, other samples every epoch if shuffled; `pad`, repeat the epoch's first ones.
        partial: Keep a rank's last batch that is short.
        rank: This process among `world_size`; both or neither. By default they are those of `torch.distributed`, else
            RANK and WORLD_SIZE, else SLURM_PROCID and SLURM_STEP_NUM_TASKS or SLURM_NTASKS, else one process.
        world_size: See `rank`.
        cache: A local folder for copies of the tars, checked by the size and hash in `index.json`.
        cache_size: Bytes that the cache may hold; the copies that were used longest ago go. None for no limit.
        backend: `webdataset`, a pipeline that streams tars front to back; `native`, the same batches from mapped tars,
            faster.
    """

    seq_len: int | None = None
    crop: Crop = "head"
    dtype: Dtype | None = None
    bucket: int = 1
    tokenizer: Tokenizer | None = None
    captions: Captions = "first"
    fields: tuple[str, ...] | None = None
    missing: Literal["error", "drop"] = "error"
    shuffle: int = 0
    seed: int = 0
    mode: Literal["epoch", "resampled"] = "epoch"
    epoch_length: int | None = None
    uneven: Uneven = "keep"
    partial: bool = True
    rank: int | None = None
    world_size: int | None = None
    cache: str | Path | None = None
    cache_size: int | None = None
    backend: Literal["webdataset", "native"] = "webdataset"

    def __post_init__(self) -> None:
        for name, choice in _CHOICES.items():
            value, known = getattr(self, name), get_args(choice)
            if value not in known and not (name == "dtype" and value is None):
                raise InputError(f"expected {name} to be one of {', '.join(known)}, found {value!r}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"expected {name} to be at least {least}, found {value}")
        if self.epoch_length is not None and self.mode == "epoch":
            raise InputError("epoch_length is of mode='resampled'; an epoch of mode='epoch' is the split")
        if isinstance(self.fields, str) or set(self.fields or ()) & RESERVED:
            raise InputError(
                f"expected fields to be names of metadata fields, none of them {', '.join(sorted(RESERVED))}, found "
                f"{self.fields!r}; for one field: fields=('label',)"
            )
        if self.cache_size is not None and self.cache is None:
            raise InputError("expected a folder as cache beside a cache_size; load(..., cache='/scratch/shards')")
        self._check_rank()

    def _check_rank(self) -> None:
        given = (self.rank, self.world_size)
        if given == (None, None):
            return
        if self.rank is None or self.world_size is None or not 0 <= self.rank < self.world_size:
            raise InputError(f"expected rank and world_size, 0 <= rank < world_size, found {self.rank} and {given[1]}")


def make_options(options: Mapping[str, Any]) -> LoadOptions:
    """Make `LoadOptions` of keyword arguments; an unknown name is a TypeError that lists the known ones."""
    known = [field.name for field in fields(LoadOptions)]
    unknown = ", ".join(name for name in options if name not in known)
    if unknown:
        raise TypeError(f"load() has no option {unknown}; its options are {', '.join(known)}")
    return LoadOptions(**options)
