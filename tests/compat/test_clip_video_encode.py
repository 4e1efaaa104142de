from __future__ import annotations

import datetime
import inspect
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path

import av
import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset

from embedshard.compat import clip_video_encode, inputs, outputs
from embedshard.demo import Tree
from embedshard.errors import InputError

RELEASE = {
    "src": inspect.Parameter.empty,
    "dest": "",
    "output_format": "files",
    "take_every_nth": 1,
    "frame_workers": 1,
    "frame_memory_size": 4,
    "metadata_columns": "",
    "use_dst_name": False,
    "distribute": "none",
    "oc_model_name": "ViT-B-32",
    "pretrained": "laion2b_s34b_b79k",
}
HEAD = {
    "target_fps": -1,
    "input_format": "table",
    "model_name": "ViT-B-32",
    "captioning_strategy": "none",
    "frame_tokenization_strategy": "none",
    "generated_caption_key": "generated_caption",
    "pass_through_keys": "mp4,txt,json",
    "caption_similarity": False,
    "img_size": 224,
}


def written(folder: Path) -> dict[str, bytes]:
    """Give all files of a folder, but for the records of the run."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "_embedshard" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def failed(folder: Path) -> dict[str, tuple[str, str, int]]:
    lines = (folder / "_embedshard/failed.jsonl").read_text().splitlines()
    return {line["key"]: (line["stage"], line["reason"], line["attempt"]) for line in map(json.loads, lines)}


def table(videos: list[Path]) -> Path:
    """A csv as clip-video-encode takes it."""
    rows = [f'{path},id_{n},"a disc, ""{n}""",{n},{n / 2},true' for n, path in enumerate(videos)]
    path = videos[0].parent / "videos.csv"
    path.write_text("\n".join(["videoLoc,videoID,caption,label,score,good", *rows]) + "\n")
    return path


def test_the_arguments_are_those_of_the_release_and_of_the_head():
    found = {name: p.default for name, p in inspect.signature(clip_video_encode).parameters.items()}
    assert {name: found[name] for name in RELEASE | HEAD} == RELEASE | HEAD
    assert list(found)[:4] == list(RELEASE)[:4]
    order = [name for name in found if name in RELEASE and name != "oc_model_name"]
    assert order == [name for name in RELEASE if name != "oc_model_name"]


def test_a_table_gives_the_files_of_the_release(tmp_path, call, videos):
    """What release 1.3.0 wrote for this table, but for the arrays, which it made of swapped colours."""
    report = call(
        str(table(videos)), str(tmp_path / "out"), "files", 5, metadata_columns=["videoID", "caption", "label"]
    )
    assert (report.rows, report.done, report.failed, report.frames) == (4, 4, 0, 2 + 4 + 6 + 8)
    files = written(tmp_path / "out")
    assert set(files) == {f"id_{n}.{ending}" for n in range(4) for ending in ("npy", "json", "txt")}
    assert files["id_2.txt"] == b'a disc, "2"'
    assert files["id_2.json"] == b'{\n    "label": 2,\n    "videoID": "id_2"\n}'
    assert [np.load(tmp_path / f"out/id_{n}.npy").shape for n in range(4)] == [(2, 64), (4, 64), (6, 64), (8, 64)]
    assert (tmp_path / "out/_embedshard/encoder.json").is_file()
    assert not (tmp_path / "out/_embedshard/staging").exists()
    assert not (tmp_path / "out/_embedshard/failed.jsonl").exists()
    summary = json.loads((tmp_path / "out/_embedshard/summary.json").read_text())
    assert (summary["rows"], summary["done"], summary["encoder"]["sampling"]) == (4, 4, "every 5")


def test_rows_equal_a_plain_open_clip_loop_over_every_nth_frame(tmp_path, tiny_model, call, videos):
    call(videos, tmp_path / "out", take_every_nth=7)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_model}")
    model.eval()
    for number, path in enumerate(videos):
        with av.open(str(path)) as container:
            frames = [frame.to_image() for frame in container.decode(video=0)][::7]
        with torch.inference_mode():
            expected = torch.cat([model.encode_image(transform(frame)[None]) for frame in frames]).numpy()
        found = np.load(tmp_path / f"out/{number}.npy")
        assert found.dtype == np.float32  # as the release on a CPU
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.linalg.norm(expected, axis=1).min()


def test_colours_are_not_swapped(tmp_path, call, encoder):
    with av.open(str(tmp_path / "red.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            frame = np.full((64, 64, 3), (250, 0, 0), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    call(tmp_path / "red.mp4", tmp_path / "out")
    colours = np.array([(250, 0, 0), (0, 0, 250)], np.uint8)
    red, blue = encoder.embed(np.broadcast_to(colours[:, None, None], (2, 224, 224, 3)))
    found = np.load(tmp_path / "out/0.npy")
    assert found.shape == (5, 64)
    assert np.linalg.norm(found[0] - red) < 0.2 * np.linalg.norm(found[0] - blue)


def test_sources_of_all_kinds_and_the_names_they_give(tmp_path, monkeypatch, call, videos):
    monkeypatch.chdir(tmp_path / "raw")
    Path("list.txt").write_text('v0.mp4\n\n"v1.mp4"\r\n')
    columns = {"videoLoc": ["v0.mp4", "v1.mp4"], "note": [None, "b"], "when": [datetime.date(2024, 1, 2), None]}
    pq.write_table(pa.table(columns), "t.parquet")
    Path("numbers.csv").write_text("videoID,videoLoc,caption\n007,v0.mp4,01\n7,v1.mp4,\n")
    cases = [
        ("v0.mp4", {}, {"0"}),
        (["v0.mp4", Path("v1.mp4")], {}, {"0", "1"}),
        ("list.txt", {}, {"0", "1"}),
        ("list.txt", {"use_dst_name": True}, {"v0", "v1"}),
        ("t.parquet", {"metadata_columns": "note, when"}, {"0", "1"}),
        ("numbers.csv", {"metadata_columns": "caption"}, {"007", "7"}),
    ]
    for number, (src, more, names) in enumerate(cases):
        out = tmp_path / str(number)
        assert call(src, out, "files", 10, **more).failed == 0
        assert {path.stem for path in out.glob("*.npy")} == {path.stem for path in out.glob("*.json")} == names
    assert json.loads((tmp_path / "4/0.json").read_text()) == {"note": None, "when": "2024-01-02"}
    assert {path.name: path.read_text() for path in (tmp_path / "5").glob("*.txt")} == {"007.txt": "01", "7.txt": ""}
    assert not list(tmp_path.glob("[0-4]/*.txt"))


def test_target_fps_is_a_true_rate_and_goes_before_every_nth(tmp_path, call, videos):
    for fps, rows in ((2, 4), ("1/2", 1), (2.5, 5), (20, 40)):
        call(videos[1], tmp_path / str(rows), take_every_nth=3, target_fps=fps)
        assert len(np.load(tmp_path / f"{rows}/0.npy")) == rows
    every = np.load(tmp_path / "4/0.npy")
    call(videos[1], tmp_path / "all")
    assert np.array_equal(every, np.load(tmp_path / "all/0.npy")[::5])


def test_a_caller_chooses_the_dtype(tmp_path, call, videos):
    call(videos[0], tmp_path / "half", dtype="float16")
    call(videos[0], tmp_path / "full")
    half, full = (np.load(tmp_path / name / "0.npy") for name in ("half", "full"))
    assert (half.dtype, full.dtype) == (np.float16, np.float32)
    assert np.array_equal(half, full.astype(np.float16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_float16_on_cuda_as_clip_video_encode(tmp_path, tiny_model, videos):
    clip_video_encode(videos[0], tmp_path / "out", model_name=str(tiny_model))
    assert np.load(tmp_path / "out/0.npy").dtype == np.float16


def test_what_fails_is_recorded_told_and_tried_again(tmp_path, call, videos):
    rows = ["a", tmp_path / "gone.mp4"], ["b", "https://youtube.com/watch?v=1"], ["c", tmp_path / "junk.mp4"], ["", "x"]
    (tmp_path / "junk.mp4").write_text("junk")
    lines = [f"{name},{path}" for name, path in (["good", videos[0]], *rows, ["also", videos[1]])]
    (tmp_path / "t.csv").write_text("\n".join(["videoID,videoLoc", *lines]))
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match=r"4 of 6 videos came to nothing: .*1 x missing media.*failed\.jsonl") as told:
        report = call(str(tmp_path / "t.csv"), out)
    assert [warning.filename for warning in told if warning.category is UserWarning] == [__file__]
    assert (report.rows, report.done, report.failed) == (6, 2, 4)
    found = failed(out)
    assert {key: reason.partition(":")[0] for key, (_, reason, _) in found.items()} == {
        "a": "missing media",
        "b": "remote media (download it first, for instance with video2dataset)",
        "c": "not a media file that FFmpeg can open",
        "row 4": "an empty videoID",
    }
    videos[2].rename(tmp_path / "gone.mp4")
    with pytest.warns(UserWarning, match="3 of 6"):
        report = call(str(tmp_path / "t.csv"), out)
    assert (report.done, report.done_before, report.failed) == (1, 2, 3)
    assert {key: attempt for key, (_, _, attempt) in failed(out).items()} == {"b": 2, "c": 2, "row 4": 2}


def test_nothing_at_all_is_an_error(tmp_path, call):
    with pytest.raises(InputError, match="1 of 1 videos came to nothing: 1 x missing media"):
        call(tmp_path / "gone.mp4", tmp_path / "out")
    assert failed(tmp_path / "out")["0"][1] == "missing media"


def test_ids_that_can_name_no_file_are_escaped(tmp_path, call, videos):
    ids = ["a.b", "dir/c", ".hidden", "ü ü"]
    rows = [f"{raw},{path}" for raw, path in zip(ids, videos, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["videoID,videoLoc", *rows]))
    call(str(tmp_path / "t.csv"), tmp_path / "out", take_every_nth=10)
    assert {p.stem for p in (tmp_path / "out").glob("*.npy")} == {"a.b", "x--dir-2fc", "x---2ehidden", "ü ü"}
    call(str(tmp_path / "t.csv"), tmp_path / "tars", "webdataset", 10)
    keys = [sample["__key__"] for sample in samples(tmp_path / "tars/000000000.tar")]
    assert keys == ["x--a-2eb", "x--dir-2fc", "x---2ehidden", "ü ü"]


def test_two_videos_of_one_name_are_an_error(tmp_path, call, videos):
    Tree(tmp_path).video("other/v0.mp4", "another")
    paths = [*videos, tmp_path / "other/v0.mp4"]
    with pytest.raises(InputError, match=r"1 more than once: v0 \(.*raw/v0.mp4, .*other/v0.mp4\)"):
        call(paths, tmp_path / "out", use_dst_name=True)
    assert not written(tmp_path / "out")
    assert call(paths, tmp_path / "out", take_every_nth=10).done == 5


def test_the_json_has_the_cosine_of_every_frame_and_the_caption(tmp_path, tiny_model, call, videos):
    path = table(videos)
    path.write_text(path.read_text().replace('"a disc, ""1"""', ""))
    call(str(path), tmp_path / "out", take_every_nth=5, metadata_columns="label", caption_similarity=True)
    model = open_clip.create_model(f"local-dir:{tiny_model}")
    model.eval()
    with torch.inference_mode():
        text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{tiny_model}")(['a disc, "2"']))
    frames = torch.from_numpy(np.load(tmp_path / "out/id_2.npy"))
    expected = torch.nn.functional.cosine_similarity(frames, text).tolist()
    meta = [json.loads((tmp_path / f"out/id_{n}.json").read_text()) for n in range(4)]
    assert meta[2] == {"label": 2, "clip_frame_similarity": pytest.approx(expected, abs=2e-6)}
    assert meta[1]["clip_frame_similarity"] is None
    assert not list((tmp_path / "out").glob("*.txt"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"output_format": "parquet"}, "output_format: expected files or webdataset"),
        ({"input_format": "csv"}, "input_format: expected table or webdataset"),
        ({"distribute": "ray"}, "distribute: expected none or slurm"),
        ({"take_every_nth": 0}, "take_every_nth: expected a whole number from 1"),
        ({"take_every_nth": 2.5}, "take_every_nth: expected a whole number from 1"),
        ({"target_fps": 0}, "target_fps: expected a number or a fraction"),
        ({"frame_workers": -1}, "frame_workers: expected a whole number from 0"),
        ({"oom_shard_count": 0}, "oom_shard_count: expected a whole number from 1"),
        ({"pass_through_keys": "mp4,npz"}, "pass_through_keys: expected mp4, txt or json, found npz"),
        ({"captioning_strategy": "center"}, "embedshard caption INPUT OUT"),
        ({"frame_tokenization_strategy": "all"}, "no VQGAN tokens"),
        ({"oc_model_name": "ViT-B-16"}, "expected one model, found oc_model_name='ViT-B-16'"),
        ({"img_size": 336}, "img_size: the model takes 224 by 224 pixels, found 336"),
        ({"dtype": "float64"}, "dtype: expected auto or float16 or float32"),
        ({"metadata_columns": "caption,label"}, "a list of paths: expected the columns caption, label, found: videoID"),
        ({"caption_similarity": True}, "expected the columns caption"),
        ({"pretrained": "openai"}, "brings its weights"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, call, videos, more, said):
    with pytest.raises(InputError, match=said):
        call(videos, tmp_path / "out", **more)
    assert not written(tmp_path / "out")


@pytest.mark.parametrize("dest", [None, "s3://bucket/out", "out.npy"])
def test_dest_is_a_folder(call, videos, dest):
    with pytest.raises(InputError, match="dest: expected a folder on a disk"):
        call(videos, dest)


def test_a_fifth_argument_needs_its_name(tmp_path, call, videos):
    with pytest.raises(InputError, match="the fifth is frame_workers in clip-video-encode"):
        call(videos, tmp_path / "out", "files", 25, 4)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "path,caption\na.mp4,b\n", "expected the columns videoLoc.*found: path, caption"),
        ("t.csv", "videoLoc,videoID\na.mp4,b,c\n", "t.csv: expected a csv table.*Expected 2 columns, got 3"),
        ("t.parquet", "junk", "t.parquet: expected a parquet table"),
        ("gone/t.txt", None, "expected a list of videos, one a line"),
    ],
)
def test_what_is_no_table(tmp_path, call, name, text, said):
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"(?s){said}"):
        call(str(tmp_path / name), tmp_path / "out")


def test_files_of_others_are_not_overwritten(tmp_path, call, videos):
    (tmp_path / "raw/v0.json").write_text('{"mine": true}')
    with pytest.raises(InputError, match=r"holds files that this function did not write, like v0\.json"):
        call(videos, tmp_path / "raw", use_dst_name=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/000000000.tar").touch()
    with pytest.raises(InputError, match=r"like 000000000\.tar"):
        call(videos, tmp_path / "out", "webdataset")


def test_a_folder_keeps_to_one_setting(tmp_path, call, videos):
    call(videos[:2], tmp_path / "out", take_every_nth=5)
    with pytest.raises(InputError, match="sampling: 'every 5' there, 'every 1' asked for"):
        call(videos[:2], tmp_path / "out")
    assert call(videos, tmp_path / "out", take_every_nth=5).done_before == 2


def test_two_calls_do_not_write_to_one_folder(tmp_path, call, videos):
    from embedshard.store import exclusive

    with exclusive(tmp_path / "out/_embedshard"), pytest.raises(InputError, match="another embedshard process"):
        call(videos, tmp_path / "out")


def samples(tar: Path) -> list[dict[str, bytes]]:
    """Read a tar by the webdataset package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(webdataset.WebDataset(str(tar), shardshuffle=False))


def test_tars_are_whole_named_as_the_release_and_always_the_same(tmp_path, monkeypatch, call, videos):
    monkeypatch.setattr(inputs, "_UNIT", 3)
    for out, workers in (("a", 0), ("b", 2)):
        call(
            str(table(videos)),
            tmp_path / out,
            "webdataset",
            5,
            metadata_columns=("caption", "score", "good"),
            frame_workers=workers,
        )
    assert written(tmp_path / "a") == written(tmp_path / "b")
    assert set(written(tmp_path / "a")) == {"000000000.tar", "000000001.tar"}
    first, second = (samples(tmp_path / f"a/00000000{n}.tar") for n in (0, 1))
    assert [sample["__key__"] for sample in first + second] == [f"id_{n}" for n in range(4)]
    assert json.loads(second[0]["json"]) == {"score": 1.5, "good": True}
    assert second[0]["txt"] == b'a disc, "3"'
    with tarfile.open(tmp_path / "a/000000000.tar") as tar:
        assert {member.mtime for member in tar} == {0}
        assert [member.name for member in tar][:3] == ["id_0.json", "id_0.npy", "id_0.txt"]
    assert (tmp_path / "a/000000000.tar").read_bytes().endswith(bytes(1024))
    call(videos, tmp_path / "c", "webdataset", 5, oom_shard_count=4)
    assert set(written(tmp_path / "c")) == {"0000.tar", "0001.tar"}


def test_a_tar_takes_in_what_works_later(tmp_path, call, videos):
    paths = [videos[0], tmp_path / "late.mp4", videos[1]]
    with pytest.warns(UserWarning, match="1 of 3"):
        call(paths, tmp_path / "out", "webdataset", 5)
    assert [sample["__key__"] for sample in samples(tmp_path / "out/000000000.tar")] == ["0", "2"]
    assert failed(tmp_path / "out")["000000000/1"][1] == "missing media"
    videos[2].rename(tmp_path / "late.mp4")
    report = call(paths, tmp_path / "out", "webdataset", 5)
    assert (report.done, report.done_before, report.failed) == (1, 2, 0)
    call(paths, tmp_path / "fresh", "webdataset", 5)
    assert written(tmp_path / "out") == written(tmp_path / "fresh")
    with pytest.raises(InputError, match="holds 1 samples that are not among its rows now"):
        call(paths[:2], tmp_path / "out", "webdataset", 5)


def test_ranks_share_the_rows(tmp_path, monkeypatch, call, videos):
    monkeypatch.setattr(inputs, "_UNIT", 1)
    monkeypatch.setenv("SLURM_NTASKS", "3")
    for rank in range(3):
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        call(videos, tmp_path / "files", take_every_nth=10, distribute="slurm") if rank < 2 else None
        call(videos, tmp_path / "tars", "webdataset", 10, distribute="slurm") if rank < 2 else None
    report = call(videos, tmp_path / "files", take_every_nth=10, distribute="slurm")
    assert report.rows == 0  # ceil(4 / 3) rows each leave none to the last one, as in clip-video-encode
    assert set(written(tmp_path / "files")) == {f"{n}.{ending}" for n in range(4) for ending in ("npy", "json")}
    assert set(written(tmp_path / "tars")) == {f"00000000{n}.tar" for n in range(4)}
    assert (tmp_path / "files/_embedshard/rank-1-of-3/summary.json").is_file()
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(InputError, match="another setting"):
        call(videos, tmp_path / "files", distribute="slurm")


KILLED = """
import sys
from embedshard.compat import clip_video_encode

if __name__ == "__main__":
    model, table, out, output_format = sys.argv[1:]
    clip_video_encode(table, out, output_format, 5, metadata_columns="caption", model_name=model, device="cpu")
"""


@pytest.mark.parametrize("output_format", ["files", "webdataset"])
def test_kill_9_and_the_same_call_again_equals_an_uninterrupted_one(tmp_path, tiny_model, call, output_format):
    tree = Tree(tmp_path / "raw")
    for number in range(20):
        tree.video(f"{number}.mp4", str(number), seconds=1)
    path = table([tmp_path / f"raw/{number}.mp4" for number in range(20)])
    call(str(path), tmp_path / "whole", output_format, 5, metadata_columns="caption")
    (tmp_path / "killed.py").write_text(KILLED)
    out = tmp_path / "out"
    words = [sys.executable, str(tmp_path / "killed.py"), str(tiny_model), str(path), str(out), output_format]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(words, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.rglob("[!.]*.npy"))) < 5:
        time.sleep(0.002)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    staged = len(list((out / "_embedshard").rglob("[!.]*.npy")))
    report = call(str(path), out, output_format, 5, metadata_columns="caption")
    assert report.done + report.done_before == 20
    assert report.frames <= 2 * (20 - staged)  # what was staged is not encoded again
    assert written(out) == written(tmp_path / "whole")


def test_a_stop_while_files_are_laid_out_loses_none(tmp_path, monkeypatch, call, videos):
    def full(path, data) -> None:
        if path.name == "2.json":
            raise OSError("no space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(outputs, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        call(videos, tmp_path / "out", take_every_nth=5)
    monkeypatch.undo()
    assert {path.name for path in (tmp_path / "out").glob("*.npy")} == {"0.npy", "1.npy"}
    report = call(videos, tmp_path / "out", take_every_nth=5)
    assert (report.done, report.done_before, report.frames) == (2, 2, 0)
    call(videos, tmp_path / "whole", take_every_nth=5)
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_clip_video_encodes_own_test_videos(tmp_path, call, shared_data):
    """Its reader takes 74 and 179 frames, of which the edit lists of the files show 56 and 134."""
    names = ("cve_bears_editlist.mp4", "cve_orangutan_editlist.mp4")
    paths = [shared_data / "videos" / name for name in names]
    report = call(paths, tmp_path / "out", "files", 5, use_dst_name=True)
    assert report.done == 2
    assert [len(np.load(tmp_path / f"out/{path.stem}.npy")) for path in paths] == [12, 27]
