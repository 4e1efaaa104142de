"""Split recipes: which split a media belongs to, by its id. May import nothing of ours but `sample`.

A recipe is a YAML file of ratios or of list files, or the csv that `prepare --freeze-split` wrote:

    ratios: {train: 0.9, val: 0.05, test: 0.05}     lists: {train: train.txt, val: val.txt}
    seed: 0

With `way: NAME` the recipe splits what that way of the source gives, else what its first way gives.
A list has one media id a line, or is a csv with a column `media_id` or `video_id`, or a JSON list. It lies beside the
recipe (a path starts from the recipe's folder) or in the raw dataset, at most two folders deep.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from embedshard.errors import InputError
from embedshard.sample import SPLITS

__all__ = ["FROZEN_HEADER", "SplitRecipe", "read_split_recipe"]

FROZEN_HEADER = ["media_id", "split"]

Assign = Callable[[str], "str | None"]


class SplitRecipe:
    """What decides the split of a media.

    Attributes:
        way: The way of the source to split whose samples it takes, "" for the first.
    """

    def __init__(self, assign: Assign, way: str = "", listed: Collection[str] = ()) -> None:
        """Take the function from media id to split, and the ids where it knows them all."""
        self.way = way
        self._assign = assign
        self._unmet = set(listed)

    def split(self, media_id: str) -> str | None:
        """Give the split of a media; None where the recipe does not list it."""
        self._unmet.discard(media_id)
        return self._assign(media_id)

    def unmet(self) -> list[str]:
        """Give the media that the recipe lists and `split` was not asked for, in order."""
        return sorted(self._unmet)


def read_split_recipe(path: Path, root: Path) -> SplitRecipe:
    """Read a split recipe.

    Ratios hash the seed and the media id, so that a video never lands in two splits, and videos that are added
    move none of those that were there.

    Args:
        path: A `.yaml` or `.yml` recipe, or a frozen `.csv`.
        root: The raw dataset, for lists that lie there.

    Raises:
        InputError: There is no such file, or it is no recipe; names the key or line.
    """
    if not path.is_file():
        raise InputError(f"no split recipe {path}; expected a .yaml with ratios or lists, or a .csv of --freeze-split")
    if path.suffix.lower() == ".csv":
        listed = _read_frozen(path)
        return SplitRecipe(listed.get, listed=listed)
    recipe = _read_yaml(path)
    way = recipe.pop("way", "")
    if set(recipe) not in ({"ratios"}, {"ratios", "seed"}, {"lists"}) or not isinstance(way, str):
        found = ", ".join(map(str, recipe))
        raise InputError(
            f"{path}: expected the key ratios (and seed) or the key lists, and no other but way, found: {found}"
        )
    if "ratios" in recipe:
        return SplitRecipe(_by_ratio(_ratios(path, recipe["ratios"]), str(recipe.get("seed", 0))), way)
    listed = _read_lists(path, root, _by_split(path, "lists", recipe["lists"]))
    return SplitRecipe(listed.get, way, listed)


def _read_yaml(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: expected ratios: {{train: 0.9, val: 0.05, test: 0.05}}, found {recipe!r}")
    return recipe


def _by_split(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value or set(value) - set(SPLITS):
        raise InputError(f"{path}, key {key}: expected an entry for each of train, val, test, found {value!r}")
    return value


def _ratios(path: Path, value: Any) -> dict[str, float]:
    ratios = _by_split(path, "ratios", value)
    for split, ratio in ratios.items():
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise InputError(f"{path}, key ratios.{split}: expected a number from 0 to 1, found {ratio!r}")
    if not math.isclose(total := sum(ratios.values()), 1, abs_tol=1e-6):
        raise InputError(f"{path}, key ratios: expected numbers whose sum is 1, found the sum {total:g}")
    return ratios


def _by_ratio(ratios: Mapping[str, float], seed: str) -> Assign:
    borders: list[tuple[float, str]] = []
    total = 0.0
    for split in SPLITS:
        if ratios.get(split):
            total += ratios[split]
            borders.append((total, split))

    def assign(media_id: str) -> str:
        text = f"{seed}\n{media_id}".encode("utf-8", "surrogatepass")
        point = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
        return next((split for border, split in borders if point < border), borders[-1][1])

    return assign


def _read_lists(path: Path, root: Path, lists: Mapping[str, Any]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, name in lists.items():
        below = (found for depth in ("", "*/", "*/*/") for found in sorted(root.glob(depth + glob.escape(str(name)))))
        file = next(filter(Path.is_file, (path.parent / str(name), *below)), None)
        if file is None:
            raise InputError(
                f"{path}, key lists.{split}: expected the file {name} beside the recipe or in {root}, found none; "
                "it has one media id a line"
            )
        for where, media_id in _listed_ids(file):
            _put(splits, media_id, split, where)
    return splits


def _listed_ids(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the media ids of a list file and where each is written."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".json":
            found = json.loads(text)
            if not isinstance(found, list) or not all(isinstance(media_id, str | int) for media_id in found):
                raise TypeError("no list of texts")
            yield from ((f"{file}, entry {number}", str(media_id)) for number, media_id in enumerate(found))
        elif file.suffix.lower() == ".csv":
            for number, row in enumerate(csv.DictReader(io.StringIO(text)), 1):
                media_id = row["media_id"] if "media_id" in row else row["video_id"]
                if media_id is None:
                    raise ValueError(f"no id in row {number}")
                yield f"{file}, row {number}", media_id
        else:
            lines = enumerate(text.split("\n"), 1)
            yield from (
                (f"{file}, line {number}", media_id) for number, line in lines if (media_id := line.rstrip("\r"))
            )
    except (ValueError, KeyError, TypeError) as error:
        expected = "one media id a line in UTF-8, a csv with the column media_id or video_id, or a JSON list"
        raise InputError(
            f"{file}: expected {expected}, found {type(error).__name__}: {error}; save it as such"
        ) from error


def _read_frozen(path: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            if (header := next(reader, [])) != FROZEN_HEADER:
                raise InputError(f"{path}: expected the header {','.join(FROZEN_HEADER)}, found {','.join(header)!r}")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if len(row) != 2 or row[1] not in SPLITS:
                    raise InputError(f"{where}: expected a media id and train, val or test, found {','.join(row)!r}")
                _put(splits, row[0], row[1], where)
        except (csv.Error, UnicodeDecodeError) as error:
            where = f"{path}, line {reader.line_num + 1} or below"
            raise InputError(f"{where}: expected a csv in UTF-8 as --freeze-split writes it, found: {error}") from error
    return splits


def _put(splits: dict[str, str], media_id: str, split: str, where: str) -> None:
    if splits.setdefault(media_id, split) != split:
        raise InputError(f"{where}: expected every media in one split, found {media_id!r} in {splits[media_id]} too")
