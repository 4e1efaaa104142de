"""What goes into which tar: counts in, tars out; nothing here reads or writes. May import `sample`, `errors`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from embedshard.errors import InputError
from embedshard.sample import SPLITS, is_key, make_key

__all__ = ["ShardOptions", "Tar", "order_of", "plan_tars", "triple_key"]

_LEAST_DIGITS = 5


@dataclass(frozen=True)
class ShardOptions:
    """How triples are sharded.

    Attributes:
        maxcount: Most samples of a tar.
        key_format: New keys, numbered from 0 over all splits, as `vid_{index:09d}`; None keeps the keys.
        shuffle: Mix the samples of a split, the same way every time; else they are sorted by key.
        seed: Another seed, another mix.
        name: The tars are `<name>_00000.tar` and so on.
        workers: How many tars are packed at once; changes no byte.
        overwrite: Remove the shards of another plan from the output folder.
        append: Add what the tars of the output folder do not hold yet as new tars behind them.
        allow_leak: Append media that are in another split of the tars already.

    Raises:
        InputError: A value makes no sense.
    """

    maxcount: int = 10000
    key_format: str | None = None
    shuffle: bool = True
    seed: int = 0
    name: str = "ds"
    workers: int = 1
    overwrite: bool = False
    append: bool = False
    allow_leak: bool = False

    def __post_init__(self) -> None:
        if self.maxcount < 1:
            raise InputError(f"expected a maxcount of at least 1, found {self.maxcount}; usual is 10000")
        if not is_key(self.name):
            raise InputError(f"expected a tar name of letters, digits, _ and -, found {self.name!r}; usual is ds")
        if self.append and self.overwrite:
            raise InputError(
                "expected --append or --overwrite, found both; the first keeps tars that the other removes"
            )
        if self.key_format is not None and not _gives_keys(self.key_format):
            raise InputError(
                "expected a key format with {index} that gives keys of at most 80 letters, digits, _ and -, "
                f"found {self.key_format!r}; try: --key-format 'vid_{{index:09d}}'"
            )


@dataclass(frozen=True)
class Tar:
    """One planned tar: `count` samples of `split`, the first of them number `first` over all splits."""

    name: str
    split: str
    first: int
    count: int


def plan_tars(counts: Mapping[str, int], options: ShardOptions, tars: int = 0, samples: int = 0) -> list[Tar]:
    """Cut each split into tars: all full but its last, none empty, numbers running on over train, val, test.

    Args:
        counts: Samples of each split.
        options: `maxcount` and `name` count.
        tars: How many there are already.
        samples: How many those hold.
    """
    cuts, first = [], samples
    for split in SPLITS:
        left = counts.get(split, 0)
        while left:
            count = min(left, options.maxcount)
            cuts.append((split, first, count))
            first, left = first + count, left - count
    digits = max(_LEAST_DIGITS, len(str(tars + len(cuts) - 1)))
    return [Tar(f"{options.name}_{number:0{digits}d}.tar", *cut) for number, cut in enumerate(cuts, tars)]


def order_of(stem: str, options: ShardOptions) -> str:
    """Give the text that a split's samples are sorted by."""
    key = triple_key(stem)
    if not options.shuffle:
        return key
    return hashlib.blake2b(f"{options.seed}/{key}".encode(), digest_size=16).hexdigest() + key


def triple_key(stem: str) -> str:
    """Give the key of a triple from the stem of its files: the stem itself unless it is no safe key."""
    return stem if is_key(stem) else make_key(stem)


def _gives_keys(key_format: str) -> bool:
    try:
        keys = [key_format.format(index=index) for index in (0, 1, 10**9)]
    except (LookupError, ValueError, AttributeError, TypeError):
        return False
    return len(set(keys)) == len(keys) and all(map(is_key, keys))
