from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageOps

from embedshard.frames import FrameError, Sampling, open_reader
from embedshard.frames.pillow import EXTENSIONS
from embedshard.sample import IMAGE_EXTENSIONS

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def only_frame(media, kind="image"):
    reader = open_reader(media, kind)
    ((index, frame),) = reader.read(Sampling("fps").choose(reader.timeline))
    assert index == 0
    return frame


def test_jpeg_png_webp_give_one_rgb_frame(tmp_path):
    for extension in ("jpg", "png", "webp"):
        path = tmp_path / f"x.{extension}"
        Image.new("RGB", (20, 10), RED).save(path)
        frame = only_frame(path)
        assert frame.shape == (10, 20, 3)
        assert np.abs(frame.astype(int) - RED).max() <= 3


def test_cmyk_and_palette_become_true_colours(tmp_path):
    Image.new("RGB", (8, 8), BLUE).convert("CMYK").save(tmp_path / "c.jpg")
    Image.new("RGB", (8, 8), BLUE).convert("P").save(tmp_path / "p.png")
    for name in ("c.jpg", "p.png"):
        assert np.abs(only_frame(tmp_path / name).astype(int) - BLUE).max() <= 3


def test_real_cmyk_and_palette_pictures_show_the_same_logo(shared_data):
    images = shared_data / "images"
    cmyk, palette = only_frame(images / "odd_cmyk_pytorch.jpg"), only_frame(images / "odd_palette_pytorch.png")
    assert cmyk.shape == palette.shape == (100, 100, 3)
    assert np.abs(cmyk.astype(int) - palette).mean() < 30


def test_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (20, 10), RED)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "x.jpg", exif=exif)
    assert only_frame(tmp_path / "x.jpg").shape == (20, 10, 3)


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "x.png")
    assert (only_frame(tmp_path / "x.png") == 0x80).all()


def test_animated_gif_has_its_own_times(tmp_path):
    pictures = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    pictures[0].save(tmp_path / "x.gif", save_all=True, append_images=pictures[1:], duration=[200, 0, 500])
    for media in (tmp_path / "x.gif", io.BytesIO((tmp_path / "x.gif").read_bytes())):
        reader = open_reader(media, "video")
        assert reader.timeline.times.tolist() == pytest.approx([0.0, 0.2, 0.3])  # no delay: 100 ms, as browsers do
        assert reader.timeline.duration == pytest.approx(0.8)
        frames = dict(reader.read(Sampling("all").choose(reader.timeline)))
        assert [tuple(frames[k][0, 0]) for k in range(3)] == [RED, GREEN, BLUE]


def test_a_folder_of_frames_is_read_in_natural_order(tmp_path):
    for number, colour in ((1, RED), (2, GREEN), (10, BLUE)):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"c01_{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._c01_1.png").write_text("what macOS leaves on other disks")
    reader = open_reader(tmp_path, "frames", frame_rate=2.0)
    assert reader.timeline.times.tolist() == [0.0, 0.5, 1.0]
    frames = dict(reader.read(Sampling("all").choose(reader.timeline)))
    assert [tuple(frames[k][0, 0]) for k in range(3)] == [RED, GREEN, BLUE]


def test_a_part_of_a_tar_is_a_folder_of_frames(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number, colour in ((0, BLUE), (1, RED), (2, GREEN), (10, BLUE)):
            Image.new("RGB", (8, 8), colour).save(tmp_path / "p.png")
            tar.add(tmp_path / "p.png", f"{'clip' if number else 'other'}/{'long' * 30}{number}.png")
    with tarfile.open(tmp_path / "x.tar") as tar:
        starts = [info.offset for info in tar]
    part = (tmp_path / "x.tar").read_bytes()[starts[1] :].rstrip(b"\0")
    reader = open_reader(io.BytesIO(part + b"\0" * (-len(part) % 512)), "frames")
    frames = dict(reader.read(Sampling("all").choose(reader.timeline)))
    assert [tuple(frames[k][0, 0]) for k in range(3)] == [RED, GREEN, BLUE]
    assert len(frames) == 3


def test_a_folders_pictures_are_what_sources_call_pictures():
    assert EXTENSIONS == IMAGE_EXTENSIONS


def test_one_bad_frame_of_a_folder_costs_only_itself(tmp_path):
    Image.new("RGB", (8, 8), RED).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"not a picture")
    reader = open_reader(tmp_path, "frames")
    frames = dict(reader.read(Sampling("all").choose(reader.timeline)))
    assert list(frames) == [0]
    assert "frame 1 does not decode" in reader.warnings[0]


@pytest.mark.parametrize(("content", "said"), [(b"nonsense", "not a picture"), (b"", "not a picture")])
def test_a_file_that_is_no_picture(tmp_path, content, said):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(FrameError, match=said):
        open_reader(tmp_path / "x.jpg", "image")


def test_an_empty_folder_of_frames(tmp_path):
    with pytest.raises(FrameError, match="no picture"):
        open_reader(tmp_path, "frames")


def test_a_picture_cut_off_is_reported_not_padded(tmp_path):
    Image.effect_noise((64, 64), 90).save(tmp_path / "x.jpg")
    data = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(data[: len(data) // 2])
    reader = open_reader(tmp_path / "x.jpg", "image")
    assert list(reader.read(Sampling("fps").choose(reader.timeline))) == []
    assert "truncated" in reader.warnings[0]


# -- JPEG: simplejpeg in Pillow's place


def pillows(media) -> np.ndarray:
    with Image.open(media) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def scene(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(97, 61), (64, 48), (1, 1), (17, 400)])
@pytest.mark.parametrize("options", [{"subsampling": 2}, {"subsampling": 0}, {"subsampling": 1, "progressive": True}])
def test_a_jpegs_pixels_are_pillows(tmp_path, mode, size, options):
    scene(*size).convert(mode).save(tmp_path / "x.jpg", quality=85, **options)
    assert np.array_equal(only_frame(tmp_path / "x.jpg"), pillows(tmp_path / "x.jpg"))
    data = io.BytesIO((tmp_path / "x.jpg").read_bytes())
    assert np.array_equal(only_frame(data), pillows(tmp_path / "x.jpg"))


def test_rgb_without_conversion_and_every_orientation(tmp_path):
    scene(50, 30).save(tmp_path / "rgb.jpg", keep_rgb=True)
    assert np.array_equal(only_frame(tmp_path / "rgb.jpg"), pillows(tmp_path / "rgb.jpg"))
    for orientation in range(9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        scene(50, 30).save(tmp_path / "x.jpg", exif=exif)
        assert np.array_equal(only_frame(tmp_path / "x.jpg"), pillows(tmp_path / "x.jpg")), orientation


def test_real_jpegs_are_pillows_damaged_ones_too(shared_data):
    for path in sorted((shared_data / "images").glob("*.jpg")):
        assert np.array_equal(only_frame(path), pillows(path)), path.name


def test_a_cut_off_jpeg_is_no_frame_but_a_warning(tmp_path):
    data = io.BytesIO()
    scene(300, 200).save(data, "JPEG")
    reader = open_reader(io.BytesIO(data.getvalue()[:3000]), "image")
    assert list(reader.read(np.array([0]))) == []
    assert "truncated" in reader.warnings[0]


def test_a_jpeg_far_larger_than_needed_is_decoded_smaller(tmp_path):
    scene(1601, 1203).save(tmp_path / "x.jpg")
    shapes = {}
    for at_least in (0, 1203, 602, 601, 300, 150, 100):
        reader = open_reader(tmp_path / "x.jpg", "image", at_least=at_least)
        shapes[at_least] = next(reader.read(np.array([0])))[1].shape[:2]
    full, half, quarter, eighth = (1203, 1601), (602, 801), (301, 401), (151, 201)
    assert shapes == {0: full, 1203: full, 602: full, 601: half, 300: quarter, 150: eighth, 100: eighth}
