"""The CLIP model: the one place that imports open_clip."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedshard.encode.preprocess import Preprocess
from embedshard.errors import InputError
from embedshard.frames.colour import Matrix, rgb

if TYPE_CHECKING:
    import torch

__all__ = [
    "ClipEncoder",
    "ModelOptions",
    "brings_weights",
    "device_names",
    "load_encoder",
    "load_tokenizer",
    "save_random_model",
]

_LOCAL = "local-dir:"
_BATCH = {"cuda": 256, "mps": 64}
_CPU_BATCH = 16
_PROBE = 8  # frames
_PROBE_SECONDS = 10
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it runs.

    Attributes:
        model: An open_clip model name, `hf-hub:org/name`, or a folder with `open_clip_config.json` and weights.
        pretrained: An open_clip tag or a checkpoint file; None where `model` brings its weights.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `auto` (fp16 on CUDA, else fp32), `fp32`, `fp16` or `bf16`; the last two by autocast.
        batch_size: Frames per batch; 0 chooses by device and free memory.
        preprocess: `exact`: open_clip's own, bit for bit; `fast`: within 2 grey levels of it.
        compile: Whether torch compiles the model: a minute at the start, fewer and larger kernels then.
    """

    model: str
    pretrained: str | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 0
    preprocess: str = "exact"
    compile: bool = False


class ClipEncoder:
    """An image tower on its device, fed batches of one fixed shape.

    The shape never changes, so the embedding of a frame does not depend on which frames share its batch.

    Attributes:
        preprocess: What the model wants of a picture.
        embed_dim: Width of an embedding.
        device: Where it runs.
        batch_size: Frames per batch.
        setting: What identifies the embeddings, for the metadata.
        options: What it was loaded with, as far as that was chosen by itself.
        model: The model itself, for what only some can do.
    """

    def __init__(self, model: torch.nn.Module, preprocess: Preprocess, options: ModelOptions) -> None:
        import torch

        self.options = options
        self.model = model
        self._encode_image: Callable[[torch.Tensor], torch.Tensor] = model.encode_image  # type: ignore[assignment]
        self.device = options.device
        self._autocast = options.precision if options.precision != "fp32" else None
        self._fast = options.preprocess == "fast"
        self._pixels: torch.Tensor | None = None
        self.preprocess = preprocess
        self.setting = {
            "model": _model_text(options.model),
            "pretrained": _pretrained_text(options),
            "preprocess": options.preprocess,
            "image_size": list(preprocess.size),
            "precision": options.precision,
        }
        if self._autocast:
            _round_weights(model, self._dtype)
        if options.compile:
            self._encode_image = torch.compile(self._encode_image, dynamic=False)
        self.batch_size = options.batch_size or self._fitting_batch_size()
        self.embed_dim = self.embed(np.zeros((1, *preprocess.size, 3), np.uint8)).shape[1]

    @property
    def shrinks(self) -> bool:
        """Whether it takes whole frames: a GPU shrinks exactly, the CPU only fast; else the decode workers shrink."""
        return self.device.startswith("cuda") or (self._fast and self.device == "cpu")

    @property
    def converts(self) -> bool:
        """Whether it makes RGB of planes too."""
        return self.device.startswith("cuda")

    def shrink(self, frames: torch.Tensor, matrix: Matrix | None = None) -> torch.Tensor:
        """Shrink whole frames on the device to the model's size.

        Args:
            frames: (n, height, width, 3) uint8 RGB.
            matrix: Given for planes (n, height * 3 / 2, width) that have to be made RGB first.

        Returns:
            (n, size[0], size[1], 3) uint8.
        """
        return self.preprocess.shrink_on_device(rgb(frames, matrix) if matrix else frames, self._fast)

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Encode a batch on the device; on CUDA it returns before the work is done.

        Args:
            batch: (batch_size, height, width, 3) uint8 RGB on the device, shrunk.

        Returns:
            (batch_size, embed_dim) float32 on the device.
        """
        import torch

        with torch.inference_mode():
            pixels = self.preprocess.normalise(batch, self._pixels_for(batch))
            with self.autocast():
                embeddings: torch.Tensor = self._encode_image(pixels)
            return embeddings.float()

    def _pixels_for(self, batch: torch.Tensor) -> torch.Tensor | None:
        """On the CPU, give the memory of the batch before again."""
        import torch

        if batch.device.type != "cpu":
            return None
        shape = (len(batch), 3, *batch.shape[1:3])
        if self._pixels is None or self._pixels.shape != shape:
            self._pixels = torch.empty(shape)
        return self._pixels

    def embed(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encode up to `batch_size` frames and wait for the result.

        Args:
            frames: (n, height, width, 3) RGB, shrunk.

        Returns:
            (n, embed_dim).
        """
        import torch

        batch = np.zeros((self.batch_size, *frames.shape[1:]), np.uint8)
        batch[: len(frames)] = frames
        result: npt.NDArray[np.float32] = self.encode(torch.from_numpy(batch).to(self.device)).cpu().numpy()
        return result[: len(frames)]

    def embed_text(self, tokens: torch.Tensor) -> npt.NDArray[np.float32]:
        """Encode up to `batch_size` texts by the text tower and wait for the result.

        Args:
            tokens: (n, context_length), n at least 1, as the function of `load_tokenizer` gives them.

        Returns:
            (n, embed_dim).
        """
        import torch

        blank = tokens[:1].expand(self.batch_size - len(tokens), -1)
        batch = torch.cat([tokens, blank]).to(self.device)
        with torch.inference_mode():
            with self.autocast():
                embeddings: torch.Tensor = self.model.encode_text(batch)  # type: ignore[operator]
            result: npt.NDArray[np.float32] = embeddings[: len(tokens)].float().cpu().numpy()
        return result

    def autocast(self) -> torch.autocast:
        """Give the context of its precision."""
        import torch

        return torch.autocast(torch.device(self.device).type, self._dtype, enabled=self._dtype is not None)

    @property
    def _dtype(self) -> torch.dtype | None:
        import torch

        return {"fp16": torch.float16, "bf16": torch.bfloat16, None: None}[self._autocast]

    def _fitting_batch_size(self) -> int:
        """Give the default of the device; on CUDA the largest power of two below it that leaves half the memory."""
        import torch

        usual = _BATCH.get(self.device.partition(":")[0], _CPU_BATCH)
        if not self.device.startswith("cuda"):
            return usual
        probe = torch.zeros((_PROBE, *self.preprocess.size, 3), dtype=torch.uint8, device=self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.encode(probe)
        per_frame = (torch.cuda.max_memory_allocated(self.device) - before) / _PROBE
        free, _ = torch.cuda.mem_get_info(self.device)
        while usual > 1 and usual * per_frame > free / 2:
            usual //= 2
        return usual


def load_encoder(options: ModelOptions) -> ClipEncoder:
    """Load a model with its weights onto a device.

    Raises:
        InputError: There is no such model, tag, file or device, or the weights cannot be had.
    """
    import open_clip
    import torch

    device = _device(options.device)
    name, pretrained, quick_gelu = _checked(options)
    with _hub(options) as reachable:
        try:
            model = open_clip.create_model(
                name, pretrained, device=device, force_quick_gelu=quick_gelu, require_pretrained=True
            )
        except Exception as error:
            raise InputError(_load_error(options, error, reachable)) from error
    model.eval()
    model.requires_grad_(False)
    cfg: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)
    size = cfg["size"] if isinstance(cfg["size"], (tuple, list)) else (cfg["size"], cfg["size"])
    preprocess = Preprocess(
        (int(size[-2]), int(size[-1])),
        tuple(cfg["mean"]),
        tuple(cfg["std"]),
        cfg.get("interpolation") or "bicubic",
        cfg.get("resize_mode") or "shortest",
        cfg.get("fill_color") or 0,
    )
    if options.preprocess not in ("exact", "fast"):
        raise InputError(f"expected --preprocess exact or fast, found {options.preprocess}")
    precision = _precision(options.precision, torch.device(device).type)
    chosen = replace(options, device=device, precision=precision)
    try:
        return ClipEncoder(model, preprocess, chosen)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise InputError(f"a batch does not fit into the memory of {device}; give a smaller --batch-size") from error


def load_tokenizer(options: ModelOptions) -> Callable[[Sequence[str]], torch.Tensor]:
    """Load what gives the tokens (n, context_length) of n texts for a model; too long a text is cut.

    Raises:
        InputError: There is no such model, or its tokenizer cannot be had.
    """
    import open_clip

    name, _, _ = _checked(options)
    with _hub(options):
        try:
            tokenizer: Callable[[Sequence[str]], torch.Tensor] = open_clip.get_tokenizer(name)
        except ImportError as error:
            raise InputError(
                f"the tokenizer of {options.model} is one of transformers, which is not installed or does not load "
                f"({error}); install it with: pip install transformers"
            ) from error
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(
                f"cannot get the tokenizer of {options.model}: {reason}\n"
                "  A model folder has to hold its tokenizer's files, a hub has to be reachable or its cache brought "
                "along (HF_HOME)."
            ) from error
    return tokenizer


def device_names(wanted: str) -> list[str]:
    """Give the devices that `--device` names: one, several with commas between, or for `auto` all GPUs there are.

    Raises:
        InputError: One is empty.
    """
    import torch

    if wanted == "auto" and torch.cuda.device_count() > 1:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    names = [name.strip() for name in wanted.split(",")]
    if not all(names):
        raise InputError(f"expected --device NAME or NAME,NAME,..., found {wanted!r}")
    return names


def brings_weights(model: str) -> bool:
    """Tell whether a model is a folder or of the hub, and so needs no `pretrained`."""
    return model.startswith("hf-hub:") or _folder(model) is not None


def save_random_model(folder: Path, embed_dim: int = 64, seed: int = 0, image_size: int = 224) -> None:
    """Save a tiny CLIP with random weights, for demos and tests; its embeddings mean nothing.

    Args:
        folder: Gets `open_clip_config.json` and weights, which `ModelOptions.model` takes.
        embed_dim: Width of its embeddings.
        seed: Of the weights.
        image_size: Of the pictures it takes, in pixels.
    """
    import open_clip
    import torch

    vision = {"image_size": image_size, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    config = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / _WEIGHTS[-1])
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def _round_weights(model: torch.nn.Module, dtype: torch.dtype | None) -> None:
    """Round the weights once as autocast would for every batch."""
    from open_clip.model import convert_weights_to_lp

    convert_weights_to_lp(model, dtype)


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
        if wanted.startswith("cuda:"):
            torch.cuda.set_device(wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot use --device {wanted}: {reason}\n  Try: --device auto, or --device cpu") from error
    return wanted


def _precision(wanted: str, device: str) -> str:
    if wanted == "auto":
        return "fp16" if device == "cuda" else "fp32"
    if wanted not in ("fp32", "fp16", "bf16"):
        raise InputError(f"expected --precision auto, fp32, fp16 or bf16, found {wanted}")
    if wanted == "fp16" and device == "cpu":
        raise InputError("--precision fp16 needs a GPU; on the CPU use --precision fp32")
    return wanted


def _checked(options: ModelOptions) -> tuple[str, str | None, bool]:
    """Give open_clip's model name and tag or file, and whether the tag was trained with QuickGELU."""
    import open_clip

    folder = _folder(options.model)
    if options.pretrained and (folder or options.model.startswith("hf-hub:")):
        raise InputError(f"--model {options.model} brings its weights; leave out --pretrained {options.pretrained}")
    if folder:
        if not (folder / "open_clip_config.json").is_file():
            raise InputError(f"--model {options.model}: the folder holds no open_clip_config.json")
        return f"{_LOCAL}{folder}", None, False
    if options.model.startswith("hf-hub:"):
        return options.model, None, False
    if options.model not in open_clip.list_models():
        close = difflib.get_close_matches(options.model, open_clip.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "expected an open_clip model name or a folder"
        raise InputError(f"no model {options.model!r}; {hint}")
    tags = open_clip.list_pretrained_tags_by_model(options.model)
    if options.pretrained is None:
        raise InputError(f"--model {options.model} needs --pretrained TAG or FILE; tags: {', '.join(tags) or 'none'}")
    tag = open_clip.get_pretrained_cfg(options.model, options.pretrained)
    if not tag and not Path(options.pretrained).is_file():
        raise InputError(
            f"--pretrained {options.pretrained}: no such file, and no such tag of {options.model}; "
            f"tags: {', '.join(tags) or 'none'}"
        )
    return options.model, options.pretrained, bool(tag and tag.get("quick_gelu"))


@contextlib.contextmanager
def _hub(options: ModelOptions) -> Iterator[bool]:
    """Ask once whether the hub can be reached, if it is needed; if not, its client goes by its cache without retries.

    What the hub's client and open_clip log meanwhile is not shown; an error says what matters of it.
    """
    from huggingface_hub import constants, get_session

    offline_before, shown_before = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    reachable = not offline_before
    if reachable and not _is_local(options):
        try:
            get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
        except Exception:  # of httpx or requests, as the client's version has it
            reachable = False
    constants.HF_HUB_OFFLINE = not reachable
    logging.disable(logging.ERROR)
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = offline_before
        logging.disable(shown_before)


def _is_local(options: ModelOptions) -> bool:
    return bool(_folder(options.model)) or Path(options.pretrained or "").is_file()


def _load_error(options: ModelOptions, error: Exception, reachable: bool) -> str:
    given = f"--model {options.model}" + (f" --pretrained {options.pretrained}" if options.pretrained else "")
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if _is_local(options):
        return f"cannot load {given}: {reason}\n  Expected an open_clip checkpoint of that model."
    if reachable:
        return f"cannot get the weights for {given}: {reason}"
    return (
        f"cannot get the weights for {given}: the hub cannot be reached, and its cache has no copy of them.\n"
        "  Give a checkpoint file (--pretrained FILE, or a folder as --model), or run the command once where the hub "
        "can be reached and bring its cache along (HF_HOME)."
    )


def _folder(model: str) -> Path | None:
    """Give the folder that holds the model, None where open_clip knows a model of that name."""
    import open_clip

    folder = Path(model.removeprefix(_LOCAL))
    return folder if model not in open_clip.list_models() and folder.is_dir() else None


def _model_text(model: str) -> str:
    folder = _folder(model)
    return folder.resolve().name if folder else model


def _pretrained_text(options: ModelOptions) -> str | None:
    """Name the weights; a local file by its name and content, so that its folder does not matter."""
    folder = _folder(options.model)
    files = [folder / name for name in _WEIGHTS] if folder else [Path(options.pretrained or "")]
    for file in files:
        if file.is_file():
            with file.open("rb") as content:
                digest = hashlib.sha256()
                while block := content.read(1 << 20):
                    digest.update(block)
            return f"{file.name}@sha256:{digest.hexdigest()[:16]}"
    return options.pretrained
