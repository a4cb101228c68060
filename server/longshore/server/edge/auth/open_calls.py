"""This module bounds the calls that need no token: how many are open, and how long they wait for a message.

Each takes about 23 KiB until it ends, and a caller without a token may open a thousand on each connection.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

MOST: Final = 1_000
"""Open calls at once: 23 MiB. A prober has one, and a client that watches health one for each connection."""

PATIENCE: Final = 10.0
"""Seconds in which the message of an open call must come. A prober sends it with the headers."""


class OpenCall:
    """One call can be ended while it waits for its caller or for news, and not while it is being answered: a status
    comes after the answers before it, and a caller that reads none keeps them waiting."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._limit: asyncio.Timeout | None = None
        self._ended = False

    @property
    def waits(self) -> bool:
        """Tell whether the call can be ended now."""
        return self._limit is not None and not self._ended

    def end(self) -> None:
        """End the call where it waits."""
        if self._limit is not None:
            self._ended = True
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def wait(self, what: Any, context: Context, *, within: float | None = None) -> Any:
        """Wait for `what`, for any time where `within` is None. Aborts the call when that is over, or when it is ended
        in favour of others."""
        found = None
        try:
            async with asyncio.timeout(within) as self._limit:
                found = await what
        except TimeoutError:
            if not self._ended:
                late = f"The message did not come within {within:g} seconds."
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, late)
        finally:
            self._limit = None
        if self._ended:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MANY)
        return found


TOO_MANY: Final = "Too many calls without a token are open. Try again in a few seconds."

_current: ContextVar[OpenCall | None] = ContextVar("open_call", default=None)


def current() -> OpenCall | None:
    """Return the open call that this asyncio task serves. None means that it serves none."""
    return _current.get()


class OpenCalls:
    """All open calls of a server. Beyond `most`, the connection with the most calls loses its oldest one that waits.

    A connection none of whose calls can be ended gets no further one. So callers that hold calls make room for those
    that ask and leave. Belongs to one event loop.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._count = 0
        self._of: dict[str, dict[OpenCall, None]] = {}

    async def enter(self, context: Context) -> OpenCall:
        """Count the call until it ends. Aborts it where there is no room."""
        peer = context.peer()
        if self._count >= self._most and not self._make_room() and self._of.get(peer):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MANY)
        call = OpenCall(peer)
        self._of.setdefault(peer, {})[call] = None
        self._count += 1
        leave: Any = lambda _context: self._leave(call)  # noqa: E731 - the checkers' stub has a wrong type for it
        context.add_done_callback(leave)
        _current.set(call)
        return call

    def _make_room(self) -> bool:
        for calls in sorted(self._of.values(), key=len, reverse=True):
            for call in calls:
                if call.waits:
                    call.end()
                    self._forget(call)
                    return True
        return False

    def _leave(self, call: OpenCall) -> None:
        if call in self._of.get(call.peer, ()):
            self._forget(call)

    def _forget(self, call: OpenCall) -> None:
        calls = self._of[call.peer]
        del calls[call]
        if not calls:
            del self._of[call.peer]
        self._count -= 1
