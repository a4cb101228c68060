"""P3, P14: calls that everybody may make (health) cost a bounded amount, and probers get through meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.network.floods import DATA, HEADERS, Flooder
from tests.support.servers.processes import ServerProcess
from tests.support.waiting import until

MIB = 1 << 20
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
EMPTY = bytes(5)
pytestmark = [pytest.mark.embedded("the database has no part in it"), pytest.mark.timeout(120)]


async def probed(server: ServerProcess) -> None:
    """As probers ask: each on a connection of its own."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        first = await anext(aiter(health.Watch(health_pb2.HealthCheckRequest(), timeout=20)))
        assert first.status == health_pb2.HealthCheckResponse.SERVING


async def test_half_open_probes_end_by_themselves(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        async with Flooder.connected(server.address) as flooder:
            await flooder.open_half(3, CHECK, WATCH)
            await until(lambda: flooder.answers[HEADERS] == 3, within=30)


@pytest.mark.parametrize("method", [CHECK, WATCH])
async def test_many_half_open_probes_make_room_for_others(tmp_path: Path, method: str) -> None:
    with ServerProcess(tmp_path) as server:
        await probed(server)
        before = server.resident()
        async with AsyncExitStack() as stack:
            flooders = [await stack.enter_async_context(Flooder.connected(server.address)) for _ in range(8)]
            await asyncio.gather(*(one.open_half(900, method) for one in flooders))
            await asyncio.gather(*(one.read() for one in flooders))
            await until(lambda: sum(one.answers[HEADERS] for one in flooders) >= 8 * 900 - 1000 - 1)
            await probed(server)
        assert server.resident() - before <= 100 * MIB


async def test_many_watches_of_health_make_room_for_others(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        async with AsyncExitStack() as stack:
            flooders = [await stack.enter_async_context(Flooder.connected(server.address)) for _ in range(3)]
            for one in flooders:
                await one.call_whole(900, WATCH, EMPTY)
                await one.read()
            # Each tells its status first, and those that make room end.
            await until(lambda: sum(one.answers[DATA] for one in flooders) >= 1000)
            await until(lambda: sum(one.answers[HEADERS] - one.answers[DATA] for one in flooders) >= 1700 - 2)
            await probed(server)
        await until(server.serving)


async def test_probes_whose_answers_are_not_read_are_bounded(tmp_path: Path) -> None:
    """Their window is closed, and so their calls cannot be ended: the connection gets no further ones."""
    with ServerProcess(tmp_path) as server:
        await probed(server)
        before = server.resident()
        async with AsyncExitStack() as stack:
            flooders = [await stack.enter_async_context(Flooder.connected(server.address, window=0)) for _ in range(6)]
            for one in flooders:
                await one.call_whole(900, WATCH, EMPTY)
                await one.read()
            await until(lambda: sum(one.answers[HEADERS] for one in flooders) >= 6 * 900)
            grown = server.resident() - before
        assert grown <= 100 * MIB, f"{grown / MIB:.0f} MiB"
        # Their connections are gone, and so are they.
        await probed(server)
