"""Following tasks to their end, all at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import TypeVar

from longshore.client.aio import AsyncClient
from longshore.client.cli.display import Display
from longshore.v1 import task_pb2

_T = TypeVar("_T")


async def follow(
    client: AsyncClient,
    task_id: str,
    *,
    display: Display,
    title: str,
    changed: Callable[[task_pb2.Task], None],
    after_revision: int | None = None,
) -> task_pb2.Task:
    """The task when it is done; `changed` is told each revision on the way."""
    bar = display.bar(title)
    task = task_pb2.Task()
    watch = client.watch(task_id, after_revision=after_revision, progress=bar.delivered)
    async with aclosing(watch):
        async for task in watch:
            changed(task)
            if task.state != task_pb2.TASK_STATE_RUNNING:
                bar.end()
    return task
