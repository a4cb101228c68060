"""Queues beside each other: a broker or server, one worker and a client, each in processes of its own.

The rows `tasks`, `latency` and `recovery` are made of these; `bench/support/queue_peers.py` says what they are.
Everything lives in the row's own folder and is reached through unix sockets: our server as well as Redis and
PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from bench.peers.record import LOG, RECORD
from bench.support.processes import ROOT, Talker, cpu
from tests.support.servers.processes import START, Process

PEERS: Final = ROOT / "build" / "peers" / "bin"
DONE: Final = 60.0
"""Seconds in which everything that was submitted must have run."""
LOOK: Final = 0.005
"""Seconds between two looks whether it has."""


Look = Callable[[], float]
"""CPU seconds so far."""


class Part(Protocol):
    """A process, or several that belong together."""

    def start(self) -> None:
        """Returns when it can be used."""
        ...

    def kill(self) -> None:
        """kill -9, and wait for its end."""
        ...


class Group(Process):
    """A process with the children it makes."""

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # It leads its session, and so its group.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Redis(Process):
    """A redis-server with an append-only file, synced `always` (before each answer) or `everysec`."""

    def __init__(self, root: Path, sync: str, environment: Mapping[str, str]) -> None:
        self.socket = root / "redis.sock"
        argv = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--dir", str(root)]
        argv += ["--appendonly", "yes", "--appendfsync", sync, "--save", "", "--daemonize", "no"]
        super().__init__(name="redis", root=root, argv=argv, environment=dict(environment))

    def start(self) -> None:
        """Returns when it has read its file and answers."""
        self.socket.unlink(missing_ok=True)
        super().start()
        deadline = time.monotonic() + START
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Redis does not serve:\n{self.log()[-2000:]}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.settimeout(1.0)
            connection.connect(str(self.socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of a task; nanoseconds of CLOCK_MONOTONIC."""

    number: int
    sent: int
    at: int


@dataclass(slots=True)
class Site:
    """One queue, set up: what a row measures."""

    name: str
    folder: Path
    worker: Process
    client: Talker
    """A process that submits what it is told to: bench/peers/produce.py."""
    parts: Mapping[str, Look]
    """CPU seconds so far, by part."""
    broker: Part | None = None
    """The broker runs apart from the library. None means that the library is its own broker."""
    at_once: int = 64
    """Submissions at once."""
    polls: bool = False
    """The worker costs something while it is idle."""
    spent: dict[str, float] = field(default_factory=dict)
    """CPU microseconds a task in the last burst, by part."""

    @property
    def log(self) -> Path:
        return log_of(self.folder)

    def ran(self, since: int = 0) -> list[Ran]:
        """The runs that were recorded after the first `since`, as they came."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(since * RECORD.size)
            records = file.read()
        whole = len(records) // RECORD.size * RECORD.size
        return [Ran(*record) for record in RECORD.iter_unpack(records[:whole])]

    @property
    def runs(self) -> int:
        """Return how many runs were recorded."""
        return self.log.stat().st_size // RECORD.size if self.log.exists() else 0

    async def runs_are(self, count: int, within: float = DONE) -> bool:
        """Wait until so many runs are recorded; False when these seconds pass before."""
        return await until(lambda: self.runs >= count, within)

    async def ready(self) -> None:
        """Returns when a task has gone all the way."""
        runs = self.runs
        await submit(self.client, count=1)
        if not await self.runs_are(runs + 1):
            raise AssertionError(f"{self.name} does not work:\n{self.worker.log()[-3000:]}")

    async def burst(self, at_once: int | None = None, *, client: Talker | None = None, **how: Any) -> float:
        """Tasks a second from the first submission to the last run, with worker and client at it at once."""
        runs = await self._run(client or self.client, at_once=at_once or self.at_once, **how)
        return len(runs) / ((max(each.at for each in runs) - min(each.sent for each in runs)) / 1e9)

    async def paced(self, count: int, every: float) -> list[float]:
        """Milliseconds from each submission's beginning to its handler's, one after the other; sorted."""
        runs = await self._run(self.client, count=count, every=every)
        return sorted((each.at - each.sent) / 1e6 for each in runs)

    async def _run(self, client: Talker, **how: Any) -> list[Ran]:
        looks: dict[str, Look] = {**self.parts, "client": lambda: cpu(client.pid)}
        before, began = {part: look() for part, look in looks.items()}, self.runs
        count, _ = await submit(client, **how)
        if not await self.runs_are(began + count):
            raise AssertionError(f"{self.name}: {self.runs - began} of {count} have run")
        self.spent = {part: 1e6 * (look() - before[part]) / count for part, look in looks.items()}
        return self.ran(began)

    @property
    def costs(self) -> str:
        """The last burst's CPU time."""
        return ", ".join(f"{part} {spent:.0f}" for part, spent in self.spent.items()) + " µs of CPU a task"


async def submit(client: Talker, kind: str = "noop", **how: Any) -> tuple[int, float]:
    """Tasks that were accepted, and the seconds that this took. How: see bench/peers/produce.py."""
    answer = await client.ask({"kind": kind, **how})
    return int(answer["sent"]), float(answer["seconds"])


async def until(there: Callable[[], bool], within: float = DONE) -> bool:
    """Look until it is there; False when these seconds pass before."""
    deadline = time.monotonic() + within
    while not there():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK)
    return True


def log_of(folder: Path) -> Path:
    return folder / "ran"


def environment_of(folder: Path) -> dict[str, str]:
    """Return the environment of each process that runs tasks or sends them."""
    return {"PYTHONPATH": str(ROOT), LOG: str(log_of(folder)), "PYTHONWARNINGS": "ignore"}
