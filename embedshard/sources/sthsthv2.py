"""Something-Something V2: 220847 short clips of hands that do something with something.

May import `sample` and `_read`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedshard.demo import Tree
from embedshard.errors import InputError
from embedshard.sample import LeftOut, Media, Sample, make_key
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._media import media_index
from embedshard.sources._read import MISSING_MEDIA, NO_CAPTION, entries, find, rows

__all__ = ["SthSthV2", "SthSthV2Options"]

_NAMES = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}
_UNREADABLE = "an entry without the id that it should have"


@dataclass(frozen=True)
class SthSthV2Options(Options):
    """What a sample of Something-Something V2 is."""

    as_: str = option(
        "caption",
        "the sentence of the clip, or its class: the sentence with `something`",
        ("caption", "classification"),
    )


class SthSthV2(Source):
    """Something-Something V2; the media id is the clip's number.

    `label` is a sentence as `pushing a cup`, its class the template without brackets, as `Pushing something`, which
    is what `labels.json` numbers: `label_id`. Of a test clip only the class was published, in `test-answers.csv`:
    it is the caption in both ways to read the dataset, and without that file test clips have no caption.
    """

    name = "sthsthv2"
    title = "Something-Something V2"
    homepage = "https://developer.qualcomm.com/software/ai-datasets/something-something"
    license = "see homepage"
    kind = "caption, classification"
    modality = "video"
    published_samples = {"official": {"train": 168913, "val": 24777, "test": 27157}}
    published_media = published_samples
    splits = {"official": ("train", "val", "test")}
    options = SthSthV2Options
    expects = """
something-something-v2-train.json        or train.json, here or in any folder: [{"id": "44745",
                                         "label": "pushing a cup", "template": "Pushing [something]",
                                         "placeholders": ["a cup"]}, ...]
something-something-v2-validation.json   or validation.json, val.json
something-something-v2-test.json         or test.json: [{"id": "1420"}, ...]
test-answers.csv                         optional: lines ID;CLASS, as 1420;Pushing something
something-something-v2-labels.json       or labels.json, optional: {"Pushing something": "40", ...}
20bn-something-something-v2/44745.webm   or .mp4, in any folders or archives
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the entries of train, val and test in the order of their files."""
        assert isinstance(options, SthSthV2Options)
        files = {split: path for split, names in _NAMES.items() if (path := _find(root, *names))}
        if not files:
            raise tree_error(self, root, "found no something-something-v2-train.json, -validation.json or -test.json")
        label_ids, answers = _label_ids(_find(root, "labels")), _answers(find(root, "test-answers.csv"))
        media = media_index(root, "video")
        for split, path in files.items():
            for number, row in enumerate(rows(path)):
                if isinstance(row, str) or not isinstance(row.get("id"), str | int) or not str(row["id"]):
                    yield LeftOut(f"entry {number} of {path.name}", row if isinstance(row, str) else _UNREADABLE)
                    continue
                fields = {**row, "id": str(row["id"])}
                if split == "test":
                    fields.setdefault("label", answers.get(fields["id"]))
                yield _sample(fields, split, options.as_, label_ids, media)
        yield from media.problems

    def demo(self, tree: Tree) -> None:
        """Lay out three splits, both containers, a missing clip, a blank label, and a test clip without an answer."""
        train = [
            _entry("44745", "Stuffing [something] into [something]", "pill boxes", "a bag"),
            _entry("7", "Pushing [something]", "a cup"),
            _entry("404", "Pushing [something]", "a gone cup"),
            {**_entry("8", "Pushing [something]", "nothing"), "label": " "},
        ]
        tree.json("labels/train.json", train)
        tree.json("labels/validation.json", [_entry("10", "Pushing [something] so that it [something]", "a", "falls")])
        tree.json("labels/test.json", [{"id": "1420"}, {"id": "1421"}])
        tree.text("labels/test-answers.csv", "1420;Pushing something\n")
        tree.json("labels/labels.json", {"Pushing something": "1", "Stuffing something into something": "0"})
        for name in ("44745.webm", "7.mp4", "8.webm", "10.webm", "1420.webm", "1421.webm"):
            tree.video(f"20bn-something-something-v2/{name}", name)


def _entry(clip: str, template: str, *placeholders: str) -> dict[str, Any]:
    label = template.lower()
    for placeholder in placeholders:
        label = label.replace("[something]", placeholder, 1)
    return {"id": clip, "label": label, "template": template, "placeholders": list(placeholders)}


def _find(root: Path, *names: str) -> Path | None:
    return find(root, *(f"something-something-v2-{name}.json" for name in names), *(f"{name}.json" for name in names))


def _label_ids(path: Path | None) -> dict[str, int]:
    numbers = list(entries(path, "object")) if path else []
    try:
        return {label: int(number) for label, number in numbers}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: expected the number of each class, found another value: {error}") from error


def _answers(path: Path | None) -> dict[str, str]:
    """Read the classes of test clips, lines `id;class` without a header."""
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines() if path else []
    return {clip.strip(): label.strip() for clip, _, label in (line.partition(";") for line in lines)}


def _sample(
    fields: Mapping[str, Any], split: str, way: str, label_ids: Mapping[str, int], media: Mapping[str, str]
) -> Sample | LeftOut:
    clip, label, template = fields["id"], fields.get("label"), fields.get("template")
    name: Any = template.replace("[", "").replace("]", "") if isinstance(template, str) else label
    caption = name if way == "classification" else label
    if not isinstance(caption, str):
        return LeftOut(clip, NO_CAPTION)
    if not (path := media.get(clip)):
        return LeftOut(clip, MISSING_MEDIA)
    meta = {**fields, "label_id": label_ids[name]} if name in label_ids else fields
    return Sample(make_key(clip), split, Media(clip, path, "video"), caption.strip(), meta)
