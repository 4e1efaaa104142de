"""clip-video-encode 1.3.0 in a process and a virtual environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from measure import Round

__all__ = ["ClipVideoEncode"]

HERE = Path(__file__).parent
NEEDED = (
    "clip-video-encode==1.3.0 video2numpy==2.3.0 opencv-python-headless fire termcolor pandas python-dateutil pytz six "
    "tzdata youtube-dl ffmpeg requests urllib3 certifi charset-normalizer"
)


class ClipVideoEncode:
    """The running process.

    Args:
        cache: Keeps the virtual environment, one for each version of Python.

    Raises:
        OSError, CalledProcessError: It cannot be installed.
        RuntimeError: It does not start.
    """

    def __init__(self, cache: Path) -> None:
        python = _installed(cache / "clip-video-encode-{}.{}".format(*sys.version_info))
        self._process = subprocess.Popen(
            [python, HERE / "clip_video_encode_driver.py"],
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def run(self, clips: list[Path], dest: Path, workers: int) -> Round:
        """Encode one frame a second of clips of 30 into an empty folder."""
        videos = dest / "videos.txt"
        videos.write_text("\n".join(map(str, clips)))
        request = {"videos": str(videos), "dest": str(dest), "every": 30, "workers": workers}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Round(**json.loads(self._answer()))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"clip-video-encode ended with exit code {self._process.wait()}")
        return line


def _installed(folder: Path) -> Path:
    """Install it without what it pins; it takes torch and the rest from the environment of this process."""
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *NEEDED.split()], check=True)
        done.touch()
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "parent.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return python
