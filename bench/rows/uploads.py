"""Uploads over loopback: one of 1 GiB, 16 of 64 MiB at once, and many of 1 KiB.

Ours is the real `longshored` with its defaults, which checks each chunk's CRC32C and the whole's, syncs file and
folder, and answers when the task is committed. The floor (bench/floors/server.py) has the same sender. Every server and
every sender is a process of its own, on the same cores and file system; what came is removed between two measurements.
Senders: bench/loads/uploads.py and bench/peers/upload.go.

`upload`, in MB/s: the sender has its messages serialized beforehand, as Go's and nginx's sender has the body in memory:
the figure is what the server carries. `client` is the upload as users make it, AsyncClient from a file in the page
cache: it reads, checks and resumes, all in Python, in the time that the others only send; `push` is the command
`longshore push`, from its start to its end. Both are held against the floor with the lean sender. The Go handler copies
the body into a file with io.Copy; nginx has `dav_methods PUT`. Neither syncs or checks. `dd conv=fsync` of the same
size into the same file system is the limit without a network.

`uploads16`: MB/s of all of them, and the server's peak resident memory since its start, with the warm-up and all rounds
behind it. Ours sends on four connections, four uploads on each, Go on 16.

`small-uploads`: files of 1 KiB accepted a second, 64 at once, each its own durable task. `uploads`: an Upload stream
each (header, chunk, finish), as files of any size have it. `submit`: each file comes with its submission
(`submit_many`, which is there for this), and is answered when bytes and task are committed. Celery enqueues to Redis
with appendfsync always, so that both are durable when they answer: `apply_async` with 1 KiB of argument from eight
threads of one process, over a unix socket; more threads are slower there. None has workers.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from bench.support.delivery import pattern, timed
from bench.support.figures import GIB, KIB, MB, MIB, Goal
from bench.support.processes import family
from bench.support.queue_peers import celery_enqueues
from bench.support.run import Contender, Row, Run
from bench.support.uploading import Peer, UploadServer, go_handler, nginx, sent

SIXTEEN: Final = 16
SIXTEENTH: Final = 64 * MIB
AT_ONCE: Final = 64
COUNT: Final = 4_000
"""Small uploads a round; all rounds stay below the server's limit of 100,000 live tasks in a queue."""
SECONDS: Final = 1.5
"""Celery enqueues for so many seconds in each round."""

# One of 1 GiB ---------------------------------------------------------------------------------------------------------


async def sending(run: Run, stack: AsyncExitStack, server: UploadServer, how: str) -> Contender:
    """One upload by a sender, in MB/s."""
    sender = await stack.enter_async_context(server.sender(how, GIB))

    async def once() -> float:
        try:
            return GIB / await sent(run, f"{server.process.name} {how}", GIB, sender, [server.process.pid]) / MB
        finally:
            server.forget()

    return once


async def ours(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    server = stack.enter_context(UploadServer(run))
    source = pattern(run.folder / "content", GIB)

    async def push() -> float:
        argv = (run.tree.python, "-m", "longshore.client.cli", "push", str(source), "bench/content")
        try:
            return GIB / await timed(*argv, environment=server.environment) / MB
        finally:
            server.forget()

    return {how: await sending(run, stack, server, how) for how in ("raw", "client")} | {"push": push}


async def theirs(run: Run, stack: AsyncExitStack, name: str, server: Peer) -> Contender:
    sender = await stack.enter_async_context(server.sender(GIB))

    async def once() -> float:
        try:
            return GIB / await sent(run, name, GIB, sender, family(server.pid)) / MB
        finally:
            server.forget()

    return once


async def measure_one(run: Run) -> None:
    async with AsyncExitStack() as stack:
        contenders = await ours(run, stack)
        contenders["floor"] = await sending(run, stack, stack.enter_context(UploadServer(run, floor=True)), "raw")
        contenders["Go net/http"] = await theirs(run, stack, "Go", stack.enter_context(go_handler(run)))
        contenders["nginx PUT"] = await theirs(run, stack, "nginx", stack.enter_context(nginx(run)))
        contenders["dd conv=fsync"] = partial(_dd, run)
        figures = await run.turns(contenders)
    for how, goal in (("raw", 0.85), ("client", 0.75), ("push", 0.75)):
        mine, least = figures[how], Goal(at_least=goal)
        run.compare(what=how, peer="floor", unit="MB/s", ours=mine, theirs=figures["floor"], goal=least)
    for peer in ("Go net/http", "nginx PUT", "dd conv=fsync"):
        run.compare(what="raw", peer=peer, unit="MB/s", ours=figures["raw"], theirs=figures[peer])


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

    def __init__(self, run: Run, server: UploadServer | Peer) -> None:
        self._run, self._server = run, server
        self.process = server.process if isinstance(server, UploadServer) else server
        self.peak = 0.0

    async def contender(self, stack: AsyncExitStack) -> Contender:
        if isinstance(self._server, UploadServer):
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
    return {"at once": await Sixteen(run, stack.enter_context(UploadServer(run))).contender(stack)}


async def measure16(run: Run) -> None:
    async with AsyncExitStack() as stack:
        sites = {
            "ours": Sixteen(run, stack.enter_context(UploadServer(run))),
            "floor": Sixteen(run, stack.enter_context(UploadServer(run, floor=True))),
            "Go net/http": Sixteen(run, stack.enter_context(go_handler(run))),
        }
        figures = await run.turns({name: await site.contender(stack) for name, site in sites.items()})
    peak = {name: [site.peak] for name, site in sites.items()}
    memory = Goal(at_most=250.0, ours=True)
    for peer, goal in (("floor", Goal(at_least=0.85)), ("Go net/http", None)):
        run.compare(peer=peer, unit="MB/s", ours=figures["ours"], theirs=figures[peer], goal=goal)
    run.compare(what="memory", peer="floor", unit="MiB", ours=peak["ours"], theirs=peak["floor"], goal=memory)


# Many of 1 KiB --------------------------------------------------------------------------------------------------------


async def small(run: Run, stack: AsyncExitStack, *, floor: bool = False) -> dict[str, Contender]:
    server = stack.enter_context(UploadServer(run, floor=floor))

    async def contender(how: str) -> Contender:
        sender = await stack.enter_async_context(server.sender(how, KIB, COUNT, AT_ONCE))

        async def once() -> float:
            name = f"{server.process.name} {how}"
            return COUNT / await sent(run, name, COUNT * KIB, sender, [server.process.pid], count=COUNT)

        return once

    return {"uploads": await contender("small"), "submit": await contender("submit")}


async def ours_small(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    return await small(run, stack)


async def measure_small(run: Run) -> None:
    name = "Celery on Redis always (enqueue)"
    async with AsyncExitStack() as stack:
        contenders = await small(run, stack)
        bare = {f"floor {how}": each for how, each in (await small(run, stack, floor=True)).items()}
        enqueue = await stack.enter_async_context(celery_enqueues(run, size=KIB))
        figures = await run.turns({**contenders, **bare, name: partial(enqueue, SECONDS)})
    for how, of_floor, of_celery in (("uploads", Goal(at_least=0.6), Goal(at_least=1.0)), ("submit", None, None)):
        mine = figures[how]
        run.compare(what=how, peer="floor", unit="/s", ours=mine, theirs=figures[f"floor {how}"], goal=of_floor)
        run.compare(what=how, peer=name, unit="/s", ours=mine, theirs=figures[name], goal=of_celery)


ROWS: Final = (
    Row(name="upload", unit="MB/s", measure=measure_one, ours=ours, rounds=5),
    Row(name="uploads16", unit="MB/s", measure=measure16, ours=ours16, rounds=5),
    Row(name="small-uploads", unit="/s", measure=measure_small, ours=ours_small, rounds=4, durable=True),
)
