"""This module makes a gRPC server that no call can end, and all of whose calls wait in one queue.

grpc.aio registers each method of generated code in gRPC's core, which then has a queue of waiting calls for each one:
the bound on them (`grpc_options.WAITING`) counts for each of 24 methods, and calls of all methods made a server 900 MiB
larger. Here no method is registered, so that the core has one queue and one bound for all.

The calls of such methods are named by their path, which grpc.aio decodes as UTF-8 in the loop that takes calls. One
call by nobody with another byte in its path raises there (grpcio 1.85.1), and the loop is over: the process would live
and answer nobody. Here another loop takes over.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from longshore.server.edge.auth.error_guard import Handler, retrieve_error
from longshore.server.logs import sparing

_log = structlog.get_logger("longshore.edge")

_cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")
_inside: Final = vars(_cygrpc)
_Stopped: Any = _inside["_RequestCallError"]
"""Raised for a call that was asked for when the server stops."""

UNKNOWN: Final = f"/unknown/{secrets.token_hex(8)}"
"""The path under which calls arrive whose own path is not UTF-8. No method has it, and nobody can guess it."""


AHEAD: Final = 32
"""Calls that the core is asked for before there is one, because each waits for another thread to hand it over. With one
at a time a flooded server took 550 calls a second while its loop had nothing to do."""


class _Handlers(grpc.GenericRpcHandler):
    """The methods that the server has, by their paths."""

    def __init__(self) -> None:
        self._by_path: dict[str, Handler] = {}

    def add(self, handlers: Mapping[str, Handler]) -> None:
        self._by_path.update(handlers)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        return self._by_path.get(handler_call_details.method)


class _Calls(_cygrpc.AioServer):  # type: ignore[misc]
    """Takes the calls itself until a path cannot be decoded, and afterwards through one `_CallLoop` after another."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._arguments = arguments
        self._handlers = _Handlers()
        self._asked: deque[asyncio.Task[Any]] = deque()
        """The calls that the core was asked for, in the order in which it gives them."""
        self._last: asyncio.Task[Any] | None = None
        """The call that was taken last. None means that none was."""
        self._answering: set[asyncio.Task[Any]] = set()
        super().add_generic_rpc_handlers((self._handlers,))

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """Do nothing: generated code gives each handler a second time to `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, handlers: Mapping[str, Handler]) -> None:
        """Serve the methods without registering them in the core."""
        self._handlers.add(handlers)

    def take(self) -> asyncio.Task[Any]:
        """Take the next call, in the order of their arrival. The task raises _Stopped when the server stops."""
        while len(self._asked) < AHEAD:
            asked = asyncio.get_running_loop().create_task(self._request_call())
            retrieve_error(asked)
            self._asked.append(asked)
        self._last = self._asked.popleft()
        return self._last

    def _make_request_call_future(self, _method: bytes | None) -> asyncio.Future[Any]:
        return self.take()

    async def _server_main_loop(self, started: asyncio.Future[bool]) -> None:
        try:
            await super()._server_main_loop(started)
            return
        except UnicodeDecodeError:
            pass
        # 0.7 ms for each such path, of which the next call waits for one.
        while self.is_running():
            self._answer_the_last()
            await _CallLoop(self, *self._arguments).run(self._handlers)

    def _answer_the_last(self) -> None:
        """Answer the call whose path was not UTF-8 as one for an unknown method."""
        if self._last is None:
            return
        state, self._last = self._last.result(), None
        loop = asyncio.get_running_loop()
        _loop, _pool, _handlers, interceptors, *_ = self._arguments
        nothing = _inside["_MethodResolver"]([], {})
        call = _inside["_handle_rpc"](UNKNOWN, nothing, tuple(interceptors), state, loop, False)
        answered = loop.create_task(_inside["_schedule_rpc_coro"](call, state, loop, UNKNOWN))
        self._answering.add(answered)
        answered.add_done_callback(self._answering.discard)


class _CallLoop(_cygrpc.AioServer):  # type: ignore[misc]
    """Another loop that takes the calls of a server. It listens nowhere."""

    def __init__(self, calls: _Calls, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._calls = calls
        self._over = asyncio.Event()
        self._defect: BaseException | None = None
        self._stopping = asyncio.get_running_loop().create_future()

    async def run(self, handlers: _Handlers) -> None:
        """Take calls until a path cannot be decoded, or the server stops. Raises what else ended the loop."""
        self.add_generic_rpc_handlers((handlers,))
        await self.start()
        await self._over.wait()
        leaving = asyncio.create_task(self.shutdown(None))
        # `shutdown` says first that it stops, and waits then for the loop, which ends with the call that it waits for.
        await asyncio.sleep(0)
        self._stopping.set_exception(_Stopped())
        # Nobody may wait for the future, and asyncio would log that.
        self._stopping.exception()
        await leaving
        if self._defect is not None:
            raise self._defect

    async def _take(self) -> Any:
        try:
            return await self._calls.take()
        except _Stopped:
            self._over.set()
        return await self._stopping

    def _make_request_call_future(self, _method: bytes | None) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_task(self._take())

    async def _server_main_loop(self, started: asyncio.Future[bool]) -> None:
        try:
            await super()._server_main_loop(started)
        except UnicodeDecodeError:
            pass
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._defect = error
        finally:
            self._over.set()


def steadfast_server(
    *, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]]
) -> grpc.aio.Server:
    """Make a server as grpc.aio.server does, for services whose methods are registered, as those of generated code
    are."""
    _quiet()
    plain = _cygrpc.AioServer
    _cygrpc.AioServer = _Calls
    try:
        server = grpc.aio.server(interceptors=list(interceptors), options=list(options))
    finally:
        _cygrpc.AioServer = plain
    return server


class _Noise(logging.Filter):
    """Keeps out of the log what grpc.aio writes of callers, with a traceback for each.

    Metadata that is not UTF-8 is taken as Latin-1. A status for a call whose caller has just gone fails in gRPC's core;
    where grpc.aio has heard of the end by then it says nothing of it, and otherwise it logs that.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        said = str(record.msg)
        if said.startswith("Invalid encoding on"):
            sparing.say(_log.info, "metadata_not_utf8", caller="metadata")
            return False
        if said.startswith("ExecuteBatchError raised in core"):
            _log.debug("call_gone", error=str(record.exc_info[1]) if record.exc_info else said)
            return False
        return True


_noise: Final = _Noise()


def _quiet() -> None:
    logging.getLogger("grpc._cython.cygrpc").addFilter(_noise)
