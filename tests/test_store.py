from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedshard import remote
from embedshard.errors import InputError
from embedshard.remote import AnyPath, OutageError, RemoteError, Url, read_each
from embedshard.store import (
    Staging,
    exclusive,
    is_temporary,
    publish,
    remove_temporary,
    write_bytes,
    write_json,
    write_new,
)

from .s3 import FaultyProxy


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/a.txt"
    with publish(path) as file:
        file.write(b"a")
        assert not path.exists()
    assert path.read_bytes() == b"a"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")

    def fail() -> None:
        with publish(tmp_path / "a") as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_json_is_utf8_and_never_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": "猫"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "a": "猫"\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))


def _killed(path: Path) -> None:
    with publish(path) as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_leaves_is_found_and_removed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(tmp_path / "a",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert is_temporary(left.name)
    assert remove_temporary(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    assert remove_temporary(tmp_path / "none") == 0


def _hold(folder: Path, ready: object, ended: object) -> None:
    with exclusive(folder):
        ready.set()  # type: ignore[attr-defined]
        ended.wait(20)  # type: ignore[attr-defined]


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, ended = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "out", ready, ended))
    process.start()
    assert ready.wait(20)
    with pytest.raises(InputError, match="another embedshard process"), exclusive(tmp_path / "out"):
        pass
    process.kill()
    process.join()
    with exclusive(tmp_path / "out"):
        pass
    with exclusive(tmp_path / "out"):
        pass


@pytest.fixture(params=["local", "s3", "memory"])
def folder(request, tmp_path: Path) -> AnyPath:
    """A folder of each kind; a `memory` storage stands for those that show files before they are whole."""
    if request.param == "local":
        return tmp_path / "f"
    memory = f"memory://{tmp_path.name}-{id(request)}"
    return Url((memory if request.param == "memory" else request.getfixturevalue("bucket")) + "/f")


def names(folder: AnyPath) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_gives_back_what_is_written_into_it(folder: AnyPath) -> None:
    assert list((folder / "train").glob("*")) == []
    write_bytes(folder / "b.json", b"{}")
    write_bytes(folder / "train/part-0.tar", b"0123456789")
    write_bytes(folder / "train/empty", b"")
    assert names(folder) == ["b.json", "train"]
    assert names(folder / "train") == ["empty", "part-0.tar"]
    part = folder / "train/part-0.tar"
    assert (part.stat().st_size, part.read_bytes(), (folder / "train/empty").read_bytes()) == (10, b"0123456789", b"")
    with part.open("rb") as file:
        assert (file.seek(-4, 2), file.read(2), file.seek(1), file.read(), file.read(1)) == (
            6, b"67", 1, b"123456789", b"",
        )  # fmt: skip
    assert [(folder / name).is_file() for name in ("b.json", "train", "c")] == [True, False, False]
    write_bytes(folder / "b.json", b"[]")
    write_new(folder / "b.json", b"new")
    write_new(folder / "c.json", b"new")
    assert ((folder / "b.json").read_bytes(), (folder / "c.json").read_bytes()) == (b"[]", b"new")
    for name in ("b.json", "c.json"):
        (folder / name).unlink()
    (folder / "b.json").unlink(missing_ok=True)
    assert names(folder) == ["train"]
    with pytest.raises(IsADirectoryError):
        (folder / "train").read_bytes()
    for read in ((folder / "gone").read_bytes, lambda: (folder / "gone").open("rb"), (folder / "gone").stat):
        with pytest.raises(FileNotFoundError):
            read()


def test_a_file_of_a_folder_appears_when_the_block_ends_well(folder: AnyPath, tmp_path: Path) -> None:
    write_bytes(folder / "a", b"old")

    def fail() -> None:
        with publish(folder / "a", staging=Staging(tmp_path / "staging")) as file:
            file.write(b"new")
            assert (folder / "a").read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (names(folder), (folder / "a").read_bytes()) == (["a"], b"old")
    assert not list(tmp_path.glob("staging/*"))


def test_of_many_that_write_a_new_file_the_first_stays(bucket: str) -> None:
    path, begun = Url(bucket) / "a", threading.Barrier(8)

    def write(number: int) -> bytes:
        begun.wait()
        write_new(path, b"%d" % number)
        return path.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(write, range(8)))) == 1


def test_a_file_is_read_whole_while_it_is_written_anew(bucket: str) -> None:
    path, ended = Url(bucket) / "a", threading.Event()
    write_bytes(path, b"0")

    def write() -> None:
        for size in range(1, 60):
            write_bytes(path, bytes([48 + size]) * size)
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not ended.is_set():
        data = path.read_bytes()
        assert data in (b"0", bytes([data[0]]) * (data[0] - 48))
    thread.join()


def test_many_files_of_many_bytes(bucket: str, monkeypatch) -> None:
    monkeypatch.setattr(remote, "_BLOCK", 1000)
    folder, data = Url(bucket), random.Random(0).randbytes(100_001)
    with ThreadPoolExecutor(8) as pool:  # of more than one page
        list(pool.map(lambda number: write_bytes(folder / f"many/{number:04}", b"%d" % number), range(1100)))
    assert names(folder / "many") == [f"{number:04}" for number in range(1100)]
    assert list(read_each((folder / "many").iterdir())) == [b"%d" % number for number in range(1100)]
    write_bytes(folder / "large", data)
    with (folder / "large").open("rb") as file:
        for start in (99_990, 500, 0, 70_000):
            file.seek(start)
            assert file.read(20_000) == data[start : start + 20_000]


def test_another_process_is_seen_at_once(bucket: str) -> None:
    folder = Url(bucket)
    assert list((folder / "a").glob("*")) == []
    code = (
        f"from embedshard.store import *\nfrom embedshard.remote import Url\nwrite_bytes(Url({bucket!r}) / 'a/b', b'1')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert (names(folder / "a"), (folder / "a/b").is_file(), (folder / "a/b").stat().st_size) == (["b"], True, 1)


def test_staging_holds_new_files_back_while_it_is_full(tmp_path: Path) -> None:
    staging, begun = Staging(tmp_path, limit=100), threading.Event()

    def second() -> None:
        with staging.file():
            begun.set()

    thread = threading.Thread(target=second)
    with staging.file() as file:
        file.write(bytes(100))
        file.flush()
        thread.start()
        assert not begun.wait(0.3)
    assert begun.wait(5)
    thread.join()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["unavailable", "cut_down", "cut_up"])
def test_faults_of_the_network_lose_nothing(bucket: str, proxy: FaultyProxy, monkeypatch, fault: str) -> None:
    monkeypatch.setattr(remote, "_ATTEMPTS", 20)
    setattr(proxy, fault, 0.3)
    folder, files = Url(bucket), {f"f{n}": random.Random(n).randbytes(30_000 + n) for n in range(20)}
    for name, data in files.items():
        write_bytes(folder / name, data)
    assert names(folder) == sorted(files)
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert {name: (folder / name).open("rb").read() for name in files} == files
    for name in files:
        write_new(folder / f"new-{name}", files[name])
        write_new(folder / f"new-{name}", b"other")
    assert {name: (folder / f"new-{name}").read_bytes() for name in files} == files
    assert proxy.counts[fault.replace("_", " ")] > 5


@pytest.mark.parametrize(
    ("denied", "said", "kind"),
    [
        (True, "cannot be .*: (Forbidden|Access Denied)", RemoteError),
        (False, "Unavailable|reduce your request rate", OutageError),
    ],
)
def test_a_permanent_fault_is_an_error_that_says_what_to_check(bucket, proxy, denied, said, kind) -> None:
    folder = Url(bucket)
    write_bytes(folder / "a", b"old")
    proxy.denied, proxy.unavailable = denied, float(not denied)
    proxy.counts.clear()
    for work in (
        lambda: names(folder),
        (folder / "a").read_bytes,
        lambda: write_bytes(folder / "a", b"new"),
        lambda: write_new(folder / "a", b"new"),
    ):
        with pytest.raises(RemoteError, match=rf"{bucket}(?s:.*)({said})(?s:.*)AWS_ENDPOINT_URL, now {proxy.url}") as e:
            work()
        assert type(e.value) is kind
    assert proxy.counts["requests"] == (4 if denied else 20)  # what is refused is not asked again
    proxy.denied, proxy.unavailable = False, 0.0
    assert (names(folder), (folder / "a").read_bytes()) == (["a"], b"old")


def test_what_is_not_there_is_said(bucket: str, monkeypatch) -> None:
    with pytest.raises(RemoteError, match=r"s3://no-such-bucket/a cannot be written: The specified bucket"):
        write_bytes(Url("s3://no-such-bucket") / "a", b"")
    with pytest.raises(InputError, match=r"expected a path or an address that fsspec knows, found: .*nonsense"):
        names(Url("nonsense://x"))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3")
    with pytest.raises(InputError, match=r"pip install 'embedshard\[s3\]'"):
        names(Url("s3://x"))


def test_store_imports_no_fsspec() -> None:
    code = "import sys, embedshard.store, embedshard.address; assert 'fsspec' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
