"""A channel, what is shown to be let in, and the calls that go over it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

import grpc

from longshore.client.endpoint import Endpoint, credentials, open_channel
from longshore.client.errors import from_rpc_error
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
    """To be made inside a running event loop, and closed there."""

    def __init__(self, endpoint: Endpoint, *, token: str | None) -> None:
        self.metadata: Final = credentials(token)
        self._channel: Final = open_channel(endpoint)
        self._closed = False
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

    async def call(self, method: UnaryMethod[_Request, _Response], request: _Request, *, seconds: float) -> _Response:
        """One unary call, within so many seconds. Raises LongshoreError."""
        with self.telling_close():
            try:
                return await method(request, timeout=seconds, metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error

    @contextmanager
    def telling_close(self) -> Iterator[None]:
        """Around whatever awaits a call: when the channel is closed beneath it, that raises RuntimeError.

        grpc.aio raises CancelledError then, which would look as if somebody had cancelled the task that waits.
        """
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise RuntimeError("the client is closed") from None
            raise

    async def close(self) -> None:
        """Ends every call that is under way."""
        self._closed = True
        await self._channel.close()
