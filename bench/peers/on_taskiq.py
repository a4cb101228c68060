"""Taskiq on Redis streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskiq_redis import RedisStreamBroker

from bench.peers.record import REDELIVERY, SLOW, ran
from bench.peers.record import broker as where

broker = RedisStreamBroker(
    url=where(),
    idle_timeout=1000 * (REDELIVERY or 600),
    # The lock of a killed worker would stay for ever.
    unacknowledged_lock_timeout=REDELIVERY or None,
    max_connection_pool_size=256,
)


@broker.task(task_name="noop")
async def noop(number: int, sent: int, pad: str) -> None:
    ran(number, sent)


@broker.task(task_name="slow")
async def slow(number: int, sent: int, pad: str) -> None:
    await asyncio.sleep(SLOW)
    ran(number, sent)


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await broker.startup()
    try:
        yield
    finally:
        await broker.shutdown()


async def send(kind: str, number: int, sent: int, pad: str) -> Any:
    return await {"noop": noop, "slow": slow}[kind].kiq(number, sent, pad)
