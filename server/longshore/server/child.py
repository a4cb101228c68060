"""`longshored --worker`: a worker as a child process, for people who want one command."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from longshore.server.model.clock import Clock

_log = structlog.get_logger("longshore.child")

_BACK_OFF_MOST: Final = 30.0
_STABLE: Final = 60.0
"""A child that lived so long had started well: the next back-off begins small again."""


class WorkerChild:
    """Keeps one worker process running. Spawned, never forked: gRPC does not survive a fork."""

    def __init__(self, *, arguments: Sequence[str], environment: dict[str, str], clock: Clock) -> None:
        self._arguments = arguments
        self._environment = environment
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self.stopping = False
        """`stop` was called."""

    async def run(self) -> None:
        """Start it, and start it again whenever it ends. Cancelling this does not end the child: `stop` does."""
        failures = 0
        while not self.stopping:
            started = self._clock.ticks()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "longshore.worker.main", *self._arguments, env=os.environ | self._environment
            )
            _log.info("worker_started", pid=self._process.pid)
            code = await self._process.wait()
            if self.stopping:
                return
            failures = 0 if self._clock.ticks() - started > _STABLE else failures + 1
            pause = min(_BACK_OFF_MOST, 0.5 * 2.0 ** min(failures, 10))
            _log.warning("worker_ended", code=code, restart_in=pause)
            await asyncio.sleep(pause)

    async def stop(self, grace: float) -> None:
        """SIGTERM, and after `grace` seconds SIGKILL."""
        self.stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
