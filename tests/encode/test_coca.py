from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import open_clip
import pytest
import torch

from embedshard.encode.clip import ModelOptions, load_encoder
from embedshard.encode.coca import Captioner, beam_search
from embedshard.errors import InputError
from tests.conftest import save_random_coca

END = 3


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def load(folder, **more) -> Captioner:
    return Captioner(load_encoder(ModelOptions(str(folder), device="cpu", **{"batch_size": 4, **more})))


@pytest.fixture(scope="module")
def captioner(tiny_coca) -> Captioner:
    return load(tiny_coca)


def texts(captioner: Captioner, shown: np.ndarray) -> list[str]:
    return [caption.text for caption in captioner.caption(shown)]


def textbook(captioner: Captioner, frame: np.ndarray) -> tuple[str, float]:
    """Search as BeamSearchScorer does with two beams, one picture and one sequence at a time."""
    model, decode = captioner.encoder.model, open_clip.get_tokenizer("ViT-B-32").decode
    pixels = captioner.encoder.preprocess.normalise(torch.from_numpy(frame[None]))

    def logits(sequence: Sequence[int]) -> torch.Tensor:
        return model(pixels, torch.tensor([sequence]), output_labels=False)["logits"][0, -1]

    with torch.inference_mode():
        open_, ended = [(0.0, [49406])], []
        while len(open_[0][1]) < 30:
            found = []
            for total, sequence in open_:
                values, tokens = logits(sequence).topk(5)
                found += [
                    (total + value, [*sequence, token])
                    for value, token in zip(values.tolist(), tokens.tolist(), strict=True)
                    if token != 49407 or len(sequence) >= 5
                ]
            found.sort(reverse=True)
            length = len(found[0][1])
            ended += [(total / length, s[:-1]) for total, s in found[:2] if s[-1] == 49407]
            ended = sorted(ended, reverse=True)[:2]
            if len(ended) == 2 and ended[1][0] >= found[0][0] / length:
                break
            open_ = [(total, s) for total, s in found[:4] if s[-1] != 49407][:2]
        else:
            ended += [(total / 30, sequence) for total, sequence in open_]
    score, sequence = max(ended)
    return decode(sequence[1:]).strip(), score


@pytest.mark.parametrize("seed", range(3))
def test_captions_are_those_of_a_textbook_search(tmp_path, seed):
    save_random_coca(tmp_path, seed)
    captioner, shown = load(tmp_path), frames(4, seed)
    found = captioner.caption(shown)
    expected = [textbook(captioner, frame) for frame in shown]
    assert [caption.text for caption in found] == [text for text, _ in expected]
    assert [caption.score for caption in found] == pytest.approx([score for _, score in expected], abs=1e-4)
    assert all(caption.text for caption in found)


def test_captions_are_those_of_open_clips_generate(captioner):
    if not open_clip.coca_model._has_transformers:
        pytest.skip("open_clip's generate needs transformers below 4.57")
    shown = frames(4)
    with torch.inference_mode():
        generated = captioner.encoder.model.generate(
            captioner.encoder.preprocess.normalise(torch.from_numpy(shown)).to(captioner.encoder.device)
        )
    expected = [open_clip.decode(one).split("<end_of_text>")[0].removeprefix("<start_of_text>") for one in generated]
    assert texts(captioner, shown) == [text.strip() for text in expected]


def test_the_captions_differ_in_length_and_are_the_same_in_any_company(tiny_coca, captioner):
    shown = frames(4)
    whole = texts(captioner, shown)
    assert len(set(map(len, whole))) > 1
    assert texts(captioner, shown[2:3]) == whole[2:3]
    assert texts(captioner, shown[::-1]) == whole[::-1]
    assert texts(load(tiny_coca, batch_size=16), shown) == whole


def test_half_precision_runs(tiny_coca):
    assert all(caption.text for caption in load(tiny_coca, precision="bf16").caption(frames(3)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_fp16_runs(tiny_coca):
    captioner = Captioner(load_encoder(ModelOptions(str(tiny_coca), device="cuda")))
    assert captioner.encoder.setting["precision"] == "fp16"
    assert all(caption.text for caption in captioner.caption(frames(3)))


def test_a_batch_is_never_too_large_for_the_vocabulary(tiny_coca):
    assert load(tiny_coca, batch_size=256).batch_size == 32


def test_a_model_without_a_decoder_is_named(tiny_model):
    with pytest.raises(InputError, match="makes no captions; expected a CoCa model: coca_ViT-B-32"):
        load(tiny_model)


def test_another_tokenizer_is_named(tmp_path, tiny_coca, monkeypatch):
    from embedshard.encode import coca

    monkeypatch.setattr(coca, "load_tokenizer", lambda options: lambda texts: torch.zeros(len(texts), 76))
    with pytest.raises(InputError, match="expected a model with CLIP's tokenizer"):
        load(tiny_coca)


def search(rows: dict[tuple[int, ...], dict[int, float]], pictures: int = 1) -> list[tuple[float, list[int]]]:
    """Search where the logits of 8 tokens follow from the whole sequence; those that are not given are -9."""

    def step(sequences: torch.Tensor) -> torch.Tensor:
        found = torch.full((len(sequences), 8), -9.0)
        for number, sequence in enumerate(sequences.tolist()):
            for token, value in rows.get(tuple(sequence), {}).items():
                found[number, token] = value
        return found

    return beam_search(step, torch.full((2 * pictures, 1), 0), END, pictures)


def test_the_better_sum_wins_over_the_better_start():
    path = {(0,): {1: 2.0, 2: 1.9}, (0, 1): {4: 0.0}, (0, 2): {5: 1.0}}
    path |= {(0, 1, 4): {4: 0.0}, (0, 2, 5): {5: 1.0}, (0, 1, 4, 4): {4: 0.0}, (0, 2, 5, 5): {5: 1.0}}
    path |= {(0, 2, 5, 5, 5): {END: 3.0, 6: 2.0}, (0, 1, 4, 4, 4): {END: 1.0}}
    ((score, sequence),) = search(path)
    assert sequence == [0, 2, 5, 5, 5]
    assert score == pytest.approx((1.9 + 3 * 1.0 + 3.0) / 6)


def test_no_end_before_five_tokens_and_none_beyond_thirty():
    early = {(0, *[1] * n): {END: 5.0, 1: 1.0, 2: 0.5} for n in range(40)}
    assert search(early)[0][1] == [0, 1, 1, 1, 1]
    endless = {(0, *[1] * n): {1: 1.0, 2: 0.5} for n in range(40)}
    assert search(endless)[0][1] == [0] + [1] * 29


def test_the_saved_model_is_one_of_open_clip(tiny_coca):
    assert json.loads((tiny_coca / "open_clip_config.json").read_text())["model_cfg"]["custom_text"]
    assert isinstance(open_clip.create_model(f"local-dir:{tiny_coca}"), open_clip.CoCa)
