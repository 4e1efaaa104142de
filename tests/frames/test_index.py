"""The index by an MP4's tables is the one that reading all its packets gives."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from embedshard.frames import Sampling, open_reader
from embedshard.frames.index import Index, index_of
from embedshard.frames.mp4 import read_sample_tables
from embedshard.frames.plan import plan_runs


def make(path: Path, codec: str = "libx264", frames: int = 60, mux: dict[str, str] | None = None, **options: str):
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=mux or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(30000, 1001), options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 24
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def index(path: Path, by_tables: bool) -> tuple[Index, bool]:
    """Index a file; also tells whether all its packets were read for that."""
    with path.open("rb") as file:
        tables, size = read_sample_tables(file), file.seek(0, 2)
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        found = index_of(container, stream, tables if by_tables else {}, size)
        return found, next(container.demux(stream)).size == 0


def assert_equal(path: Path, fields: tuple[str, ...] = ("in_order", "has_edit_list", "has_open_gop", "warnings")):
    (ours, _), (plain, read_all) = index(path, True), index(path, False)
    assert read_all
    assert [getattr(ours, name) for name in fields] == [getattr(plain, name) for name in fields]
    assert np.array_equal(ours.stamps, plain.stamps)
    assert np.array_equal(ours.position, plain.position)
    assert all(np.array_equal(a, b) for a, b in zip(ours.keys, plain.keys, strict=True))
    assert np.array_equal(ours.timeline.pts, plain.timeline.pts)
    assert np.array_equal(ours.timeline.keyframe, plain.timeline.keyframe)
    assert (ours.timeline.time_base, ours.timeline.end) == (plain.timeline.time_base, plain.timeline.end)


@pytest.mark.parametrize(
    ("codec", "mux", "options"),
    [
        ("libx264", {}, {"bf": "3"}),
        ("libx264", {"movflags": "faststart"}, {"bf": "0"}),
        ("libx264", {"movflags": "negative_cts_offsets"}, {"bf": "3"}),
        ("libx264", {"use_editlist": "0"}, {"bf": "2"}),
        ("libx265", {}, {"x265-params": "log-level=none"}),
        ("mpeg4", {}, {"bf": "2"}),
    ],
)
def test_tables_tell_what_the_packets_do_without_reading_them(tmp_path, codec, mux, options):
    path = make(tmp_path / "clip.mp4", codec, mux=mux, **options)
    assert_equal(path)
    assert not index(path, True)[1]


def test_all_real_clips_have_the_same_index_either_way(shared_data):
    clips = [path for path in sorted((shared_data / "videos").iterdir()) if path.suffix in (".mp4", ".mov")]
    for path in clips:
        if path.name != "odd_audio_only.mp4":
            assert_equal(path)


@pytest.mark.parametrize("mux", [{"movflags": "frag_keyframe+empty_moov"}, {"movflags": "frag_keyframe"}])
def test_fragments_have_their_times_in_their_packets(tmp_path, mux):
    path = make(tmp_path / "clip.mp4", mux=mux, bf="2")
    assert index(path, True)[1]
    assert_equal(path)


def test_a_cut_off_file_is_read_to_its_end(tmp_path):
    path = make(tmp_path / "clip.mp4", mux={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-2000])
    assert index(path, True)[1]
    assert_equal(path)


def test_tables_that_do_not_agree_with_ffmpegs_index_are_not_believed(tmp_path):
    path = make(tmp_path / "clip.mp4", bf="2")
    with path.open("rb") as file:
        ((track, tables),) = read_sample_tables(file).items()
    for wrong in (tables._replace(dts=tables.dts * 2), tables._replace(key=~tables.key)):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            found = index_of(container, stream, {track: wrong}, path.stat().st_size)
        assert np.array_equal(found.stamps, index(path, False)[0].stamps)


def test_a_table_longer_than_its_box_is_none(tmp_path):
    data = bytearray(make(tmp_path / "clip.mp4", bf="2").read_bytes())
    at = data.index(b"ctts")
    data[at + 8 : at + 12] = struct.pack(">I", 10**9)
    assert read_sample_tables(io.BytesIO(data)) == {}


@pytest.mark.parametrize("data", [b"", b"RIFF", b"\0\0\0\x08ftyp", b"\0\0\0\x08ftyp\0\0\0\x08moov", b"\0\0\0\x01moov"])
def test_what_is_no_mp4_has_no_tables(data):
    assert read_sample_tables(io.BytesIO(data)) == {}


def test_a_window_of_a_long_file_reads_little_of_it(tmp_path):
    path = make(tmp_path / "clip.mp4", frames=900, mux={"movflags": "faststart"})

    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            Counting.count += len(data)
            return data

    reader = open_reader(Counting(path.read_bytes()), "video")
    frames = list(reader.read(Sampling("fps").choose(reader.timeline, 20.0, 22.0)))
    assert len(frames) == 2
    assert Counting.count < path.stat().st_size / 3


# -- what is decoded


def test_runs_go_from_the_keyframe_before_to_the_last_wanted_frame():
    keys = np.array([0, 10, 20, 30])
    wanted = np.array([3, 7, 12, 35])
    runs = plan_runs(wanted, wanted, np.array([0, 0, 1, 3]), keys)
    assert [(run.key, run.first, run.last, run.frames.tolist()) for run in runs] == [
        (0, 0, 7, [3, 7]), (1, 10, 12, [12]), (3, 30, 35, [35]),
    ]  # fmt: skip


def test_runs_that_touch_or_overlap_are_one():
    """The last frames before a keyframe are wanted, or frames after it that are shown before (an open GOP)."""
    keys = np.array([0, 10])
    (run,) = plan_runs(np.array([9, 11]), np.array([9, 11]), np.array([0, 1]), keys)
    assert (run.first, run.last) == (0, 11)
    (run,) = plan_runs(np.array([8, 9, 12]), np.array([11, 12, 14]), np.array([0, 0, 1]), keys)
    assert (run.key, run.first, run.last, run.frames.tolist()) == (0, 0, 14, [8, 9, 12])


def test_a_frame_without_a_keyframe_before_it_needs_the_beginning():
    (run,) = plan_runs(np.array([0]), np.array([2]), np.array([-1]), np.array([5]))
    assert (run.key, run.first, run.last) == (-1, 0, 2)
