"""M3IT: forty datasets of pictures written as instructions, the pictures in base64.

May import `sample`, `_read` and `_captions`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from embedshard.address import member_address
from embedshard.demo import Tree, image_bytes
from embedshard.errors import InputError
from embedshard.sample import LeftOut, Media, Sample, split_name
from embedshard.sources import Options, Source, option, tree_error
from embedshard.sources._captions import CaptionsOptions, answered, caption_samples
from embedshard.sources._read import media_root, relative, walk, with_id

__all__ = ["M3IT", "M3ITOptions"]

_ALL = "all"
_UNREADABLE = "a line that is no JSON object"
_NO_PICTURE = "a row without a picture"
_INPUTS = ("inputs", "input", "question")
_OUTPUTS = ("outputs", "output", "paraphrased_answer", "answer", "caption", "response", "sentences", "targets")
_PICTURE = re.compile(rb'"(?:data:[^",]{1,99},)?([A-Za-z0-9+/_-]{200}|(?:\\/|[A-Za-z0-9+_-]){200})')
_WORD = re.compile("[._-]")


@dataclass(frozen=True)
class M3ITOptions(CaptionsOptions):
    """Which sets of M3IT are read, and what the caption is."""

    task: str = option(_ALL, "which sets, by a part of their path: `captioning`, `coco`, `vqa/okvqa/train`, or all")
    as_: str = option("caption", "the output alone, or input and output", ("caption", "qa"))


class M3IT(Source):
    """M3IT; a row is its own media, whose id is the path of its file below `data` and the number of its line.

    The sets name their fields differently, so a picture is whatever text looks like base64, and inputs and outputs
    are found under the names of all sets. Of several pictures the first is the media, and `images` tells how many
    there are: the pictures of a story, or the frames of a video. Several outputs, as the captions of COCO, are
    captions of one picture. A picture that several rows repeat is decoded for each; pictures are read where they lie.

    Rows have no `instruction` where the authors' own reader draws one at random from `instructions.json`. Every file
    is read, so `train_2023-10-08.jsonl` beside the `train.jsonl` that it words anew says its rows twice; `--option
    task=...` tells which is meant.
    """

    name = "m3it"
    title = "M3IT"
    homepage = "https://huggingface.co/datasets/MMInstruction/M3IT"
    license = "that of each set, see homepage"
    kind = "caption, classification, open question"
    modality = "image"
    splits = {"official": ("train", "val", "test")}
    options = M3ITOptions
    expects = """
data/captioning/coco/train.jsonl             any .jsonl with train, val, validation or test in its name, in any folders,
data/vqa/st-vqa/st_vqa_validation.jsonl      one row a line, such as: {"instruction": "...", "inputs": "...",
                                             "outputs": "...", "image_base64_str": ["/9j/4AAQ..."]}
                                             pictures may be one text or a list, under any name, and in "meta"
"""

    def samples(self, root: Path, options: Options) -> Iterator[Sample | LeftOut]:
        """Yield the rows of all files in the order of their paths."""
        assert isinstance(options, M3ITOptions)
        files = sorted(_files(root))
        if not files:
            raise tree_error(self, root, "found no train.jsonl, val.jsonl or test.jsonl")
        wanted = options.task.strip("/")
        chosen = [file for file in files if wanted == _ALL or f"/{wanted}/" in f"/{file.name}/"]
        if not chosen:
            names = ", ".join(file.name for file in files)
            raise InputError(f"{self.name}: no task {options.task!r}; expected {_ALL}, or a part of: {names}")
        for file in chosen:
            address = relative(str(file.path), str(media_root(root)))
            for raw_id, row, pictures in _rows(file):
                if row is None or not pictures:
                    yield LeftOut(raw_id, _UNREADABLE if row is None else _NO_PICTURE)
                else:
                    path = member_address(address, f"{raw_id}.jpg", *pictures[0], "base64")
                    yield from _samples(raw_id, Media(raw_id, path, "image"), row, len(pictures), file, options)

    def demo(self, tree: Tree) -> None:
        """Lay out sets with their own field names, a rewritten one, a story, and rows that give no sample."""
        ask, answer = {"instruction": "Answer the question.", "inputs": "What flies?"}, {"outputs": "A kite."}
        sets: dict[str, list[dict[str, Any]]] = {
            "captioning/coco/train": [
                {"image": _base64("dog"), "meta": {"targets": ["A dog runs. ", "A brown dog."], "img_id": "1"}}
            ],
            "classification/imagenet/test_2023-10-08": [
                {"answer": "It is a tench.", "meta": {**ask, "outputs": "tench", "image_base64_str": [_base64("fish")]}}
            ],
            "generation/vist/val": [{"images": [_base64("1"), _base64("2")], "sentences": ["A boy came.", "He left."]}],
            "vqa/viquae/train": [
                {**ask, **answer, "image_base64_str": [_base64("kite", ".png")], "meta_data": {"source": "demo"}},
                {**ask, **answer, "image_base64_str": []},
                {**ask, "outputs": " ", "image_base64_str": _base64("nothing")},
            ],
            "vqa/vqav2/vqa_validation": [
                {"input": "几个人?", "output": "两个", "img_str": f"data:image/gif;base64,{_base64('two', '.gif')}"}
            ],
        }
        for name, table in sets.items():
            tree.text(f"data/{name}.jsonl", "".join(f"{json.dumps(row)}\n" for row in table))
        tree.text("data/vqa/shapes/train.large.jsonl", '{"question": "cut off\n')
        tree.json("data/vqa/shapes/instructions.json", ["Answer the question.", "Look and answer."])


class _File(NamedTuple):
    name: str
    split: str
    path: Path


def _base64(label: str, extension: str = ".jpg") -> str:
    return base64.b64encode(image_bytes(label, extension)).decode()


def _files(root: Path) -> Iterator[_File]:
    """Find the files of rows; the name of one is its path below `data`, without extension."""
    places = ((folder, name) for folder, _, names in walk(root) for name in names) if root.is_dir() else ()
    for folder, name in [("", root.name)] if root.is_file() else places:
        stem, _, extension = name.rpartition(".")
        split = next(filter(None, map(split_name, _WORD.split(stem))), "")
        if extension == "jsonl" and split:
            below = f"/{folder}".rpartition("/data/")[2].lstrip("/")
            yield _File(f"{below}{stem}", split, media_root(root) / folder / name)


def _rows(file: _File) -> Iterator[tuple[str, dict[str, Any] | None, list[tuple[int, int]]]]:
    """Yield id, fields and the places of the pictures of each row; the fields have None for a picture."""
    start = 0
    with file.path.open("rb") as lines:
        for number, line in enumerate(lines):
            pictures, rest = _cut(line)
            try:
                row = json.loads(rest)
            except (ValueError, RecursionError):
                row = None
            if not rest.isspace():
                places = [(start + begin, end - begin) for begin, end in pictures]
                yield f"{file.name}-{number}", row if isinstance(row, dict) else None, places
            start += len(line)


def _cut(line: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """Give where the base64 texts of a line begin and end, and the line with null in their places.

    So the pictures, nearly all of a line, are neither parsed nor copied.
    """
    pictures, rest, done = [], [], 0
    while match := _PICTURE.search(line, done):
        end = line.find(b'"', match.end())
        if end < 0:
            break
        pictures.append((match.start(1), end))
        rest += [line[done : match.start()], b"null"]
        done = end + 1
    return pictures, b"".join([*rest, line[done:]])


def _samples(
    raw_id: str, media: Media, row: Mapping[str, Any], images: int, file: _File, options: M3ITOptions
) -> Iterator[Sample | LeftOut]:
    inner = meta if isinstance(meta := row.get("meta"), dict) else {}
    inputs, outputs = _value(_INPUTS, row, inner), _value(_OUTPUTS, row, inner)
    captions = outputs if isinstance(outputs, list) else [outputs]
    if options.as_ == "qa" and isinstance(inputs, str):
        captions = [answered(inputs, text) for text in captions if isinstance(text, str) and text.strip()]
    fields = {**inner, **row, "inputs": inputs, "task": file.path.parent.name, "images": images}
    kept = {name: value for name, value in fields.items() if value is not inner and not _is_picture(value)}
    yield from caption_samples(raw_id, file.split, media, captions, options.captions, with_id(kept, raw_id))


def _is_picture(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(item is None for item in value))


def _value(names: tuple[str, ...], *places: Mapping[str, Any]) -> Any:
    """Give what the first of these names has that is not empty."""
    return next((value for place in places for name in names if (value := place.get(name))), None)
