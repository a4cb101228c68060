"""WorkerService translates streams to sessions, and back. The engine decides what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import grpc.aio

from longshore.server.edge.auth.error_guard import retrieve_error
from longshore.server.edge.auth.principal import ended_by, principal
from longshore.server.edge.messages import worker as worker_messages
from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.engine.sessions.downloads import download
from longshore.server.engine.sessions.sessions import Sessions
from longshore.server.model.errors import InvalidField
from longshore.server.version import VERSION
from longshore.v1 import worker_service_pb2 as pb
from longshore.v1 import worker_service_pb2_grpc as pb_grpc

_Context = grpc.aio.ServicerContext[Any, Any]

HELLO_PATIENCE: Final = 10.0
"""Seconds for a new stream to say hello."""


class WorkerService(pb_grpc.WorkerServiceServicer):
    """The RPCs of longshore.v1.WorkerService."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    # The stub's type has handlers that yield. This one reads and writes beside each other, and must be able to stop
    # while a write waits for a worker that does not read; grpc.aio takes both forms.
    async def Work(self, _requests: AsyncIterator[pb.WorkRequest], context: _Context) -> None:  # type: ignore[override]
        first = await _first(context)
        if first is None:
            return
        hello = worker_messages.hello(first)
        says = worker_messages.worker_says(first, session_id=hello.session_id, first=True)
        connection = await self._sessions.open(hello, principal=principal().name, local=_is_local(context.peer()))
        writer = asyncio.create_task(_write(connection, context))
        retrieve_error(writer)
        try:
            # Cancelled in a write, no status could be sent any more.
            with ended_by(connection.end):
                self._sessions.receive(connection, says)
                await self._converse(connection, context, writer)
        finally:
            self._sessions.closed(connection)
            await _last_write(writer)
        if connection.error is not None:
            raise connection.error

    async def _converse(self, connection: WorkerConnection, context: _Context, writer: asyncio.Task[None]) -> None:
        """Read, while `writer` writes, until the stream or the session is over. Raises what is wrong with a message."""
        reader = asyncio.create_task(self._read(connection, context))
        over = asyncio.create_task(connection.wait_over())
        try:
            await asyncio.wait((reader, writer, over), return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                _raise_problem(reader)
                if connection.parting:
                    # The worker has said goodbye and nothing after it; what it said is being committed and answered.
                    await asyncio.wait((writer, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, over):
                task.cancel()
            await asyncio.gather(reader, over, return_exceptions=True)

    async def _read(self, connection: WorkerConnection, context: _Context) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            says = worker_messages.worker_says(cast("pb.WorkRequest", message), session_id=connection.id)
            self._sessions.receive(connection, says)

    async def DownloadPayload(
        self, request: pb.DownloadPayloadRequest, _context: _Context
    ) -> AsyncIterator[pb.DownloadPayloadResponse]:
        if not request.session_id:
            raise InvalidField("session_id", "is empty; give the id of the hello.")
        pieces = download(
            self._sessions,
            session_id=request.session_id,
            ref=worker_messages.attempt_ref(request.attempt, "attempt"),
            offset=request.offset,
            principal=principal().name,
        )
        async for offset, data in pieces:
            yield pb.DownloadPayloadResponse(offset=offset, data=data)


async def _first(context: _Context) -> pb.WorkRequest | None:
    try:
        async with asyncio.timeout(HELLO_PATIENCE):
            message = await context.read()
    except TimeoutError:
        raise InvalidField("hello", f"did not come within {HELLO_PATIENCE:g} seconds.") from None
    return None if message is grpc.aio.EOF else cast("pb.WorkRequest", message)


async def _write(connection: WorkerConnection, context: _Context) -> None:
    while await connection.outbox.ready(connection.awaits_answers) and not connection.over:
        await context.write(worker_messages.server_says(connection.outbox.take(), version=VERSION))


async def _last_write(writer: asyncio.Task[None]) -> None:
    """Wait until the writer has stopped, which it does by itself once its connection is over.

    A write that is cancelled goes on in grpc's core, which then refuses to send the status, and the worker would never
    hear of the end. A write to a worker that does not read ends when it reads again or its transport is gone; until
    then nothing but this call waits for it.
    """
    try:
        await asyncio.wait((writer,))
    finally:
        writer.cancel()
    _raise_problem(writer)


def _raise_problem(task: asyncio.Task[None]) -> None:
    """Raise what a finished task met. grpc's own errors, and its cancelling, only say that the stream is gone."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, grpc.aio.BaseError):
        raise error


def _is_local(peer: str) -> bool:
    """Return whether the peer is on this machine: on a unix socket or the loopback interface."""
    return peer.startswith(("unix:", "unix-abstract:", "ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D"))
