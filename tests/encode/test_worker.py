from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from embedshard import address, remote
from embedshard.address import Url, member_address
from embedshard.demo import Tree, video_bytes
from embedshard.encode.preprocess import Preprocess
from embedshard.encode.profile import Profile
from embedshard.encode.slots import Slots
from embedshard.encode.worker import DecodeOptions, Decoder, Done, Failed, Frames, Job, Opened, _Worker, decoded
from embedshard.errors import InputError
from embedshard.frames import Sampling

SMALL = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
OPTIONS = DecodeOptions(Sampling("fps", Fraction(5)), (SMALL,))
WHOLE = ((None, None),)


def decode(job: Job, options: DecodeOptions = OPTIONS):
    return [message for _, message in decoded([job], options, 0)]


def job(root: Path, media: str, number: int = 0, windows=WHOLE, kind: str = "video") -> Job:
    return Job(number, media, str(root), kind, windows)


@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen]:
    """Gives the worker processes that are started."""
    processes: list[subprocess.Popen] = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: processes.append(real(*a, **k)) or processes[-1])
    return processes


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
    assert frames.layers[0].shape == (10, 32, 32, 3)
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
    inside = decode(job(raw, member_address("x.tar", "a.mp4", 512, len(data))), OPTIONS)
    outside = decode(job(raw, "a.mp4"), OPTIONS)
    assert all(
        np.array_equal(i.layers, o.layers) for i, o in zip(inside, outside, strict=True) if isinstance(i, Frames)
    )
    *_, cut = decode(job(raw, member_address("x.tar", "a.mp4", 512, 10**6)), OPTIONS)
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
    last = dict(decoded(jobs, replace(OPTIONS, timeout=2.0), 1))
    assert last[1] == Failed("the decoder gave no frame for 2 s")
    assert all(isinstance(last[number], Done) for number in (0, 2, 3))


def test_a_crashing_decoder_costs_only_its_media(raw, started):
    os.mkfifo(raw / "hang.mp4")

    def crash() -> None:
        for _ in range(2):  # what is killed before its first word is tried once more
            time.sleep(2.5)
            os.kill(started[-1].pid, signal.SIGSEGV)

    thread = threading.Thread(target=crash)
    thread.start()
    jobs = [job(raw, name, number) for number, name in enumerate(("a.mp4", "hang.mp4", "b.mp4"))]
    last = dict(decoded(jobs, replace(OPTIONS, timeout=30.0), 1))
    thread.join()
    assert last[1] == Failed("the decoder crashed (SIGSEGV)")
    assert isinstance(last[0], Done)
    assert isinstance(last[2], Done)


def test_a_worker_that_dies_idle_costs_nothing(raw, started):
    worker = _Worker(OPTIONS, Profile())
    assert worker.receive() is None  # it is there
    started[-1].kill()
    started[-1].wait()
    for number, label in enumerate("ab"):
        worker.give(job(raw, f"{label}.mp4", number))
    heard = []
    while worker.jobs:
        heard.append(type(worker.receive()).__name__)
    worker.stop()
    assert [name for name in heard if name != "NoneType"] == ["Opened", "Frames", "Done"] * 2
    assert len(started) == 2


def test_a_stop_does_not_wait_for_a_hanging_decoder(raw):
    os.mkfifo(raw / "hang.mp4")
    stopped = threading.Event()
    threading.Timer(1.5, stopped.set).start()
    begun = time.monotonic()
    assert list(decoded([job(raw, "hang.mp4")], OPTIONS, 1, stopped)) == []
    assert time.monotonic() - begun < 5


def test_the_time_limit_is_for_a_frame_not_for_a_message(raw):
    calls = []
    decoder = Decoder(OPTIONS, alive=lambda: calls.append(time.monotonic()))
    *_, last = decoder.decode(job(raw, "a.mp4"))
    assert isinstance(last, Done)
    assert len(calls) == 10


def test_a_script_needs_no_guard_around_its_main_part(raw):
    """Worker processes do not import the main module, as those of `multiprocessing` do."""
    script = raw / "unguarded.py"
    script.write_text(
        "from tests.encode.test_worker import OPTIONS, job\nfrom embedshard.encode.worker import Done, decoded\n"
        "from pathlib import Path\n"
        f"print([m for _, m in decoded([job(Path({str(raw)!r}), 'a.mp4')], OPTIONS, 1)][-1])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=environment)
    assert ended.stdout == "Done(warnings=())\n", ended.stderr


def test_processes_that_cannot_start_are_an_error_not_a_failed_video(raw, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"a decode process could not start \(exit code 1\)"):
        list(decoded([job(raw, "a.mp4")], OPTIONS, 1))


def test_frames_are_good_until_they_are_released(raw):
    """More chunks than there are buffers; the worker waits for those that are still in use."""
    seen = []
    for _, message in decoded([job(raw, f"{label}.mp4", n) for n, label in enumerate("abcabcabc")], OPTIONS, 1):
        if isinstance(message, Frames):
            first = message.layers[0].copy()
            time.sleep(0.05)
            assert np.array_equal(message.layers[0], first)
            seen.append(first)
            message.release()
    assert len(seen) == 9
    assert all(np.array_equal(a, b) for a, b in zip(seen, seen[3:], strict=False))


def test_whole_frames_are_sent_where_the_device_shrinks(raw):
    whole = replace(OPTIONS, whole=True)
    _, frames, _ = decode(job(raw, "a.mp4"), whole)
    assert frames.whole
    shrunk = decode(job(raw, "a.mp4"))[1]
    assert np.array_equal(SMALL.shrink(frames.layers[0][3]), shrunk.layers[0][3])


def test_a_frame_too_large_for_a_buffer_is_shrunk_by_the_worker(raw, monkeypatch):
    monkeypatch.setattr(Slots, "size", 1000)
    _, frames, _ = decode(job(raw, "a.mp4"), replace(OPTIONS, whole=True))
    assert not frames.whole
    assert frames.layers[0].shape[1:] == (32, 32, 3)


def test_workers_go_when_the_consumer_stops(raw, started):
    messages = decoded((job(raw, "a.mp4", n) for n in range(100)), OPTIONS, 2)
    next(messages)
    messages.close()
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 2


def test_a_worker_imports_no_torch():
    code = "import sys, embedshard.encode.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_media_decode_to_the_same_frames(raw, bucket, workers):
    """A video, a member of a tar, a picture and a folder of them, through a network that fails at times."""
    tree = Tree(raw)
    tree.frames("frames", "frames")
    tree.image("p.png", "a picture")
    data = video_bytes("c")
    (raw / "x.tar").write_bytes(b"\0" * 512 + data)
    media = [("a.mp4", "video"), (member_address("x.tar", "c.mp4", 512, len(data)), "video"), ("p.png", "image")]
    for path in raw.rglob("*.*"):
        Url(f"{bucket}/raw/{path.relative_to(raw).as_posix()}").upload(path)

    def frames(root, workers):
        jobs = [job(root, one, n, kind=kind) for n, (one, kind) in enumerate([*media, ("frames", "frames")])]
        found = list(decoded([*jobs, job(root, "gone.mp4", 9)], OPTIONS, workers))
        assert dict(found)[9] == Failed("missing media")
        return {n: [layer.copy() for layer in m.layers] for n, m in found if isinstance(m, Frames)}

    here, there = frames(raw, 0), frames(f"{bucket}/raw", workers)
    assert here.keys() == there.keys() == {0, 1, 2, 3}
    assert all(np.array_equal(a, b) for n in here for a, b in zip(here[n], there[n], strict=True))


@pytest.mark.parametrize(("in_memory", "rounds"), [(1 << 24, 20), (1000, 5)])
def test_media_decode_through_a_faulty_network(raw, bucket, proxy, monkeypatch, in_memory, rounds):
    monkeypatch.setattr(address, "_IN_MEMORY", in_memory)
    monkeypatch.setattr(remote, "_ATTEMPTS", 20)
    monkeypatch.setattr(remote, "_BLOCK", 2048)
    Url(f"{bucket}/a.mp4").upload(raw / "a.mp4")
    expected = decode(job(raw, "a.mp4"))[1].layers[0]
    proxy.unavailable = proxy.cut_down = 0.4
    for _ in range(rounds):
        _, frames, done = decode(job(Url(bucket), "a.mp4"))
        assert np.array_equal(frames.layers[0], expected)
        assert done == Done(())
    assert min(proxy.counts["unavailable"], proxy.counts["cut down"]) > 1
    proxy.denied = True
    (failed,) = decode(job(Url(bucket), "a.mp4"))
    assert re.search("cannot be looked up: Forbidden(?s:.*)AWS_ENDPOINT_URL", failed.reason)
