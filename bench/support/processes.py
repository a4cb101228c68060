"""Processes of a row: what they cost, those that answer a line with a line, and moments that one tells another.

A stamp is time.monotonic(), which is one clock for all processes of a machine. It is taken before the message that
carries it is sent, so that telling it costs the measurement nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import psutil

ROOT: Final = Path(__file__).resolve().parents[2]
"""The tree, from which `bench` and `tests` are imported."""
PATIENCE: Final = 120.0
"""Seconds after which an answer or a stamp that does not come is an error."""


def cpu(pid: int) -> float:
    """User and system seconds of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *(each.pid for each in psutil.Process(pid).children(recursive=True))]


def family_cpu(pid: int) -> float:
    """User and system seconds of a process, of its children, and of those that have ended."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        total += times.children_user + times.children_system
        for each in family(pid):
            with suppress(psutil.NoSuchProcess):
                total += cpu(each)
    return total


class Talker:
    """A child process that answers each line of JSON on its input with a line of JSON, after a first one when ready."""

    def __init__(self, *argv: str, environment: Mapping[str, str] | None = None, log: Path | None = None) -> None:
        """`log`: where its standard error goes. None means that it goes to this process's."""
        self._argv = argv
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with (self._log or Path(os.devnull)).open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                cwd=ROOT,
                env=self._environment,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log if self._log else None,
                limit=1 << 26,
            )
        try:
            await self.heard()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._end()

    async def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def ask(self, message: object = None) -> Any:
        """Say a line, and return the answer."""
        await self.say(message)
        return await self.heard()

    async def say(self, message: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def heard(self) -> Any:
        """Return the next line. Raises AssertionError when the process has ended instead, TimeoutError."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        if not line:
            said = self._log.read_text(errors="replace")[-3000:] if self._log else ""
            raise AssertionError(f"{' '.join(self._argv)} ended with {await self._process.wait()}:\n{said}")
        return json.loads(line)


def answer(message: object) -> None:
    """Say a line: the other end of a Talker."""
    print(json.dumps(message), flush=True)


class Stamps:
    """A unix datagram socket at `path` that hears `NAME STAMP` words from other processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def next(self, name: str) -> float:
        """The next stamp, which must be of this name. Raises TimeoutError, AssertionError."""
        async with asyncio.timeout(PATIENCE):
            said, stamp = (await asyncio.get_running_loop().sock_recv(self._socket, 200)).split()
        if said.decode() != name:
            raise AssertionError(f"{said.decode()} instead of {name}")
        return float(stamp)


class Stamping:
    """The other end of Stamps."""

    def __init__(self, path: str) -> None:
        self._path = path

    @cached_property
    def _socket(self) -> socket.socket:
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def tell(self, name: str, stamp: float) -> None:
        self._socket.sendto(f"{name} {stamp!r}".encode(), self._path)
