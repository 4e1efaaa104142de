"""Start a process of our own. Imports nothing of ours."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

__all__ = ["start_process"]


def start_process(
    function: Callable[..., None], descriptors: tuple[int, ...] = (), environment: Mapping[str, str] | None = None
) -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start a process that runs a function, without the user's main module, which `multiprocessing` would import.

    Args:
        function: Of a module; is called with a descriptor of a connection to this process, and with `descriptors`.
        descriptors: Open ones that the process inherits.
        environment: Variables that it gets beside those of this process.

    Returns:
        The connection and the process; it gets no signals of the terminal.
    """
    ours, theirs = multiprocessing.Pipe()
    passed = (theirs.fileno(), *descriptors)
    code = f"from {function.__module__} import {function.__name__} as run; run{passed}".replace(",)", ")")
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        pass_fds=passed,
        start_new_session=True,
    )
    theirs.close()
    return ours, process
