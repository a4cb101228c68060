"""A gRPC server that no call can end.

grpc.aio decodes the path of a call for an unknown method as UTF-8 in the loop that takes calls. One call by nobody with
another byte in its path raises there (grpcio 1.85.1), and the loop is over: the process lives and answers nobody. Here
calls for unknown methods are taken under a name of our own, and their path is never decoded.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import secrets
from collections.abc import Sequence
from typing import Any, Final

import grpc.aio
import structlog

from longshore.server.logs import sparing

_log = structlog.get_logger("longshore.edge")

_cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")

UNKNOWN: Final = f"/unknown/{secrets.token_hex(8)}"
"""Under which calls for methods that are not registered arrive. Nobody can guess it, and so call it."""


class _Calls(_cygrpc.AioServer):  # type: ignore[misc]
    """Takes calls for unknown methods as those of UNKNOWN, which has no handler: they end UNIMPLEMENTED as ever."""

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        if method is None:
            # Nothing is taken under a name that would have to be decoded. gRPC cancels it in the end.
            return asyncio.get_running_loop().create_future()
        taken: asyncio.Future[Any] = super()._make_request_call_future(None if method == UNKNOWN.encode() else method)
        return taken


def steadfast_server(
    *, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]]
) -> grpc.aio.Server:
    """As grpc.aio.server, for services whose methods are registered, as those of generated code are."""
    _quiet()
    plain = _cygrpc.AioServer
    _cygrpc.AioServer = _Calls
    try:
        server = grpc.aio.server(interceptors=list(interceptors), options=list(options))
    finally:
        _cygrpc.AioServer = plain
    registrar: Any = server
    service, _, method = UNKNOWN.strip("/").partition("/")
    registrar.add_registered_method_handlers(service, {method: None})
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
