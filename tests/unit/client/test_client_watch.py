"""Watching against a scripted service: every revision once, whatever the connection does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import grpc
import pytest

from longshore.client import (
    AsyncClient,
    NotFound,
    OutOfRange,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    Unavailable,
)
from longshore.v1 import task_pb2
from tests.support.network.proxy import FaultProxy
from tests.support.servers.fakeservice import Break, FakeService, FakeTaskServer, Refuse

LAST = 12


def history(end: task_pb2.TaskState.ValueType = task_pb2.TASK_STATE_SUCCEEDED) -> list[task_pb2.Task]:
    live = [task_pb2.Task(id="t", revision=n, state=task_pb2.TASK_STATE_RUNNING) for n in range(1, LAST)]
    error = task_pb2.TaskError(reason="NO_SPACE", message="no space left")
    return [*live, task_pb2.Task(id="t", revision=LAST, state=end, done=True, error=error, cancel_reason="no more")]


@pytest.fixture
async def server() -> AsyncIterator[FakeTaskServer]:
    async with FakeTaskServer() as server:
        server.service.history["t"] = history()
        yield server


@pytest.fixture
async def client(server: FakeTaskServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server=server.address, patience=10) as client, asyncio.timeout(30):
        yield client


async def seen(client: AsyncClient, *, after: int | None = None) -> list[int]:
    return [task.revision async for task in client.watch("t", after_revision=after)]


async def test_every_revision_and_then_the_end(client: AsyncClient) -> None:
    assert await seen(client) == list(range(1, LAST + 1))


async def test_a_watch_sends_only_later_revisions(client: AsyncClient, service: FakeService) -> None:
    assert await seen(client, after=9) == [10, 11, 12]
    assert service.watched_after == [9]


async def test_after_the_terminal_revision_there_is_nothing(client: AsyncClient) -> None:
    assert await seen(client, after=LAST) == []


@pytest.mark.parametrize("how", ["status", "go_away", "end"])
async def test_a_broken_watch_continues_after_its_last_revision(
    client: AsyncClient, service: FakeService, how: str
) -> None:
    service.watches += [Break(after=3, how=how), Break(after=1, how=how, repeat=2), Break(after=0, how=how), None]
    assert await seen(client) == list(range(1, LAST + 1))
    assert service.watched_after == [None, 3, 4, 4]


async def test_a_hundred_cuts_at_random(client: AsyncClient, service: FakeService) -> None:
    chance = random.Random(7)
    service.history["t"] = [
        task_pb2.Task(id="t", revision=n, done=n == 300, state=task_pb2.TASK_STATE_RUNNING) for n in range(1, 301)
    ]
    hows = ("status", "end", "go_away")
    service.watches += [
        Break(after=chance.randrange(1, 4), how=chance.choice(hows), repeat=chance.randrange(3)) for _ in range(100)
    ]
    assert await seen(client) == list(range(1, 301))
    assert not service.watches


async def test_a_watch_that_is_reset_on_the_way(server: FakeTaskServer) -> None:
    async with FaultProxy(upstream=("127.0.0.1", server.port)) as proxy, AsyncClient(server=proxy.address) as client:
        server.service.watches += [Break(after=3, how="go_away"), Break(after=3, how="go_away")]
        found = []
        async for task in client.watch("t"):
            found.append(task.revision)
            if task.revision in {2, 7}:
                proxy.cut()
        assert found == list(range(1, LAST + 1))


async def test_a_cancelled_step_loses_nothing(client: AsyncClient, service: FakeService) -> None:
    last = service.history["t"].pop()
    service.watches += [Break(after=LAST - 1, how="go_away")]
    watch = client.watch("t")
    found = [(await anext(watch)).revision for _ in range(LAST - 1)]
    step = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    service.history["t"].append(last)
    found += [task.revision async for task in watch]
    assert found == list(range(1, LAST + 1))


async def test_progress_is_told_beside_the_revisions(client: AsyncClient) -> None:
    done: list[int] = []
    async for _ in client.watch("t", progress=lambda progress: done.append(progress.done)):
        pass
    assert done == list(range(1, LAST + 1))


async def test_errors_are_raised_at_once(client: AsyncClient) -> None:
    with pytest.raises(NotFound):
        await anext(client.watch("none"))
    with pytest.raises(OutOfRange):
        await anext(client.watch("t", after_revision=LAST + 1))


async def test_patience_of_a_watch(client: AsyncClient, service: FakeService) -> None:
    service.watches += [Refuse(code=grpc.StatusCode.UNAVAILABLE, reason="DRAINING")] * 50
    with pytest.raises(Unavailable):
        await anext(client.watch("t", patience=0.3))
    assert 2 <= len(service.watched_after) < 10


async def test_wait_answers_with_the_task(client: AsyncClient) -> None:
    assert (await client.wait("t")).revision == LAST


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (task_pb2.TASK_STATE_FAILED, TaskFailed),
        (task_pb2.TASK_STATE_CANCELLED, TaskCancelled),
        (task_pb2.TASK_STATE_EXPIRED, TaskExpired),
    ],
)
async def test_wait_raises_for_other_ends(
    client: AsyncClient, service: FakeService, state: task_pb2.TaskState.ValueType, error: type[Exception]
) -> None:
    service.history["t"] = history(state)
    with pytest.raises(error) as caught:
        await client.wait("t")
    assert caught.value.task.revision == LAST  # type: ignore[attr-defined]
    if error is TaskFailed:
        assert str(caught.value) == "no space left (NO_SPACE)"
