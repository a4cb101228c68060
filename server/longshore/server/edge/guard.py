"""What stands around every RPC: errors become statuses, and nothing else escapes."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc.aio

from longshore.server.edge.status import abort

Service = TypeVar("Service")
Request = TypeVar("Request")
Response = TypeVar("Response")

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def answers(
    method: Callable[[Service, Request, _Context], Awaitable[Response]],
) -> Callable[[Service, Request, _Context], Awaitable[Response]]:
    """For RPCs with one answer."""

    @functools.wraps(method)
    async def guarded(self: Service, request: Request, context: _Context) -> Response:
        try:
            return await method(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - this is where everything ends; nothing is hidden
            await abort(context, error)

    return guarded


def streams(
    method: Callable[[Service, Request, _Context], AsyncIterator[Response]],
) -> Callable[[Service, Request, _Context], AsyncIterator[Response]]:
    """For RPCs with a stream of answers."""

    @functools.wraps(method)
    async def guarded(self: Service, request: Request, context: _Context) -> AsyncIterator[Response]:
        try:
            async for response in method(self, request, context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - this is where everything ends; nothing is hidden
            await abort(context, error)

    return guarded
