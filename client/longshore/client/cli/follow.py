"""This module follows several tasks to their end, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from longshore.client.aio import AsyncClient
from longshore.client.cli.waiting import Waits
from longshore.v1 import task_pb2

_T = TypeVar("_T")


async def in_time(work: Awaitable[object], within: float | None) -> bool:
    """Await it for at most so many seconds, None: for as long as it takes. Answers whether it came to its end; else it
    is cancelled."""
    bound = asyncio.timeout(within)
    try:
        async with bound:
            await work
    except TimeoutError:
        if not bound.expired():
            raise
        return False
    return True


async def follow(
    client: AsyncClient,
    task_id: str,
    *,
    waits: Waits,
    title: str,
    changed: Callable[[task_pb2.Task], None],
    after_revision: int | None = None,
) -> task_pb2.Task:
    """Return the task when it is done. `changed` is told each revision on the way."""
    bar = waits.display.bar(title)
    task = task_pb2.Task()
    watch = client.watch(task_id, after_revision=after_revision, progress=bar.delivered)
    async with aclosing(watch):
        async for task in watch:
            if not task.HasField("file_push"):
                bar.counts()
            changed(task)
            waits.seen(task)
            if task.state != task_pb2.TASK_STATE_RUNNING:
                bar.end()
    return task
