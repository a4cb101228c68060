"""Our side of what bench/peers/on_*.py are: handlers on the worker's SDK, and `send` on the client.

Those of the row `cancel` are here too: they wait to be stopped, and tell at `$BENCH_STAMPS` when they were.

`$BENCH_HOW` says how the client submits many tasks: `pipelined`, with `AsyncClient.submit_many` over one stream, as
docs/client.md has it for a great many small ones; `unary`, with a call of `AsyncClient.submit` for each.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from google.protobuf.wrappers_pb2 import StringValue

from bench.peers.record import SLOW, ran
from bench.support.processes import Stamping
from longshore.client import AsyncClient, Submission, job_spec
from longshore.v1 import task_pb2
from longshore.worker import AsyncContext, AttemptStopped, Context, Registry

HOW: Final = "BENCH_HOW"
HOWS: Final = ("pipelined", "unary")
"""The best one first."""

STAMPS: Final = "BENCH_STAMPS"
"""The worker's environment variable with the path of the socket of bench/support/processes.py's Stamps."""
ASYNC: Final = "waits-async"
PLAIN: Final = "waits-plain"
_LONG: Final = 60.0

registry = Registry()
_told = Stamping(os.environ.get(STAMPS, ""))
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


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    """The servers and the token are found in the environment."""
    async with AsyncClient() as client:
        _clients.append(client)
        yield


def _spec(kind: str, number: int, sent: int, pad: str) -> task_pb2.TaskSpec:
    return job_spec(kind, StringValue(value=f"{number} {sent} {pad}"))


async def send(kind: str, number: int, sent: int, pad: str) -> None:
    """Returns when it is durable."""
    await _clients[0].submit(spec=_spec(kind, number, sent, pad))


async def _send_many(tasks: Iterator[tuple[str, int, int, str]], at_once: int) -> int:
    """Submit tasks, and return how many were accepted. Raises LongshoreError for the first that was not."""
    accepted = 0
    submissions = (Submission(spec=_spec(*task)) for task in tasks)
    async for one in _clients[0].submit_many(submissions, at_once=at_once):
        if one.error is not None:
            raise one.error
        accepted += 1
    return accepted


send_many = _send_many if os.environ.get(HOW) == HOWS[0] else None
