"""Queues beside each other: a broker or server, one worker and a client, each in processes of its own.

The rows `tasks`, `latency` and `recovery` are made of these; `bench/queue_peers.py` says what they are. Everything
lives in the row's own folder and is reached through unix sockets: our server as well as Redis and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

from bench.peers.record import LOG, RECORD
from bench.rows import ROOT
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


class Client:
    """A process that submits what it is told to: bench/peers/produce.py."""

    def __init__(self, python: str, module: str, environment: Mapping[str, str], log: Path) -> None:
        self._argv = [python, "-m", "bench.peers.produce", module]
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Client]:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, cwd=ROOT, env=self._environment, stdin=PIPE, stdout=PIPE, stderr=log
            )
        try:
            yield self
        finally:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def submit(self, kind: str = "noop", **how: float) -> Submitted:
        """How: see bench/peers/produce.py."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"kind": kind, **how}).encode() + b"\n")
        async with asyncio.timeout(DONE):
            line = await self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the client ended:\n{self._log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return Submitted(int(answer["sent"]), float(answer["seconds"]))


@dataclass(frozen=True, slots=True)
class Submitted:
    """The figures say how many tasks were accepted, and how many seconds that took."""

    count: int
    seconds: float


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
    client: Client
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
        deadline = time.monotonic() + within
        while self.runs < count:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK)
        return True

    async def ready(self) -> None:
        """Returns when a task has gone all the way."""
        runs = self.runs
        await self.client.submit(count=1)
        if not await self.runs_are(runs + 1):
            raise AssertionError(f"{self.name} does not work:\n{self.worker.log()[-3000:]}")

    async def burst(self, at_once: int | None = None, *, client: Client | None = None, **how: float) -> float:
        """Tasks a second from the first submission to the last run, with worker and client at it at once."""
        runs = await self._run(client or self.client, at_once=at_once or self.at_once, **how)
        return len(runs) / ((max(each.at for each in runs) - min(each.sent for each in runs)) / 1e9)

    async def paced(self, count: int, every: float) -> list[float]:
        """Milliseconds from each submission's beginning to its handler's, one after the other; sorted."""
        runs = await self._run(self.client, count=count, every=every)
        return sorted((each.at - each.sent) / 1e6 for each in runs)

    async def _run(self, client: Client, **how: float) -> list[Ran]:
        looks: dict[str, Look] = {**self.parts, "client": lambda: client_cpu(client)}
        before, began = {part: look() for part, look in looks.items()}, self.runs
        submitted = await client.submit("noop", **how)
        if not await self.runs_are(began + submitted.count):
            raise AssertionError(f"{self.name}: {self.runs - began} of {submitted.count} have run")
        self.spent = {part: 1e6 * (look() - before[part]) / submitted.count for part, look in looks.items()}
        return self.ran(began)

    @property
    def costs(self) -> str:
        """The last burst's CPU time."""
        return ", ".join(f"{part} {spent:.0f}" for part, spent in self.spent.items()) + " µs of CPU a task"


def log_of(folder: Path) -> Path:
    return folder / "ran"


def environment_of(folder: Path) -> dict[str, str]:
    """Return the environment of each process that runs tasks or sends them."""
    return {"PYTHONPATH": str(ROOT), LOG: str(log_of(folder)), "PYTHONWARNINGS": "ignore"}


def group_cpu(process: Process) -> float:
    """User and system seconds of a process and its children, those that have ended included."""
    total = 0.0
    leader = psutil.Process(process.pid)
    for one in [leader, *leader.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def client_cpu(client: Client) -> float:
    times = psutil.Process(client.process.pid).cpu_times()
    return float(times.user + times.system)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of the sorted figures that is at least as large as this share of them."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
