"""`longshore` as a process of its own: in a pipe, on a terminal, interrupted."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.children import leashed

COMMAND: Final = (sys.executable, "-m", "longshore.client.cli")
WITHIN: Final = 60.0
"""Seconds in which a command must end on a busy machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """The value tells how a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Return the lines of standard output."""
        return self.out.splitlines()

    @property
    def objects(self) -> list[Any]:
        """Return the JSON values of standard output, one a line."""
        return [json.loads(line) for line in self.lines]


class CommandLine:
    """Runs commands against one server, in one folder."""

    def __init__(self, *, address: str, data_dir: Path, folder: Path) -> None:
        self.folder: Final = folder
        own = {"LONGSHORE_SERVER": address, "LONGSHORE_DATA_DIR": str(data_dir), "TERM": "xterm", "COLUMNS": "120"}
        rest = {key: value for key, value in os.environ.items() if not key.startswith("LONGSHORE_") and key != "CI"}
        self.environment: Final[Mapping[str, str]] = rest | own

    def run(
        self, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None
    ) -> CommandResult:
        """Run to its end with pipes for all three streams."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            timeout=WITHIN,
            check=False,
        )
        return CommandResult(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())

    def json(self, *arguments: str) -> list[Any]:
        """Run a command with `--output json`, and return the values that it prints; it must end with 0."""
        done = self.run(*arguments, "--output", "json")
        assert done.code == 0, done
        return done.objects

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start it with pipes for its output; the caller ends it, or the end of the test does."""
        return leashed(
            subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.folder,
                env=dict(self.environment),
            )
        )

    def on_terminal(self, *arguments: str, stdout: bool = True) -> CommandResult:
        """Run it with standard error (and `stdout`) on a terminal; `err` is what the terminal got."""
        near, far = pty.openpty()
        process = leashed(
            subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=far,
                stdout=far if stdout else subprocess.PIPE,
                stderr=far,
                cwd=self.folder,
                env=dict(self.environment),
            )
        )
        os.close(far)
        screen, out, deadline = b"", b"", time.monotonic() + WITHIN
        pipe = process.stdout.fileno() if process.stdout is not None else None
        watched = [near] + ([pipe] if pipe is not None else [])
        while watched and time.monotonic() < deadline:
            ready, _, _ = select.select(watched, [], [], 1.0)
            for each in ready:
                try:
                    piece = os.read(each, 65536)
                except OSError:
                    piece = b""  # Linux says so when the last process has left the terminal.
                if not piece:
                    watched.remove(each)
                elif each == near:
                    screen += piece
                else:
                    out += piece
        os.close(near)
        code = process.wait(5)
        if process.stdout is not None:
            process.stdout.close()
        return CommandResult(code=code, out=out.decode(), err=screen.decode())


def interrupt(process: subprocess.Popen[bytes]) -> CommandResult:
    """Ctrl-C, and how it ended."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WITHIN)
    return CommandResult(code=process.returncode, out=out.decode(), err=err.decode())


def plain(text: str) -> str:
    """Without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def ids(values: Sequence[Any]) -> list[str]:
    """The ids of tasks printed as JSON."""
    return [value["id"] for value in values]
