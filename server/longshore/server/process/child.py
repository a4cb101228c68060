"""`longshored --worker` runs a worker as a child process, for people who want one command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from longshore.server.model.clock import Clock

_log = structlog.get_logger("longshore.child")

_TLS: Final = re.compile("LONGSHORE_(WORKER_)?TLS")
_BACK_OFF_MOST: Final = 30.0
_STABLE: Final = 60.0
"""Seconds after which a child counts as well started: the next back-off begins small again."""


class WorkerChild:
    """Keeps one worker process running. The worker ends by `stop`, or by itself when this process is gone."""

    def __init__(self, *, arguments: Sequence[str], clock: Clock) -> None:
        self._arguments = arguments
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start the worker, and start it again whenever it ends. Cancelling this does not end the child: `stop`
        does."""
        failures = 0
        while not self._stopping.is_set():
            started = self._clock.ticks()
            code = await self._live()
            if self._stopping.is_set():
                return
            failures = 0 if self._clock.ticks() - started > _STABLE else failures + 1
            pause = min(_BACK_OFF_MOST, 0.5 * 2.0 ** min(failures, 10))
            _log.warning("worker_ended", code=code, restart_in=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _live(self) -> int | None:
        """Start a worker, wait for its end, and return its exit code. None means that it could not be started."""
        try:
            self._process = process = _spawn(self._arguments)
        except OSError as error:
            _log.error("worker_not_started", error=str(error))
            return None
        _log.info("worker_started", pid=process.pid)
        return await asyncio.to_thread(process.wait)

    async def stop(self, grace: float) -> None:
        """End the worker with SIGTERM, and after `grace` seconds with SIGKILL."""
        self._stopping.set()
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, grace)
        except subprocess.TimeoutExpired:
            process.kill()


def _spawn(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a worker by subprocess, which uses vfork: an event loop's own spawning may fork, and gRPC's threads do not
    survive that."""
    command = [sys.executable, "-m", "longshore.worker.main", *arguments]
    # LONGSHORE_TLS_CERT and the like are this server's own, or for servers elsewhere. The way to this one is plain.
    environment = {name: value for name, value in os.environ.items() if not _TLS.match(name)}
    environment.setdefault("GRPC_VERBOSITY", "NONE")
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
