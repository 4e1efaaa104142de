"""Captions by a CoCa model of open_clip. May import `clip`.

open_clip's own `generate` cannot run with a current transformers, which has dropped the beam search that it takes from
there. This is the same search: its three groups of two beams do the same thrice, so one of them is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embedshard.encode.clip import ClipEncoder, load_tokenizer
from embedshard.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["Caption", "Captioner", "beam_search"]

_BEAMS = 2
_LEAST, _MOST = 5, 30  # tokens, with those of the beginning and the end
_BATCH = 32

Step = Callable[["torch.Tensor"], "torch.Tensor"]


class Caption(NamedTuple):
    """What a model says of a picture, and how sure it is: the mean of its logits, to compare pictures of one video."""

    text: str
    score: float


class Captioner:
    """A CoCa model on its device, fed batches of one fixed shape.

    Args:
        encoder: The loaded model.

    Attributes:
        batch_size: Pictures per batch.

    Raises:
        InputError: It is no CoCa model, or one of another tokenizer than CLIP's.
    """

    def __init__(self, encoder: ClipEncoder) -> None:
        name = encoder.options.model
        if not hasattr(encoder.model, "text_decoder"):
            raise InputError(
                f"--model {name} makes no captions; expected a CoCa model: coca_ViT-B-32 or coca_ViT-L-14, best with "
                "--pretrained mscoco_finetuned_laion2b_s13b_b90k"
            )
        tokenizer: Any = load_tokenizer(encoder.options)
        if not all(hasattr(tokenizer, part) for part in ("sot_token_id", "eot_token_id", "decoder")):
            raise InputError(f"--model {name}: expected a model with CLIP's tokenizer, found another one's")
        self.encoder = encoder
        self.batch_size = min(encoder.batch_size, _BATCH)
        self._tokenizer = tokenizer

    def caption(self, frames: npt.NDArray[np.uint8]) -> list[Caption]:
        """Caption pictures.

        Args:
            frames: (n, height, width, 3) RGB, shrunk, n at most `batch_size`.

        Returns:
            n captions; one may be blank.
        """
        import torch

        encoder, model = self.encoder, self.encoder.model
        batch = np.zeros((self.batch_size, *frames.shape[1:]), np.uint8)
        batch[: len(frames)] = frames
        with torch.inference_mode(), encoder.autocast():
            seen = model(encoder.preprocess.normalise(torch.from_numpy(batch).to(encoder.device)))
            latent, tokens = (seen[name].repeat_interleave(_BEAMS, dim=0) for name in ("image_features", "image_embs"))

            def step(texts: torch.Tensor) -> torch.Tensor:
                found = model(None, texts, image_latent=latent, image_embs=tokens, output_labels=False)
                logits: torch.Tensor = found["logits"][:, -1].float()
                return logits

            start = torch.full((self.batch_size * _BEAMS, 1), self._tokenizer.sot_token_id, device=encoder.device)
            found = beam_search(step, start, self._tokenizer.eot_token_id, len(frames))
        return [Caption(self._text(sequence), score) for score, sequence in found]

    def _text(self, sequence: Sequence[int]) -> str:
        text: str = self._tokenizer.decode([token for token in sequence if token != self._tokenizer.sot_token_id])
        return text.strip()


class _Ended:
    """The ended sequences of a picture, at most two, as BeamSearchScorer of transformers keeps them."""

    def __init__(self) -> None:
        self.sequences: list[tuple[float, list[int]]] = []
        self.done = False

    def add(self, total: float, length: int, sequence: list[int]) -> None:
        """Add a sequence by the sum of its logits and its length; the worst of three goes."""
        self.sequences.append((total / length, sequence))
        if len(self.sequences) > _BEAMS:
            self.sequences.remove(min(self.sequences, key=lambda found: found[0]))

    def close(self, total: float, length: int) -> None:
        """Be done where the best that goes on is no better than the worst that has ended."""
        full = len(self.sequences) == _BEAMS
        self.done |= full and min(score for score, _ in self.sequences) >= total / length


def beam_search(step: Step, start: torch.Tensor, end: int, count: int) -> list[tuple[float, list[int]]]:
    """Find a likely sequence for each picture.

    Args:
        step: Gives the logits (pictures * 2, vocabulary) of the token after sequences (pictures * 2, length).
        start: (pictures * 2, 1) their first token.
        end: Token that ends a sequence.
        count: How many pictures are looked at; the others only fill the batch.

    Returns:
        The best sequence of each, without its end, and the mean of its logits.
    """
    import torch

    sequences, pictures = start, len(start) // _BEAMS
    totals = torch.zeros((pictures, _BEAMS), device=start.device)
    totals[:, 1:] = -1e9  # the two beams begin alike; only one of them counts at first
    ended = [_Ended() for _ in range(count)]
    while not all(one.done for one in ended) and sequences.shape[1] < _MOST:
        logits, length = step(sequences), sequences.shape[1]
        if length < _LEAST:
            logits[:, end] = -torch.inf
        vocabulary = logits.shape[1]
        sums = (logits.view(pictures, _BEAMS, vocabulary) + totals[:, :, None]).flatten(1)
        values, places = sums.topk(2 * _BEAMS, dim=1)
        beams, tokens = places // vocabulary, places % vocabulary
        kept = _kept(tokens == end)
        _end(ended, values, beams, tokens == end, sequences)
        totals, beams, tokens = (part.gather(1, kept) for part in (values, beams, tokens))
        rows = (torch.arange(pictures, device=start.device)[:, None] * _BEAMS + beams).flatten()
        sequences = torch.cat([sequences[rows], tokens.flatten()[:, None]], dim=1)
    for one, sums_left, left in zip(
        ended, totals.tolist(), sequences.view(pictures, _BEAMS, -1).tolist(), strict=False
    ):
        for total, sequence in zip(sums_left, left, strict=True) if not one.done else ():
            one.add(total, len(sequence), sequence)
    return [max(one.sequences, key=lambda found: found[0]) for one in ended]


def _kept(is_end: torch.Tensor) -> torch.Tensor:
    """Give the places (pictures, 2) of the two best candidates that do not end, of (pictures, 4)."""
    order = is_end.int().argsort(dim=1, stable=True)
    return order[:, :_BEAMS]


def _end(
    ended: list[_Ended], values: torch.Tensor, beams: torch.Tensor, is_end: torch.Tensor, sequences: torch.Tensor
) -> None:
    """Note the sequences that end with one of the two best candidates."""
    length = sequences.shape[1] + 1
    for picture, (one, best, from_, ends) in enumerate(
        zip(ended, values.tolist(), beams.tolist(), is_end.tolist(), strict=False)
    ):
        if one.done:
            continue
        for rank in range(_BEAMS):
            if ends[rank]:
                one.add(best[rank], length, sequences[picture * _BEAMS + from_[rank]].tolist())
        one.close(best[0], length)
