from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedshard.errors import InputError
from embedshard.manifest import open_manifest
from embedshard.prepare import PrepareOptions, SplitCounts, options_from, prepare
from embedshard.sample import Media, Sample, make_key
from embedshard.sources import Source, get_source

HEADER = "path,caption,split"
ROWS = ["a.mp4,one,train", "b.mp4,two,val", "c.mp4,three,test"]
RATIOS = "ratios: {train: 0.5, val: 0.25, test: 0.25}\nseed: 0\n"


def table(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    folder.mkdir(exist_ok=True)
    for name in "abcdef":
        (folder / f"{name}.mp4").touch()
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8", errors="surrogateescape")
    return folder / "t.csv"


def run(raw: Path, out: Path, source: str = "table", **options):
    steps: list[int] = []
    report = prepare(get_source(source), raw, out / "samples.parquet", PrepareOptions(**options), steps.append)
    assert sum(steps) == sum(report.samples.values()) + sum(report.left_out.values())
    return report


def splits(out: Path) -> dict[str, str]:
    return {sample.media.id: sample.split for sample in open_manifest(out / "samples.parquet").samples()}


def test_manifest_and_record(tmp_path):
    raw = table(tmp_path / "raw", [*ROWS, "gone.mp4,x,train", "d.mp4, ,train", "猫.mp4,x,train"])
    report = run(raw, tmp_path)
    assert report.samples == {"train": 1, "val": 1, "test": 1}
    assert report.left_out == {"missing media": 2, "no caption": 1}
    assert report.examples["missing media"] == ("gone.mp4", "猫.mp4")
    manifest = open_manifest(tmp_path / "samples.parquet")
    assert (manifest.root, manifest.source.name) == (raw.parent, "table")
    record = json.loads((tmp_path / "prepare.json").read_text())
    assert record["source"]["name"] == "table"
    assert (record["root"], record["split"]) == (str(raw), "given")
    assert (record["samples"], record["left_out"], record["notes"]) == (report.samples, report.left_out, [])
    lines = [json.loads(line) for line in (tmp_path / "left_out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[2] == {"id": "猫.mp4", "reason": "missing media"}


def test_nothing_left_out_leaves_no_old_list(tmp_path):
    run(table(tmp_path / "raw", [*ROWS, "gone.mp4,x,train"]), tmp_path)
    run(table(tmp_path / "raw", ROWS), tmp_path)
    assert not (tmp_path / "left_out.jsonl").exists()


def test_without_splits_all_is_train_with_a_note(tmp_path):
    report = run(table(tmp_path / "raw", ["a.mp4,one"], "path,caption"), tmp_path)
    assert report.samples == {"train": 1, "val": 0, "test": 0}
    assert "--split RECIPE.yaml" in report.notes[0]


def test_all_to_one_split(tmp_path):
    report = run(table(tmp_path / "raw", ROWS), tmp_path, split="test")
    assert report.samples == {"train": 0, "val": 0, "test": 3}
    assert not report.notes


def test_recipe_keeps_the_rows_of_a_video_together(tmp_path):
    (tmp_path / "r.yaml").write_text(RATIOS)
    rows = [f"{name}.mp4,{caption},nowhere" for name in "abcdef" for caption in "xyz"]
    raw = table(tmp_path / "raw", rows)
    report = run(raw, tmp_path, split=str(tmp_path / "r.yaml"), settings={"number_rows": "true"})
    assert sum(report.samples.values()) == 18
    assert all(count % 3 == 0 for count in report.samples.values())


def test_frozen_split_gives_the_same_split_again(tmp_path):
    (tmp_path / "r.yaml").write_text(RATIOS)
    raw = table(tmp_path / "raw", ROWS)
    run(raw, tmp_path, split=str(tmp_path / "r.yaml"), freeze_split=tmp_path / "kept.csv")
    first = splits(tmp_path)
    assert (tmp_path / "kept.csv").read_text().startswith("media_id,split\na.mp4,")
    report = run(table(tmp_path / "raw", [*ROWS, "d.mp4,new,train"]), tmp_path, split=str(tmp_path / "kept.csv"))
    assert splits(tmp_path) == first
    assert report.left_out == {"not in the split recipe": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, "a.mp4,again,train"], "1 keys more than once: .*row 0 in train, a.mp4 and row 3 in train, a.mp4"),
        ([*ROWS, "b.mp4,again,test", "a.mp4,again,train"], "1 media lie in two splits: b.mp4"),
        (["gone.mp4,x,train"], r"not one sample; left out: missing media 1 \(gone.mp4\)"),
        ([], "there is no row"),
    ],
)
def test_on_an_error_nothing_is_left(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        run(table(tmp_path / "raw", rows), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_error_keeps_the_old_manifest(tmp_path):
    run(table(tmp_path / "raw", ROWS), tmp_path)
    before = (tmp_path / "samples.parquet").read_bytes(), (tmp_path / "prepare.json").read_bytes()
    with pytest.raises(InputError):
        run(table(tmp_path / "raw", [*ROWS, "a.mp4,again,train"]), tmp_path)
    assert ((tmp_path / "samples.parquet").read_bytes(), (tmp_path / "prepare.json").read_bytes()) == before


def test_repeated_ids_say_which_option_helps(tmp_path):
    raw = table(tmp_path / "raw", ["a.mp4,one,train", "a.mp4,two,train"])
    with pytest.raises(InputError, match="number_rows="):
        run(raw, tmp_path)
    assert run(raw, tmp_path, settings={"number_rows": "yes"}).samples["train"] == 2
    assert list(open_manifest(tmp_path / "samples.parquet").column("key")) == ["x--a-2emp4_0", "x--a-2emp4_1"]


def test_a_leak_is_refused_or_noted(tmp_path):
    raw = table(tmp_path / "raw", ["a.mp4,one,train,1", "a.mp4,two,val,2", "b.mp4,x,val,3"], "path,caption,split,id")
    with pytest.raises(InputError, match=r"(?s)1 media lie in two splits: a.mp4 \(train and val\).*--allow-leak"):
        run(raw, tmp_path)
    assert not (tmp_path / "samples.parquet").exists()
    assert "a.mp4 (train and val)" in run(raw, tmp_path, allow_leak=True).notes[0]
    with pytest.raises(InputError, match="freeze"):
        run(raw, tmp_path, allow_leak=True, freeze_split=tmp_path / "kept.csv")


@pytest.mark.parametrize(
    ("raw", "manifest", "freeze", "message"),
    [
        ("raw/t.csv", "raw/t.csv", None, "would change the raw dataset"),
        ("raw/t.parquet", "raw/t.parquet", None, "would change the raw dataset"),
        ("raw/prepare.json", "raw/m.parquet", None, "would change the raw dataset"),
        ("raw", "raw/sub/m.parquet", None, "would change the raw dataset"),
        ("link", "raw/m.parquet", None, "would change the raw dataset"),
        ("raw/t.csv", "raw", None, "found a folder"),
        ("raw/t.csv", "raw/t.parquet", None, "older manifest to replace, found another file"),
        ("raw/t.csv", "m.parquet", "raw", "found a folder"),
        ("raw/t.csv", "m.parquet", "raw/t.csv", "would change the raw dataset"),
        ("raw", "m.parquet", "raw/new.csv", "would change the raw dataset"),
        ("raw/t.csv", "m.parquet", "m.parquet", "another file that prepare writes"),
    ],
)
def test_nothing_but_an_older_manifest_is_replaced(tmp_path, raw, manifest, freeze, message):
    path = table(tmp_path / "raw", ROWS)
    pq.write_table(pa.table({"path": ["a.mp4"], "caption": ["one"]}), path.with_suffix(".parquet"))
    (path.parent / "prepare.json").write_text('[{"path": "a.mp4", "caption": "one"}]')
    (tmp_path / "link").symlink_to(path.parent)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    options = PrepareOptions(freeze_split=tmp_path / freeze if freeze else None)
    with pytest.raises(InputError, match=message):
        prepare(get_source("table"), tmp_path / raw, tmp_path / manifest, options, lambda n: None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_split_that_cannot_be_frozen_leaves_no_manifest(tmp_path):
    raw = table(tmp_path / "raw", ROWS)
    with pytest.raises(OSError, match=r"a\.mp4"):
        run(raw, tmp_path, split="train", freeze_split=raw.with_name("a.mp4") / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_leak_is_seen_through_the_spelling_of_a_path(tmp_path):
    with pytest.raises(InputError, match=r"1 media lie in two splits: a.mp4 \(train and test\)"):
        run(table(tmp_path / "raw", ["a.mp4,x,train", "./a.mp4,y,test"]), tmp_path)


def test_what_is_left_out_has_its_raw_id(tmp_path):
    raw = table(tmp_path / "raw", ["a.mp4,,train,-dog.mp4|1", "b.mp4,x,train,b", "c.mp4,,train,\udc80"], f"{HEADER},id")
    report = run(raw, tmp_path)
    assert report.examples == {"no caption": ("-dog.mp4|1", "\udc80")}
    command = [sys.executable, "-m", "embedshard", "prepare", "table", str(raw), str(tmp_path / "samples.parquet")]
    for encoding in ("utf-8:strict", "ascii"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert r"(-dog.mp4|1, \udc80)" in done.stdout


@pytest.mark.parametrize("split", ["tran", "1k-A", "gone.yaml"])
def test_unknown_split(tmp_path, split):
    with pytest.raises(InputError, match=r"given, train, val, test|no split recipe"):
        run(table(tmp_path / "raw", ROWS), tmp_path, split=split)


class Odd(Source):
    name = title = "odd"
    homepage = license = ""
    kind, modality, expects = "caption", "video", "anything"
    splits: ClassVar = {"given": ("train",)}
    rows: ClassVar = []

    def samples(self, root, options):
        for number, changes in enumerate(map(dict, self.rows)):
            window, duration = changes.pop("window", (None, None)), changes.pop("duration", None)
            name = changes.pop("media", f"m{number}")
            media = Media(name, f"{name}.mp4", "video", *window, duration)
            yield Sample(**{"key": f"k{number}", "split": "", "media": media, "caption": "c", "meta": {}} | changes)

    def demo(self, tree):
        raise NotImplementedError


def test_one_odd_sample_takes_no_other_down(tmp_path):
    Odd.rows = [
        {},
        {"caption": "\t\n"},
        {"caption": "\udc80"},
        {"meta": {"a": {1, 2}}},
        {"window": (-1.0, 2.0)},
        {"window": (2.0, 2.0)},
        {"window": (None, 0.0)},
        {"window": (0.0, float("nan"))},
        {"split": "\udc80"},
        {"window": (0.0, 0.5)},
    ]
    report = prepare(Odd(), tmp_path / "raw", tmp_path / "out/m.parquet", PrepareOptions(), lambda n: None)
    assert list(open_manifest(tmp_path / "out/m.parquet").column("key")) == ["k0", "k9"]
    assert sum(report.left_out.values()) == 8
    assert len((tmp_path / "out/left_out.jsonl").read_text().splitlines()) == 8


def odd_samples(tmp_path):
    report = prepare(Odd(), tmp_path / "raw", tmp_path / "m.parquet", PrepareOptions(), lambda n: None)
    return report, list(open_manifest(tmp_path / "m.parquet").samples())


def test_windows_end_with_the_media(tmp_path):
    Odd.rows = [
        {"window": (0.0, 55.16), "duration": 55.15},
        {"window": (55.15, 56.0), "duration": 55.15},
        {"window": (2.0, None), "duration": 3.0},
        {"window": (4.0, None), "duration": 3.0},
        {"window": (0.0, 99.0)},
    ]
    report, samples = odd_samples(tmp_path)
    assert [(s.key, s.media.start, s.media.end) for s in samples] == [
        ("k0", 0.0, 55.15),
        ("k2", 2.0, None),
        ("k4", 0.0, 99.0),
    ]
    assert list(report.left_out.values()) == [2]


def test_counts_of_a_split(tmp_path):
    Odd.rows = [
        {"media": "a", "duration": 1800.0, "window": (0.0, 1.0)},
        {"media": "a", "duration": 1800.0, "window": (1.0, None)},
        {"media": "b", "duration": 5400.0, "meta": {"captions": ["x", "y", "z"]}},
        {"media": "b", "duration": 5400.0, "meta": {"captions": ["x", "y", "z"]}},
        {"media": "b", "duration": 5400.0, "window": (5.0, 6.0), "meta": {"captions": ["u", "v"]}},
        {"media": "c", "split": "test"},
    ]
    report, samples = odd_samples(tmp_path)
    assert report.splits == {
        "train": SplitCounts(samples=5, media=2, captions=7, windows=3, hours=2.0),
        "val": SplitCounts(0, 0, 0, 0, 0.0),
        "test": SplitCounts(samples=1, media=1, captions=1, windows=0, hours=0.0),
    }
    assert ([s.key for s in report.first], len(samples)) == (["k0", "k1", "k2"], 6)
    record = json.loads((tmp_path / "prepare.json").read_text())
    assert (record["hours"]["train"], record["media"]["test"], record["captions"]["train"]) == (2.0, 1, 7)


def test_published_counts_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(Odd, "published_samples", {"given": {"train": 2}})
    monkeypatch.setattr(Odd, "published_media", {"given": {"train": 3}})
    Odd.rows = [{}, {}]
    report, _ = odd_samples(tmp_path)
    assert report.notes[-2:] == (
        "expected train 3 media in the complete dataset as published, found train 2",
        "as published: train 2 samples",
    )
    (tmp_path / "r.yaml").write_text(RATIOS)
    report = prepare(Odd(), tmp_path, None, PrepareOptions(split=str(tmp_path / "r.yaml")), lambda n: None)
    assert report.notes == ()


def test_without_a_manifest_nothing_is_written(tmp_path):
    raw = table(tmp_path / "raw", [*ROWS, "a.mp4,again,train"])
    before = sorted(tmp_path.rglob("*"))
    options = PrepareOptions(freeze_split=tmp_path / "frozen.csv", settings={"id_column": "caption"})
    report = prepare(get_source("table"), raw, None, options, lambda n: None)
    assert (sum(report.samples.values()), sorted(tmp_path.rglob("*"))) == (4, before)
    with pytest.raises(InputError, match="found 1 keys more than once"):
        prepare(get_source("table"), raw, None, PrepareOptions(), lambda n: None)


def test_captions_stay_as_they_are(tmp_path):
    captions = [" outer blanks\n", '"quoted", text', "狗\r\n🐕", "\ttab"]
    raw = table(tmp_path / "raw", [])
    lines = [json.dumps({"path": f"{name}.mp4", "caption": text}) for name, text in zip("abcd", captions, strict=True)]
    (raw.parent / "t.jsonl").write_text("\n".join(lines))
    run(raw.with_suffix(".jsonl"), tmp_path)
    assert list(open_manifest(tmp_path / "samples.parquet").column("caption")) == captions


def test_options_from_texts():
    source = get_source("msrvtt")
    assert options_from(source, "1k-A", {"captions": "each"}) == source.options(split="1k-A", captions="each")
    assert options_from(get_source("folder"), "given", {"frames": "TRUE"}).frames is True
    for name, settings in (("msrvtt", {"captions": "all"}), ("folder", {"frames": "maybe"}), ("table", {"split": "x"})):
        with pytest.raises(InputError, match=r"expected|no option"):
            options_from(get_source(name), "", settings)
    with pytest.raises(InputError, match=r"(?s)no option 'caption'.*caption_column=\.\.\.  column of the caption"):
        options_from(get_source("table"), "given", {"caption": "x"})
    with pytest.raises(InputError, match="kinetics700 has no options"):
        options_from(get_source("kinetics700"), "official", {"a": "b"})


MEASURE = """
import resource, sys
from pathlib import Path
from embedshard.prepare import PrepareOptions, prepare
from embedshard.sources import get_source
prepare(get_source("table"), Path(sys.argv[1]), Path(sys.argv[2]), PrepareOptions(), lambda n: None)
status = Path("/proc/self/status")  # ru_maxrss begins at what the parent process held
peak = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line] if status.exists() else []
print(peak[0] if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path):
    peaks = []
    for count in (70_000, 200_000):  # both fill every buffer of fixed size
        raw = table(
            tmp_path / str(count), [f"a.mp4,caption {n},id{n},{n}" for n in range(count)], "path,caption,id,start"
        )
        command = [sys.executable, "-c", MEASURE, str(raw), str(tmp_path / "m.parquet")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        assert open_manifest(tmp_path / "m.parquet").rows == count
    assert peaks[1] - peaks[0] < 24 * 1024, f"{peaks} KiB"


@pytest.mark.parametrize("raw_id", ["a.b", "a/b", "a|b", "-a", "@a", "猫", "a" * 200])
def test_raw_ids_become_keys_and_stay_in_the_metadata(tmp_path, raw_id):
    raw = table(tmp_path / "raw", [f"a.mp4,c,{raw_id}"], "path,caption,id")
    run(raw, tmp_path)
    (sample,) = open_manifest(tmp_path / "samples.parquet").samples()
    assert (sample.key, sample.meta["id"]) == (make_key(raw_id), raw_id)


def test_media_without_a_caption_are_kept_where_that_is_asked_for(tmp_path):
    texts = {"a": "one", "b": " ", "c": ""}
    (tmp_path / "raw").mkdir()
    for name in texts:
        (tmp_path / f"raw/{name}.mp4").touch()
    (tmp_path / "raw/t.jsonl").write_text(
        "\n".join(json.dumps({"path": f"{name}.mp4", "caption": text}) for name, text in texts.items())
    )
    source, manifest = get_source("table"), tmp_path / "samples.parquet"
    for keep, captions in ((False, ["one"]), (True, ["one", " ", ""])):
        options = PrepareOptions(keep_uncaptioned=keep)
        report = prepare(source, tmp_path / "raw/t.jsonl", manifest, options, lambda n: None)
        assert list(open_manifest(manifest).column("caption")) == captions
        assert report.splits["train"].captions == 1
        assert report.left_out == ({} if keep else {"no caption": 2})
        told = "2 samples have no caption, with which shard leaves them out; some are made by: embedshard caption"
        assert (told in report.notes) is keep
        assert json.loads((tmp_path / "prepare.json").read_text())["keep_uncaptioned"] is keep
