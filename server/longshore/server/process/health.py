"""The grpc health service says whether to send this server work now, and whether the process lives.

The ready-made servicer is not used: it writes to a watcher while it holds the lock that each change of status needs,
and health is open to everybody, so one watcher that does not read would keep all others, and the drain, waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longshore.server.edge.auth import open_calls
from longshore.server.model.errors import StoreUnavailable
from longshore.server.store.errors import SchemaMismatch
from longshore.server.store.protocol import Restore
from longshore.server.store.tables.schema_version import OURS, SchemaState

LIVENESS: Final = "liveness"
"""The name of the service whose health is that of the process alone. Ask for it where an answer of NOT_SERVING kills
the process."""

LOOK: Final = 5.0
"""Seconds between looks at the schema, which somebody may migrate."""

WHILE_WELL: Final = 0.25
WHILE_ILL: Final = 0.05
"""Seconds between looks at whether the store can be written. They cost no I/O: the writer knows."""

_SHOWN: Final = 100
"""Characters of an unknown service's name in the refusal."""

_listing: Any = health_pb2
"""The published types of this module do not know its list yet."""

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_log = structlog.get_logger("longshore.server")


class _Store(Protocol):
    @property
    def writable_since(self) -> float | None: ...

    @property
    def trouble(self) -> str: ...

    @property
    def schema(self) -> SchemaState: ...

    async def refresh_schema(self) -> None: ...

    async def restored(self) -> Restore | None: ...


class Health(health_pb2_grpc.HealthServicer):
    """Tells readiness and liveness. "" and each of `services` are SERVING while the store can be written and the server
    does not leave. LIVENESS is SERVING for as long as the event loop answers."""

    def __init__(self, *, store: _Store, services: Sequence[str]) -> None:
        self._store = store
        self._ready: Final = frozenset(("", *services))
        self._is_ready = False
        self._leaving = False
        self._restored = False
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow the store, until cancelled."""
        while True:
            self._follow()
            await asyncio.sleep(WHILE_WELL if self._is_ready else WHILE_ILL)

    async def watch_schema(self) -> None:
        """Learn of migrations. Raises SchemaMismatch after one beyond what this version works on.

        This is not part of `run`, because it waits for the database, and health must not."""
        _warn(self._store.schema)
        while True:
            await self._look_at_restore()
            await asyncio.sleep(LOOK)
            await self._look()

    def leave(self) -> None:
        """Answer NOT_SERVING for good."""
        self._leaving = True
        self._turn(ready=False)

    def _follow(self) -> None:
        writable = self._store.writable_since is not None
        if writable == self._is_ready or self._leaving:
            return
        if writable:
            _log.info("store_writable")
        else:
            _log.error("store_not_writable", why=self._store.trouble)
        self._turn(ready=writable)

    def _turn(self, *, ready: bool) -> None:
        self._is_ready = ready
        told, self._changed = self._changed, asyncio.Event()
        told.set()

    async def _look(self) -> None:
        before = self._store.schema.revision
        try:
            await self._store.refresh_schema()
        except StoreUnavailable:
            return
        except SchemaMismatch as error:
            _log.error("schema_outgrown", message=str(error))
            raise
        if (after := self._store.schema.revision) != before:
            _log.info("schema_migrated", before=before, after=after)

    async def _look_at_restore(self) -> None:
        try:
            restore = await self._store.restored()
        except StoreUnavailable:
            return
        if restore is not None and not self._restored:
            _log.error(
                "restored",
                noticed=_when(restore.noticed_at),
                data_of=_when(restore.data_at),
                live_tasks=restore.live_tasks,
                queues=restore.queues,
                advice=restore.advice,
            )
        elif restore is None and self._restored:
            _log.info("restore_over")
        self._restored = restore is not None

    # The service ------------------------------------------------------------------------------------------------------

    def _status(self, service: str) -> Any:
        """Return the health of a service. None means that the service is none of ours."""
        if service == LIVENESS:
            return _SERVING
        if service not in self._ready:
            return None
        return _SERVING if self._is_ready else _NOT_SERVING

    def _details(self) -> str:
        """Return what an operator should know of a server, in codes with commas. Empty means that there is nothing."""
        found = []
        if self._leaving:
            found.append("draining")
        elif not self._is_ready:
            found.append("store-not-writable")
        if self._restored:
            found.append("restored-queues-paused")
        return ",".join(found)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        status = self._status(request.service)
        if status is None:
            # Anybody may ask, with a name of 4 MiB, which would come back in the trailers.
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:_SHOWN]}")
        if details := self._details():
            # Short codes only: health is open to everybody.
            context.set_trailing_metadata((("longshore-health", details),))
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: Any) -> Any:
        del request, context
        names = (LIVENESS, *self._ready)
        return _listing.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in names}
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        last = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status is None:
                status = _UNKNOWN
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            call = open_calls.current()
            assert call is not None, "health is served without its guard"
            await call.wait(changed.wait(), context)


def _when(seconds: float | None) -> str:
    return "unknown" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _warn(schema: SchemaState) -> None:
    if schema.revision < OURS:
        _log.warning(
            "schema_before",
            schema=schema.revision,
            version_has=OURS,
            remedy="when every server is of this version, run `longshored migrate` with this server's options",
        )
