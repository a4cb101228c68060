"""Awa on PostgreSQL, with its default storage.

Its worker: python -m bench.peers.on_awa CONCURRENCY
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import awa

from bench.peers.record import SLOW, broker, ran


@dataclass
class Noop:
    number: int
    sent: int
    pad: str


@dataclass
class Slow:
    number: int
    sent: int
    pad: str


_clients: list[awa.AsyncClient] = []


async def work(concurrency: int) -> None:
    """Until it is killed."""
    client = awa.AsyncClient(broker(), 16)

    @client.task(Noop, queue="bench")
    async def noop(job: Any) -> None:
        ran(job.args.number, job.args.sent)

    @client.task(Slow, queue="bench")
    async def slow(job: Any) -> None:
        await asyncio.sleep(SLOW)
        ran(job.args.number, job.args.sent)

    await client.start([("bench", concurrency)])
    await asyncio.Event().wait()


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    async with awa.AsyncClient(broker(), 16) as client:
        _clients.append(client)
        yield


async def send(kind: str, number: int, sent: int, pad: str) -> Any:
    return await _clients[0].insert({"noop": Noop, "slow": Slow}[kind](number, sent, pad), queue="bench")


if __name__ == "__main__":
    asyncio.run(work(int(sys.argv[1])))
