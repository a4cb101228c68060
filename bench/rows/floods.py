"""This row measures callers without a token: MiB that the server grows by, MiB kept 10 s later, healthy calls.

60,000 calls are opened and reset on six connections in two seconds, and 300,000 are left without their message, by a
process of its own (`python -m bench.rows.floods ADDRESS reset|half CALLS`), whose work is not the healthy client's: it
opens so many calls within two seconds, and two seconds later it closes the connections. Meanwhile a healthy client
calls GetTask every 5 ms over a connection of its own. Ours is a longshored; the floor is a bare grpc.aio server with
its default options, which asks nobody for a token (bench/floors/server.py). Each flood meets a fresh server. The
milliseconds are compared with those of the same client at the same server just before the flood.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from bench.support.figures import MIB, Goal
from bench.support.processes import ROOT
from bench.support.run import Contender, Row, Run
from longshore.client import AsyncClient, job_spec
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc
from tests.support.network.floods import Flooder
from tests.support.servers.processes import Process

KINDS: Final = {"reset": 60_000, "half": 300_000}
QUIET: Final = 1.0
AFTER: Final = 10.0
EVERY: Final = 0.005
"""Seconds between two healthy calls."""
CONNECTIONS: Final = 6
SLICES: Final = 20
PAUSE: Final = 0.1
HOLD: Final = 2.0
METHOD: Final = "/longshore.v1.TaskService/GetTask"
PEAK: Final = Goal(at_most=100, ours=True)
LEFT: Final = Goal(at_most=50, ours=True)
RATIO: Final = Goal(at_most=3)


@dataclass(frozen=True, slots=True)
class Flooded:
    """Figures of one flood: MiB, and milliseconds of healthy calls before and meanwhile."""

    peak: float
    left: float
    before: float
    meanwhile: float
    failed: int


class Healthy:
    """A client with a bare stub, which tries nothing again. `failed`: its calls that ended with an error."""

    def __init__(self, address: str, request: pb.GetTaskRequest, metadata: Sequence[tuple[str, str]]) -> None:
        self._address, self._request, self._metadata = address, request, metadata
        self.took: list[float] = []
        self.failed = 0

    async def run(self) -> None:
        """Call, until cancelled."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub: Any = task_service_pb2_grpc.TaskServiceStub(channel)
            while True:
                began = time.monotonic()
                try:
                    await stub.GetTask(self._request, metadata=self._metadata, timeout=30)
                except grpc.aio.AioRpcError:
                    self.failed += 1
                self.took.append(1e3 * (time.monotonic() - began))
                await asyncio.sleep(EVERY)

    def median(self) -> float:
        """Milliseconds of the calls since the last time."""
        took, self.took = self.took, []
        return statistics.median(took)


async def flooded(process: Process, healthy: Healthy, address: str, kind: str) -> Flooded:
    """Flood it once."""
    calling = asyncio.create_task(healthy.run())
    await asyncio.sleep(2 * QUIET)
    before, there = healthy.median(), process.resident()
    sender = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.rows.floods", address, kind, str(KINDS[kind]), cwd=ROOT
    )
    try:
        assert await asyncio.wait_for(sender.wait(), 120) == 0, "the sender failed"
    finally:
        if sender.returncode is None:
            sender.kill()
    meanwhile = healthy.median()
    await asyncio.sleep(AFTER)
    calling.cancel()
    peak, left = process.resident(peak=True) - there, process.resident() - there
    return Flooded(peak / MIB, left / MIB, before, meanwhile, healthy.failed)


async def ours(run: Run, folder: Path, kind: str) -> Flooded:
    with run.server(folder) as server:
        async with AsyncClient(server=server.address, token_file=server.token_file) as client:
            (task,) = await client.submit(spec=job_spec("nobodys"))
        metadata = (("authorization", f"Bearer {server.token}"),)
        healthy = Healthy(server.address, pb.GetTaskRequest(task_id=task.id), metadata)
        return await flooded(server, healthy, server.address, kind)


async def floor(run: Run, folder: Path, kind: str) -> Flooded:
    with run.floor(folder) as server:
        return await flooded(server, Healthy(server.address, pb.GetTaskRequest(), ()), server.address, kind)


async def flood(address: str, kind: str, calls: int) -> None:
    """Open the calls, slice by slice."""
    async with AsyncExitStack() as stack:
        flooders = [await stack.enter_async_context(Flooder.connected(address)) for _ in range(CONNECTIONS)]
        each = calls // CONNECTIONS // SLICES
        for _ in range(SLICES):
            opening = (one.open_and_reset if kind == "reset" else one.open_half for one in flooders)
            await asyncio.gather(asyncio.sleep(PAUSE), *(begin(each, METHOD) for begin in opening))
        await asyncio.sleep(HOLD)


async def ours_alone(run: Run, _stack: AsyncExitStack) -> dict[str, Contender]:
    """The peak of each flood, at a fresh server each time."""
    numbers = itertools.count()

    def contender(kind: str) -> Contender:
        async def once() -> float:
            return (await ours(run, run.folder / f"{kind}{next(numbers)}", kind)).peak

        return once

    return {f"{kind} peak": contender(kind) for kind in KINDS}


async def measure(run: Run) -> None:
    for kind in KINDS:
        mine: list[Flooded] = []
        theirs: list[Flooded] = []
        for number in range(run.rounds):
            mine.append(await ours(run, run.folder / f"{kind}{number}", kind))
            theirs.append(await floor(run, run.folder / f"floor-{kind}{number}", kind))
            run.say(f"floods: {kind}: ours {mine[-1]}, floor {theirs[-1]}")
        for what, goal in (("peak", PEAK), ("left", LEFT)):
            run.compare(
                what=f"{kind} {what}",
                peer="bare grpc.aio",
                unit="MiB",
                ours=[getattr(one, what) for one in mine],
                theirs=[getattr(one, what) for one in theirs],
                goal=goal,
            )
        run.compare(
            what=f"{kind} healthy p50",
            peer="without the flood",
            unit="ms",
            ours=[one.meanwhile for one in mine],
            theirs=[one.before for one in mine],
            goal=RATIO,
        )
        run.compare(
            what=f"{kind} healthy failed",
            peer="bare grpc.aio",
            unit="calls",
            ours=[one.failed for one in mine],
            theirs=[one.failed for one in theirs],
            goal=Goal(at_most=0, ours=True),
        )


ROWS: Final = (Row(name="floods", unit="MiB", measure=measure, ours=ours_alone, rounds=2, pairs=2),)

if __name__ == "__main__":
    asyncio.run(flood(sys.argv[1], sys.argv[2], int(sys.argv[3])))
