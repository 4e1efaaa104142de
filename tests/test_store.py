from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from embedshard.errors import InputError
from embedshard.store import exclusive, is_temporary, publish, remove_temporary, write_bytes, write_json


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
