"""Processes that a test starts by hand. Those that still run when the test is over are killed."""

from __future__ import annotations

import subprocess
from typing import Any, Final, TypeVar

_P = TypeVar("_P", bound=subprocess.Popen[Any])

_started: Final[list[subprocess.Popen[Any]]] = []


def leashed(process: _P) -> _P:
    """The same process. It is killed at the end of the test if it still runs, also when the test failed."""
    _started.append(process)
    return process


def end() -> None:
    """Kill what still runs, and close the pipes to it."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.wait(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
