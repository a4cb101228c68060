"""Ten thousand open watches on one server: what each costs in memory, and how soon an event reaches its watcher.

    make bench ROW=watchers

Ours: a longshored with SQLite, 10,000 queued jobs, and a WatchTask stream for each, held by two processes with the
generated stub (bench/watchers_hold.py). Kilobytes: what the server is larger with all of them open and quiet than it
was before, divided by their number. Milliseconds: 300 tasks a round are cancelled one after another; counted is from
just before CancelTask is called to the arrival of the revision in the watcher, so the call's way, the commit and its
sync are in it.

The peer of the memory is a bare grpc.aio server that answers each of as many streams with one message and then waits
(bench/watchers_floor.py); that of the milliseconds is the answer to the very CancelTask call. Both are floors: no goal
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

from bench.noop import metadata
from bench.rows import ROOT, Goal, Run, row
from bench.stamps import quantile
from bench.watchers_hold import Message
from longshore.client import AsyncClient, Submission, job_spec
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc
from tests.support.servers.processes import Process, ServerProcess, eventually

WATCHES: Final = 10_000
HOLDERS: Final = 2
CANCELS: Final = 300
KILOBYTES: Final = 30.0
MILLISECONDS: Final = 2.0
QUIET: Final = 1.0
"""Seconds until what was needed only to open the streams is given back."""
KB: Final = 1000


class Holder:
    """A process that holds watches open. Its lines are JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(cls, address: str, token: str, ids: Sequence[str]) -> AsyncIterator[Holder]:
        """Every watch is open once this has begun."""
        argv = (sys.executable, "-m", "bench.watchers_hold", address)
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26
        )
        holder = cls(process)
        try:
            await holder.say({"token": token, "ids": list(ids)})
            await holder.heard()
            yield holder
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def say(self, message: Message) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def heard(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(120):
            line = await self._process.stdout.readline()
        return json.loads(line)

    async def arrivals(self, ids: Sequence[str]) -> dict[str, float]:
        """Wait for the newest revision of each task, and return when each came."""
        await self.say({"ids": list(ids)})
        found: dict[str, float] = await self.heard()
        return found


@asynccontextmanager
async def watched(address: str, token: str, ids: Sequence[str]) -> AsyncIterator[list[Holder]]:
    """All of them open, in HOLDERS processes."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Holder.started(address, token, ids[number::HOLDERS]))
            for number in range(HOLDERS)
        ]


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


async def cancel_some(server: ServerProcess, holders: Sequence[Holder], ids: Sequence[str]) -> Round:
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
        found.watcher += [1e3 * (at - began[task_id]) for task_id, at in (await holder.arrivals(mine)).items()]
    return found


async def measure(run: Run) -> None:
    floors, kilobytes, rounds = [], [], []
    async with AsyncExitStack() as stack:
        server = stack.enter_context(ServerProcess(run.folder / "server"))
        async with AsyncClient(server=server.address, token_file=server.token_file) as client:
            jobs = (Submission(spec=job_spec("watched")) for _ in range(WATCHES))
            ids = sorted([one.task_ids[0] async for one in client.submit_many(jobs)])
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
    root = run.folder / f"floor-{number}"
    socket = root / "s.sock"
    argv = [sys.executable, "-m", "bench.watchers_floor", f"unix:{socket}"]
    with Process(name="floor", root=root, argv=argv, environment={"PYTHONPATH": str(ROOT)}) as process:
        await asyncio.to_thread(eventually, lambda: "ready" in process.log(), what="the floor's server")
        async with watched(f"unix:{socket}", "", ids[:100]):
            pass
        async with AsyncExitStack() as opened:
            return await larger_by(process, f"unix:{socket}", "", ids, opened)


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
    for what, share, goal in (("p50", 0.5, None), ("p99", 0.99, Goal(at_most=MILLISECONDS, ours=True))):
        run.compare(
            what=f"event {what}",
            unit="ms",
            peer="the answer to CancelTask",
            ours=[quantile(each.watcher, share) for each in rounds],
            theirs=[quantile(each.caller, share) for each in rounds],
            goal=goal,
        )


main = row("watchers", measure, rounds=2)

if __name__ == "__main__":
    main()
