"""The same suite over every decoder: the frames of a plan are those that a plain decode of the whole file gives."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from embedshard.errors import InputError
from embedshard.frames import FrameError, Sampling, open_reader, require_decoder

FRAMES, GOP = 120, 24
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}
FILES = {
    "plain.mp4": ("libx264", {}),
    "plain.mkv": ("libx264", {}),
    "open_gop.mp4": ("libx264", OPEN_GOP),
    "open_gop.mkv": ("libx264", OPEN_GOP),
    "intra_refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1"}),
    "stream.ts": ("libx264", {}),
    "no_pts.avi": ("libx264", {"bf": "3"}),
    "mpeg4.avi": ("mpeg4", {"bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", {"bf": "2"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime"}),
}
CAN = {
    "pyav": tuple(FILES),
    "decord": ("plain.mp4", "plain.mkv", "vp9.webm"),
    "torchcodec": ("plain.mp4", "plain.mkv", "open_gop.mp4", "open_gop.mkv", "vp9.webm"),
}


def runs_here(decoder: str) -> bool:
    try:
        require_decoder(decoder)
    except InputError:
        return False
    return True


def each(decoder: str) -> pytest.ParameterSet:
    skip = pytest.mark.skipif(not runs_here(decoder), reason=f"{decoder} does not run here")
    return pytest.param(decoder, marks=skip, id=decoder)


ON_CPU = [each(decoder) for decoder in CAN]


def encode(path: Path, codec: str, options: dict[str, str]) -> None:
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 255, (12, 40, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.gop_size = GOP
        for k in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(wide[:, k : k + 128]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def plain_decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, tuple[Path, list[np.ndarray]]]:
    folder = tmp_path_factory.mktemp("videos")
    made = {}
    for name, (codec, options) in FILES.items():
        encode(folder / name, codec, options)
        made[name] = folder / name, plain_decode(folder / name)
    return made


CASES = [
    pytest.param(decoder, name, marks=each(decoder).marks, id=f"{decoder}-{name}")
    for decoder, names in CAN.items()
    for name in names
]
OTHER_CASES = [
    pytest.param(decoder, name, marks=each(decoder).marks, id=f"{decoder}-{name}")
    for decoder, names in CAN.items()
    for name in FILES
    if name not in names
]


def read(path: Path | io.BytesIO, decoder: str, sampling: Sampling, *window: float):
    require_decoder(decoder)
    reader = open_reader(path, "video", decoder)
    chosen = sampling.choose(reader.timeline, *window)
    frames = dict(reader.read(np.unique(chosen)))
    reader.close()
    return reader, chosen, frames


@pytest.mark.parametrize(("decoder", "name"), CASES)
def test_every_frame_is_the_plain_decodes(videos, decoder, name):
    path, expected = videos[name]
    reader, chosen, frames = read(path, decoder, Sampling("all"))
    assert chosen.tolist() == list(range(FRAMES))
    assert np.allclose(reader.timeline.times, np.arange(FRAMES) / 25, atol=1e-3)
    assert reader.timeline.duration == pytest.approx(FRAMES / 25, abs=2e-3)
    assert all(np.array_equal(frames[k], expected[k]) for k in range(FRAMES))
    assert not reader.warnings


@pytest.mark.parametrize(("decoder", "name"), CASES)
def test_any_choice_of_frames_is_exact_whatever_is_skipped_or_sought(videos, decoder, name):
    path, expected = videos[name]
    rng = np.random.default_rng(1)
    for _ in range(12):
        wanted = np.sort(rng.choice(FRAMES, rng.integers(1, 6), replace=False))
        reader = open_reader(path, "video", decoder)
        frames = dict(reader.read(wanted))
        reader.close()
        assert sorted(frames) == wanted.tolist()
        assert all(np.array_equal(frames[k], expected[k]) for k in frames)


@pytest.mark.parametrize(("decoder", "name"), OTHER_CASES)
def test_a_file_that_a_decoder_gets_wrong_is_refused_or_exact(videos, decoder, name):
    path, expected = videos[name]
    rng = np.random.default_rng(1)
    for wanted in (np.arange(FRAMES), *(np.sort(rng.choice(FRAMES, 4, replace=False)) for _ in range(6))):
        try:
            frames = dict(open_reader(path, "video", decoder).read(wanted))
        except FrameError:
            continue
        assert sorted(frames) == wanted.tolist()
        assert all(np.array_equal(frames[k], expected[k]) for k in frames)


@pytest.mark.parametrize(("decoder", "name"), CASES)
def test_keyframes_alone_are_exact(videos, decoder, name):
    path, expected = videos[name]
    _, chosen, frames = read(path, decoder, Sampling("keyframes"))
    assert len(chosen) >= FRAMES // GOP
    assert sorted(frames) == chosen.tolist()
    assert all(np.array_equal(frames[k], expected[k]) for k in frames)


@pytest.mark.parametrize("decoder", ON_CPU)
def test_windows_and_plans(videos, decoder):
    path, expected = videos["plain.mp4"]
    _, chosen, frames = read(path, decoder, Sampling("fps", Fraction(2)), 1.0, 3.0)
    assert chosen.tolist() == [25, 37, 50, 62]
    assert all(np.array_equal(frames[k], expected[k]) for k in frames)
    _, chosen, _ = read(path, decoder, Sampling("keyframes"))
    assert chosen.tolist() == list(range(0, FRAMES, GOP))


@pytest.mark.parametrize("decoder", ON_CPU)
def test_bytes_in_memory_read_as_the_file_does(videos, decoder):
    path, expected = videos["plain.mp4"]
    _, _, frames = read(io.BytesIO(path.read_bytes()), decoder, Sampling("count", Fraction(3)))
    assert len(frames) == 3
    assert all(np.array_equal(frames[k], expected[k]) for k in frames)


def test_few_wanted_frames_of_a_long_file_decode_few(videos, monkeypatch):
    path, _ = videos["plain.mkv"]
    decoded = []
    import embedshard.frames.pyav as module

    real = module.PyavReader._pixels
    monkeypatch.setattr(
        module.PyavReader, "_pixels", lambda self, frame: decoded.append(frame.pts) or real(self, frame)
    )
    reader = open_reader(path, "video", "pyav")
    packets, read_packets = [], module.packets_of
    monkeypatch.setattr(module, "packets_of", lambda *given: (packets.append(p) or p for p in read_packets(*given)))
    list(reader.read(np.array([1, 100])))
    assert len(decoded) == 2
    assert len(packets) < GOP


def test_unknown_decoder_names_the_known():
    with pytest.raises(InputError, match="expected one of: auto, pyav, decord, torchcodec, nvdec"):
        require_decoder("ffmpeg")


def test_a_file_that_is_no_media_is_named_so(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no media at all" * 100)
    with pytest.raises(FrameError, match="not a media file"):
        open_reader(tmp_path / "x.mp4", "video")


def test_cover_art_is_no_video(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound, cover = container.add_stream("aac", rate=44100), container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = int(Disposition.attached_pic)
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        picture.pts = 0
        container.mux([*cover.encode(picture), *cover.encode()])
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 44100, 0
        container.mux([*sound.encode(samples), *sound.encode()])
    with pytest.raises(FrameError, match=r"no video stream \(found: audio, cover art\)"):
        open_reader(tmp_path / "song.mp4", "video")


def test_damage_in_the_middle_costs_frames_not_the_file(videos, tmp_path):
    data = bytearray(videos["plain.mkv"][0].read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    (tmp_path / "hurt.mkv").write_bytes(data)
    _, chosen, frames = read(tmp_path / "hurt.mkv", "pyav", Sampling("all"))
    assert 0 < len(frames) <= len(chosen) <= FRAMES
    assert np.array_equal(frames[0], videos["plain.mkv"][1][0])


# -- real clips


def test_edit_lists_hide_frames(shared_data):
    for name, shown in (("cve_bears_editlist.mp4", 56), ("cve_orangutan_editlist.mp4", 134)):
        reader, chosen, frames = read(shared_data / "videos" / name, "pyav", Sampling("all"))
        assert len(chosen) == len(frames) == shown
        assert reader.timeline.times[0] == 0


def test_ntsc_times_are_exact(shared_data):
    clip = shared_data / "videos/ucf101_soccer_juggling_g23_c01.avi"
    for decoder in ("pyav", "decord"):
        reader, chosen, _ = read(clip, decoder, Sampling("all"))
        assert np.allclose(reader.timeline.times, np.arange(240) * 1001 / 30000, atol=1e-9)
        assert reader.timeline.duration == pytest.approx(8.008)
        reader, chosen, _ = read(clip, decoder, Sampling("fps"))
        assert chosen.tolist() == [0, 29, 59, 89, 119, 149, 179, 209, 239]


def test_a_truncated_file_gives_what_it_holds_and_a_warning(shared_data):
    reader, _, frames = read(shared_data / "videos/odd_truncated.mp4", "pyav", Sampling("all"))
    assert len(frames) == 6
    assert "declares 745 frames in 35.2 s, it holds 6" in reader.warnings[0]


def test_a_file_without_video_says_what_it_has(shared_data):
    with pytest.raises(FrameError, match=r"no video stream \(found: audio\)"):
        open_reader(shared_data / "videos/odd_audio_only.mp4", "video")


@pytest.mark.parametrize("decoder", ON_CPU)
def test_rotation_is_applied_the_way_players_do(shared_data, decoder):
    path = shared_data / "videos/odd_rotate90.mov"
    _, _, frames = read(path, decoder, Sampling("all"))
    upright = [np.rot90(frame, 3) for frame in plain_decode(path)]  # display matrix of -90: a quarter turn clockwise
    assert all(np.array_equal(frames[k], upright[k]) for k in range(3))


def test_of_several_video_streams_the_best_is_read(shared_data):
    _, _, frames = read(shared_data / "videos/odd_nasa_multistream.mp4", "pyav", Sampling("fps"))
    assert frames[0].shape == (270, 480, 3)


@pytest.mark.parametrize(
    ("decoder", "refuses"),
    [
        ("decord", {"cve_bears_editlist.mp4", "cve_orangutan_editlist.mp4", "odd_av1.mkv", "odd_hevc_10bit.mp4",
                    "odd_truncated.mp4"}),
        ("torchcodec", {"odd_hevc_10bit.mp4", "ucf101_soccer_juggling_g23_c01.avi"}),
    ],
)  # fmt: skip
def test_other_decoders_give_pyavs_frames_or_refuse(shared_data, decoder, refuses):
    if not runs_here(decoder):
        pytest.skip(f"{decoder} does not run here")
    refused = {}
    for path in sorted(p for p in (shared_data / "videos").iterdir() if p.suffix != ".jsonl"):
        try:
            _, _, frames = read(path, decoder, Sampling("count", Fraction(5)))
        except FrameError as error:
            refused[path.name] = str(error)
            continue
        _, _, expected = read(path, "pyav", Sampling("count", Fraction(5)))
        bound = 2 if path.suffix == ".avi" and decoder == "decord" else 0  # another inverse DCT for Xvid
        assert frames.keys() == expected.keys()
        assert all(np.abs(frames[k].astype(int) - expected[k]).max() <= bound for k in frames)
    assert "no video stream" in refused.pop("odd_audio_only.mp4")
    assert all("--decoder pyav" in reason for reason in refused.values())
    assert refused.keys() == refuses


# -- NVDEC: the same code, on the CPU where there is no GPU


@pytest.mark.skipif(not runs_here("torchcodec"), reason="torchcodec does not run here")
def test_frames_for_a_device_are_tensors_with_the_same_pixels(videos):
    import torch

    from embedshard.frames.torchcodec import NvdecReader

    path, expected = videos["plain.mp4"]
    reader = NvdecReader(path, "cpu")
    frames = dict(reader.read(np.array([0, 33, 90])))
    assert all(isinstance(frame, torch.Tensor) and frame.dtype == torch.uint8 for frame in frames.values())
    assert all(np.array_equal(frames[k].numpy(), expected[k]) for k in frames)


@pytest.mark.skipif(not runs_here("nvdec"), reason="no NVDEC")
def test_nvdec_is_close_to_pyav(videos):
    path, expected = videos["plain.mp4"]
    frames = dict(open_reader(path, "video", "nvdec").read(np.array([0, 33, 90])))
    assert all(frame.device.type == "cuda" for frame in frames.values())
    assert all(np.abs(frames[k].cpu().numpy().astype(int) - expected[k]).mean() < 3 for k in frames)


def test_nvdec_without_a_gpu_says_what_it_needs():
    if runs_here("nvdec"):
        pytest.skip("NVDEC is here")
    with pytest.raises(InputError, match="or use --decoder pyav"):
        require_decoder("nvdec")
