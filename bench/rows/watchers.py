"""Ten thousand open watches on one server: what each costs in memory, and how soon an event reaches its watcher.

Ours: a longshored with SQLite, 10,000 queued jobs, and a WatchTask stream for each, held by two processes with the
generated stub, apart from the server, so that no figure has their memory. Kilobytes: what the server is larger with all
of them open and quiet than it was before, divided by their number. Milliseconds: 300 tasks a round are cancelled one
after another; counted is from just before CancelTask is called to the arrival of the revision in the watcher, so the
call's way, the commit and its sync are in it.

The peer of the memory is a bare grpc.aio server that answers each of as many streams with one message and then waits
(bench/floors/server.py); that of the milliseconds is the answer to the very CancelTask call. Both are floors: no goal
on the ratios.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import grpc.aio
import uvloop

from bench.support.figures import Goal, quantile
from bench.support.noop import metadata
from bench.support.processes import Talker, answer
from bench.support.run import Contender, Row, Run
from longshore.client import AsyncClient, Submission, job_spec
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc
from tests.support.servers.processes import Process, ServerProcess

WATCHES: Final = 10_000
HOLDERS: Final = 2
PER_CONNECTION: Final = 250
CANCELS: Final = 300
KILOBYTES: Final = 30.0
QUIET: Final = 1.0
"""Seconds until what was needed only to open the streams is given back."""
KB: Final = 1000


@asynccontextmanager
async def watched(address: str, token: str, ids: Sequence[str]) -> AsyncIterator[list[Talker]]:
    """All of them open, in HOLDERS processes."""
    async with AsyncExitStack() as stack:
        holders = []
        for number in range(HOLDERS):
            argv = (sys.executable, "-m", "bench.rows.watchers", address)
            holder = await stack.enter_async_context(Talker(*argv))
            await holder.ask({"token": token, "ids": list(ids[number::HOLDERS])})
            holders.append(holder)
        yield holders


async def larger_by(process: Process, address: str, token: str, ids: Sequence[str], stack: AsyncExitStack) -> float:
    """Kilobytes that each of the watches costs the process; they stay open as long as `stack`."""
    before = process.resident()
    await stack.enter_async_context(watched(address, token, ids))
    await asyncio.sleep(QUIET)
    return (process.resident() - before) / len(ids) / KB


class Round:
    """Milliseconds of one round, to the watcher and to the caller."""

    def __init__(self) -> None:
        self.watcher: list[float] = []
        self.caller: list[float] = []


async def cancel_some(server: ServerProcess, holders: Sequence[Talker], ids: Sequence[str]) -> Round:
    """Cancel them one after another."""
    found, began = Round(), dict[str, float]()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = task_service_pb2_grpc.TaskServiceStub(channel)
        for task_id in ids:
            began[task_id] = time.monotonic()
            await stub.CancelTask(pb.CancelTaskRequest(task_id=task_id), metadata=metadata(server))
            found.caller.append(1e3 * (time.monotonic() - began[task_id]))
            await asyncio.sleep(0.002)
    for number, holder in enumerate(holders):
        mine = ids[number::HOLDERS]
        arrived = await holder.ask({"ids": list(mine)})
        found.watcher += [1e3 * (at - began[task_id]) for task_id, at in arrived.items()]
    return found


async def to_be_watched(run: Run, stack: AsyncExitStack, count: int) -> tuple[ServerProcess, list[str]]:
    """A server, and tasks that nobody takes."""
    server = stack.enter_context(run.server(run.folder / "server"))
    async with AsyncClient(server=server.address, token_file=server.token_file) as client:
        jobs = (Submission(spec=job_spec("watched")) for _ in range(count))
        return server, sorted([one.task_ids[0] async for one in client.submit_many(jobs)])


async def ours(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    """Milliseconds to the watcher, with so many watches open as there are cancels."""
    server, ids = await to_be_watched(run, stack, WATCHES)
    # It is in the memory of the watches that versions differ, if at all: a figure, not a round.
    async with AsyncExitStack() as opened:
        kilobytes = await larger_by(server, server.address, server.token, ids[: WATCHES // 2], opened)
    run.say(f"watchers: {run.tree.root}: {kilobytes:.1f} KB each")
    holders = await stack.enter_async_context(watched(server.address, server.token, ids))
    groups = iter([ids[start : start + CANCELS] for start in range(0, WATCHES, CANCELS)])

    async def once() -> float:
        return quantile((await cancel_some(server, holders, next(groups))).watcher, 0.5)

    return {"event p50": once}


async def measure(run: Run) -> None:
    floors, kilobytes, rounds = [], [], []
    async with AsyncExitStack() as stack:
        server, ids = await to_be_watched(run, stack, WATCHES)
        # The first watches also bring what is there only once; the floor has the same.
        async with watched(server.address, server.token, ids[:100]):
            pass
        for number in range(run.rounds):
            async with AsyncExitStack() as opened:
                kilobytes.append(await larger_by(server, server.address, server.token, ids, opened))
            run.say(f"watchers: {kilobytes[-1]:.1f} KB each, round {number + 1}")
            floors.append(await floor(run, ids, number))
            run.say(f"watchers: {floors[-1]:.1f} KB each of the floor")
        async with watched(server.address, server.token, ids) as holders:
            for number in range(run.rounds):
                some = ids[number * CANCELS : (number + 1) * CANCELS]
                rounds.append(await cancel_some(server, holders, some))
    compare(run, kilobytes, floors, rounds)


async def floor(run: Run, ids: Sequence[str], number: int) -> float:
    """The same watches at a bare server; kilobytes each."""
    with run.floor(run.folder / f"floor-{number}") as process:
        async with watched(process.address, process.token, ids[:100]):
            pass
        async with AsyncExitStack() as opened:
            return await larger_by(process, process.address, process.token, ids, opened)


def compare(run: Run, kilobytes: Sequence[float], floors: Sequence[float], rounds: Sequence[Round]) -> None:
    # The first opening makes the heap what it then is: later ones find room in it, and would look cheaper.
    run.compare(
        what=f"{WATCHES:,} open",
        unit="KB each",
        peer="bare grpc.aio streams",
        ours=kilobytes[:1],
        theirs=floors,
        goal=Goal(at_most=KILOBYTES, ours=True),
    )
    for what, share in (("p50", 0.5), ("p99", 0.99)):
        run.compare(
            what=f"event {what}",
            unit="ms",
            peer="the answer to CancelTask",
            ours=[quantile(each.watcher, share) for each in rounds],
            theirs=[quantile(each.caller, share) for each in rounds],
        )


# The process that holds watches open ----------------------------------------------------------------------------------


class Holding:
    """The open watches of this process."""

    def __init__(self) -> None:
        self.arrived: dict[str, asyncio.Future[float]] = {}
        self._open = asyncio.Semaphore(64)

    async def watch(self, stub: Any, task_id: str, token: str, opened: asyncio.Event) -> None:
        arrived = self.arrived[task_id] = asyncio.get_running_loop().create_future()
        seen = 0
        async with self._open:
            call = stub.WatchTask(
                pb.WatchTaskRequest(task_id=task_id), metadata=(("authorization", f"Bearer {token}"),)
            )
            await call.read()
        opened.set()
        seen = 1
        while (message := await call.read()) is not grpc.aio.EOF:
            now = time.monotonic()
            if message.HasField("task"):
                seen += 1
            if seen == 2 and not arrived.done():
                arrived.set_result(now)


async def hold(address: str) -> None:
    """Until the input ends: `python -m bench.rows.watchers ADDRESS`.

    It says "ready". The first line of its input is {"token": …, "ids": […]}: it opens a WatchTask stream for each, over
    several connections, and says "open" when each has told its first revision. Each further line is {"ids": […]}: it
    says when the second revision of each came (time.monotonic(), by id), as soon as all have.
    """
    loop = asyncio.get_running_loop()
    answer("ready")
    first = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    ids, holding, watches = first["ids"], Holding(), []
    for start in range(0, len(ids), PER_CONNECTION):
        channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        for task_id in ids[start : start + PER_CONNECTION]:
            opened = asyncio.Event()
            watches.append((asyncio.create_task(holding.watch(stub, task_id, first["token"], opened)), opened))
    for _, opened in watches:
        await opened.wait()
    answer("open")
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        wanted = json.loads(line)["ids"]
        answer({each: await holding.arrived[each] for each in wanted})


ROWS: Final = (Row(name="watchers", unit="ms", measure=measure, ours=ours, rounds=2),)

if __name__ == "__main__":
    uvloop.run(hold(sys.argv[1]))
