from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embedshard.engine.slurm import script, submit
from embedshard.errors import InputError


def test_each_task_does_its_part(tmp_path: Path) -> None:
    text = script(["status", "a folder", "--json", "$HOME"], 3, ["--gpus=1", "--time=1:00"], tmp_path)
    assert "#SBATCH --array=1-3\n" in text
    assert text.index("#SBATCH --gpus=1\n") < text.index("exec ")
    program = tmp_path / "print words"
    program.write_text(f"#!{sys.executable}\nimport sys; print(sys.argv[1:])\n")
    program.chmod(0o755)
    text = text.replace(sys.executable, f"'{program}'")
    done = subprocess.run(["bash", "-c", text], env={"SLURM_ARRAY_TASK_ID": "2", "PATH": "/usr/bin:/bin"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout == f"{['-m', 'embedshard', 'status', 'a folder', '--json', '$HOME', '--part', '2/3']}\n"


def test_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"there is no sbatch here; where there is one: sbatch job\.sh"):
        submit(Path("job.sh"))
    program = tmp_path / "sbatch"
    program.write_text("#!/bin/sh\n[ $1 = job.sh ] && echo Submitted batch job 7 || { echo no such file >&2; exit 1; }")
    program.chmod(0o755)
    assert submit(Path("job.sh")) == "Submitted batch job 7"
    with pytest.raises(InputError, match="refused: no such file"):
        submit(Path("other.sh"))
