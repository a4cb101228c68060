"""Who is calling. Every RPC but health is closed: the generated token opens it.

The interceptor leaves the principal in a context variable, where services read it with `principal()`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from longshore.server.edge.status import abort
from longshore.server.model.errors import Unauthenticated

OPEN_SERVICES: Final = ("/grpc.health.v1.Health/",)

# Strings: grpc's classes are generic for checkers only.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]]"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. Operators see and cancel everybody's tasks."""

    name: str
    operator: bool

    @property
    def scope(self) -> str | None:
        """The creator whose tasks it may see; None: everybody's."""
        return None if self.operator else self.name


LOCAL: Final = Principal("local", operator=True)
"""Whoever holds the generated token: the user that owns the data directory."""

_principal: ContextVar[Principal] = ContextVar("longshore_principal")


def principal() -> Principal:
    """The caller of the RPC at hand."""
    return _principal.get()


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Lets in who shows the token, and nobody else."""

    def __init__(self, *, token: str) -> None:
        self._digest = _digest(token)

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        if handler_call_details.method.startswith(OPEN_SERVICES):
            return await continuation(handler_call_details)
        if self._admits(handler_call_details.invocation_metadata):
            _principal.set(LOCAL)
            return await continuation(handler_call_details)
        return _refuse(await continuation(handler_call_details))

    def _admits(self, metadata: Any) -> bool:
        for key, value in metadata or ():
            if key == "authorization" and isinstance(value, str):
                scheme, _, token = value.partition(" ")
                # Digests have one length, so that the comparison tells nothing about the token's.
                return scheme.lower() == "bearer" and hmac.compare_digest(_digest(token.strip()), self._digest)
        return False


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _refuse(handler: _Handler) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same arity that answers UNAUTHENTICATED."""
    error = Unauthenticated(
        "No token, or a wrong one. Send `authorization: Bearer TOKEN` with the token from the file `token` in the "
        "server's data directory; the command line takes it from there or from --token-file."
    )

    async def refused(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await abort(context, error)

    if handler is None or not (handler.request_streaming or handler.response_streaming):
        return grpc.unary_unary_rpc_method_handler(refused)
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(refused)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(refused)
    return grpc.unary_stream_rpc_method_handler(refused)
