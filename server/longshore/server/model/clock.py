"""Time and chance, passed in so that nothing needs patching."""

from __future__ import annotations

import random
import time
from typing import Protocol


class Clock(Protocol):
    """The source of a store's time. On PostgreSQL that is the database."""

    def now(self) -> float:
        """Wall clock in seconds since the epoch: for what people read, due times and expiry."""
        ...

    def ticks(self) -> float:
        """Seconds of CLOCK_BOOTTIME: for leases and time-outs. Counts while the machine sleeps and never goes back."""
        ...

    def jitter(self) -> float:
        """A random draw in [0, 1)."""
        ...


class SystemClock:
    """This machine's clocks."""

    def now(self) -> float:
        return time.time()

    def ticks(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def jitter(self) -> float:
        return random.random()
