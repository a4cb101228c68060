"""A channel, what is shown to be let in, and the calls that go over it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import grpc

from longshore.client.endpoint import Endpoint, credentials, open_channel
from longshore.client.errors import from_rpc_error
from longshore.v1 import admin_service_pb2_grpc, task_service_pb2, task_service_pb2_grpc

_Request = TypeVar("_Request", contravariant=True)
_Response = TypeVar("_Response", covariant=True)
_T = TypeVar("_T")

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
        return await typed(lambda: method(request, timeout=seconds, metadata=self.metadata))

    async def close(self) -> None:
        """Ends every call that is under way."""
        await self._channel.close()


async def typed(call: Callable[[], Awaitable[_T]]) -> _T:
    """What the call returns; its errors as this package's own."""
    try:
        return await call()
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
