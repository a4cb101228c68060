"""A server process tunes its allocator before it starts, and its garbage collector when it has started."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

# From malloc.h of glibc.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_MIB: Final = 1 << 20


def tune_malloc() -> bool:
    """Keep message-sized buffers on the heap instead of mapping and unmapping each one; answers whether that worked.

    gRPC allocates every message anew. With glibc's defaults a 1 MiB chunk is a mapping of its own, whose pages are
    zeroed by the kernel each time: uploads of 1 GiB ran at 0.84 of a Go net/http handler with the defaults, at 1.53
    with the thresholds raised (docs/decisions/0005-malloc.md). One arena for all threads, because each would keep a
    heap of its own, and a low trim threshold, because memory is a promise too. It concerns this process only;
    `--no-malloc-tuning` leaves the allocator alone. Other C libraries are left alone too.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # Older glibc refuses thresholds above half a heap, which is 32 MiB.
    mapped = mallopt(_M_MMAP_THRESHOLD, 1024 * _MIB) or mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)
    padded = mallopt(_M_TRIM_THRESHOLD, 16 * _MIB) and mallopt(_M_TOP_PAD, 2 * _MIB)
    return bool(mapped and padded and mallopt(_M_ARENA_MAX, 1))


def tune_collector() -> None:
    """Leave the objects of the start out of every collection, because they stay, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
