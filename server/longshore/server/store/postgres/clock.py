"""Time from the database, so that skew between servers changes nothing.

Each transaction begins by asking the database what time it is; in between, the last answer is carried on with this
machine's CLOCK_BOOTTIME. Ticks are the same reading, held back from ever going backwards.

Why the wall clock of the database may serve for ticks: leases and time-outs serve liveness only, safety comes from the
grant. A database clock set back makes ticks stand still for as long, and attempts are given up later; one set forward
gives them up early, and they are fenced and repeated. Unlike a boot time, it means the same to every server, and after
a restart or a failover of the database.
"""

from __future__ import annotations

import random
import threading
import time


def _boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class DatabaseClock:
    """`model.clock.Clock` by the database's clock. Safe to use from any thread.

    Until the database has answered for the first time, the clock is this machine's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = time.time() - _boot()
        self._ticks = float("-inf")

    def heard(self, now: float) -> None:
        """Take over the database's time: `now`, in seconds since the epoch."""
        with self._lock:
            self._offset = now - _boot()

    def now(self) -> float:
        with self._lock:
            return _boot() + self._offset

    def ticks(self) -> float:
        with self._lock:
            self._ticks = max(self._ticks, _boot() + self._offset)
            return self._ticks

    def jitter(self) -> float:
        return random.random()
