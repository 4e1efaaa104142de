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
from embedshard.remote import RemoteError
from embedshard.store import (
    Folder,
    Staging,
    exclusive,
    is_temporary,
    open_folder,
    publish,
    remove_temporary,
    write_bytes,
    write_json,
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
def folder(request, tmp_path: Path) -> Folder:
    """A folder of each kind; a `memory` storage stands for those that show files before they are whole."""
    places = {"local": lambda: tmp_path / "f", "memory": lambda: f"memory://{tmp_path.name}-{id(request)}/f"}
    places["s3"] = lambda: request.getfixturevalue("bucket") + "/f"
    return open_folder(places[request.param](), Staging(tmp_path / "staging"))


def write(folder: Folder, name: str, data: bytes) -> None:
    with folder.publish(name) as file:
        file.write(data)


def test_a_folder_gives_back_what_is_written_into_it(folder: Folder) -> None:
    assert folder.names() == []
    assert folder.names("train") == []
    write(folder, "b.json", b"{}")
    write(folder, "train/part-0.tar", b"0123456789")
    write(folder, "train/empty", b"")
    assert folder.names() == ["b.json", "train"]
    assert folder.names("train") == ["empty", "part-0.tar"]
    assert (folder.size("train/part-0.tar"), folder.read_bytes("train/empty")) == (10, b"")
    with folder.open("train/part-0.tar") as file:
        assert (file.seek(-4, 2), file.read(2), file.seek(1), file.read(), file.read(1)) == (
            6, b"67", 1, b"123456789", b"",
        )  # fmt: skip
    assert (folder.exists("b.json"), folder.exists("train"), folder.exists("c")) == (True, False, False)
    write(folder, "b.json", b"[]")
    assert folder.read_bytes("b.json") == b"[]"
    folder.remove("b.json")
    folder.remove("b.json")
    assert folder.names() == ["train"]
    for read in (folder.read_bytes, folder.open, folder.size):
        with pytest.raises(FileNotFoundError):
            read("gone")


def test_a_file_of_a_folder_appears_when_the_block_ends_well(folder: Folder, tmp_path: Path) -> None:
    write(folder, "a", b"old")

    def fail() -> None:
        with folder.publish("a") as file:
            file.write(b"new")
            assert folder.read_bytes("a") == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder.names(), folder.read_bytes("a")) == (["a"], b"old")
    assert not list(tmp_path.glob("staging/*"))


def test_what_an_upload_left_half_done_is_not_listed(tmp_path: Path) -> None:
    folder = open_folder(f"memory://{tmp_path.name}-half")
    write(folder, "a", b"a")
    write(folder, ".tmp-b", b"half")
    assert folder.names() == ["a"]


def test_many_files_of_many_bytes(bucket: str, monkeypatch) -> None:
    monkeypatch.setattr(remote, "_BLOCK", 1000)
    folder, data = open_folder(bucket), random.Random(0).randbytes(100_001)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write(folder, f"many/{number:04}", b""), range(1100)))  # of more than one page
    assert folder.names("many") == [f"{number:04}" for number in range(1100)]
    write(folder, "large", data)
    with folder.open("large") as file:
        for start in (99_990, 500, 0, 70_000):
            file.seek(start)
            assert file.read(20_000) == data[start : start + 20_000]


def test_another_process_is_seen_at_once(bucket: str) -> None:
    folder = open_folder(bucket)
    assert folder.names("a") == []
    code = f"from embedshard.store import *\nwith open_folder({bucket!r}).publish('a/b') as file: file.write(b'1')"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert (folder.names("a"), folder.exists("a/b"), folder.size("a/b")) == (["b"], True, 1)


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
    folder, files = open_folder(bucket), {f"f{n}": random.Random(n).randbytes(30_000 + n) for n in range(20)}
    for name, data in files.items():
        write(folder, name, data)
    assert folder.names() == sorted(files)
    assert {name: folder.read_bytes(name) for name in files} == files
    assert {name: folder.open(name).read() for name in files} == files
    assert proxy.counts[fault.replace("_", " ")] > 5


@pytest.mark.parametrize(
    ("denied", "said"),
    [(True, "cannot be .*: (Forbidden|Access Denied)"), (False, "Unavailable|reduce your request rate")],
)
def test_a_permanent_fault_is_an_error_that_says_what_to_check(bucket, proxy, denied, said) -> None:
    folder = open_folder(bucket)
    write(folder, "a", b"old")
    proxy.denied, proxy.unavailable = denied, float(not denied)
    proxy.counts.clear()
    for work in (folder.names, lambda: folder.read_bytes("a"), lambda: write(folder, "a", b"new")):
        with pytest.raises(RemoteError, match=rf"{bucket}(?s:.*)({said})(?s:.*)AWS_ENDPOINT_URL, now {proxy.url}"):
            work()
    assert proxy.counts["requests"] == (3 if denied else 15)  # what is refused is not asked again
    proxy.denied, proxy.unavailable = False, 0.0
    assert (folder.names(), folder.read_bytes("a")) == (["a"], b"old")


def test_what_is_not_there_is_said(bucket: str, monkeypatch) -> None:
    with pytest.raises(RemoteError, match=r"s3://no-such-bucket/a cannot be written: The specified bucket"):
        write(open_folder("s3://no-such-bucket"), "a", b"")
    with pytest.raises(InputError, match=r"expected a path or an address that fsspec knows, found: .*nonsense"):
        open_folder("nonsense://x").names()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3")
    with pytest.raises(InputError, match=r"pip install 'embedshard\[s3\]'"):
        open_folder("s3://x").names()


def test_store_imports_no_fsspec() -> None:
    code = "import sys, embedshard.store, embedshard.address; assert 'fsspec' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
