"""CancelTask is called, and the running handler is told.

Ours: a longshored with SQLite, durable as always, a longshore-worker with the handlers of bench/loads/tasks.py, and the
Python client, each a process of its own. One task after another: it runs, the client takes the time and calls
`cancel`, the handler takes the time in its `except`: CancelledError in a coroutine, AttemptStopped in a thread. So the
figure holds the client, the commit of the cancel (with its sync), the server's message to the worker and the worker's
to the handler. Milliseconds, p50 and p99 of 300 cancels a round.

The floor (bench/floors/server.py) has the same client and the same worker. The peer is no rival: a message by Redis
pub/sub from one process to another over unix sockets, both on asyncio, which nothing keeps, nobody has to ask for, and
which is lost when nobody listens. So that ratio has no goal.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from bench.loads.tasks import ASYNC, PLAIN, STAMPS
from bench.peers.pubsub import CHANNEL, command
from bench.support.figures import Goal, quantile
from bench.support.processes import ROOT, Stamps
from bench.support.run import Contender, Row, Run, installed
from longshore.client import AsyncClient, job_spec
from tests.support.servers.processes import Process, eventually

CANCELS: Final = 300
GOAL: Final = Goal(at_most=1.0)

Cancel = Callable[[], Awaitable[float]]
"""Stops one running thing, and answers with the milliseconds until it knew."""


class Series:
    """p50 and p99 of each round. A turn answers its p50."""

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel
        self.middles: list[float] = []
        self.tails: list[float] = []

    async def __call__(self) -> float:
        times = [await self._cancel() for _ in range(CANCELS)]
        self.middles.append(quantile(times, 0.5))
        self.tails.append(quantile(times, 0.99))
        return self.middles[-1]


class Cancelling:
    """A server, ours or the floor, a worker and a client."""

    def __init__(self, client: AsyncClient, stamps: Stamps) -> None:
        self._client = client
        self._stamps = stamps

    async def cancel(self, kind: str) -> float:
        (task,) = await self._client.submit(spec=job_spec(kind))
        await self._stamps.next("runs")
        began = time.monotonic()
        await self._client.cancel(task.id)
        return 1e3 * (await self._stamps.next("stopped") - began)


async def cancelling(run: Run, stack: AsyncExitStack, *, floor: bool = False) -> dict[str, Series]:
    folder = run.folder / ("floor" if floor else "ours")
    stamps = stack.enter_context(Stamps(folder.with_suffix(".sock")))
    environment = {"PYTHONPATH": str(ROOT), STAMPS: str(stamps.path)}
    server = stack.enter_context(run.floor(folder) if floor else run.server(folder))
    stack.enter_context(run.worker(server, "--handlers", "bench.loads.tasks:registry", environment=environment))
    client = await stack.enter_async_context(AsyncClient(server=server.address, token_file=server.token_file))
    mine = Cancelling(client, stamps)
    return {"async": Series(lambda: mine.cancel(ASYNC)), "threaded": Series(lambda: mine.cancel(PLAIN))}


async def ours_alone(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    return dict(await cancelling(run, stack))


class PubSub:
    """A publisher."""

    def __init__(self, redis: Path, stamps: Stamps) -> None:
        self._redis = redis
        self._stamps = stamps

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PubSub]:
        self._reader, self._writer = await asyncio.open_unix_connection(self._redis)
        await self._stamps.next("runs")
        yield self
        self._writer.close()

    async def cancel(self) -> float:
        began = time.monotonic()
        self._writer.write(command(b"PUBLISH", CHANNEL, b"now"))
        heard = await self._stamps.next("stopped")
        await self._reader.readuntil(b"\r\n")
        return 1e3 * (heard - began)


@asynccontextmanager
async def pubsub(run: Run) -> AsyncIterator[PubSub]:
    root = run.folder / "redis"
    root.mkdir()
    socket = root / "redis.sock"
    argv = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(root), "--save", ""]
    with Stamps(root / "stamps.sock") as stamps, Process(name="redis", root=root, argv=argv):
        eventually(socket.is_socket, what="redis-server serves")
        argv = [sys.executable, "-m", "bench.peers.pubsub", str(socket), str(stamps.path)]
        with Process(name="listener", root=root, argv=argv, environment={"PYTHONPATH": str(ROOT)}):
            async with PubSub(socket, stamps).open() as opened:
                yield opened


async def measure(run: Run) -> None:
    installed("redis")
    async with AsyncExitStack() as stack:
        mine = await cancelling(run, stack)
        bare = await cancelling(run, stack, floor=True)
        peer = Series((await stack.enter_async_context(pubsub(run))).cancel)
        await run.turns({**mine, **{f"floor {name}": each for name, each in bare.items()}, "redis pub/sub": peer})
    for name, one in mine.items():
        for what, mine_of, floors, theirs in (
            ("p50", one.middles, bare[name].middles, peer.middles),
            ("p99", one.tails, bare[name].tails, peer.tails),
        ):
            ours = mine_of[-run.rounds :]
            title = f"{name} {what}"
            run.compare(what=title, peer="floor", unit="ms", ours=ours, theirs=floors[-run.rounds :], goal=GOAL)
            run.compare(what=title, peer="redis pub/sub", unit="ms", ours=ours, theirs=theirs[-run.rounds :])


ROWS: Final = (Row(name="cancel", unit="ms", measure=measure, ours=ours_alone),)
