"""WorkerService: streams to sessions, and back. Thin: what happens is decided in the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import grpc.aio

from longshore.server.edge import worker_messages
from longshore.server.edge.auth import principal
from longshore.server.edge.guard import answers, streams
from longshore.server.engine.session_connection import Connection
from longshore.server.engine.session_downloads import download
from longshore.server.engine.sessions import Sessions
from longshore.server.model.errors import InvalidField
from longshore.server.version import VERSION
from longshore.v1 import worker_service_pb2 as pb
from longshore.v1 import worker_service_pb2_grpc as pb_grpc

_Context = grpc.aio.ServicerContext[Any, Any]

HELLO_PATIENCE: Final = 10.0
"""Seconds for a new stream to say hello."""
LAST_WRITE: Final = 5.0
"""Seconds for a write to a worker that may not read, before its stream is torn down."""


class WorkerService(pb_grpc.WorkerServiceServicer):
    """The RPCs of longshore.v1.WorkerService."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    # The stub's type has handlers that yield. This one reads and writes beside each other, and must be able to stop
    # while a write waits for a worker that does not read; grpc.aio takes both forms.
    @answers
    async def Work(self, _requests: AsyncIterator[pb.WorkRequest], context: _Context) -> None:  # type: ignore[override]
        first = await _first(context)
        if first is None:
            return
        hello = worker_messages.hello(first)
        says = worker_messages.worker_says(first, session_id=hello.session_id, first=True)
        connection = await self._sessions.open(hello, principal=principal().name, local=_is_local(context.peer()))
        try:
            self._sessions.receive(connection, says)
            await self._converse(connection, context)
        finally:
            self._sessions.closed(connection)

    async def _converse(self, connection: Connection, context: _Context) -> None:
        """Read and write until the stream or the session is over. Raises why it is, unless in good order."""
        reader = asyncio.create_task(self._read(connection, context))
        writer = asyncio.create_task(_write(connection, context))
        over = asyncio.create_task(connection.wait_over())
        try:
            await asyncio.wait((reader, writer, over), return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and reader.exception() is None and connection.parting:
                # It has said goodbye and nothing after it; what it said is being committed and answered.
                await asyncio.wait((writer, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            connection.end(None)
            # A write that is cancelled goes on in grpc's core, which then refuses to send the status: the worker would
            # never hear of the end. So the writer stops by itself, after its last write.
            await asyncio.wait((writer,), timeout=LAST_WRITE)
            for task in (reader, writer, over):
                task.cancel()
            results = await asyncio.gather(reader, writer, over, return_exceptions=True)
        for result in results:
            # grpc's own errors only say that the stream is gone.
            if isinstance(result, Exception) and not isinstance(result, grpc.aio.BaseError):
                raise result
        if connection.error is not None:
            raise connection.error

    async def _read(self, connection: Connection, context: _Context) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            says = worker_messages.worker_says(cast("pb.WorkRequest", message), session_id=connection.id)
            self._sessions.receive(connection, says)

    @streams
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


async def _write(connection: Connection, context: _Context) -> None:
    while await connection.outbox.ready() and not connection.over:
        await context.write(worker_messages.server_says(connection.outbox.take(), version=VERSION))


def _is_local(peer: str) -> bool:
    """The peer is on this machine: on a unix socket or the loopback interface."""
    return peer.startswith(("unix:", "ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D"))
