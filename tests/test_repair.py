from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedshard import repair as repair_module
from embedshard.errors import InputError
from embedshard.processed import Failure, entries, read_failures, write_failures
from embedshard.repair import RepairReport, repair
from embedshard.tar import read_members
from tests.test_check import checked, found, npy, processed, replaced, rewrite, shards

__all__ = ["processed", "shards"]  # the fixtures: 5 train, 1 val and 2 test triples, in tars of 2


def mend(folder: Path) -> RepairReport:
    report = repair(folder, lambda samples: None)
    assert report.found == report.kept + report.same + report.damaged.total()
    return report


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def damaged(folder: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (folder / "quarantine/damaged.jsonl").read_text().splitlines()]
    return [(line.get("tar") or line["split"], line["sample"]) for line in lines]


def keys(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            yield from (name[:-4] for name, _ in read_members(file) if name.endswith(".npy"))


def test_what_is_whole_is_left_alone(processed: Path, shards: Path) -> None:
    for folder in (processed, shards):
        before = contents(folder)
        report = mend(folder)
        assert (report.found, report.kept, report.rewritten, report.tables, report.undecided) == (8, 8, [], [], [])
        assert contents(folder) == before


BAD = [
    ("npy", npy(np.full((2, 4), np.nan, np.float16))),
    ("npy", npy(np.zeros((2, 5), np.float16))),
    ("npy", npy(np.zeros((2, 4), np.float16))[:-1]),
    ("npy", npy(np.zeros((3, 4), np.float16))),
    ("npy", b""),
    ("txt", b" \n"),
    ("txt", b"\xff"),
    ("json", b"{"),
]


@pytest.mark.parametrize(("part", "data"), BAD)
def test_a_bad_sample_goes_to_the_quarantine(processed: Path, shards: Path, part: str, data: bytes) -> None:
    rewrite(shards / "ds_00001.tar", replaced(f"k2.{part}", data))
    old = (shards / "ds_00001.tar").read_bytes()
    report = mend(shards)
    assert (report.kept, report.damaged.total(), report.rewritten) == (7, 1, ["ds_00001.tar"])
    assert found(shards) == {}
    assert damaged(shards) == [("ds_00001.tar", "k2")]
    assert (shards / "quarantine/ds_00001.tar").read_bytes() == old
    assert (shards / f"quarantine/ds_00001/k2.{part}").read_bytes() == data
    assert sorted(keys(shards)) == ["k0", "k1", "k3", "k4", "k5", "k6", "k7"]
    before = contents(shards)
    assert mend(shards).rewritten == []
    assert contents(shards) == before

    (processed / f"train/k2.{part}").write_bytes(data)
    report = mend(processed)
    assert (report.kept, report.damaged.total()) == (7, 1)
    assert found(processed) == {}
    assert (processed / f"quarantine/train/k2.{part}").read_bytes() == data
    assert [entry.key for entry in entries(processed / "train")] == ["k0", "k1", "k3", "k4"]


def test_half_triples_strangers_and_leftovers_leave_the_splits(processed: Path) -> None:
    (processed / "train/k1.npy").unlink()
    (processed / "train/.tmp-k9.npy").touch()
    (processed / "test/k0.mp4").write_bytes(b"x")
    write_failures(processed, [Failure(key, "train", "m", "decode", "why", 1) for key in ("k2", "k100")])
    report = mend(processed)
    assert (report.damaged, report.foreign, report.leftovers) == ({"no npy": 1}, {".mp4": 1}, 1)
    assert found(processed) == {}
    assert list(read_failures(processed)) == ["k100"]
    assert sorted(os.listdir(processed / "quarantine/train")) == ["k1.json", "k1.txt"]


def test_a_damaged_part_of_a_processed_dataset_is_mended(processed: Path, shards: Path) -> None:
    parts = {"train": "ds_00000.tar", "test": "ds_00004.tar"}
    for split, name in parts.items():
        for path in (processed / split).iterdir():
            path.unlink()
        shutil.copy(shards / name, processed / split / "part-000000.tar")
    rewrite(processed / "train/part-000000.tar", replaced("k1.txt", b""))
    old = (processed / "train/part-000000.tar").read_bytes()
    os.truncate(processed / "test/part-000000.tar", 5000)
    (processed / "units").mkdir()
    (processed / "units/000000.json").write_text('{"sha256": "0"}')
    report = mend(processed)
    assert (processed / "quarantine/units/000000.json").exists()
    assert (report.kept, report.rewritten) == (3, ["train/part-000000.tar", "test/part-000000.tar"])
    assert [*keys(processed / "train"), *keys(processed / "test")] == ["k0", "k6"]
    assert (processed / "quarantine/train/part-000000.tar").read_bytes() == old
    assert damaged(processed)[0] == ("train/part-000000.tar", "k1")
    assert mend(processed).rewritten == []


def test_a_cut_tar_keeps_what_is_before_the_cut(shards: Path) -> None:
    os.truncate(shards / "ds_00001.tar", 3 * 1024 + 700)
    report = mend(shards)
    assert (report.kept, report.damaged.total()) == (7, 1)
    assert "k2" in list(keys(shards))
    assert found(shards) == {}


def test_a_tar_without_a_whole_sample_is_taken_away(shards: Path) -> None:
    (shards / "ds_00003.tar").write_bytes(b"\1" * 3000)
    mend(shards)
    assert found(shards) == {}
    assert not (shards / "ds_00003.tar").exists()
    assert (shards / "quarantine/ds_00003.tar").read_bytes() == b"\1" * 3000


@pytest.mark.parametrize("names", [["splits.csv"], ["splits.csv", "index.json", "sizes.json", "README.md"]])
def test_missing_tables_are_made_anew(shards: Path, names: list[str]) -> None:
    for tar, split in (("ds_00003.tar", "val"), ("ds_00004.tar", "test")):
        rewrite(shards / tar, lambda rows, split=split: [(n, with_split(n, d, split)) for n, d in rows])  # type: ignore[misc]
    for tar in ("ds_00000.tar", "ds_00001.tar", "ds_00002.tar"):
        rewrite(shards / tar, lambda rows: [(n, with_split(n, d, "train")) for n, d in rows])
    (shards / "index.json").unlink()
    mend(shards)
    table, before = (shards / "splits.csv").read_bytes(), json.loads((shards / "index.json").read_text())
    for name in names:
        (shards / name).unlink()
    assert mend(shards).tables[-1] in names
    assert (shards / "splits.csv").read_bytes() == table
    assert json.loads((shards / "index.json").read_text())["totals"] == before["totals"]
    assert found(shards) == {}


def with_split(name: str, data: bytes, split: str) -> bytes:
    return json.dumps({**json.loads(data), "split": split}).encode() if name.endswith(".json") else data


def test_a_tar_that_no_table_names(shards: Path) -> None:
    rows = [(f"n{i}.{part}", data) for i in range(2) for part, data in _parts({"split": "train", "media_id": f"n{i}"})]
    for name, members in (("more.tar", rows), ("other.tar", [(f"o{n}", b"" if "json" in n else d) for n, d in rows])):
        shutil.copy(shards / "ds_00000.tar", shards / name)
        rewrite(shards / name, lambda _, members=members: [(n, d or b"{}") for n, d in members])  # type: ignore[misc]
    report = mend(shards)
    assert [line.split(":")[0] for line in report.undecided] == ["other.tar"]
    assert "more.tar,train" in (shards / "splits.csv").read_text()
    assert set(found(shards)) == {"other.tar", "sizes.json: other.tar", "index.json: other.tar", "index.json"}


def _parts(meta: dict[str, object]) -> list[tuple[str, bytes]]:
    return [("json", json.dumps(meta).encode()), ("npy", npy(np.zeros((1, 4), np.float16))), ("txt", b"c")]


def test_what_a_person_must_decide_stays_as_it_is(shards: Path) -> None:
    rewrite(shards / "ds_00004.tar", lambda rows: [(n.replace("k7", "k1"), d) for n, d in rows])
    (shards / "index.json").unlink()
    assert mend(shards).rewritten == []
    assert found(shards) == {"ds_00004.tar/k1": "key is there 2 times: ds_00000.tar, ds_00004.tar"}


def test_the_same_sample_twice_in_a_split_is_kept_once(shards: Path) -> None:
    (shards / "ds_00001.tar").write_bytes((shards / "ds_00000.tar").read_bytes())
    report = mend(shards)
    assert (report.kept, report.same) == (6, 2)
    assert found(shards) == {}


def test_bytes_that_the_index_does_not_know_are_not_blessed(shards: Path) -> None:
    data = bytearray((shards / "ds_00001.tar").read_bytes())
    at = data.index(b"\x93NUMPY") + 128
    data[at] ^= 1
    (shards / "ds_00001.tar").write_bytes(data)
    (report,) = mend(shards).undecided
    assert report.startswith("ds_00001.tar: its samples read well")
    assert "sha256" in found(shards)["index.json: ds_00001.tar"]


def test_foreign_members_and_old_forms_are_mended(shards: Path) -> None:
    rewrite(
        shards / "ds_00002.tar", lambda rows: [(n.replace(".txt", ".cap"), d) for n, d in rows] + [("k4.jpg", b"x")]
    )
    rewrite(shards / "ds_00003.tar", lambda rows: [(n.replace("k5", "k.5"), d) for n, d in rows if ".json" not in n])
    report = mend(shards)
    assert (report.kept, report.mended, report.foreign) == (8, 1, {".jpg": 1})
    assert found(shards) == {}
    assert "x--k-2e5" in list(keys(shards))


@pytest.mark.parametrize("name", ["processed", "shards"])
def test_a_table_that_is_wrong_costs_no_sample(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    table = folder / ("dataset.json" if name == "processed" else "index.json")
    table.write_text(table.read_text().replace('"embed_dim": 4', '"embed_dim": 5'))
    before = contents(folder)
    with pytest.raises(InputError, match=r"embed_dim of 5, but 0 have it and 8 have 4; nothing was changed"):
        mend(folder)
    assert contents(folder) == before


def test_an_unfinished_run_is_an_error(shards: Path) -> None:
    (shards / ".progress").mkdir()
    with pytest.raises(InputError, match="run the command that writes it again"):
        mend(shards)


@pytest.mark.parametrize("step", ["keep", "add", "publish", "write_changed"])
def test_stopped_anywhere_the_same_command_finishes(shards: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    rewrite(shards / "ds_00001.tar", replaced("k2.txt", b""))
    os.truncate(shards / "ds_00004.tar", 2000)
    whole = Path(shutil.copytree(shards, shards.parent / "whole"))
    mend(whole)
    place = repair_module._Quarantine if step in ("keep", "add") else repair_module
    calls, real = [0], getattr(place, step)

    def stops(*arguments: object, **named: object) -> object:
        calls[0] += 1
        done = real(*arguments, **named) if calls[0] != stop else None
        if calls[0] == stop:
            raise KeyboardInterrupt
        return done

    for stop in range(1, 9):
        calls[0] = 0
        folder = Path(shutil.copytree(shards, shards.parent / f"{step}{stop}"))
        with monkeypatch.context() as patch:
            patch.setattr(place, step, stops)
            with contextlib.suppress(KeyboardInterrupt):
                repair(folder, lambda samples: None)
        mend(folder)
        assert contents(folder) == contents(whole), stop


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.data())
def test_any_damage_is_mended_or_told(
    shards: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = Path(shutil.copytree(shards, tmp_path_factory.mktemp("any") / "shards"))
    for path in data.draw(st.lists(st.sampled_from(sorted(folder.iterdir())), min_size=1, max_size=3, unique=True)):
        whole = path.read_bytes()
        start = data.draw(st.integers(0, len(whole) - 1))
        junk = data.draw(st.binary(max_size=600) | st.sampled_from([b"null", b"[]", b"1", b"NaN", b"\0" * 512]))
        path.write_bytes(whole[:start] + junk + whole[start + data.draw(st.integers(0, 600)) :])
    try:
        report = mend(folder)
    except InputError as error:
        if "nothing was changed" in str(error):
            return
        raise
    after = checked(folder)
    assert after.ok or report.undecided or any("key is there" in p.what for p in after.problems), after.problems
    assert mend(folder).rewritten == []


def test_the_arrays_that_stay_are_the_same_bytes(shards: Path) -> None:
    def arrays(folder: Path) -> dict[str, bytes]:
        rows = {}
        for path in folder.glob("*.tar"):
            rows.update(dict(read_members(io.BytesIO(path.read_bytes()))))
        return rows

    before = arrays(shards)
    rewrite(shards / "ds_00000.tar", replaced("k1.txt", b""))
    mend(shards)
    assert arrays(shards) == {name: data for name, data in before.items() if not name.startswith("k1.")}
