"""This module runs several coroutines at once, and gives all results or one error."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from longshore.client.errors import LongshoreError

_T = TypeVar("_T")


async def all_of(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> Sequence[_T]:
    """Run coroutines at once and return their results in order. The first error ends the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(each) for each in coroutines]
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [each.result() for each in running]


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Choose the error to raise: one of the client's own before any other."""
    mine = errors.subgroup(LongshoreError)
    error: BaseException = mine or errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
