"""Workers in the test's own process, against a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from longshore.worker import Registry, Worker, WorkerConfig
from tests.support.fakeserver import FakeServer, serving, soon


class Start(Protocol):
    """Starts a worker, and the server first if there is none yet."""

    async def __call__(self, registry: Registry | None = None, **settings: Any) -> tuple[FakeServer, Worker]: ...


@asynccontextmanager
async def workers(tmp_path: Path) -> AsyncIterator[Start]:
    """What starts workers; at the end they are stopped and must have ended well."""
    running: list[tuple[Worker, asyncio.Task[Any]]] = []
    async with AsyncExitStack() as stack:
        servers: list[FakeServer] = []

        async def begin(registry: Registry | None = None, **settings: Any) -> tuple[FakeServer, Worker]:
            if not servers:
                servers.append(await stack.enter_async_context(serving()))
            config = WorkerConfig(
                server=servers[0].address,
                token="t" * 20,
                name="tested",
                state_dir=tmp_path / "state",
                temp_dir=tmp_path / "temp",
                stop_grace=1.0,
                grace=5.0,
            )
            worker = Worker(registry, replace(config, **settings))
            running.append((worker, asyncio.create_task(worker.serve())))
            return servers[0], worker

        yield begin
        for worker, serve in running:
            if not serve.done():
                worker.stop(grace=0.0)
            await soon(serve)
