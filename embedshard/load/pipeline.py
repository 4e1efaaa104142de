"""The pipeline behind `embedshard.load`. Imports webdataset and torch at use; of ours `errors` and `shard`."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from embedshard.errors import InputError
from embedshard.load.collate import Crop, Tokenizer, collate, crop_frames
from embedshard.load.decode import decode
from embedshard.remote import RemoteError, Url, place
from embedshard.shard.table import read_splits
from embedshard.tar import read_members

if TYPE_CHECKING:
    from webdataset import DataPipeline

__all__ = ["LoadOptions", "make_options", "make_pipeline"]

_MOST_WORKERS = 1024


@dataclass(frozen=True)
class LoadOptions:
    """What `embedshard.load` takes beside path, split and batch size.

    Attributes:
        seq_len: Frames a sample: longer ones are cropped, and in a batch shorter ones padded, to it. None keeps all
            frames and pads to the longest of the batch.
        crop: What is kept of a longer sample: `head`, its first frames; `uniform`, frames spread evenly over it;
            `random`, a window that follows from seed, epoch and key.
        tokenizer: Makes a batch's `tokens` of its captions.
        shuffle: Size of the buffer that samples are drawn from at random, 0 for the order on disk. Above 0 the tars
            are shuffled too.
        seed: Decides, with the epoch, every random choice. The epoch counts the iterations over the pipeline, from
            0, in DataLoader workers too.
        partial: Keep a last batch that is short.
    """

    seq_len: int | None = None
    crop: Crop = "head"
    tokenizer: Tokenizer | None = None
    shuffle: int = 0
    seed: int = 0
    partial: bool = True

    def __post_init__(self) -> None:
        if self.seq_len is not None and self.seq_len < 1:
            raise InputError(f"expected a seq_len of at least 1, or None for all frames, found {self.seq_len}")
        if self.crop not in get_args(Crop):
            raise InputError(f"expected crop to be one of {', '.join(get_args(Crop))}, found {self.crop!r}")
        if self.shuffle < 0:
            raise InputError(f"expected a shuffle buffer of 0 or more samples, found {self.shuffle}")


def make_options(options: Mapping[str, Any]) -> LoadOptions:
    """Make `LoadOptions` of keyword arguments; an unknown name is a TypeError that lists the known ones."""
    known = [field.name for field in fields(LoadOptions)]
    unknown = ", ".join(name for name in options if name not in known)
    if unknown:
        raise TypeError(f"load() has no option {unknown}; its options are {', '.join(known)}")
    return LoadOptions(**options)


def make_pipeline(folder: Path | Url, split: str, batch_size: int | None, options: LoadOptions) -> DataPipeline:
    """Make the pipeline that `embedshard.load` describes."""
    import webdataset as wds

    if batch_size is not None and batch_size < 1:
        raise InputError(f"expected a batch_size of at least 1, or None for single samples, found {batch_size}")
    pipeline = wds.DataPipeline(
        wds.SimpleShardList(_find_tars(folder, split)),
        wds.split_by_node,
        wds.split_by_worker,
        _Reader(options),
    )
    if batch_size is None:
        return pipeline
    make_batch = partial(collate, seq_len=options.seq_len, tokenizer=options.tokenizer)
    return pipeline.compose(wds.batched(batch_size, collation_fn=make_batch, partial=options.partial))


def _find_tars(folder: Path | Url, split: str) -> list[str]:
    splits = read_splits(folder)
    if split not in splits:
        raise InputError(f"{folder} has no split {split!r}; load one of: {', '.join(splits) or '(it has none)'}")
    tars = [folder.absolute() / name for name in splits[split]]
    there = {path.name for path in folder.iterdir()}
    missing = [tar.name for tar in tars if tar.name not in there]
    if missing:
        raise InputError(
            f"{folder}: expected the {len(tars)} tars that splits.csv names for {split}, found "
            f"{len(tars) - len(missing)}; fetch or pack again: {', '.join(missing[:8])}"
        )
    return [str(tar) for tar in tars]


class _Reader:
    """Stage from this worker's tars to its samples. Its only state is how often it has run: the epoch.

    A DataLoader copies the pipeline into its workers, by default anew for every epoch, so the counts lie in memory
    that all copies share: one for each worker's number, the last for a process that is no worker.
    """

    def __init__(self, options: LoadOptions) -> None:
        import torch

        self.options = options
        self.epochs = torch.zeros(_MOST_WORKERS + 1, dtype=torch.int64)
        self.epochs.share_memory_()  # type: ignore[no-untyped-call]

    def __call__(self, tars: Iterable[Mapping[str, str]]) -> Iterator[dict[str, Any]]:
        import webdataset as wds

        # The tars are this worker's before the epoch orders them: should workers ever disagree about the epoch, say
        # after a loop was left early, each sample still comes once.
        paths = [tar["url"] for tar in tars]
        seed = f"{self.options.seed} {self._next_epoch()}"
        buffer = self.options.shuffle
        if not buffer:
            return self._samples(paths, seed)
        rng = random.Random(seed)
        rng.shuffle(paths)
        shuffled: Iterator[dict[str, Any]] = wds.shuffle(buffer, initial=buffer, rng=rng)(self._samples(paths, seed))
        return shuffled

    def _next_epoch(self) -> int:
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        slot = -1 if worker is None else worker.id
        epoch = int(self.epochs[slot])
        self.epochs[slot] += 1
        return epoch

    def _samples(self, paths: Iterable[str], seed: str) -> Iterator[dict[str, Any]]:
        for path in paths:
            for key, parts in _read_tar(path):
                sample = decode(path, key, parts)
                frames = crop_frames(sample["embeddings"], self.options.seq_len, self.options.crop, f"{seed} {key}")
                yield sample | {"embeddings": frames}


def _read_tar(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key and the parts of each sample; key and field are what webdataset takes a name for."""
    from webdataset.tariterators import base_plus_ext

    try:
        with place(path).open("rb") as file:
            members = ((*base_plus_ext(name), data) for name, data in read_members(file))
            for key, group in groupby((member for member in members if member[0]), itemgetter(0)):
                parts: dict[str, bytes] = {}
                for _, field, data in group:
                    if field.lower() in parts:
                        raise ValueError(f"two members {key}.{field}")
                    parts[field.lower()] = data
                yield key, parts
    except RemoteError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected a whole tar of triples, found it damaged ({error}); fetch it again, or pack it again "
            "with: embedshard shard"
        ) from error
