"""One connection of the session: a Work stream from its hello to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import grpc

from longshore.client.errors import (
    FailedPrecondition,
    InvalidArgument,
    LongshoreError,
    PermissionDenied,
    TLSError,
    Unauthenticated,
    Unavailable,
)
from longshore.client.servers.access import ServerAccess, explain
from longshore.client.servers.ending import CallEnding
from longshore.client.servers.endpoint import Endpoint
from longshore.v1 import worker_service_pb2 as ws
from longshore.v1 import worker_service_pb2_grpc as ws_grpc
from longshore.worker.agent.outbox import Outbox

_FAREWELL_S: Final = 3.0
"""Seconds for the server to end the stream after a goodbye."""


class ServerConnection:
    """Speaks to one server. `received` is called for each message, in order, and must not block."""

    def __init__(
        self, endpoint: Endpoint, access: ServerAccess, outbox: Outbox, *, channel: grpc.aio.Channel | None = None
    ) -> None:
        """`channel` is an open channel to this server, which is closed with the connection. None means that the
        connection opens one."""
        self._endpoint = endpoint
        self._access = access
        self._outbox = outbox
        self._channel = channel
        self._closing = asyncio.Event()
        self._why: LongshoreError | None = None

    async def run(
        self,
        hello: ws.WorkRequest,
        welcomed: Callable[[ws.Welcome], None],
        received: Callable[[ws.WorkResponse], None],
        *,
        patience: float,
    ) -> None:
        """Connect, say hello, and go on until the server ends the stream or the goodbye is said.

        `patience` is the seconds within which the server must say welcome. Raises LongshoreError for whatever else ends
        it. Cancellation ends the stream at once.
        """
        channel = self._channel or self._access.open(self._endpoint)
        try:
            await self._speak(channel, hello, welcomed, received, patience)
        finally:
            await channel.close()
        if self._why is not None:
            raise self._why

    async def _speak(
        self,
        channel: grpc.aio.Channel,
        hello: ws.WorkRequest,
        welcomed: Callable[[ws.Welcome], None],
        received: Callable[[ws.WorkResponse], None],
        patience: float,
    ) -> None:
        call = ws_grpc.WorkerServiceStub(channel).Work(metadata=self._access.metadata(self._endpoint))
        ending = CallEnding(call)
        try:
            async with asyncio.timeout(patience):
                await call.write(hello)
                first = await call.read()
            if not isinstance(first, ws.WorkResponse) or not first.HasField("welcome"):
                raise Unavailable("the server ended the stream without a welcome", reason="NO_WELCOME")
            welcomed(first.welcome)
            received(first)
            await self._talk(call, received)
        except TimeoutError as error:
            raise Unavailable(f"no welcome in {patience:.1f} s", reason="NO_WELCOME") from error
        except grpc.aio.AioRpcError as error:
            raise await self._explained(await ending.told(error)) from error
        except asyncio.InvalidStateError as error:
            # A write on a stream that has ended; its status says more.
            if (told := await ending.awaited()) is not None:
                raise await self._explained(told) from error
            raise Unavailable("the server ended the stream", reason="CUT") from error
        finally:
            call.cancel()

    async def _explained(self, error: grpc.aio.AioRpcError) -> LongshoreError:
        return await explain(error, endpoint=self._endpoint, tls=self._access.tls_for(self._endpoint))

    def close(self, why: LongshoreError | None = None) -> None:
        """End the connection soon: `run` returns, or raises `why`."""
        self._why = why
        self._closing.set()

    async def _talk(
        self,
        call: grpc.aio.StreamStreamCall[ws.WorkRequest, ws.WorkResponse],
        received: Callable[[ws.WorkResponse], None],
    ) -> None:
        writer = asyncio.create_task(self._write(call), name="work-writer")
        reader = asyncio.create_task(self._read(call, received), name="work-reader")
        closing = asyncio.create_task(self._closing.wait(), name="work-closing")
        tasks = (writer, reader, closing)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if writer in done and reader not in done:
                writer.result()
                # The goodbye is out. The server ends the stream when it is durable.
                await asyncio.wait((reader,), timeout=_FAREWELL_S)
            if reader.done():
                reader.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, call: grpc.aio.StreamStreamCall[ws.WorkRequest, ws.WorkResponse]) -> None:
        last = False
        while not last:
            message, last = await self._outbox.take()
            await call.write(message)
        await call.done_writing()

    async def _read(
        self,
        call: grpc.aio.StreamStreamCall[ws.WorkRequest, ws.WorkResponse],
        received: Callable[[ws.WorkResponse], None],
    ) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, ws.WorkResponse):
                return  # EOF
            received(message)
            if message.HasField("go_away"):
                return


def is_fatal(error: LongshoreError) -> bool:
    """Return whether connecting again cannot help, because a person has to change a setting or a certificate."""
    return isinstance(error, Unauthenticated | PermissionDenied | FailedPrecondition | InvalidArgument | TLSError)
