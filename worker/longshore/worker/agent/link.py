"""The link keeps the session connected: hello, reconnects, other servers, goodbye."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import grpc
import structlog

from longshore.client.errors import LongshoreError, Unavailable
from longshore.client.servers.access import ServerAccess, connected
from longshore.client.servers.endpoint import Endpoint
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.agent.connection import ServerConnection, is_fatal
from longshore.worker.agent.outbox import Outbox
from longshore.worker.agent.route import ServerRoute
from longshore.worker.agent.session import Agent

_log: Final = structlog.stdlib.get_logger("longshore.worker")

_LONGEST_PAUSE_S: Final = 5.0
_TRIES_IN_A_LEASE: Final = 4
"""A server that comes back gives its sessions one lease: several tries must fit into it."""
_STOOD_S: Final = 5.0
"""A connection that stood this long was good: the next failure counts as the first."""
_SPOKE_LEASES: Final = 2.0
_LOOK_S: Final = 0.1
_CONNECT_S: Final = 3.0


class ServerLink:
    """The link makes one connection after the other, until the goodbye is said."""

    def __init__(
        self,
        *,
        route: ServerRoute,
        access: ServerAccess,
        agent: Agent,
        outbox: Outbox,
        hello: Callable[[], ws.Hello],
        welcomed: Callable[[ws.Hello], None],
        rehome: float,
    ) -> None:
        """`rehome` is about how many seconds pass before another server is chosen by chance. 0 means never."""
        self._route = route
        self._access = access
        self._agent = agent
        self._outbox = outbox
        self._hello = hello
        self._welcomed = welcomed
        self._rehome = rehome
        self._endpoint: Endpoint | None = None
        self._connection: ServerConnection | None = None
        self._prepared: tuple[Endpoint, grpc.aio.Channel] | None = None
        self._moving = False
        self._cut = asyncio.Event()
        self._cut.set()
        self._ever = False
        self._left = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Return whether the server has said welcome and the stream has not ended since."""
        return not self._cut.is_set()

    @property
    def endpoint(self) -> Endpoint:
        """Return the server that the session is connected to, or was connected to last. Raises RuntimeError before the
        first connection."""
        if self._endpoint is None:
            raise RuntimeError("there was no connection yet")
        return self._endpoint

    async def run(self) -> None:
        """Connect again and again: to the next server at once, and after each round of them with a pause of up to 5 s,
        or a part of the lease.

        Raises LongshoreError when the very first hello is refused, by every server, in a way that only a person can
        mend. Once it has been welcomed it never gives up: what it holds may be wanted again when a server is back in
        order.
        """
        rounds, fatal = 0, True
        while not self._left.is_set():
            began = time.monotonic()
            try:
                await self._at_next(rounds, began)
                fatal = False
            except LongshoreError as error:
                fatal = fatal and is_fatal(error)
                if fatal and not self._ever and self._route.over:
                    raise
                level = _log.error if is_fatal(error) else _log.warning
                level("session_cut", server=str(self._endpoint), error=str(error), tries=rounds)
            if self._left.is_set():
                return
            if self._moving or time.monotonic() - began > _STOOD_S:
                rounds = 0
            elif self._route.over:
                rounds, fatal = rounds + 1, True
            if self._route.over and not self._moving:
                await asyncio.sleep(pause(rounds, most=min(_LONGEST_PAUSE_S, self._agent.lease / _TRIES_IN_A_LEASE)))

    async def _at_next(self, rounds: int, began: float) -> None:
        """Serve one connection to the next server, from its beginning to its end."""
        self._moving = False
        endpoint = self._endpoint = await self._route.next()
        try:
            await self._once(endpoint, rounds)
            _log.info("session_ended", server=str(endpoint))
        finally:
            if self._moving:
                self._route.moved(endpoint)
            else:
                self._route.ended(endpoint, stood=time.monotonic() - began > _STOOD_S)

    async def goodbye(self, *, patience: float) -> None:
        """Say goodbye if a connection is open, and end. This takes at most `patience` seconds."""
        self._left.set()
        if not self.connected:
            return
        self._outbox.goodbye()
        try:
            async with asyncio.timeout(patience):
                await self._cut.wait()
        except TimeoutError:
            _log.warning("session_goodbye_unanswered", server=str(self._endpoint))

    def renew(self) -> None:
        """Connect anew to the same server, because the hello has changed."""
        if self.connected and self._endpoint is not None:
            self._move(self._endpoint)

    def _move(self, endpoint: Endpoint) -> None:
        if self._connection is not None:
            self._moving = True
            self._route.want(endpoint)
            self._connection.close()

    async def _once(self, endpoint: Endpoint, rounds: int) -> None:
        hello = self._hello()
        prepared, self._prepared = self._prepared, None
        channel = prepared[1] if prepared is not None and prepared[0] == endpoint else None
        if prepared is not None and channel is None:
            await prepared[1].close()
        connection = self._connection = ServerConnection(endpoint, self._access, self._outbox, channel=channel)
        lease = self._agent.lease if self._ever else None
        patience = self._route.welcome(lease=lease, left=self._agent.lease_left, rounds=rounds)

        def welcomed(welcome: ws.Welcome) -> None:
            self._ever = True
            self._cut.clear()
            self._route.welcomed(endpoint)
            _log.info("session_welcome", server=str(endpoint), epoch=welcome.epoch, held=len(hello.held))
            self._agent.welcomed(welcome)
            self._welcomed(hello)

        def received(message: ws.WorkResponse) -> None:
            if message.HasField("go_away"):
                _log.info("session_go_away", reason=message.go_away.reason)
            self._agent.received(message)

        listening = asyncio.create_task(self._listen(connection), name="listen")
        try:
            await connection.run(
                ws.WorkRequest(hello=hello, credits=self._agent.credits()), welcomed, received, patience=patience
            )
        finally:
            listening.cancel()
            self._cut.set()
            self._connection = None
            self._agent.disconnected()

    async def _listen(self, connection: ServerConnection) -> None:
        """End a connection whose heartbeats the server does not acknowledge, while there is another server to go to."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            lease, unanswered = self._agent.lease, self._agent.unanswered
            limit = self._route.silence(lease)
            if limit is not None and unanswered > limit:
                self._route.fell_silent()
                connection.close(
                    Unavailable(f"the server has acknowledged no heartbeat for {unanswered:.1f} s", reason="SILENT")
                )
                return
            if unanswered < lease / 2 and time.monotonic() - began > _SPOKE_LEASES * lease:
                self._route.spoke()

    async def rehome(self) -> None:
        """Now and then go to another server, chosen by chance, so that a fleet spreads over those that came back. Until
        cancelled."""
        while self._rehome > 0:
            await asyncio.sleep(self._rehome * random.uniform(0.5, 1.5))
            if not (self._route.several and self.connected):
                continue
            other = self._route.elsewhere(self.endpoint)
            if other is None or not await self._idle() or self._agent.leaving.is_set():
                continue
            try:
                channel = self._access.open(other)
            except LongshoreError as error:
                _log.warning("session_no_rehome", server=str(other), error=str(error))
                continue
            try:
                if await connected(channel, seconds=_CONNECT_S) and self.connected:
                    _log.info("session_rehome", server=str(other))
                    self._prepared = other, channel
                    self._move(other)
                    continue
            except BaseException:
                await channel.close()
                raise
            self._route.unreachable(other)
            await channel.close()

    async def _idle(self) -> bool:
        """Wait for a moment in which nothing runs, for a while. A busy worker moves with what it holds."""
        end = time.monotonic() + self._rehome
        while time.monotonic() < end and self.connected and not self._agent.idle:  # noqa: ASYNC110 - seldom, and short
            await asyncio.sleep(_LOOK_S)
        return self.connected


def pause(failures: int, *, most: float = _LONGEST_PAUSE_S) -> float:
    """Return the seconds before the next try: none after a connection that stood, then doubling up to `most`. Up to
    half is taken off at random."""
    if failures == 0:
        return 0.0
    return min(most, 0.1 * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0)
