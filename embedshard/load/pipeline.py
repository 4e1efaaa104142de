"""The two backends of `embedshard.load`. Imports webdataset and torch; of ours `errors`, `remote`, `tar`, this room.

Both give the samples in the order of `order`, through the same functions from there on, so they differ only in how they
read: `stream` reads each tar front to back and keeps what is not due yet, `pick` takes each sample from a mapped tar
when it is due.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset
from webdataset import DataPipeline

from embedshard.errors import InputError
from embedshard.load.cache import Cache
from embedshard.load.collate import Array, collate, crop_frames
from embedshard.load.decode import decode
from embedshard.load.join import Joined, shared_rows
from embedshard.load.layout import PARTS, grouped
from embedshard.load.options import LoadOptions
from embedshard.load.order import Order, cut, picks, runs
from embedshard.load.position import Position, Turn
from embedshard.load.tars import Raw, Shards, Tars, check_count, damage, find_shards
from embedshard.remote import Url, place
from embedshard.tar import read_members

__all__ = ["NativeDataset", "Resumable", "WebdatasetPipeline", "make_dataset"]

_BLOCK = 512  # samples that are looked up together


@dataclass(frozen=True)
class _Reader:
    """What reads a split.

    Attributes:
        shards: Its tars.
        sizes: Samples of each.
        kept: Of each, which of them are given; None for all.
        model: Name of the model whose embeddings these are; empty where there is only one.
        joined: Those of the other models.
        batched: Whether it gives batches, not samples.
    """

    order: Order
    options: LoadOptions
    shards: Shards
    sizes: tuple[int, ...]
    kept: tuple[npt.NDArray[np.int64], ...] | None
    model: str
    joined: Joined | None
    batched: bool

    def pick(self, turn: Turn) -> Iterator[Raw]:
        """Yield a worker's samples from mapped tars."""
        tars = Tars(self.shards, self.sizes, self.order.shuffle + self.order.window + _BLOCK)
        with contextlib.closing(tars):
            for chunk, following in _with_next(_skip(picks(self.order, turn.part, turn.epoch), self._skipped(turn))):
                tars.fetch(np.concatenate([chunk["tar"], following["tar"]]))
                for start in range(0, len(chunk), _BLOCK):
                    block = chunk[start : start + _BLOCK]
                    yield from tars.read(block["tar"], self._rows(block["tar"], block["row"]))

    def stream(self, turn: Turn) -> Iterator[Raw]:
        """Yield a worker's samples from tars that are read front to back."""
        skipped = self._skipped(turn)
        start = max(skipped - self.order.shuffle - 1, 0)  # what is read before that was given, says `picks`
        places = chain.from_iterable(chunk["place"].tolist() for chunk in picks(self.order, turn.part, turn.epoch))
        given = {at for at in islice(places, skipped) if at >= start}
        read = self._read(turn, start)
        held: dict[int, Raw] = {}
        for due in places:
            while due not in held:
                at, raw = next(read)
                if at not in given:
                    held[at] = raw
            yield held.pop(due)

    def samples(self, raws: Iterator[Raw], turn: Turn) -> Iterator[dict[str, Any]]:
        """Decode samples."""
        fields, captions = self.options.fields, self.options.captions
        seed = f"{self.options.seed} {turn.epoch}"
        for raw in raws:
            sample = decode(raw.tar, raw.key, raw.parts, fields, captions, seed)
            if self.joined:
                sample["embeddings"] = {self.model: sample["embeddings"], **self.joined.arrays(raw)}
            yield sample

    def batches(self, samples: Iterator[dict[str, Any]], turn: Turn) -> Iterator[dict[str, Any]]:
        """Make batches of samples, the first ones but those that are skipped; finish samples that are not batched."""
        order, options = self.order, self.options
        if not self.batched:
            yield from map(partial(_finish, options, f"{options.seed} {turn.epoch}"), samples)
            return
        number, skip = divmod(turn.skip, order.bucket)
        make = partial(collate, seq_len=options.seq_len, crop=options.crop, dtype=options.dtype)
        while window := list(islice(samples, order.window)):
            lengths = [len(_any(sample["embeddings"])) for sample in window] if order.bucket > 1 else [0] * len(window)
            for batch in cut(order, turn.part, turn.epoch, number, lengths)[skip:]:
                chosen = [window[row] for row in batch.tolist()]
                yield make(chosen, seed=f"{options.seed} {turn.epoch}", tokenizer=options.tokenizer)
            number, skip = number + 1, 0

    def _skipped(self, turn: Turn) -> int:
        """Count the samples of the windows that are skipped as a whole."""
        return turn.skip // self.order.bucket * self.order.window

    def _rows(self, tars: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Give the samples' numbers in their tars, of their numbers among those that are kept."""
        if self.kept is None:
            return rows
        return np.array([self.kept[tar][row] for tar, row in zip(tars.tolist(), rows.tolist(), strict=True)], np.int64)

    def _read(self, turn: Turn, start: int) -> Iterator[tuple[int, Raw]]:
        """Yield the place and the content of every sample from a place on, in reading order."""
        for run in runs(self.order, turn.part, turn.epoch):
            if run.place + run.last - run.first > start:
                rows = range(run.first, run.last) if self.kept is None else self.kept[run.tar][run.first : run.last]
                places = {int(row): at for at, row in enumerate(rows, run.place)}
                yield from ((places[raw.row], raw) for raw in self._read_tar(run.tar, places))

    def _read_tar(self, number: int, rows: Collection[int]) -> Iterator[Raw]:
        """Yield some samples of a tar, the last one when it is known that the tar goes on, or ends, as it should."""
        name, size, last, found = str(self.shards.tars[number]), self.sizes[number], max(rows), 0
        waiting: list[Raw] = []
        with damage(name), self.shards.open(number) as file:
            for row, (key, parts) in enumerate(grouped(read_members(file))):
                found = row + 1
                if row > last:
                    break
                if row in rows:
                    yield from waiting
                    needed = {part: data for part, data in parts.items() if part in PARTS}
                    waiting = [Raw(name, number, row, key, needed)]
            if found <= last or last == size - 1:
                check_count(name, size, found)
            yield from waiting


class Resumable:
    """What the datasets of both backends can do beside being iterated over."""

    _position: Position

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one; after it they count on."""
        self._position.set_epoch(epoch)

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Give where this rank stands, as plain values; `load_state_dict` goes on with the very next batch.

        Args:
            batches: Batches of this epoch that were taken (samples, without a batch size), those before a resume
                included. Needed where a plain DataLoader reads in workers, which are ahead of what was taken.
                torchdata's StatefulDataLoader counts by itself.

        Raises:
            InputError: `batches` is needed.
        """
        return self._position.state(batches)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, in the next iteration, where `state_dict` was asked: one epoch's rest, then the following ones.

        Any rank's state is that of all. As many ranks and workers must read as did.

        Raises:
            InputError: The state is of other shards or options, or of other numbers of ranks (or, when the iteration
                begins, of workers).
        """
        self._position.resume(state)


class NativeDataset(Resumable, IterableDataset[dict[str, Any]]):
    """Batches, or samples, from mapped tars."""

    def __init__(self, reader: _Reader, position: Position) -> None:
        self._reader, self._position = reader, position

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._position.rewind()
        return self._iterate()

    def __len__(self) -> int:
        return self._position.batches()

    def _iterate(self) -> Iterator[dict[str, Any]]:
        turn = self._position.begin()
        samples = self._reader.samples(self._reader.pick(turn), turn)
        yield from self._position.counted(self._reader.batches(samples, turn))


class WebdatasetPipeline(Resumable, DataPipeline):  # type: ignore[misc]
    """Batches, or samples, as a webdataset pipeline, to which `.compose(stage)` adds."""

    def __init__(self, reader: _Reader, position: Position) -> None:
        self._position = position
        stages = _Stages(reader, position)
        super().__init__(stages.read, stages.decode, stages.batch)

    def __iter__(self) -> Iterator[Any]:
        self._position.rewind()
        return iter(super().__iter__())

    def __len__(self) -> int:
        if len(self.pipeline) > 3 or self.repetitions != 1:
            raise TypeError("the length of a pipeline with more stages is not known; .with_length(n) gives it one")
        return self._position.batches()


class _Stages:
    """The stages of a pipeline, which all its copies share."""

    def __init__(self, reader: _Reader, position: Position) -> None:
        self._reader, self._position = reader, position

    def read(self) -> Iterator[Raw]:
        return self._reader.stream(self._position.begin())

    def decode(self, raws: Iterator[Raw]) -> Iterator[dict[str, Any]]:
        return self._reader.samples(raws, self._position.current())

    def batch(self, samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        return self._position.counted(self._reader.batches(samples, self._position.current()))


def make_dataset(
    path: str | Path | Url | Mapping[str, str | Path | Url], split: str, batch_size: int | None, options: LoadOptions
) -> NativeDataset | WebdatasetPipeline:
    """Make the dataset that `embedshard.load` describes."""
    if batch_size is not None and batch_size < 1:
        raise InputError(f"expected a batch_size of at least 1, or None for single samples, found {batch_size}")
    if batch_size is None and options.bucket > 1:
        raise InputError(f"expected a batch_size beside bucket={options.bucket}, found None")
    cache = Cache(Path(options.cache), options.cache_size) if options.cache is not None else None
    folders = dict(path) if isinstance(path, Mapping) else {"": path}
    if not folders:
        raise InputError("expected the folder of each model, as {'clip': 'shards-a', 'siglip': 'shards-b'}, found none")
    (model, shards), *others = ((model, find_shards(place(folder), split, cache)) for model, folder in folders.items())
    sizes = shards.counts()
    kept = shared_rows(shards, dict(others)) if others and options.missing == "drop" else None
    order = Order(
        tuple(map(len, kept)) if kept else sizes,
        batch_size or 1,
        options.bucket,
        options.shuffle,
        options.seed,
        options.uneven,
        options.partial,
        options.mode == "resampled",
        options.epoch_length,
    )
    if order.resampled and not sum(order.counts):
        raise InputError(f"expected samples to draw from in the split {split}, found none")
    joined = Joined(dict(others), {name: other.counts() for name, other in others}) if others else None
    reader = _Reader(order, options, shards, sizes, kept, model, joined, batch_size is not None)
    kind = NativeDataset if options.backend == "native" else WebdatasetPipeline
    return kind(reader, Position(order, shards.identity, options.rank, options.world_size))


def _skip(chunks: Iterator[Array], count: int) -> Iterator[Array]:
    """Leave out the first samples of some chunks."""
    for chunk in chunks:
        yield chunk[count:]
        count = max(count - len(chunk), 0)


def _with_next(chunks: Iterator[Array]) -> Iterator[tuple[Array, Array]]:
    """Yield each chunk that is not empty, with the next such one; the last with an empty one."""
    last: Array | None = None
    for chunk in filter(len, chunks):
        if last is not None:
            yield last, chunk
        last = chunk
    if last is not None:
        yield last, last[:0]


def _any(embeddings: Array | dict[str, Array]) -> Array:
    """Give a sample's embeddings, the first model's where there are several."""
    return next(iter(embeddings.values())) if isinstance(embeddings, dict) else embeddings


def _finish(options: LoadOptions, seed: str, sample: dict[str, Any]) -> dict[str, Any]:
    """Crop the embeddings of a sample, and copy them."""

    def finish(array: Array) -> Array:
        frames = crop_frames(array, options.seq_len, options.crop, f"{seed} {sample['key']}")
        return np.array(frames, options.dtype)

    found = sample["embeddings"]
    copied = {name: finish(array) for name, array in found.items()} if isinstance(found, dict) else finish(found)
    return sample | {"embeddings": copied}
