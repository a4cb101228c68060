"""A connection has a channel to one server, the metadata that the server is shown, and the calls under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

import grpc

from longshore.client.errors import LongshoreError, Unavailable
from longshore.client.runtime.forks import closed
from longshore.client.servers.access import ServerAccess, connected, explain
from longshore.client.servers.endpoint import Endpoint
from longshore.v1 import admin_service_pb2_grpc, task_service_pb2, task_service_pb2_grpc

_Request = TypeVar("_Request", contravariant=True)
_Response = TypeVar("_Response", covariant=True)

_UPLOAD: Final = "/longshore.v1.TaskService/Upload"


class UnaryMethod(Protocol[_Request, _Response]):
    """One of the stubs' methods that take a message and answer with one."""

    def __call__(
        self, request: _Request, *, timeout: float | None, metadata: Sequence[tuple[str, str]]
    ) -> Awaitable[_Response]: ...


class Connection:
    """A connection leads to one server. Make it inside a running event loop, and close it there.

    Raises ConfigurationError.
    """

    def __init__(self, endpoint: Endpoint, access: ServerAccess) -> None:
        self.endpoint: Final = endpoint
        self._access: Final = access
        self._metadata = access.metadata(endpoint)
        self.stamp: Final = access.stamp(endpoint)
        """The stamp tells which certificates the channel was opened with."""
        self._channel: Final = access.open(endpoint)
        self._closed = False
        self.users = 0
        """Calls that are under way."""
        self.tasks: Final = task_service_pb2_grpc.TaskServiceStub(self._channel)
        self.admin: Final = admin_service_pb2_grpc.AdminServiceStub(self._channel)
        # Takes requests that are serialized already; see frames.py.
        self.upload: Final[grpc.aio.StreamUnaryMultiCallable[bytes, task_service_pb2.UploadResponse]] = (
            self._channel.stream_unary(
                _UPLOAD,
                request_serializer=None,
                response_deserializer=task_service_pb2.UploadResponse.FromString,
            )
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of each call. While there is none, each call looks for it anew: a server makes its token
        when it starts."""
        if not self._metadata:
            self._metadata = self._access.metadata(self.endpoint)
        return self._metadata

    async def call(self, method: UnaryMethod[_Request, _Response], request: _Request, *, seconds: float) -> _Response:
        """Make one unary call, within so many seconds. Raises LongshoreError."""
        with self.used():
            try:
                return await method(request, timeout=seconds, metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                raise await self.explained(error) from error

    async def ready(self, *, seconds: float) -> None:
        """Wait until the channel stands or fails; the next call tells which. Raises Unavailable if neither happens.

        Without this wait a call waits for a machine that does not answer for as long as TCP does.
        """
        if await connected(self._channel, seconds=seconds) is None:
            raise Unavailable(
                f"the server at {self.endpoint} has taken no connection for {seconds:.0f} s", reason="UNREACHABLE"
            )

    async def stands(self, *, seconds: float) -> bool:
        """Return whether the channel stands within that time."""
        return await connected(self._channel, seconds=seconds) is True

    @property
    def broken(self) -> bool:
        """Return whether the channel failed, and gRPC waits before it tries again; a new channel tries at once."""
        state = self._channel.get_state()
        return state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}

    async def explained(self, error: grpc.aio.AioRpcError) -> LongshoreError:
        """Make the typed error of a call; see `access.explain`."""
        return await explain(error, endpoint=self.endpoint, tls=self._access.tls_for(self.endpoint))

    @contextmanager
    def used(self) -> Iterator[None]:
        """Raise RuntimeError in a block that awaits a call while the channel is closed.

        grpc.aio raises CancelledError then, which would look as if somebody had cancelled the task that waits.
        """
        self.users += 1
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise RuntimeError("the client is closed") from None
            raise
        except grpc.aio.UsageError:
            # A call that begins right after the channel was closed.
            if self._closed:
                raise RuntimeError("the client is closed") from None
            raise
        finally:
            self.users -= 1

    async def close(self) -> None:
        """Close the channel, which ends every call that is under way."""
        self._closed = True
        await self._channel.close()
        closed(self._channel)
