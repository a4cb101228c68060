"""A worker that another process started ends with that process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


async def wait_for_end(pid: int) -> None:
    """Return when process `pid`, our parent, has ended; at once if it has already.

    A pidfd and not PR_SET_PDEATHSIG: that fires when the thread that started us ends, which need not be the process.
    Cancellation: stops watching.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Only now is it certain that the number was not another process's: ours has the parent that it names.
        if os.getppid() != pid:
            return
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
    finally:
        os.close(fd)


async def stop_with(pid: int, stop: Callable[[], None]) -> None:
    """Call `stop` when the parent has ended."""
    await wait_for_end(pid)
    stop()
