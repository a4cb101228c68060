"""The lock on every RPC: who calls is found out, and whether its roles open the method.

A call with a token that this server knows waits for nothing here, and a unary one runs the very handler that it would
without a lock. Streams are kept count of, so that they end with their token.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from longshore.server.edge.auth import LOCAL, Principal, enter
from longshore.server.edge.auth_refusals import RefusalLog
from longshore.server.edge.auth_tokens import Credential, OpenStream, TokenBook, wrong_token
from longshore.server.edge.certificate_names import names_of
from longshore.server.edge.roles import OPEN_SERVICES, check_role
from longshore.server.edge.status import abort
from longshore.server.model.access import LocalToken, Role, read_secret
from longshore.server.model.errors import LongshoreError, Unauthenticated

# Strings: grpc's classes are generic for checkers only.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets in who shows a token of the data directory or of the database, or a certificate with a role.

    `client_roles` None: clients show no certificates. A token is looked at first, and decides.
    """

    def __init__(
        self,
        *,
        local: LocalToken,
        tokens: TokenBook | None = None,
        client_roles: Mapping[str, frozenset[Role]] | None = None,
        refusals: RefusalLog | None = None,
    ) -> None:
        self._local = local
        self._tokens = tokens
        self._client_roles = client_roles
        self._refusals = refusals or RefusalLog()

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if method.startswith(OPEN_SERVICES):
            return handler
        shown = _shown(handler_call_details.invocation_metadata)
        try:
            if shown is None and self._client_roles is not None:
                return self._by_certificate(handler, method, self._client_roles)
            credential = await self._credential(shown)
            caller = LOCAL if credential is None else credential.principal
            if handler is not None:
                check_role(method, caller.roles)
        except LongshoreError as error:
            return self._refused(handler, method, error)
        if credential is not None and handler is not None and _is_stream(handler) and self._tokens is not None:
            return _ending(handler, self._tokens, credential)
        enter(caller)
        return handler

    async def _credential(self, shown: str | None) -> Credential | None:
        """None: the local token."""
        if shown is None:
            raise wrong_token()
        if self._local.matches(shown):
            return None
        secret = read_secret(shown)
        if secret is None or self._tokens is None:
            raise wrong_token()
        return self._tokens.recall(secret) or await self._tokens.ask(secret)

    def _by_certificate(self, handler: _Handler | None, method: str, roles: Mapping[str, frozenset[Role]]) -> _Handler:
        """Only the handler's context knows the certificate."""

        async def admit(context: _Context) -> None:
            try:
                caller = certified(context.auth_context(), roles)
                if handler is not None:
                    check_role(method, caller.roles)
            except LongshoreError as error:
                self._refusals.refused(error, method=method, peer=context.peer())
                await abort(context, error)
            enter(caller)

        def around_answer(behave: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def admitted(request: Any, context: _Context) -> Any:
                await admit(context)
                return await behave(request, context)

            return admitted

        def around_answers(behave: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncIterator[Any]]:
            async def admitted(request: Any, context: _Context) -> AsyncIterator[Any]:
                await admit(context)
                async with aclosing(behave(request, context)) as answers:
                    async for answer in answers:
                        yield answer

            return admitted

        return _wrapped(handler or _UNKNOWN, around_answer, around_answers)

    def _refused(self, handler: _Handler | None, method: str, error: LongshoreError) -> _Handler:
        """A handler of the same arity that answers with the error."""

        async def refused(_request: Any, context: _Context) -> Any:
            self._refusals.refused(error, method=method, peer=context.peer())
            await abort(context, error)

        if handler is None:
            return grpc.unary_unary_rpc_method_handler(refused)
        return _with_behavior(handler, refused)


def certified(context: Mapping[str, Iterable[bytes]], roles: Mapping[str, frozenset[Role]]) -> Principal:
    """Whose certificate it is: its first name that has a role, URIs before DNS names. Raises Unauthenticated."""
    shown = next(iter(context.get("x509_pem_cert") or ()), b"")
    if not shown:
        raise wrong_token()
    names = names_of(shown)
    for name in names:
        if name in roles:
            return Principal(name, roles[name])
    known = f"None of its names has a role ({', '.join(names)})" if names else "It names no URI and no DNS name"
    raise Unauthenticated(
        f"No token, and a certificate that opens nothing. {known}: start the server with --client-role NAME=ROLE, or "
        "send a token."
    )


async def _not_there(_request: Any, context: _Context) -> Any:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


_UNKNOWN: Final[_Handler] = grpc.unary_unary_rpc_method_handler(_not_there)
"""What gRPC itself says of a method that is not there."""


def _shown(metadata: Any) -> str | None:
    """The first token of the call; None: it shows none. What is no token is an empty one."""
    for key, value in metadata or ():
        if key == "authorization":
            scheme, _, token = value.partition(" ") if isinstance(value, str) else ("", "", "")
            return token.strip() if scheme.lower() == "bearer" else ""
    return None


def _ending(handler: _Handler, tokens: TokenBook, credential: Credential) -> _Handler:
    """The handler of a stream, which ends when the token does."""

    def around_answer(behave: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(request: Any, context: _Context) -> Any:
            stream = tokens.open(credential)
            enter(credential.principal, stream)
            try:
                return await behave(request, context)
            except asyncio.CancelledError:
                await _end(stream, context)
                raise
            finally:
                tokens.close(credential, stream)

        return watched

    def around_answers(behave: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncIterator[Any]]:
        async def watched(request: Any, context: _Context) -> AsyncIterator[Any]:
            stream = tokens.open(credential)
            enter(credential.principal, stream)
            try:
                async with aclosing(behave(request, context)) as answers:
                    async for answer in answers:
                        stream.interruptible = False
                        yield answer
                        stream.interruptible = True
                        if stream.error is not None:
                            break
            except asyncio.CancelledError:
                await _end(stream, context)
                raise
            finally:
                tokens.close(credential, stream)
            await _end(stream, context)

        return watched

    return _wrapped(handler, around_answer, around_answers)


async def _end(stream: OpenStream, context: _Context) -> None:
    """Say why, where the token is the reason."""
    if stream.error is None:
        return
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    await abort(context, stream.error)


# Handlers, of each arity ----------------------------------------------------------------------------------------------

_Around: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def _is_stream(handler: _Handler) -> bool:
    return handler.request_streaming or handler.response_streaming


def _wrapped(handler: _Handler, around_answer: _Around, around_answers: _Around) -> _Handler:
    behave = _behavior(handler)
    around = around_answers if inspect.isasyncgenfunction(behave) else around_answer
    return _with_behavior(handler, around(behave))


def _behavior(handler: _Handler) -> Callable[..., Any]:
    if handler.request_streaming:
        found = handler.stream_stream if handler.response_streaming else handler.stream_unary
    else:
        found = handler.unary_stream if handler.response_streaming else handler.unary_unary
    assert found is not None, "a handler without a behavior"
    return found


def _with_behavior(handler: _Handler, behavior: Callable[..., Any]) -> _Handler:
    if handler.request_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
    else:
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
    return make(behavior, handler.request_deserializer, handler.response_serializer)
