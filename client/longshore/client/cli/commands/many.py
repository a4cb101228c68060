"""Several tasks in one command: each of many ids, lists as long as they are, and what a running task has done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from longshore.client.aio import AsyncClient
from longshore.client.cli.output import render
from longshore.client.cli.output.exits import ExitCode, code_for
from longshore.client.cli.session import CommandSession, Output
from longshore.client.errors import LongshoreError
from longshore.v1 import task_pb2

_ROWS: Final = 500
"""Rows of a table that is not on a terminal, before it is printed: a list may have a million."""
_LOOK: Final = 0.5
"""Seconds to wait for the progress of a running task. A server says at once what it knows."""


class ForEachId:
    """Does the same for each of these ids. A refusal by the server is printed, and does not stop the others."""

    def __init__(self, session: CommandSession, texts: Sequence[str], *, nothing: str) -> None:
        self._session: Final = session
        self._nothing: Final = nothing
        self.texts: Final = texts

    async def run(self, one: Callable[[str], Awaitable[ExitCode]]) -> ExitCode:
        """Return the first code that is not OK. Without ids it says so, which is no failure. Raises the errors that the
        others would meet too: no server, no token."""
        if not self.texts:
            self._session.say(self._nothing)
        first = ExitCode.OK
        for text in self.texts:
            try:
                code = await one(text)
            except LongshoreError as error:
                code = code_for(error)
                if len(self.texts) == 1 or code not in {ExitCode.REFUSED, ExitCode.USAGE}:
                    raise
                self._session.fail(error)
            first = first or code
        return first


class ListOutput:
    """A list on its way to the output: at once what programs read, and a table in as few pieces as memory allows.

    `limit` 0 means all.
    """

    def __init__(self, session: CommandSession, *, limit: int) -> None:
        self._session: Final = session
        self._limit: Final = limit
        self._rows: list[task_pb2.Task] = []
        self._count = 0
        self._shown = 0
        self._more = False

    def take(self, task: task_pb2.Task) -> bool:
        """Add an entry. False means that the limit was reached before."""
        if self._limit and self._count == self._limit:
            self._more = True
            return False
        self._count += 1
        if self._session.output is not Output.TEXT:
            self._session.result(task, text=str, identity=task.id)
        else:
            self._rows.append(task)
            if len(self._rows) == _ROWS and not self._session.out.is_terminal:
                self._print()
        return True

    def end(self) -> None:
        """Print the rest, and say whether there is more."""
        if self._session.output is Output.TEXT:
            self._print()
            if not self._count:
                self._session.say("no tasks")
        if self._more:
            self._session.say(f"there are more than {self._limit}; --limit 0 lists them all")

    def _print(self) -> None:
        if self._rows:
            self._session.show(render.task_list(self._rows, header=not self._shown))
            self._shown += len(self._rows)
            self._rows.clear()


async def running_progress(client: AsyncClient, task: task_pb2.Task) -> task_pb2.Progress | None:
    """Return how far the running attempt of a task is. None means that none runs, or that it has reported nothing."""
    if task.state not in {task_pb2.TASK_STATE_RUNNING, task_pb2.TASK_STATE_COMMITTING}:
        return None
    told: asyncio.Future[task_pb2.Progress | None] = asyncio.get_running_loop().create_future()

    def take(progress: task_pb2.Progress | None) -> None:
        if not told.done():
            told.set_result(progress)

    watch = client.watch(task.id, after_revision=task.revision, progress=take, patience=0)
    async with aclosing(watch):
        news = asyncio.ensure_future(anext(watch, None))
        news.add_done_callback(lambda _: take(None))
        try:
            async with asyncio.timeout(_LOOK):
                return await told
        except TimeoutError:
            return None
        finally:
            news.cancel()
            # An error of the watch is not told: the task itself was read.
            await asyncio.gather(news, return_exceptions=True)
