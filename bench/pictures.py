"""Which decoder is fastest for JPEGs, and what bounds a set of pictures: decoding or shrinking them.

    python bench/pictures.py [--quick] [--json FILE]

CPU time per picture of Pillow, simplejpeg and torchvision, in alternating rounds, on pictures made by the script; each
gives the same pixels, which is checked. Beside it the exact and the fast way to shrink to 224, and simplejpeg decoding
no more than `fast` needs. Other decoders: OpenCV is 60 MB and decodes by libjpeg-turbo too; imagecodecs as well.
On a GPU also torchvision's decoder (nvJPEG), whose pixels differ.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from measure import alternate, machine, median, parser, write
from PIL import Image
from stub import MEAN, STD
from torchvision.io import ImageReadMode, decode_jpeg

from embedshard.encode.preprocess import Preprocess
from embedshard.frames import open_reader

SIZES = {"500x375": (500, 375), "1920x1080": (1920, 1080), "4000x3000": (4000, 3000)}
SHRINK = Preprocess((224, 224), MEAN, STD)
REPEATS = 3


def picture(size: tuple[int, int], progressive: bool) -> bytes:
    """Make a JPEG of blocks of colour of several sizes, with a little noise."""
    rng = np.random.default_rng(0)
    width, height = size
    scene = rng.random((height, width, 3), np.float32) * 8
    for block in (128, 32, 8):
        coarse = rng.random((height // block + 1, width // block + 1, 3), np.float32) * 80
        scene += np.kron(coarse, np.ones((block, block, 1), np.float32))[:height, :width]
    data = io.BytesIO()
    Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=90, progressive=progressive)
    return data.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    """Decode by Pillow."""
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def by_simplejpeg(data: bytes) -> np.ndarray:
    """Decode by simplejpeg, slow and exact."""
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    return pixels


def by_torchvision(data: bytes) -> np.ndarray:
    """Decode by torchvision on the CPU."""
    tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    pixels: np.ndarray = tensor.permute(1, 2, 0).numpy()
    return pixels


def ours(data: bytes, at_least: int) -> np.ndarray:
    """Decode by this package's reader."""
    return next(open_reader(io.BytesIO(data), "image", at_least=at_least).read(np.array([0])))[1]


def ways(data: bytes) -> dict[str, Callable[[], object]]:
    """Give what is compared for a picture; checks that the decoders agree."""
    pixels = by_pillow(data)
    if not all(np.array_equal(decode(data), pixels) for decode in (by_simplejpeg, by_torchvision)):
        raise SystemExit("the decoders give different pixels")
    tensor = torch.from_numpy(pixels.copy())[None]
    found: dict[str, Callable[[], object]] = {
        "pillow": lambda: by_pillow(data),
        "simplejpeg": lambda: by_simplejpeg(data),
        "torchvision": lambda: by_torchvision(data),
        "reader": lambda: ours(data, 0),
        "reader, fast": lambda: ours(data, 4 * 224),
        "shrink exact": lambda: SHRINK.shrink(pixels),
        "shrink fast": lambda: SHRINK.shrink_on_device(tensor, True),
    }
    if torch.cuda.is_available():
        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        found["nvjpeg"] = lambda: decode_jpeg(raw, mode=ImageReadMode.RGB, device="cuda")
    return found


def repeated(run: Callable[[], object]) -> Callable[[], None]:
    """Run several times, so that the clock's steps do not count."""

    def several() -> None:
        for _ in range(REPEATS):
            run()

    return several


def main() -> None:
    """Print a table; optionally write it as JSON."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    rounds = 3 if arguments.quick else 11
    rows: dict[str, dict[str, float]] = {}
    for name, size in SIZES.items():
        for progressive in (False, True):
            contenders = {way: repeated(run) for way, run in ways(picture(size, progressive)).items()}
            found = alternate(contenders, rounds)
            label = f"{name}{' progressive' if progressive else ''}"
            rows[label] = {way: 1000 * median(took).cpu / REPEATS for way, took in found.items()}
    about = machine("pillow", "simplejpeg", "torchvision", "torch", "numpy")
    print(f"{about}; median CPU ms of {rounds} alternating rounds")
    names = list(next(iter(rows.values())))
    print(f"{'':24}" + "".join(f"{name:>14}" for name in names))
    for label, row in rows.items():
        print(f"{label:24}" + "".join(f"{row[name]:14.2f}" for name in names))
    ratios = {
        label: {
            "simplejpeg_vs_pillow": round(row["pillow"] / row["simplejpeg"], 3),
            "with_exact_shrink": round(
                (row["pillow"] + row["shrink exact"]) / (row["simplejpeg"] + row["shrink exact"]), 3
            ),
        }
        for label, row in rows.items()
    }
    write(arguments.json, {"machine": about, "rounds": rounds, "cpu_ms": rows, "ratios": ratios})


if __name__ == "__main__":
    main()
