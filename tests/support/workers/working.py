"""Workers in the test's own process, against a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from longshore.worker import Exit, Registry, Worker, WorkerConfig
from tests.support.servers.fakeserver import FakeServer, serving, soon


class Start:
    """Starts workers of one server. Calling it returns the server and the worker."""

    def __init__(self, server: FakeServer, folder: Path) -> None:
        self.server = server
        self._config = WorkerConfig(
            server=server.address,
            token="t" * 20,
            name="tested",
            state_dir=folder / "state",
            temp_dir=folder / "temp",
            stop_grace=1.0,
            grace=5.0,
        )
        self._serving: dict[Worker, asyncio.Task[Exit]] = {}

    async def __call__(self, registry: Registry | None = None, **settings: Any) -> tuple[FakeServer, Worker]:
        worker = Worker(registry, replace(self._config, **settings))
        self._serving[worker] = asyncio.create_task(worker.serve())
        return self.server, worker

    async def ended(self, worker: Worker) -> Exit:
        """Wait for its end; raises what it raised."""
        return await soon(self._serving.pop(worker))

    async def stop(self) -> None:
        """Stop what still runs; it must end well."""
        for worker in list(self._serving):
            if not self._serving[worker].done():
                worker.stop(grace=0.0)
            await self.ended(worker)


@asynccontextmanager
async def workers(folder: Path) -> AsyncIterator[Start]:
    """A scripted server, and what starts workers for it; at the end they are stopped and must have ended well."""
    async with serving() as server:
        start = Start(server, folder)
        yield start
        await start.stop()
