"""How well captions fit frames, by the text tower of the model that encoded the frames. May import `clip`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedshard.encode.clip import ClipEncoder, load_tokenizer
from embedshard.processed import has_triple, read_texts, write_texts
from embedshard.sample import Sample

__all__ = ["SIMILARITY", "CaptionEncoder", "add_similarity", "caption_similarity", "cosines"]

SIMILARITY = "caption_similarity"

_DIGITS = 6


class CaptionEncoder:
    """Encodes captions by the text tower of an encoder's model, in batches of its one shape.

    Args:
        encoder: A loaded model.

    Raises:
        InputError: The model's tokenizer cannot be had.
    """

    def __init__(self, encoder: ClipEncoder) -> None:
        self._encoder = encoder
        self._tokenize = load_tokenizer(encoder.options)

    def embed(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode captions; one that is longer than the model's context is cut.

        Args:
            captions: Any number n.

        Returns:
            (n, embed_dim), not scaled.
        """
        size = self._encoder.batch_size
        batches = [captions[first : first + size] for first in range(0, len(captions), size)]
        found = [self._encoder.embed_text(self._tokenize(batch)) for batch in batches]
        return np.concatenate(found) if found else np.empty((0, self._encoder.embed_dim), np.float32)


def caption_similarity(
    encoder: CaptionEncoder, embeddings: Sequence[npt.NDArray[Any]], captions: Sequence[str]
) -> list[list[float]]:
    """Compare every frame of some clips with its clip's caption.

    Args:
        encoder: Of the model that encoded the frames.
        embeddings: (frames, embed_dim) of each clip, scaled or not.
        captions: Of each clip.

    Returns:
        For each clip the cosine of every frame and the caption, rounded to 6 digits, fit for JSON.
    """
    texts = encoder.embed(captions)
    return [
        [round(float(value), _DIGITS) for value in cosines(frames, text)]
        for frames, text in zip(embeddings, texts, strict=True)
    ]


def add_similarity(processed: Path, samples: Iterable[Sample], encoder: ClipEncoder) -> int:
    """Put the similarity into the metadata of loose triples that are without it.

    Args:
        processed: The processed dataset.
        samples: Those whose triples are looked at.
        encoder: The model that encoded their frames.

    Returns:
        How many it was put into.
    """
    captions, count = CaptionEncoder(encoder), 0
    lacking = (found for sample in samples if (found := _lacking(processed / sample.split, sample.key)))
    while batch := list(islice(lacking, encoder.batch_size)):
        arrays = [np.load(folder / f"{key}.npy") for folder, key, _, _ in batch]
        values = caption_similarity(captions, arrays, [caption for _, _, caption, _ in batch])
        for (folder, key, caption, meta), cosines_ in zip(batch, values, strict=True):
            write_texts(folder, key, caption, {**meta, SIMILARITY: cosines_})
        count += len(batch)
    return count


def _lacking(folder: Path, key: str) -> tuple[Path, str, str, dict[str, Any]] | None:
    """Give folder, key, caption and metadata of a triple that has no similarity."""
    if not has_triple(folder, key):
        return None
    caption, meta = read_texts(folder, key)
    return None if SIMILARITY in meta else (folder, key, caption, meta)


def cosines(frames: npt.NDArray[Any], text: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Give the cosine of each frame (n, embed_dim) and a text (embed_dim,); 0 where one of them is all zeros."""
    wide, one = frames.astype(np.float32), text.astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(one)
    result: npt.NDArray[np.float32] = wide @ one / np.maximum(lengths, np.finfo(np.float32).tiny)
    return result
