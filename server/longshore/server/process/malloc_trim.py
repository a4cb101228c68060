"""A server gives the memory that the allocator keeps after a rush back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

LOOK: Final = 1.0
"""Seconds between looks. Each reads one line of /proc, which takes 15 µs."""

GROWTH: Final = 24 << 20
"""Bytes that the server must have grown by before a trim is worth its price."""

QUIET: Final = 0.5
"""The most CPU time that a quiet server uses, as a share of one core."""

PATIENCE: Final = 5.0
"""Seconds for which a trim waits for a quiet moment. After that it happens on a busy server too."""

WORTHWHILE: Final = 4 << 20
"""Bytes that a trim must give back for the next one to come as soon as possible."""

SOON: Final = 2.0
SELDOM: Final = 60.0
"""Seconds between trims while the server stays grown. After a worthwhile trim the pause is the shortest; each trim that
was not doubles the pause up to the longest, because what is left is in use then."""

_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_log = structlog.get_logger("longshore.server")


class HeapTrimmer:
    """Gives back what a rush has left behind. glibc keeps free pages for as long as used ones lie above them.

    60,000 calls that were opened and reset left 580 MiB in the heap for good, although nothing of them was in use any
    more. A trim holds the allocator's lock, so the whole process waits for it: 5 ms when there is nothing to give back,
    20 to 80 ms for 60 MiB. That is why a trim happens after the server has grown only, and in a quiet moment
    if there is one (docs/decisions/0005-malloc.md).
    """

    def __init__(
        self,
        *,
        trim: Callable[[], None],
        resident: Callable[[], int],
        busy: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`resident` answers bytes; `busy` counts the seconds of CPU time that the process has used."""
        self._trim = trim
        self._resident = resident
        self._busy = busy
        self._clock = clock
        self._least = self._left = resident()
        """The fewest resident bytes so far, and those after the last trim."""
        self._looked = clock(), busy()
        self._since: float | None = None
        """The time at which a trim became due. None means that no trim is due."""
        self._pause = SOON
        self._next = float("-inf")
        """Before this time only more growth makes a trim due."""

    async def run(self) -> None:
        """Look once in a while, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            if self.due():
                # In a thread, for which ctypes gives up the interpreter's lock: the loop goes on until it allocates.
                await asyncio.to_thread(self.give_back)

    def due(self) -> bool:
        """Answer whether to trim now. The caller asks once in LOOK seconds."""
        (then, used), self._looked = self._looked, (self._clock(), self._busy())
        now, using = self._looked
        there = self._resident()
        self._least = min(self._least, there)
        more = there >= self._left + GROWTH
        if more:
            self._pause = SOON
        if there < self._least + GROWTH or (now < self._next and not more):
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return using - used <= QUIET * (now - then) or now - self._since >= PATIENCE

    def give_back(self) -> None:
        """Trim, and decide when to try again if the server stays grown."""
        before, began = self._resident(), self._clock()
        self._trim()
        self._left, ended = self._resident(), self._clock()
        freed = before - self._left
        self._pause = SOON if freed >= WORTHWHILE else min(SELDOM, 2 * self._pause)
        self._next, self._since = ended + self._pause, None
        _log.debug("memory_given_back", bytes=freed, resident=self._left, seconds=round(ended - began, 4))


def of_this_process() -> HeapTrimmer | None:
    """Make the heap trimmer of this process. None means that the C library cannot trim, or that the system tells no
    resident bytes."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
        resident()
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    malloc_trim.argtypes, malloc_trim.restype = [ctypes.c_size_t], ctypes.c_int

    def trim() -> None:
        malloc_trim(0)

    return HeapTrimmer(trim=trim, resident=resident)


def resident() -> int:
    """Return the resident bytes of this process. Raises OSError where there is no /proc."""
    return int(_STATM.read_text().split()[1]) * _PAGE
