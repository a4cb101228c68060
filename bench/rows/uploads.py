"""Uploads over loopback: one of 1 GiB, 16 of 64 MiB at once, and many of 1 KiB.

Ours is the real `longshored` with its defaults, which checks each chunk's CRC32C and the whole's, syncs file and
folder, and answers when the task is committed. Every server and every sender is a process of its own, on the same cores
and file system; what came is removed between two measurements. Senders: bench/loads/uploads.py and
bench/peers/upload.go.

`upload`, in MB/s: the sender has its messages serialized beforehand, as Go's and nginx's sender has the body in memory:
the figure is what the server carries, and this one has the goal. `client` is the upload as users make it, AsyncClient
from a file in the page cache: it reads, checks and resumes, all in Python, in the time that the others only send. It
has no goal, because the peers have no such client. The Go handler copies the body into a file with io.Copy; nginx has
`dav_methods PUT`. Neither syncs or checks. `dd conv=fsync` of the same size into the same file system is the limit
without a network, and has no goal.

`uploads16`: MB/s of all of them, and the server's peak resident memory since its start, with the warm-up and all rounds
behind it. Ours sends on four connections, four uploads on each, Go on 16.

`small-uploads`: files of 1 KiB accepted a second, 64 at once, each its own durable task. Each file comes with its
submission (`submit_many`, which is there for this), and is answered when bytes and task are committed. `uploads`: the
same files with an Upload stream each (header, chunk, finish), as files of any size have it. Celery enqueues to Redis
with appendfsync always, so that both are durable when they answer: `apply_async` with 1 KiB of argument from eight
threads of one process, over a unix socket; more threads are slower there. Neither has workers.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from bench.support.figures import GIB, KIB, MB, MIB, Goal
from bench.support.processes import family
from bench.support.queue_peers import celery_enqueues
from bench.support.run import Contender, Row, Run
from bench.support.uploading import Longshored, Peer, go_handler, nginx, sent

SIXTEEN: Final = 16
SIXTEENTH: Final = 64 * MIB
AT_ONCE: Final = 64
COUNT: Final = 4_000
"""Small uploads a round; all rounds stay below the server's limit of 100,000 live tasks in a queue."""
SECONDS: Final = 2.0
"""Celery enqueues for so many seconds in each round."""

# One of 1 GiB ---------------------------------------------------------------------------------------------------------


async def ours(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    server = stack.enter_context(Longshored(run))

    async def contender(how: str) -> Contender:
        sender = await stack.enter_async_context(server.sender(how, GIB))

        async def once() -> float:
            try:
                return GIB / await sent(run, how, GIB, sender, [server.process.pid]) / MB
            finally:
                server.forget()

        return once

    return {"raw": await contender("raw"), "client": await contender("client")}


async def peer(run: Run, stack: AsyncExitStack, name: str, server: Peer) -> Contender:
    sender = await stack.enter_async_context(server.sender(GIB))

    async def once() -> float:
        try:
            return GIB / await sent(run, name, GIB, sender, family(server.pid)) / MB
        finally:
            server.forget()

    return once


async def measure_one(run: Run) -> None:
    async with AsyncExitStack() as stack:
        figures = await run.turns(
            {
                **await ours(run, stack),
                "go": await peer(run, stack, "go", stack.enter_context(go_handler(run))),
                "nginx": await peer(run, stack, "nginx", stack.enter_context(nginx(run))),
                "dd": lambda: _dd(run),
            }
        )
    goal = Goal(at_least=1.2)
    run.compare(peer="Go net/http", unit="MB/s", ours=figures["raw"], theirs=figures["go"], goal=goal)
    run.compare(what="client", peer="Go net/http", unit="MB/s", ours=figures["client"], theirs=figures["go"])
    run.compare(peer="nginx PUT", unit="MB/s", ours=figures["raw"], theirs=figures["nginx"])
    run.compare(peer="dd conv=fsync", unit="MB/s", ours=figures["raw"], theirs=figures["dd"])


async def _dd(run: Run) -> float:
    target = run.folder / "dd"
    argv = ("dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={GIB // MIB}", "conv=fsync", "status=none")
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*argv, env=dict(os.environ) | run.environment())
    if await process.wait():
        raise AssertionError("dd has failed")
    seconds = time.perf_counter() - began
    target.unlink()
    return GIB / seconds / MB


# 16 of 64 MiB ---------------------------------------------------------------------------------------------------------


class Sixteen:
    """16 uploads at once, and the server's peak memory in MiB."""

    def __init__(self, run: Run, server: Longshored | Peer) -> None:
        self._run, self._server = run, server
        self.process = server.process if isinstance(server, Longshored) else server
        self.peak = 0.0

    async def contender(self, stack: AsyncExitStack) -> Contender:
        if isinstance(self._server, Longshored):
            sender = self._server.sender("raw", SIXTEENTH, SIXTEEN, SIXTEEN)
        else:
            sender = self._server.sender(SIXTEENTH, SIXTEEN)
        await stack.enter_async_context(sender)

        async def once() -> float:
            size = SIXTEEN * SIXTEENTH
            try:
                return size / await sent(self._run, self.process.name, size, sender, [self.process.pid]) / MB
            finally:
                self._server.forget()
                self.peak = self.process.resident(peak=True) / MIB

        return once


async def ours16(run: Run, stack: AsyncExitStack) -> Mapping[str, Contender]:
    return {"": await Sixteen(run, stack.enter_context(Longshored(run))).contender(stack)}


async def measure16(run: Run) -> None:
    async with AsyncExitStack() as stack:
        mine = Sixteen(run, stack.enter_context(Longshored(run)))
        go = Sixteen(run, stack.enter_context(go_handler(run)))
        figures = await run.turns({"ours": await mine.contender(stack), "go": await go.contender(stack)})
    name = "Go net/http"
    run.compare(peer=name, unit="MB/s", ours=figures["ours"], theirs=figures["go"], goal=Goal(at_least=1.0))
    memory = Goal(at_most=250.0, ours=True)
    run.compare(what="memory", peer=name, unit="MiB", ours=[mine.peak], theirs=[go.peak], goal=memory)


# Many of 1 KiB --------------------------------------------------------------------------------------------------------


async def ours_small(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    server = stack.enter_context(Longshored(run))

    async def contender(how: str) -> Contender:
        sender = await stack.enter_async_context(server.sender(how, KIB, COUNT, AT_ONCE))

        async def once() -> float:
            return COUNT / await sent(run, how, COUNT * KIB, sender, [server.process.pid], count=COUNT)

        return once

    return {"submit": await contender("submit"), "uploads": await contender("small")}


async def measure_small(run: Run) -> None:
    async with AsyncExitStack() as stack:
        contenders = await ours_small(run, stack)
        enqueue = await stack.enter_async_context(celery_enqueues(run, size=KIB))
        figures = await run.turns({**contenders, "celery": lambda: enqueue(SECONDS)})
    name, unit, theirs = "Celery on Redis always (enqueue)", "/s", figures["celery"]
    # The absolute goal is for the disk as it is.
    floor = None if run.slow else Goal(at_least=5_000, ours=True)
    run.compare(what="here", peer=name, unit=unit, ours=figures["submit"], theirs=theirs, goal=floor)
    run.compare(peer=name, unit=unit, ours=figures["submit"], theirs=theirs, goal=Goal(at_least=2.0))
    run.compare(what="uploads", peer=name, unit=unit, ours=figures["uploads"], theirs=theirs)


ROWS: Final = (
    Row(name="upload", unit="MB/s", measure=measure_one, ours=ours, rounds=5, durable=True),
    Row(name="uploads16", unit="MB/s", measure=measure16, ours=ours16, rounds=7),
    Row(name="small-uploads", unit="/s", measure=measure_small, ours=ours_small, rounds=4, durable=True),
)
