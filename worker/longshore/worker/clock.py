"""The worker's own clock: it goes on while the machine sleeps."""

from __future__ import annotations

import time


def boot_time() -> float:
    """Seconds since boot, suspension included.

    A lease is counted with it: after a laptop's lid was shut for an hour a lease of seconds is over, whatever
    CLOCK_MONOTONIC says, which stands still meanwhile.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
