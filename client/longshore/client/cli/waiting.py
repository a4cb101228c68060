"""This module asks again and again why the tasks that a command waits for do not run, and tells it in one line."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from longshore.client.aio import AsyncClient
from longshore.client.cli.output import render
from longshore.client.cli.output.display import Display
from longshore.client.errors import LongshoreError
from longshore.v1 import task_pb2

FIRST: Final = 2.0
"""Seconds that a task waits before anything is said of it."""
AGAIN: Final = 2.0
"""Seconds between two looks."""
_LOOK: Final = 0.2
_ASKED: Final = 5
"""Tasks that are asked about in one look, those that wait longest: thousands may wait for the same thing."""
_PATIENCE: Final = 2.0
"""Seconds for the answers of one look. What takes longer is told by the watch itself."""
_RUNS: Final = (
    task_pb2.TASK_STATE_RUNNING,
    task_pb2.TASK_STATE_COMMITTING,
    task_pb2.TASK_STATE_CANCELLING,
)


class Waits:
    """This object knows which of the followed tasks wait, and since when."""

    def __init__(self, client: AsyncClient, display: Display, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client: Final = client
        self.display: Final = display
        self._clock: Final = clock
        self._since: Final[dict[str, float]] = {}
        """Each waiting task has the time at which it began to wait; the earliest is first."""

    def seen(self, task: task_pb2.Task) -> None:
        """Take a revision of a task."""
        if task.done or task.state in _RUNS:
            self._since.pop(task.id, None)
            if not self._since:
                self.display.waits("", since=0.0)
        else:
            self._since.setdefault(task.id, self._clock())

    async def run(self) -> None:
        """Ask and tell until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            first = next(iter(self._since.values()), None)
            if first is not None and self._clock() - first >= FIRST:
                await self._look()
                await asyncio.sleep(AGAIN - _LOOK)

    async def _look(self) -> None:
        asked = list(self._since)[:_ASKED]
        try:
            async with asyncio.timeout(_PATIENCE):
                tasks = await asyncio.gather(*(self._client.get(task_id) for task_id in asked))
        except (TimeoutError, LongshoreError):
            self.display.waits("", since=0.0)
            return
        reasons = Counter(why for task in tasks if task.id in self._since and (why := render.waits(task)))
        if not reasons:
            return
        [(said, count)] = reasons.most_common(1)
        if len(self._since) > 1:
            others = ", for example" if count < len(tasks) else ""
            said = f"{len(self._since)} tasks{others}: {said}"
        self.display.waits(said, since=next(iter(self._since.values())))


@asynccontextmanager
async def told_why(client: AsyncClient, display: Display) -> AsyncIterator[Waits]:
    """Tell on standard error why tasks wait, for as long as the block lasts."""
    waits = Waits(client, display)
    telling = asyncio.create_task(waits.run(), name="waits")
    try:
        yield waits
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        display.waits("", since=0.0)
