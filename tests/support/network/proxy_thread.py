"""The fault proxy for tests without an event loop of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Self

from tests.support.network.proxy import FaultProxy


class ProxyThread:
    """A FaultProxy on a thread. `refuse` cuts every connection and takes no new ones until `accept`."""

    def __init__(self, *, unix: Path) -> None:
        self._proxy = FaultProxy(upstream=str(unix))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return self._proxy.address

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._proxy.__aenter__(), self._loop).result(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._proxy.__aexit__(None, None, None), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, call: Callable[[], None]) -> None:
        done: Future[None] = Future()

        def run() -> None:
            call()
            done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        done.result(10)

    def cut(self) -> None:
        """Reset every open connection."""
        self._do(self._proxy.cut)

    def stall(self) -> None:
        """Every connection stays open, and nothing comes through."""
        self._do(self._proxy.stall)

    def release(self) -> None:
        """Go on after `stall`."""
        self._do(self._proxy.release)

    def delay(self, seconds: float) -> None:
        """Hold back each piece for so long, either way."""

        def run() -> None:
            self._proxy.delay = seconds

        self._do(run)

    def refuse(self) -> None:
        """Cut, and close every new connection at once."""

        def run() -> None:
            self._proxy.refusing = True
            self._proxy.cut()

        self._do(run)

    def accept(self) -> None:
        """Let them through again."""

        def run() -> None:
            self._proxy.refusing = False

        self._do(run)
