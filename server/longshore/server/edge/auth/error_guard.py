"""The guard stands around every RPC: messages are parsed, errors become statuses, and nothing else escapes.

Every handler becomes one that takes a stream, also where the RPC has one message: gRPC starts those before the message
is there, and lets them read it. So a refusal waits for nothing, and bytes that are no message are refused here and not
by gRPC, which answers UNKNOWN and logs a traceback. On the wire there is no difference.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor

from longshore.server.edge.auth.open_calls import PATIENCE, OpenCalls
from longshore.server.edge.auth.principal import known
from longshore.server.edge.auth.refusals import RefusalLog
from longshore.server.edge.auth.roles import OPEN_SERVICES
from longshore.server.edge.messages import wire
from longshore.server.edge.status import abort
from longshore.server.model.errors import LongshoreError

_log = structlog.get_logger("longshore.edge")

# Strings: grpc's classes are generic for checkers only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behavior: TypeAlias = Callable[[Any, Context], Any]


class ErrorGuard:
    """Makes the guarded handler of each method, once, and writes of the calls that it refuses."""

    def __init__(self, refusals: RefusalLog) -> None:
        self._refusals = refusals
        self._made: dict[str, tuple[Handler, Handler]] = {}
        self._open = OpenCalls()

    def around(self, method: str, handler: Handler) -> Handler:
        """Make the handler that gRPC is given instead of `handler`. It takes a stream, whatever the RPC takes."""
        made = self._made.get(method)
        if made is None or made[0] is not handler:
            made = self._made[method] = (handler, self._guarded(method, handler))
        return made[1]

    async def refuse(self, error: BaseException, *, method: str, context: Context, principal: str = "") -> NoReturn:
        """End the call with the status of `error`."""
        if isinstance(error, LongshoreError):
            caller = known()
            name = principal if caller is None else caller.name
            self._refusals.refused(error, method=method, peer=context.peer(), principal=name)
        await abort(context, error)

    def refusing(self, error: LongshoreError, *, method: str, principal: str = "") -> Handler:
        """Make a handler that answers with the error, and reads nothing."""

        async def refused(_messages: Any, context: Context) -> None:
            await self.refuse(error, method=method, context=context, principal=principal)

        return grpc.stream_unary_rpc_method_handler(refused)

    def _one_of_the_open(self, message: Descriptor | None) -> Behavior:
        async def one(_messages: Any, context: Context) -> Any:
            call = await self._open.enter(context)
            request = await call.wait(context.read(), context, within=PATIENCE)
            if request is grpc.aio.EOF:
                raise wire.missing(message)
            return request

        return one

    def _guarded(self, method: str, handler: Handler) -> Handler:
        behave = behavior(handler)
        message = _message_of(method)
        if method.startswith(OPEN_SERVICES):
            take = self._one_of_the_open(message)
        else:
            take = _stream if handler.request_streaming else _one(message)

        async def answer(messages: Any, context: Context) -> Any:
            try:
                return await behave(await take(messages, context), context)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.InternalError as error:
                _gone(method, error)
            except Exception as error:  # noqa: BLE001 - this is where everything ends; nothing is hidden
                await self.refuse(error, method=method, context=context)

        async def answers(messages: Any, context: Context) -> AsyncIterator[Any]:
            try:
                async with aclosing(behave(await take(messages, context), context)) as found:
                    async for one in found:
                        yield one
            except grpc.aio.AbortError:
                raise
            except grpc.aio.InternalError as error:
                _gone(method, error)
            except Exception as error:  # noqa: BLE001 - this is where everything ends; nothing is hidden
                await self.refuse(error, method=method, context=context)

        parse = handler.request_deserializer
        guarded: Behavior = answers if inspect.isasyncgenfunction(behave) else answer
        return taking_a_stream(handler, guarded, None if parse is None else wire.reader(parse, message))


def behavior(handler: Handler) -> Behavior:
    """Return the function in a handler."""
    found: Any
    if handler.request_streaming:
        found = handler.stream_stream if handler.response_streaming else handler.stream_unary
    else:
        found = handler.unary_stream if handler.response_streaming else handler.unary_unary
    assert found is not None, "a handler without a behavior"
    behave: Behavior = found
    return behave


def taking_a_stream(handler: Handler, behave: Behavior, parse: wire.Parse | None) -> Handler:
    """Make a handler that answers as `handler` does, and is started before a message is there."""
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(behave, parse, handler.response_serializer)
    return grpc.stream_unary_rpc_method_handler(behave, parse, handler.response_serializer)


def _gone(method: str, error: grpc.aio.InternalError) -> NoReturn:
    """End a call whose caller is gone: every operation on it fails in gRPC's core, and there is nobody to tell."""
    _log.debug("call_gone", method=method, error=str(error))
    raise asyncio.CancelledError from None


def retrieve_error(task: asyncio.Future[Any]) -> None:
    """Ask for a task's error in any case. Its awaiter may be cancelled as it fails, and asyncio would log the error."""
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception())


async def _stream(messages: Any, _context: Context) -> Any:
    return messages


def _one(message: Descriptor | None) -> Behavior:
    async def one(_messages: Any, context: Context) -> Any:
        request = await context.read()
        if request is grpc.aio.EOF:
            raise wire.missing(message)
        return request

    return one


def _message_of(method: str) -> Descriptor | None:
    """Return the type of the RPC's messages. None means that no contract here has the RPC."""
    service, _, name = method.strip("/").rpartition("/")
    try:
        found: Any = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        return None
    rpc = found.methods_by_name.get(name)
    return None if rpc is None else rpc.input_type
