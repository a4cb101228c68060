"""Our side of what bench/peers/on_*.py are: handlers on the worker's SDK, and `send` on the client.

`$BENCH_HOW` says how the client submits: `unary`, a call of `AsyncClient.submit` for each task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from google.protobuf.wrappers_pb2 import StringValue

from bench.peers.record import SLOW, ran
from longshore.client import AsyncClient, job_spec
from longshore.worker import AsyncContext, Registry

HOW: Final = "BENCH_HOW"
HOWS: Final[tuple[str, ...]] = ("unary",)
"""The best one first."""

registry = Registry()
_clients: list[AsyncClient] = []


def _arguments(context: AsyncContext) -> tuple[int, int]:
    number, sent, _ = context.unpack(StringValue).value.split(" ")
    return int(number), int(sent)


@registry.handler("noop")
async def noop(context: AsyncContext) -> None:
    ran(*_arguments(context))


@registry.handler("slow")
async def slow(context: AsyncContext) -> None:
    number, sent = _arguments(context)
    await asyncio.sleep(SLOW)
    ran(number, sent)


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    """The servers and the token are found in the environment."""
    async with AsyncClient() as client:
        _clients.append(client)
        yield


async def send(kind: str, number: int, sent: int, pad: str) -> None:
    spec = job_spec(kind, StringValue(value=f"{number} {sent} {pad}"))
    await _clients[0].submit(spec=spec)
