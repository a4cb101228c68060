"""This module decides whether the client speaks TLS to a server, and which token it shows there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from longshore.client.errors import ConfigurationError, LongshoreError, from_rpc_error
from longshore.client.runtime.forks import check_not_forked, opened
from longshore.client.servers.endpoint import CHANNEL_OPTIONS, Endpoint, Token, credentials
from longshore.client.servers.tls import TLS, Stamp, closed_mutely, explained, probe

_LOOK: Final = 2.0
"""Seconds for which a look at the certificates' files holds."""


class ServerAccess:
    """Opens channels to servers; safe to use from many threads.

    A server that is not on this machine is spoken to over TLS only; one on a loopback address too as soon as there are
    TLS settings; one behind a unix socket never. The token of a data directory never leaves this machine; one that was
    given by name goes to any server.
    """

    def __init__(self, *, tls: TLS | None, token: Callable[[], Token | None]) -> None:
        self._tls: Final = tls
        self._token: Final = token
        self._stamp: Stamp = ()
        self._looked_at: float | None = None

    def tls_for(self, endpoint: Endpoint) -> TLS | None:
        """Return the TLS settings for connections to this server. None means that they go without TLS."""
        if endpoint.path:
            return None
        return self._tls if endpoint.is_local else self._tls or TLS()

    def metadata(self, endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
        """Return the metadata of calls to this server. Raises ConfigurationError for a token that cannot be read."""
        token = self._token()
        if token is None or not (token.named or endpoint.is_local):
            return ()
        return credentials(token.value)

    def open(self, endpoint: Endpoint) -> grpc.aio.Channel:
        """Open a channel for asyncio, which needs a running loop. The caller closes it. Raises ConfigurationError."""
        check_not_forked()
        tls = self.tls_for(endpoint)
        options = [*CHANNEL_OPTIONS, *_named(endpoint, tls)]
        if tls is None:
            return opened(grpc.aio.insecure_channel(endpoint.target, options=options))
        return opened(grpc.aio.secure_channel(endpoint.target, tls.credentials(), options=options))

    def open_blocking(self, endpoint: Endpoint, options: Sequence[tuple[str, Any]] = CHANNEL_OPTIONS) -> grpc.Channel:
        """Open a channel for threads. The caller closes it. Raises ConfigurationError."""
        check_not_forked()
        tls = self.tls_for(endpoint)
        options = [*options, *_named(endpoint, tls)]
        if tls is None:
            return opened(grpc.insecure_channel(endpoint.target, options=options))
        return opened(grpc.secure_channel(endpoint.target, tls.credentials(), options=options))

    def stamp(self, endpoint: Endpoint) -> Stamp:
        """Return the stamp of the server's certificates. A value that differs from the one at a channel's opening means
        that they were replaced. The files are looked at every 2 s at most."""
        tls = self.tls_for(endpoint)
        if tls is None:
            return ()
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= _LOOK:
            self._looked_at = now
            self._stamp = tls.stamp()
        return self._stamp

    def check(self, endpoints: Sequence[Endpoint]) -> None:
        """Raise ConfigurationError unless the certificates for these servers can be used."""
        for tls in {self.tls_for(endpoint) for endpoint in endpoints}:
            if tls is not None:
                tls.credentials()

    def usable(self, endpoint: Endpoint) -> bool:
        """Return whether a channel could be opened now. Files that are being replaced may not belong together for a
        moment."""
        tls = self.tls_for(endpoint)
        try:
            if tls is not None:
                tls.credentials()
        except ConfigurationError:
            return False
        return True


async def connected(channel: grpc.aio.Channel, *, seconds: float) -> bool | None:
    """Return whether the channel is connected. False means that it failed, None that neither is known within that
    time."""
    state = channel.get_state(try_to_connect=True)
    if state is grpc.ChannelConnectivity.READY:
        return True
    try:
        async with asyncio.timeout(seconds):
            while state in {grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING}:
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return None
    return state is grpc.ChannelConnectivity.READY


async def explain(error: grpc.aio.AioRpcError, *, endpoint: Endpoint, tls: TLS | None) -> LongshoreError:
    """Make the typed error of a call. gRPC calls a server with a certificate that does not fit unreachable; a probe of
    the server finds that out."""
    found = explained(from_rpc_error(error), address=str(endpoint))
    if endpoint.path or not closed_mutely(found):
        return found
    return await asyncio.to_thread(probe, endpoint.host, endpoint.port, tls, address=str(endpoint)) or found


def _named(endpoint: Endpoint, tls: TLS | None) -> list[tuple[str, str]]:
    """Return the channel option with the name in the server's certificate, where that is not the target's host."""
    name = (tls.server_name if tls is not None else "") or endpoint.name
    return [("grpc.ssl_target_name_override", name)] if name and tls is not None else []
