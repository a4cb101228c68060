"""The mailbox brings calls from any thread into the agent's loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable


class Mailbox:
    """Calls to be made in an event loop, in the order of posting.

    Waking a loop costs a write to a pipe; however many calls are posted before the loop comes round, it is woken once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._woken = False

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` made soon. After the loop's end it is forgotten: an abandoned thread may outlive its agent."""
        with self._lock:
            self._calls.append(call)
            if self._woken:
                return
            self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _drain(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, deque()
            self._woken = False
        try:
            while calls:
                calls.popleft()()
        finally:
            if calls:
                # One has raised: the loop's exception handler hears of it, and the others are not lost.
                with self._lock:
                    self._calls.extendleft(reversed(calls))
                self._loop.call_soon(self._drain)
