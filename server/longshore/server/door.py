"""The server's door: where it listens, with which certificates, and who is let in."""

from __future__ import annotations

import asyncio

import grpc.aio

from longshore.server.edge.auth import TokenInterceptor
from longshore.server.listen import bind
from longshore.server.settings import Settings, check_listeners, is_unix, way_in
from longshore.server.tls import Certificates


class Door:
    """Made before anything else is begun, so that what is wrong with the settings is said first.

    Raises SettingsError.
    """

    def __init__(self, settings: Settings) -> None:
        self._listeners = check_listeners(settings)
        self._tls = settings.tls is not None
        if settings.worker:
            way_in(self._listeners, tls=self._tls)
        self._certificates = None if settings.tls is None else Certificates(settings.tls)
        self.addresses: tuple[str, ...] = ()
        """Where it is open."""

    def lock(self, token: str) -> grpc.aio.ServerInterceptor:
        """Who is let in."""
        return TokenInterceptor(token=token)

    def open(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Bind every address; answers with them as they came out. Raises SettingsError."""
        self.addresses = tuple(self._bind(server, address) for address in self._listeners)
        return self.addresses

    def _bind(self, server: grpc.aio.Server, address: str) -> str:
        if self._certificates is None or is_unix(address):
            return bind(server, address)
        return bind(server, address, self._certificates.credentials())

    @property
    def for_the_child(self) -> str:
        """The address that a worker on this machine takes, without certificates."""
        return way_in(self.addresses, tls=self._tls)

    async def run(self) -> None:
        """Keep up with new certificates, until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._certificates is not None:
                group.create_task(self._certificates.run(), name="door: certificates")
