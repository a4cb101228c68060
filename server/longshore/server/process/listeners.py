"""The listeners are the server's addresses, with their certificates and the interceptor that lets callers in."""

from __future__ import annotations

import asyncio

import grpc.aio

from longshore.server.config.settings import Settings, SettingsError, check_listeners, is_exposed, is_unix, way_in
from longshore.server.edge.auth.interceptor import AuthInterceptor
from longshore.server.edge.auth.tokens import TokenBook
from longshore.server.model.access import LocalToken
from longshore.server.model.clock import Clock
from longshore.server.process.address import bind
from longshore.server.process.certificates import Certificates
from longshore.server.store.protocol import Store


class Listeners:
    """Opens the server's addresses. It is made before anything else is begun, so that wrong settings are said first.

    Raises SettingsError.
    """

    def __init__(self, settings: Settings) -> None:
        self._listeners = check_listeners(settings)
        self._tls = settings.tls is not None
        if settings.worker:
            way_in(self._listeners, tls=self._tls)
        self._certificates = None if settings.tls is None else Certificates(settings.tls)
        self._client_roles = None if settings.tls is None or settings.tls.client_ca is None else settings.client_roles
        self._tokens: TokenBook | None = None
        self.addresses: tuple[str, ...] = ()
        """The addresses at which the server listens."""

    async def lock(self, local: str, store: Store, clock: Clock) -> grpc.aio.ServerInterceptor:
        """Make the interceptor that lets callers in. Raises SettingsError where other machines reach the listeners and
        no caller there has credentials."""
        exposed = next(filter(is_exposed, self._listeners), None)
        if exposed is not None and not self._client_roles and not await store.has_valid_token():
            raise SettingsError(
                f"--listen {exposed}: refused, because nobody on another machine has credentials yet. Make a "
                "token with `longshored token create NAME --role ROLE` and this server's --data-dir, --database or "
                "--config; or give certificates a role with --tls-client-ca FILE and --client-role NAME=ROLE."
            )
        self._tokens = TokenBook(look_up=store.tokens, clock=clock)
        return AuthInterceptor(local=LocalToken(local), tokens=self._tokens, client_roles=self._client_roles)

    @property
    def count(self) -> int:
        """Count the addresses of the listeners."""
        return len(self._listeners)

    def open(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Bind every address, and return the addresses that resulted. Raises SettingsError."""
        self.addresses = tuple(self._bind(server, address) for address in self._listeners)
        return self.addresses

    def _bind(self, server: grpc.aio.Server, address: str) -> str:
        if self._certificates is None or is_unix(address):
            return bind(server, address)
        return bind(server, address, self._certificates.credentials())

    @property
    def for_the_child(self) -> str:
        """Return the address that a worker on this machine takes, without certificates."""
        return way_in(self.addresses, tls=self._tls)

    async def reload(self) -> None:
        """Read the certificates' files, and ask for the tokens, now instead of at the next look."""
        if self._certificates is not None:
            await asyncio.to_thread(self._certificates.check_files)
        if self._tokens is not None:
            await self._tokens.refresh()

    async def run(self) -> None:
        """Keep up with certificates and tokens, until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._tokens is not None:
                group.create_task(self._tokens.run(), name="listeners: tokens")
            if self._certificates is not None:
                group.create_task(self._certificates.run(), name="listeners: certificates")
