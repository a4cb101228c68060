"""A task records that it ran: it appends 24 bytes to a file, the same for all peers and for ours.

This module runs in the peers' environment, where nothing of Longshore is.
"""

from __future__ import annotations

import os
import struct
import time
from functools import cache
from typing import Final

RECORD: Final = struct.Struct("=qqq")
"""The task's number, when it was sent and when it ran: nanoseconds of CLOCK_MONOTONIC, which all processes share."""
LOG: Final = "BENCH_LOG"
BROKER: Final = "BENCH_BROKER"
"""Names in the environment: the file, and where the broker is."""
SLOW: Final = 0.2
"""Seconds that a slow task takes."""
AGAIN: Final = "BENCH_REDELIVERY"
REDELIVERY: Final = int(os.environ.get(AGAIN, "0"))
"""Seconds after which a peer is to give a lost worker's task to another; 0: as it comes."""


def ran(number: int, sent: int) -> None:
    """Called as the first thing of a task, or as its last if what counts is its end."""
    now = time.monotonic_ns()
    os.write(_log(), RECORD.pack(number, sent, now))


@cache
def _log() -> int:
    return os.open(os.environ[LOG], os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)


def pad(size: int = 0) -> str:
    """Makes the arguments as long as real ones, or as said: so many bytes."""
    return "p" * (size or 200)


def broker() -> str:
    """Return the address of the broker, in the peer's own words."""
    return os.environ[BROKER]
