"""The keeper gathers signs of life from all connections, and makes them durable in one command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.model.clock import Clock
from longshore.server.model.errors import LeaseLost, StoreUnavailable
from longshore.server.store.commands import RenewLeases
from longshore.server.store.protocol import Store

_log = structlog.get_logger("longshore.leases")


class LeaseKeeper:
    """Renews leases every sixth of a lease. A worker that counts from the sending of its heartbeat, as it must, is
    always more careful than the server, which counts from the commit."""

    def __init__(
        self, *, store: Store, clock: Clock, lease: float, connections: Callable[[], Iterable[WorkerConnection]]
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._connections = connections
        self._heard: dict[WorkerConnection, int | None] = {}
        self._swept_at = clock.ticks()

    def heard(self, connection: WorkerConnection, sequence: int | None) -> None:
        """Note that the worker said something. `sequence` is that of its heartbeat; None means that it was none."""
        connection.heard_at = self._clock.ticks()
        self._note(connection, sequence)

    def _note(self, connection: WorkerConnection, sequence: int | None) -> None:
        known = self._heard.get(connection)
        self._heard[connection] = known if sequence is None else max(sequence, known or 0)

    async def run(self) -> None:
        """Renew and sweep until cancelled."""
        while True:
            await asyncio.sleep(self._lease / 6)
            self._sweep()
            await self._renew()

    async def _renew(self) -> None:
        batch, self._heard = {one: sequence for one, sequence in self._heard.items() if not one.over}, {}
        if not batch:
            return
        try:
            renewed = await self._store.run(
                RenewLeases(sessions=tuple((one.id, one.epoch) for one in batch), lease=self._lease)
            )
        except StoreUnavailable as error:
            _log.warning("leases_not_renewed", sessions=len(batch), error=error.message)
            for connection, sequence in batch.items():
                self._note(connection, sequence)
            return
        for connection, sequence in batch.items():
            if connection.id not in renewed:
                connection.end(LeaseLost("The session ended, or lives on another connection; connect again."))
            elif sequence is not None:
                connection.outbox.heartbeat(sequence)

    def _sweep(self) -> None:
        """End connections that said nothing for a lease."""
        now = self._clock.ticks()
        late = now - self._swept_at > self._lease / 2
        self._swept_at = now
        for connection in self._connections():
            if late:
                # This process was stopped or the machine asleep: what workers said may still be unread, or unsaid.
                connection.heard_at = now
            elif now - connection.heard_at > self._lease:
                _log.warning("session_silent", session_id=connection.id, worker=connection.session.worker)
                connection.end(LeaseLost("Nothing was heard for a whole lease; connect again."))
