"""Keeping the session connected: hello, reconnects, goodbye."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import structlog

from longshore.client.endpoint import Endpoint
from longshore.client.errors import LongshoreError
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.agent import Agent
from longshore.worker.connection import Connection, is_fatal
from longshore.worker.outbox import Outbox

_log: Final = structlog.stdlib.get_logger("longshore.worker")

_LONGEST_PAUSE_S: Final = 5.0
_TRIES_IN_A_LEASE: Final = 4
"""A server that comes back gives its sessions one lease: several tries must fit into it."""
_STOOD_S: Final = 5.0
"""A connection that stood this long was good: the next failure counts as the first."""


class Link:
    """One connection after the other, until the goodbye is said."""

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        token: Callable[[], str | None],
        agent: Agent,
        outbox: Outbox,
        hello: Callable[[], ws.Hello],
        welcomed: Callable[[ws.Hello], None],
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._agent = agent
        self._outbox = outbox
        self._hello = hello
        self._welcomed = welcomed
        self._connection: Connection | None = None
        self._cut = asyncio.Event()
        self._cut.set()
        self._ever = False
        self._left = asyncio.Event()

    @property
    def standing(self) -> bool:
        """The server has said welcome, and the stream has not ended since."""
        return not self._cut.is_set()

    async def run(self) -> None:
        """Connect again and again. The first time at once, then after up to 5 s, or a part of the lease.

        Raises LongshoreError when the very first hello is refused in a way that only a person can mend. Once it has
        been welcomed it never gives up: what it holds may be wanted again when the server is back in order.
        """
        failures = 0
        while not self._left.is_set():
            began = time.monotonic()
            try:
                await self._once()
                _log.info("session.ended", server=str(self._endpoint))
            except LongshoreError as error:
                if is_fatal(error) and not self._ever:
                    raise
                level = _log.error if is_fatal(error) else _log.warning
                level("session.cut", server=str(self._endpoint), error=str(error), tries=failures)
            if self._left.is_set():
                return
            failures = 0 if time.monotonic() - began > _STOOD_S else failures + 1
            await asyncio.sleep(pause(failures, most=min(_LONGEST_PAUSE_S, self._agent.lease / _TRIES_IN_A_LEASE)))

    async def goodbye(self, *, patience: float) -> None:
        """Say goodbye, if there is anybody to say it to, and end. At most `patience` seconds."""
        self._left.set()
        if not self.standing:
            return
        self._outbox.goodbye()
        try:
            async with asyncio.timeout(patience):
                await self._cut.wait()
        except TimeoutError:
            _log.warning("session.goodbye_unanswered", server=str(self._endpoint))

    def renew(self) -> None:
        """Connect anew, because the hello has changed."""
        if self.standing and self._connection is not None:
            self._connection.close()

    async def _once(self) -> None:
        hello = self._hello()
        connection = self._connection = Connection(self._endpoint, self._token(), self._outbox)

        def welcomed(welcome: ws.Welcome) -> None:
            self._ever = True
            self._cut.clear()
            _log.info("session.welcome", server=str(self._endpoint), epoch=welcome.epoch, held=len(hello.held))
            self._agent.welcomed(welcome)
            self._welcomed(hello)

        def received(message: ws.WorkResponse) -> None:
            if message.HasField("go_away"):
                _log.info("session.go_away", reason=message.go_away.reason)
            self._agent.received(message)

        try:
            await connection.run(ws.WorkRequest(hello=hello, credits=self._agent.credits()), welcomed, received)
        finally:
            self._cut.set()
            self._connection = None
            self._agent.disconnected()


def pause(failures: int, *, most: float = _LONGEST_PAUSE_S) -> float:
    """Seconds before the next try: none after a connection that stood, then doubling up to `most`, up to half of it
    off."""
    if failures == 0:
        return 0.0
    return min(most, 0.1 * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0)
