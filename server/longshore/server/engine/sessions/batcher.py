"""Gathers what arrives while the store is at work, and hands it over in one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Final, Generic, TypeVar

from longshore.server.model.errors import StoreUnavailable

K = TypeVar("K")
V = TypeVar("V")

MOST: Final = 1000
"""Entries in one batch."""
PAUSE_FIRST: Final = 0.05
PAUSE_MOST: Final = 1.0
"""Seconds between two tries while the store cannot be written."""


class Batcher(Generic[K, V]):
    """Has one batch under way at a time; `in` tells whether a key waits or is under way.

    One command per session is all that a transaction takes, so several at once would only stand in line. While the
    store is unavailable the batch is tried again, with what came meanwhile, until `run` is cancelled; a cancelled
    `run` loses what was not acknowledged, and the worker says it again.

    A failed batch is tried again in halves, and what failed stands at the end of the line: one entry that the store
    cannot digest never holds up the others.
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
        """Flush until cancelled. Every error of `flush` but StoreUnavailable comes out of here."""
        pause, most = PAUSE_FIRST, MOST
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._waiting:
                self._take(most)
                try:
                    await self._flush(self._flying)
                except StoreUnavailable:
                    most = max(1, len(self._flying) // 2)
                    self._put_back()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, PAUSE_MOST)
                else:
                    pause, most = PAUSE_FIRST, min(most * 2, MOST)
                    self._flying = {}
            self._idle.set()

    def _take(self, most: int) -> None:
        if len(self._waiting) <= most:
            self._flying, self._waiting = self._waiting, {}
        else:
            self._flying = {key: self._waiting.pop(key) for key in tuple(islice(self._waiting, most))}

    def _put_back(self) -> None:
        """Put the batch at the end, where nothing newer has come for the same key."""
        for key, value in self._flying.items():
            self._waiting.setdefault(key, value)
        self._flying = {}
