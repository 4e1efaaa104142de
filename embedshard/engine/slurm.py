"""Run a command's units as a Slurm array job: each task does its part of them, with no daemon and no driver."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from embedshard.errors import InputError

__all__ = ["script", "submit"]


def script(command: Sequence[str], tasks: int, sbatch: Sequence[str], log: Path) -> str:
    """Give the array script.

    Args:
        command: The words after `embedshard`, without `--part`.
        tasks: Of the array; task I does part I/N.
        sbatch: Options of `sbatch`, such as `--partition=gpu`.
        log: Folder for what the tasks print.
    """
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=embedshard",
        f"#SBATCH --array=1-{tasks}",
        f"#SBATCH --output={log}/%A_%a.log",
        *(f"#SBATCH {option}" for option in sbatch),
        f"exec {shlex.join([sys.executable, '-m', 'embedshard', *command])} --part $SLURM_ARRAY_TASK_ID/{tasks}",
    ]
    return "\n".join(lines) + "\n"


def submit(path: Path) -> str:
    """Submit a script; gives what `sbatch` says.

    Raises:
        InputError: There is no `sbatch` here, or it refuses.
    """
    if not shutil.which("sbatch"):
        raise InputError(f"there is no sbatch here; where there is one: sbatch {path}")
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"sbatch {path} refused: {done.stderr.strip()}")
    return done.stdout.strip()
