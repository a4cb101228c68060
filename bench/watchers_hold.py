"""This process holds watches open for the row `watchers`, apart from the server, so that no figure has its memory.

    python -m bench.watchers_hold ADDRESS

The first line of its input is {"token": …, "ids": […]}: it opens a WatchTask stream for each, over several connections,
and prints "open" when each has told its first revision. Each further line is {"ids": […]}: it prints when the second
revision of each came (time.monotonic(), by id), as soon as all have.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final

import grpc.aio
import uvloop

from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc

PER_CONNECTION: Final = 250
Message = dict[str, Any]


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
    """Until the input ends."""
    loop = asyncio.get_running_loop()
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
    print(json.dumps("open"), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        wanted = json.loads(line)["ids"]
        print(json.dumps({each: await holding.arrived[each] for each in wanted}), flush=True)


if __name__ == "__main__":
    uvloop.run(hold(sys.argv[1]))
