"""Silent watches: each is told in time that its connection is alive, by one timer for all, and none costs a read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from longshore.server.engine.sessions.progress import ProgressBoard
from longshore.server.engine.watch import KeepAlive, Leaving, Progress, Update, WatchHub
from longshore.server.model.task import Task
from longshore.server.model.values import State
from longshore.server.store.commands import CancelTask
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.rawgrpc import TaskServer

WATCHES = 40
PATIENCE = 30.0


class Counting:
    """The store, which counts what the hub reads."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("task", "history"):
            self.reads += 1
        return getattr(self._store, name)


async def job(server: TaskServer, name: str) -> str:
    spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="nobodys"))
    answer = await server.submit(pb.SubmitTaskRequest(request_id=name, spec=spec))
    return answer.tasks[0].id


async def updates(watch: AsyncIterator[Update], count: int) -> list[Update]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(watch) for _ in range(count)]


async def test_every_silent_watch_is_told_again_and_again(server: TaskServer) -> None:
    store = Counting(server.store)
    hub = WatchHub(store=store, progress=ProgressBoard(), keepalive=0.2)
    task_id = await job(server, "r")
    watches = [hub.watch(task_id, after=None, creator=None) for _ in range(WATCHES)]
    for watch in watches:
        assert isinstance((await updates(watch, 1))[0], Task)
    reads = store.reads
    loop = asyncio.get_running_loop()
    began = loop.time()
    told = await asyncio.gather(*(updates(watch, 3) for watch in watches))
    assert all(isinstance(update, KeepAlive) for some in told for update in some)
    assert loop.time() - began >= 0.5  # not one after the other without silence
    await server.store.run(CancelTask(task_id=task_id, creator=None, reason=""))
    for watch in watches:
        last = next(update for update in await updates(watch, 1) if not isinstance(update, KeepAlive))
        assert isinstance(last, Task)
        assert last.status.state is State.CANCELLED
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
    assert store.reads == reads, "a live watch reads nothing"
    assert hub.statistics() == 0


async def test_progress_beside_silence_is_not_lost(server: TaskServer) -> None:
    board = ProgressBoard()
    hub = WatchHub(store=server.store, progress=board, keepalive=0.05)
    task_id = await job(server, "r")
    watch = hub.watch(task_id, after=None, creator=None)
    await updates(watch, 1)
    for done in range(1, 20):
        board.update(task_id, Progress(1, done, 20))
        while isinstance(update := (await updates(watch, 1))[0], KeepAlive):
            pass
        assert update == Progress(1, done, 20)
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_leaving_hub_lets_silent_watches_go(server: TaskServer) -> None:
    hub = WatchHub(store=server.store, progress=ProgressBoard(), keepalive=60.0)
    watch = hub.watch(await job(server, "r"), after=None, creator=None)
    await updates(watch, 1)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    hub.close()
    assert await asyncio.wait_for(waiting, PATIENCE) == Leaving("DRAINING")


async def test_a_cancelled_wait_loses_nothing(server: TaskServer) -> None:
    hub = WatchHub(store=server.store, progress=ProgressBoard(), keepalive=60.0)
    task_id = await job(server, "r")
    watch = hub.watch(task_id, after=None, creator=None)
    await updates(watch, 1)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert hub.statistics() == 0
    again = hub.watch(task_id, after=1, creator=None)
    await server.store.run(CancelTask(task_id=task_id, creator=None, reason=""))
    (update,) = await updates(again, 1)
    assert isinstance(update, Task)
    assert update.status.revision == 2
