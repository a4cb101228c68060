"""Gathers what arrives while the store is at work, and hands it over in one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Generic, TypeVar

from longshore.server.model.errors import StoreUnavailable

K = TypeVar("K")
V = TypeVar("V")

PAUSE_FIRST: Final = 0.05
PAUSE_MOST: Final = 1.0
"""Seconds between two tries while the store cannot be written."""


class Batcher(Generic[K, V]):
    """One batch is under way at a time; `in` tells whether a key waits or is under way.

    One command per session is all that a transaction takes, so several at once would only stand in line. While the
    store is unavailable the batch is tried again, with what came meanwhile, until `run` is cancelled; a cancelled
    `run` loses what was not acknowledged, and the worker says it again.
    """

    def __init__(self, flush: Callable[[Mapping[K, V]], Awaitable[None]]) -> None:
        self._flush = flush
        self._waiting: dict[K, V] = {}
        self._flying: dict[K, V] = {}
        self._bell = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._flying)

    def __contains__(self, key: K) -> bool:
        return key in self._waiting or key in self._flying

    def put(self, key: K, value: V) -> None:
        """Add to the next batch; a newer value takes the place of an older one."""
        self._waiting[key] = value
        self._idle.clear()
        self._bell.set()

    async def idle(self) -> None:
        """Wait until everything that was put is flushed."""
        await self._idle.wait()

    async def run(self) -> None:
        """Flush until cancelled. Whatever `flush` raises but StoreUnavailable comes out of here."""
        pause = PAUSE_FIRST
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._waiting:
                self._flying, self._waiting = self._waiting, {}
                try:
                    await self._flush(self._flying)
                except StoreUnavailable:
                    self._waiting = {**self._flying, **self._waiting}
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, PAUSE_MOST)
                else:
                    pause = PAUSE_FIRST
                self._flying = {}
            self._idle.set()
