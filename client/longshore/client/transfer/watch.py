"""This module follows one task, over as many connections as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, Self, TypeAlias

import grpc

from longshore.client.errors import LongshoreError, Unavailable
from longshore.client.servers.connection import Connection
from longshore.client.servers.patience import OnWait, Patience
from longshore.client.servers.servers import Tour
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb

_Call: TypeAlias = "grpc.aio.UnaryStreamCall[pb.WatchTaskRequest, pb.WatchTaskResponse]"

SILENCE: Final = 45.0
"""Seconds without a message, which a server sends every 15 s, until the connection is given up."""
SILENCE_ELSEWHERE: Final = 20.0
"""The same while there are other servers to ask."""
_FIRST_ELSEWHERE: Final = 5.0
"""The same for the first message of a watch that begins with the task as it is."""
_READ: Final = 30.0

OnTaskProgress = Callable[[task_pb2.Progress], None]
"""A function that is called in the event loop with the progress of the running attempt. It must return quickly."""


class Watch(AsyncIterator[task_pb2.Task]):
    """Yields every revision of a task after a given one, once and in order, and ends after the terminal one.

    Reconnects by itself and resumes by revision. Leaving early: `aclose()`, or let it be collected. A cancelled
    `__anext__` has lost nothing: the next one connects anew and goes on where the last had ended.
    """

    def __init__(
        self,
        *,
        tour: Tour,
        task_id: str,
        after_revision: int | None,
        patience: float,
        progress: OnTaskProgress | None,
        on_wait: OnWait | None,
    ) -> None:
        self._tour: Final = tour
        self._task_id: Final = task_id
        self._revision = after_revision
        self._progress: Final = progress
        self._patience: Final = Patience(limit=patience, route=tour, on_wait=on_wait)
        self._call: _Call | None = None
        self._connection: Connection | None = None
        self._over = False

    @property
    def revision(self) -> int | None:
        """The last revision that was seen: give it as `after_revision` to go on later."""
        return self._revision

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> task_pb2.Task:
        # Patience is for silence of the server, not for the time that the caller took between two revisions.
        self._patience.moved()
        task = None if self._over else await self._patience.run(self._once)
        if task is None:
            self._over = True
            await self.aclose()
            raise StopAsyncIteration
        self._revision = task.revision
        self._over = task.done
        if self._over:
            await self.aclose()
        return task

    async def aclose(self) -> None:
        """End the stream. Idempotent."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.users -= 1

    async def _once(self) -> task_pb2.Task | None:
        """Return the next revision over one connection. None means that there will be none."""
        if self._call is None or self._connection is None:
            await self._begin()
        connection, call = self._connection, self._call
        assert connection is not None
        assert call is not None
        try:
            with connection.used():
                task = await self._next(call)
        except grpc.aio.AioRpcError as error:
            await self.aclose()
            raise await connection.explained(error) from error
        except (LongshoreError, asyncio.CancelledError):
            await self.aclose()
            raise
        if task is None:
            await self.aclose()
            await self._check_finished(connection)
        return task

    async def _begin(self) -> None:
        connection = await self._tour.connection()
        request = pb.WatchTaskRequest(task_id=self._task_id, after_revision=self._revision)
        self._call = connection.tasks.WatchTask(request, metadata=connection.metadata)
        # Between two revisions nobody awaits the call, and the connection is used all the same.
        connection.users += 1
        self._connection = connection

    async def _next(self, call: _Call) -> task_pb2.Task | None:
        """Return the next revision. None means that the stream has ended."""
        silence = SILENCE
        if self._tour.elsewhere:
            silence = min(SILENCE, SILENCE_ELSEWHERE if self._revision is not None else _FIRST_ELSEWHERE)
        while True:
            try:
                async with asyncio.timeout(silence):
                    message = await call.read()
            except TimeoutError:
                raise Unavailable(f"the server has been silent for {silence:.0f} s", reason="STALLED") from None
            if message is grpc.aio.EOF:
                return None
            assert isinstance(message, pb.WatchTaskResponse)
            match message.WhichOneof("update"):
                case "go_away":
                    raise Unavailable("the server is leaving", reason=message.go_away.reason, from_server=True)
                case "progress" if self._progress is not None:
                    self._progress(message.progress)
                case "task" if self._revision is None or message.task.revision > self._revision:
                    self._patience.moved()
                    return message.task
            self._patience.moved()

    async def _check_finished(self, connection: Connection) -> None:
        """Look at a stream that ended without the terminal revision: there was none after the last one, or the stream
        was cut short."""
        answer = await connection.call(
            connection.tasks.GetTask, pb.GetTaskRequest(task_id=self._task_id), seconds=_READ
        )
        if not answer.task.done or self._revision is None or answer.task.revision > self._revision:
            raise Unavailable("the server ended the watch before the task was done", reason="CUT")
