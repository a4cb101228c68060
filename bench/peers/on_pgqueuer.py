"""PgQueuer on PostgreSQL, its tables durable, through asyncpg as its documentation recommends.

Its worker: python -m bench.peers.on_pgqueuer CONCURRENCY. (`pgq run` of this version fails with this version of typer.)
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from bench.peers.record import SLOW, broker, ran

_producers: list[Queries] = []


async def work(concurrency: int) -> None:
    """Until it is killed."""
    app = PgQueuer(AsyncpgDriver(await asyncpg.connect(broker())))

    @app.entrypoint("noop")
    async def noop(job: Job) -> None:
        number, sent, _ = json.loads(job.payload or b"")
        ran(number, sent)

    @app.entrypoint("slow")
    async def slow(job: Job) -> None:
        number, sent, _ = json.loads(job.payload or b"")
        await asyncio.sleep(SLOW)
        ran(number, sent)

    # It refuses more in a batch than half of what may run at once.
    await app.run(batch_size=concurrency, max_concurrent_tasks=2 * concurrency)


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    async with asyncpg.create_pool(broker(), min_size=1, max_size=16) as pool:
        _producers.append(Queries(AsyncpgPoolDriver(pool)))
        yield


async def send(kind: str, number: int, sent: int, pad: str) -> Any:
    return await _producers[0].enqueue(kind, json.dumps([number, sent, pad]).encode())


if __name__ == "__main__":
    asyncio.run(work(int(sys.argv[1])))
