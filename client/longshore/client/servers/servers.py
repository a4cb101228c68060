"""This module has the servers that a client knows, a connection to each that was used, and a call's tour over them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final

from longshore.client.errors import Internal, LongshoreError, ResourceExhausted, TLSError, Unavailable
from longshore.client.servers.access import ServerAccess
from longshore.client.servers.balance import Balance
from longshore.client.servers.connection import Connection
from longshore.client.servers.endpoint import Endpoint
from longshore.client.servers.names import looked_up

_CONNECT: Final = 3.0
"""Seconds for a server to take a connection, when there are others."""
_LOOK_UP: Final = 30.0
"""Seconds for which the addresses of a name are believed; less when one of them fails."""
_STUCK: Final = frozenset({"DEADLINE_EXCEEDED", "STALLED", "UNREACHABLE"})
"""Reasons after which the connection is not used any more, though it looks sound."""
_OWN_BOUNDS: Final = frozenset({"SPOOL_FULL", "TOO_MANY_UPLOADS", "STORE_OVERLOADED"})
"""Bounds of one server; the others are the whole fleet's."""


class Servers:
    """The servers belong to one event loop. Connections are opened when they are first needed."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        access: ServerAccess,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._given: Final = tuple(endpoints)
        self._access: Final = access
        self._clock: Final = clock
        names = any(endpoint.is_name for endpoint in self._given)
        self._looked_up: float | None = None if names else float("inf")
        self._lookup: Final = asyncio.Lock()
        self.balance: Final = Balance(() if names else self._given, clock=clock, chance=chance)
        self._open: dict[Endpoint, Connection] = {}
        self._retired: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reviving: set[Endpoint] = set()
        self._closed = False

    @property
    def several(self) -> bool:
        """Return whether there is more than one server."""
        return len(self.balance.known) > 1

    async def known(self) -> Collection[Endpoint]:
        """Return all addresses. Names are looked up now and then. Raises Unavailable."""
        if self._looked_up is None or self._clock() - self._looked_up > _LOOK_UP:
            async with self._lookup:
                if self._looked_up is None or self._clock() - self._looked_up > _LOOK_UP:
                    await self._look_up()
        return self.balance.known

    async def _look_up(self) -> None:
        try:
            self.balance.update(await looked_up(self._given))
        except Unavailable:
            # The addresses that were found before may still be right.
            if not self.balance.known:
                raise
        self._looked_up = self._clock()
        for connection in [each for endpoint, each in self._open.items() if endpoint not in self.balance.known]:
            self._retire(connection)

    def connection(self, endpoint: Endpoint) -> Connection:
        """Return the connection to this server. Raises ConfigurationError, and RuntimeError when the client is
        closed."""
        if self._closed:
            raise RuntimeError("the client is closed")
        opened = self._open.get(endpoint)
        if opened is not None and opened.stamp != self._access.stamp(endpoint) and self._access.usable(endpoint):
            self._retire(opened)
            opened = None
        if opened is None:
            opened = self._open[endpoint] = Connection(endpoint, self._access)
        self._sweep()
        return opened

    def failed(self, connection: Connection, error: LongshoreError) -> None:
        """Note that a call failed because of the server or of the way to it."""
        self.balance.failed(connection.endpoint)
        if self._looked_up != float("inf"):
            self._looked_up = min(self._looked_up or 0.0, self._clock() - _LOOK_UP + 1.0)
        if self._open.get(connection.endpoint) is connection and (error.reason in _STUCK or connection.broken):
            self._retire(connection)

    def _retire(self, connection: Connection) -> None:
        """Give the connection no new calls. It is closed when its last call has ended."""
        del self._open[connection.endpoint]
        self._retired.add(connection)

    def _sweep(self) -> None:
        for connection in [each for each in self._retired if not each.users]:
            self._retired.discard(connection)
            self._start(connection.close())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def revive(self) -> None:
        """Look beside the calls whether servers that failed take connections again. No call waits for that."""
        for endpoint in self.balance.rested():
            if endpoint not in self._reviving:
                self._reviving.add(endpoint)
                self._start(self._revive(endpoint))

    async def _revive(self, endpoint: Endpoint) -> None:
        try:
            connection = self.connection(endpoint)
            if connection.broken:
                self._retire(connection)
                connection = self.connection(endpoint)
            with connection.used():
                stands = await connection.stands(seconds=_CONNECT)
        except LongshoreError:
            stands = False
        finally:
            self._reviving.discard(endpoint)
        if stands:
            self.balance.worked(endpoint)
        else:
            self.balance.failed(endpoint)

    async def close(self) -> None:
        """Close every connection. Calls that are under way end. Idempotent."""
        self._closed = True
        connections = [*self._open.values(), *self._retired]
        self._open.clear()
        self._retired.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(connection.close() for connection in connections))
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Tour:
    """The way of one call, upload or watch over the servers: none is asked twice before a pause.

    For one caller at a time.
    """

    def __init__(self, servers: Callable[[], Servers]) -> None:
        self._servers: Final = servers
        self._tried: set[Endpoint] = set()
        self._hopeless = True
        self._at: Connection | None = None
        self._stays = False
        self._next: Endpoint | None = None

    @property
    def elsewhere(self) -> bool:
        """Return whether there is another server to ask if this one does not answer."""
        here = self._at.endpoint if self._at is not None else None
        return any(each != here and each not in self._tried for each in self._servers().balance.known)

    async def connection(self) -> Connection:
        """Connect to the next server. Raises Unavailable, ConfigurationError, and RuntimeError when the client is
        closed."""
        servers = self._servers()
        self._at = None
        await servers.known()
        endpoint = self._next or servers.balance.pick(but=self._tried) or servers.balance.pick()
        assert endpoint is not None, "there is at least one"
        self._next = None
        connection = self._at = servers.connection(endpoint)
        if servers.several:
            servers.revive()
            with connection.used():
                await connection.ready(seconds=_CONNECT)
        return connection

    def worked(self) -> None:
        """Note that the server answers."""
        if self._at is not None:
            self._servers().balance.worked(self._at.endpoint)

    def stay(self) -> None:
        """Note that the server has something that another may lack: after a cut it is asked once more before any
        other."""
        self._stays = True

    def failed(self, error: LongshoreError) -> bool:
        """Note that the server could not serve the call. Returns whether a server may be asked at once."""
        stays, self._stays = self._stays, False
        self._hopeless = self._hopeless and isinstance(error, TLSError)
        if self._at is None:
            return False
        servers, here = self._servers(), self._at.endpoint
        if isinstance(error, ResourceExhausted) and error.reason not in _OWN_BOUNDS:
            return False
        if error.reason == "UPLOAD_IN_PROGRESS":
            return False
        if isinstance(error, Unavailable | Internal) and error.reason != "SLOW_CONSUMER":
            servers.failed(self._at, error)
        self._at = None
        if stays and servers.several and not error.from_server:
            self._next = here
            return True
        self._tried.add(here)
        return self.elsewhere

    @property
    def hopeless(self) -> bool:
        """Return whether every server was asked, and time will mend none of their answers."""
        return self._hopeless

    def rested(self) -> None:
        """Note that time has passed or the call got further, so that every server may be asked again."""
        self._tried.clear()
        self._hopeless = True
