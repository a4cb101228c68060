"""The kinds of bench/cancel.py, as its worker serves them: they wait to be stopped, and tell when they were."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

from bench.stamps import Stamping
from longshore.worker import AsyncContext, AttemptStopped, Context, Registry

STAMPS: Final = "BENCH_STAMPS"
"""The worker's environment variable with the path of the client's socket."""
ASYNC: Final = "waits-async"
PLAIN: Final = "waits-plain"
_LONG: Final = 60.0

registry = Registry()
_told = Stamping(os.environ.get(STAMPS, ""))


@registry.handler(ASYNC)
async def wait_async(_context: AsyncContext) -> None:
    _told.tell("runs", time.monotonic())
    try:
        await asyncio.sleep(_LONG)
    except asyncio.CancelledError:
        _told.tell("stopped", time.monotonic())
        raise


@registry.handler(PLAIN)
def wait_plain(context: Context) -> None:
    _told.tell("runs", time.monotonic())
    try:
        context.sleep(_LONG)
    except AttemptStopped:
        _told.tell("stopped", time.monotonic())
        raise
