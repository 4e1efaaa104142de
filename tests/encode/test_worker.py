from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from embedshard.demo import Tree, video_bytes
from embedshard.encode.preprocess import Preprocess
from embedshard.encode.worker import DecodeOptions, Done, Failed, Frames, Job, Opened, decode, decoded
from embedshard.frames import Sampling
from embedshard.sample import archive_member

SMALL = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
OPTIONS = DecodeOptions(Sampling("fps", Fraction(5)), SMALL)
WHOLE = ((None, None),)


def job(root: Path, media: str, number: int = 0, windows=WHOLE, kind: str = "video") -> Job:
    return Job(number, media, str(root), kind, windows)


@pytest.fixture
def raw(tmp_path) -> Path:
    tree = Tree(tmp_path)
    for label in ("a", "b", "c"):
        tree.video(f"{label}.mp4", label)
    return tmp_path


def test_windows_of_one_media_share_rows(raw):
    windows = ((None, None), (0.4, 1.0), (5.0, 6.0))
    opened, frames, done = decode(job(raw, "a.mp4", windows=windows), OPTIONS)
    assert isinstance(opened, Opened)
    assert opened.clips[0].tolist() == list(range(10))
    assert opened.clips[1].tolist() == [2, 3, 4]
    assert opened.clips[2] == "window [5, 6) s is empty: the media lasts 2.000 s"
    assert isinstance(frames, Frames)
    assert frames.pixels.shape == (10, 32, 32, 3)
    assert done == Done(())


@pytest.mark.parametrize(
    ("media", "kind", "reason"),
    [
        ("gone.mp4", "video", "missing media"),
        ("x.mp4", "video", "not a media file"),
        ("x.mp4", "image", "not a picture"),
        ("x.mp4", "frames", "NotADirectoryError|picture"),
    ],
)
def test_what_cannot_be_read_fails_with_a_reason(raw, media, kind, reason):
    (raw / "x.mp4").write_text("nonsense")
    *_, last = decode(job(raw, media, kind=kind), OPTIONS)
    assert isinstance(last, Failed)
    assert re.search(reason, last.reason)


def test_a_member_of_a_tar_is_media_like_any_other(raw):
    data = video_bytes("a")
    (raw / "x.tar").write_bytes(b"\0" * 512 + data + b"\0" * 100)
    inside = decode(job(raw, archive_member("x.tar", "a.mp4", 512, len(data))), OPTIONS)
    outside = decode(job(raw, "a.mp4"), OPTIONS)
    assert all(
        np.array_equal(i.pixels, o.pixels) for i, o in zip(inside, outside, strict=True) if isinstance(i, Frames)
    )
    *_, cut = decode(job(raw, archive_member("x.tar", "a.mp4", 512, 10**6)), OPTIONS)
    assert cut == Failed("x.tar ends inside its member a.mp4")


@pytest.mark.parametrize("workers", [0, 2])
def test_all_jobs_come_back_in_order_of_their_own_messages(raw, workers):
    jobs = [job(raw, f"{label}.mp4", number) for number, label in enumerate("abcabc")]
    seen: dict[int, list[str]] = {}
    for number, message in decoded(jobs, OPTIONS, workers):
        seen.setdefault(number, []).append(type(message).__name__)
    assert seen == {number: ["Opened", "Frames", "Done"] for number in range(6)}


def test_a_hanging_media_costs_only_itself(raw):
    os.mkfifo(raw / "hang.mp4")  # opening it for reading waits for a writer that never comes
    jobs = [job(raw, name, number) for number, name in enumerate(("a.mp4", "hang.mp4", "b.mp4", "c.mp4"))]
    options = DecodeOptions(OPTIONS.sampling, SMALL, timeout=2.0)
    last = dict(decoded(jobs, options, 1))
    assert last[1] == Failed("the decoder gave no frame for 2 s")
    assert all(isinstance(last[number], Done) for number in (0, 2, 3))


def test_a_crashing_decoder_costs_only_its_media(raw):
    os.mkfifo(raw / "hang.mp4")

    def crash() -> None:
        time.sleep(2.5)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGSEGV)

    thread = threading.Thread(target=crash)
    thread.start()
    jobs = [job(raw, name, number) for number, name in enumerate(("a.mp4", "hang.mp4", "b.mp4"))]
    last = dict(decoded(jobs, OPTIONS, 1))
    thread.join()
    assert last[1] == Failed("the decoder crashed (SIGSEGV)")
    assert isinstance(last[0], Done)
    assert isinstance(last[2], Done)


def test_workers_go_when_the_consumer_stops(raw):
    messages = decoded((job(raw, "a.mp4", n) for n in range(100)), OPTIONS, 2)
    next(messages)
    messages.close()
    assert not multiprocessing.active_children()


def test_a_worker_imports_no_torch():
    code = "import sys, embedshard.encode.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
