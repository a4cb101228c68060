"""A handler that waits to be let go, and remembers what it was told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from longshore.worker import AttemptStopped, Context, Registry, StopReason
from tests.support.servers.fakeserver import WITHIN
from tests.support.servers.processes import eventually


class Gate:
    """Kind `gate`: waits for `open`, and ends early only when told to; with `commits` it asks for a grant first."""

    def __init__(self, *, commits: bool = False) -> None:
        self.registry = Registry()
        self.registry.add("gate", self.run)
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.stopped: list[StopReason] = []
        self.committed = 0
        self._commits = commits

    def run(self, context: Context) -> None:
        self.entered.release()
        try:
            if self._commits:
                context.commit("/temp", crc32c=7)
                self.committed += 1
            while not self.open.is_set():
                context.sleep(0.01)
        except AttemptStopped as stop:
            self.stopped.append(stop.why)
            raise

    async def running(self) -> None:
        """Wait until one more attempt has begun."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=WITHIN)


class Hang:
    """Kind `hang`: hears nothing until `release`; with `commits` only after its grant."""

    def __init__(self, *, commits: bool = False) -> None:
        self.registry = Registry()
        self.registry.add("hang", self.run)
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()
        self._commits = commits

    def run(self, context: Context) -> None:
        if self._commits:
            context.commit("/temp")
        self.entered.release()
        self.release.wait(WITHIN * 4)

    async def running(self) -> None:
        """Wait until one more attempt hangs."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=WITHIN)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something in another thread to become true."""
    await asyncio.to_thread(eventually, holds, within=WITHIN)
