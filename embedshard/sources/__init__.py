"""Raw datasets, one file each. May import `sample`, `address` (and `demo` for the tree that a demo writes).

To add a dataset, put one module into this folder (or into a package of your own that names it under the entry
point group `embedshard.sources`) with one subclass of `Source`. Nothing else is touched: the command line, the
README table and the conformance test find it by `all_sources`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import GenericAlias, ModuleType
from typing import Any, ClassVar

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import SPLITS, LeftOut, Sample
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, NO_CAPTION

__all__ = [
    "MISSING_MEDIA",
    "NO_CAPTION",
    "Options",
    "Source",
    "all_sources",
    "get_source",
    "media_index",
    "option",
    "published",
    "tree_error",
]


Published = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Options:
    """What a user can choose about how a source is read.

    A source with options of its own subclasses this as a frozen dataclass whose fields, of type str, int, float or
    bool, are made by `option`; they are set by `--option name=value`. Two names are the same for all sources that
    have them, and are set by `--captions` and `--as` too: `captions` (which of the captions of a media) and `as_`
    (what a sample is, where the dataset can be read in several ways).

    Attributes:
        split: Name of one of the source's `splits`.
    """

    split: str = ""


def option(default: str | float | bool, help_text: str, choices: tuple[str, ...] = ()) -> Any:
    """Make a field of a source's `Options`; `choices` are all the values it may have, () for any."""
    return field(default=default, metadata={"help": help_text, "choices": choices})


class Source(ABC):
    """A reader of one raw dataset, which reads annotations only: it opens no media and imports no torch.

    Attributes:
        name: The module's name, typed on the command line.
        title: The dataset's name as its authors write it.
        homepage: Where it is described; "" where the reader is generic.
        license: Short text; "" where the reader is generic.
        kind: What the caption is: `caption`, `classification`, ...
        modality: `video`, `image`, or both.
        published_samples: For a way to split, how many samples its authors state for each split; `prepare` says
            whether it found as many. They hold for the default options.
        published_media: The same of videos or pictures; they hold for all options.
        splits: For each way to split the dataset (the first is the default), the splits it gives.
        expects: The raw tree in a few lines, shown when something is missing.
        options: The dataclass of its options.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    homepage: ClassVar[str] = ""
    license: ClassVar[str] = ""
    kind: ClassVar[str]
    modality: ClassVar[str]
    published_samples: ClassVar[Published] = {}
    published_media: ClassVar[Published] = {}
    splits: ClassVar[Mapping[str, tuple[str, ...]]]
    expects: ClassVar[str]
    options: ClassVar[type[Options]] = Options

    @abstractmethod
    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield every row of the raw dataset, lazily and in a fixed order: a sample, or why it gives none.

        Args:
            root: The raw dataset: the folder that `expects` shows, or a file where the source takes one.
            options: An instance of the class's `options`.

        Raises:
            InputError: The tree is not what `expects` shows; made with `tree_error`.
        """

    @abstractmethod
    def demo(self, tree: Tree) -> None:
        """Lay out a few samples in the dataset's true raw form, odd rows included, with made-up content."""


def published(source: Source) -> str:
    """Give the published numbers of samples and media of a source's first way to split, "" where none are."""
    way = next(iter(source.splits), "")
    samples, media = source.published_samples.get(way), source.published_media.get(way)
    unit = "media" if "," in source.modality else f"{source.modality}s"
    if not samples or samples == media:
        return f"{_slashed(media)} {unit}" if media else ""
    return _slashed(samples) + (f" of {_slashed(media)} {unit}" if media else "")


def _slashed(counts: Mapping[str, int]) -> str:
    return " / ".join(str(counts[split]) if split in counts else "?" for split in SPLITS)


def tree_error(source: Source, root: Path, missing: str) -> InputError:
    """Give the error for a raw tree that lacks something: the expected tree beside what is there."""
    if root.is_dir():
        names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
        found = "\n".join(f"    {name}" for name in names[:12]) or "    (an empty folder)"
        found += f"\n    ... and {len(names) - 12} more" if len(names) > 12 else ""
    else:
        found = "    a file" if root.exists() else "    nothing of that name"
    expected = "\n".join(f"    {line}" for line in source.expects.strip("\n").splitlines())
    return InputError(
        f"{source.name}: {missing}\n  expected in {root}:\n{expected}\n  found:\n{found}\n"
        f"  Annotations are looked for in at most two folders below one another. "
        f"See also: embedshard sources show {source.name}"
    )


def all_sources() -> dict[str, Source]:
    """Find every source by name: those of this folder, whose names are their modules', and those of other packages."""
    sources: dict[str, Source] = {}
    own = (importlib.import_module(f"{__name__}.{name}") for name in _own_names())
    for module in (*own, *_plugged_modules()):
        for source in _sources_in(module):
            sources[source.name] = source
    return dict(sorted(sources.items()))


def get_source(name: str) -> Source:
    """Give the source of that name.

    Raises:
        InputError: There is none.
    """
    if name in _own_names():
        return next(_sources_in(importlib.import_module(f"{__name__}.{name}")))
    sources = all_sources()
    if name not in sources:
        close = difflib.get_close_matches(name, sources, n=3)
        hint = f"did you mean {' or '.join(sorted(close))}?" if close else f"expected one of: {', '.join(sources)}"
        raise InputError(f"no source {name!r}; {hint}\n  See: embedshard sources")
    return sources[name]


def _own_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def _plugged_modules() -> Iterator[ModuleType]:
    for entry in entry_points(group="embedshard.sources"):
        try:
            yield entry.load()
        except Exception as error:  # another package's fault must not take the other sources down
            warnings.warn(f"the source {entry.name} cannot be loaded from {entry.value}: {error!r}", stacklevel=2)


def _sources_in(module: ModuleType) -> Iterator[Source]:
    for value in vars(module).values():
        is_class = isinstance(value, type) and not isinstance(value, GenericAlias)  # which Python 3.10 takes for a type
        if is_class and issubclass(value, Source) and value.__module__ == module.__name__:
            yield value()
