"""Following tasks to their end, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from longshore.client.aio import AsyncClient
from longshore.client.cli.display import Display
from longshore.client.errors import LongshoreError
from longshore.v1 import task_pb2

_T = TypeVar("_T")


async def all_of(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> Sequence[_T]:
    """What each returns, in their order. The first error ends the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(each) for each in coroutines]
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [each.result() for each in running]


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to tell: one of ours before any other."""
    mine = errors.subgroup(LongshoreError)
    error: BaseException = mine or errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


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
