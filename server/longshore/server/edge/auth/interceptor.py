"""The interceptor finds out which principal calls an RPC, and whether its roles open the method.

It does so before a message is read. A call with a token that this server knows waits for nothing here. Streams are
counted, so that they end with their token.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from longshore.server.edge.auth.certificates import names_of
from longshore.server.edge.auth.error_guard import Context, ErrorGuard, Handler, behavior, taking_a_stream
from longshore.server.edge.auth.principal import LOCAL, Principal, enter
from longshore.server.edge.auth.refusals import RefusalLog
from longshore.server.edge.auth.roles import OPEN_SERVICES, check_role
from longshore.server.edge.auth.tokens import Credential, OpenStream, TokenBook, wrong_token
from longshore.server.edge.status import abort
from longshore.server.model.access import LocalToken, Role, read_secret
from longshore.server.model.errors import LongshoreError, Unauthenticated

_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets in each call that shows a token of the data directory or of the database, or a certificate with a role.

    `client_roles` None means that clients show no certificates. A token is looked at first, and decides. Each handler
    that a call is let in to is guarded: see `error_guard`.
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
        self._guard = ErrorGuard(refusals or RefusalLog())

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        method = handler_call_details.method
        found = await continuation(handler_call_details)
        handler = None if found is None else self._guard.around(method, found)
        if method.startswith(OPEN_SERVICES):
            return handler
        caller: Principal | None = None
        try:
            shown = _shown(handler_call_details.invocation_metadata)
            if shown is None and self._client_roles is not None:
                return self._by_certificate(handler, method, self._client_roles)
            credential = await self._credential(shown)
            caller = LOCAL if credential is None else credential.principal
            if found is not None:
                check_role(method, caller.roles)
        except LongshoreError as error:
            return self._guard.refusing(error, method=method, principal="" if caller is None else caller.name)
        if credential is not None and handler is not None and _is_stream(found) and self._tokens is not None:
            return _ending(handler, self._tokens, credential)
        enter(caller)
        return handler

    async def _credential(self, shown: str | None) -> Credential | None:
        """Find the credential that the shown token stands for. None means that it is the local token."""
        if shown is None:
            raise wrong_token()
        if self._local.matches(shown):
            return None
        secret = read_secret(shown)
        if secret is None or self._tokens is None:
            raise wrong_token()
        return self._tokens.recall(secret) or await self._tokens.ask(secret)

    def _by_certificate(self, handler: Handler | None, method: str, roles: Mapping[str, frozenset[Role]]) -> Handler:
        """Make a handler that checks the certificate first. Only the handler's context knows the certificate."""

        async def admit(context: Context) -> None:
            caller: Principal | None = None
            try:
                caller = certified(context.auth_context(), roles)
                if handler is not None:
                    check_role(method, caller.roles)
            except LongshoreError as error:
                name = "" if caller is None else caller.name
                await self._guard.refuse(error, method=method, context=context, principal=name)
                raise
            enter(caller)

        def around_answer(behave: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def admitted(messages: Any, context: Context) -> Any:
                await admit(context)
                return await behave(messages, context)

            return admitted

        def around_answers(behave: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncIterator[Any]]:
            async def admitted(messages: Any, context: Context) -> AsyncIterator[Any]:
                await admit(context)
                async with aclosing(behave(messages, context)) as answers:
                    async for answer in answers:
                        yield answer

            return admitted

        return _wrapped(handler or _UNKNOWN, around_answer, around_answers)


def certified(context: Mapping[str, Iterable[bytes]], roles: Mapping[str, frozenset[Role]]) -> Principal:
    """Return the principal of a certificate: its first name that has a role, URIs before DNS names.

    Raises Unauthenticated.
    """
    shown = next(iter(context.get("x509_pem_cert") or ()), b"")
    if not shown:
        raise wrong_token()
    names = names_of(shown)
    for name in names:
        if name in roles:
            return Principal(name, roles[name])
    known = f"None of its names has a role ({', '.join(names)})" if names else "It names no URI and no DNS name"
    raise Unauthenticated(
        f"No token, and a certificate without a role. {known}: start the server with --client-role NAME=ROLE, or "
        "send a token."
    )


async def _not_there(_messages: Any, context: Context) -> Any:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


_UNKNOWN: Final[Handler] = grpc.stream_unary_rpc_method_handler(_not_there)
"""The handler of unknown methods, which answers as gRPC itself does."""


def _shown(metadata: Any) -> str | None:
    """Return the token of the call. None means that it shows none. A header without a bearer token counts as an empty
    token. Raises Unauthenticated for two headers."""
    shown: str | None = None
    for key, value in metadata or ():
        if key == "authorization":
            if shown is not None:
                raise Unauthenticated("Two `authorization` headers came: send one, with one token.")
            scheme, _, token = value.partition(" ") if isinstance(value, str) else ("", "", "")
            shown = token.strip() if scheme.lower() == "bearer" else ""
    return shown


def _ending(handler: Handler, tokens: TokenBook, credential: Credential) -> Handler:
    """Make the handler of a stream that ends with its token."""

    def around_answer(behave: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(messages: Any, context: Context) -> Any:
            stream = tokens.open(credential)
            enter(credential.principal, stream)
            try:
                return await behave(messages, context)
            except asyncio.CancelledError:
                await _end(stream, context)
                raise
            finally:
                tokens.close(credential, stream)

        return watched

    def around_answers(behave: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncIterator[Any]]:
        async def watched(messages: Any, context: Context) -> AsyncIterator[Any]:
            stream = tokens.open(credential)
            enter(credential.principal, stream)
            try:
                async with aclosing(behave(messages, context)) as answers:
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


async def _end(stream: OpenStream, context: Context) -> None:
    """End the call with the token's error, where the token is the reason of its end."""
    if stream.error is None:
        return
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    await abort(context, stream.error)


# Handlers, as the guard makes them ------------------------------------------------------------------------------------

_Around: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def _is_stream(handler: Handler | None) -> bool:
    """Tell whether the RPC is a stream. `handler` is as the service made it, because the guard's all take a stream."""
    return handler is not None and (handler.request_streaming or handler.response_streaming)


def _wrapped(handler: Handler, around_answer: _Around, around_answers: _Around) -> Handler:
    behave = behavior(handler)
    around = around_answers if inspect.isasyncgenfunction(behave) else around_answer
    return taking_a_stream(handler, around(behave), handler.request_deserializer)
