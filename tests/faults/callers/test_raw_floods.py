"""P3, P14: frames that no client library sends cost a bounded amount of memory, and no healthy call."""

from __future__ import annotations

import asyncio
import random
import resource
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.faults.callers.test_floods import METHOD, MIB, healthy
from tests.support.network.floods import (
    CONTINUATION,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    Flooder,
    call_headers,
    frame,
    literal,
)
from tests.support.servers.processes import ServerProcess
from tests.support.waiting import until

pytestmark = [pytest.mark.embedded("the database has no part in it"), pytest.mark.timeout(120)]
BOUND = 60 * MIB
SILENT = 3_000


async def continuations(one: Flooder) -> None:
    """A header block of 20 MiB that never ends."""
    await one.send([frame(HEADERS, 0, 1, call_headers(METHOD))])
    await one.send(frame(CONTINUATION, 0, 1, literal("x-more", "y" * 100) * 10) for _ in range(20_000))


async def drips(one: Flooder) -> None:
    """Header blocks that come byte by byte and are never whole."""
    block = call_headers(METHOD)
    await one.send([frame(HEADERS, 0, 1, b"")])
    await one.send(frame(CONTINUATION, 0, 1, block[at : at + 1]) for at in range(len(block)))


async def pings(one: Flooder) -> None:
    await one.send(frame(PING, 0, 0, bytes(8)) for _ in range(50_000))


async def settings(one: Flooder) -> None:
    await one.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, size)) for size in range(1 << 16, (1 << 16) + 20_000))


async def huge_headers(one: Flooder) -> None:
    """Send whole blocks of headers of 100 KiB each, far more than a call may have."""
    much = literal("x-much", "y" * 100) * 140
    for stream in range(1, 201, 2):
        await one.send(
            [
                frame(HEADERS, 0, stream, call_headers(METHOD)),
                *(frame(CONTINUATION, 0, stream, much) for _ in range(7)),
                frame(CONTINUATION, END_HEADERS, stream, b""),
            ]
        )


async def garbage(one: Flooder) -> None:
    """Frames of any kind, flags and length; the server may close the connection."""
    chance = random.Random(7)
    await one.send(
        frame(chance.randrange(12), chance.randrange(256), chance.randrange(64), chance.randbytes(chance.randrange(99)))
        for _ in range(5_000)
    )


@pytest.mark.parametrize("attack", [continuations, drips, pings, settings, huge_headers, garbage])
async def test_frames(tmp_path: Path, attack: Callable[[Flooder], Awaitable[None]]) -> None:
    with ServerProcess(tmp_path) as server:
        async with healthy(server):
            before = server.resident()
            async with AsyncExitStack() as stack:
                flooders = [await stack.enter_async_context(Flooder.connected(server.address)) for _ in range(10)]
                await asyncio.gather(*(attack(one) for one in flooders))
                # Each was closed, or the server has read all of it and a PING besides.
                await asyncio.gather(*(one.read() for one in flooders if not one.closed.is_set() and attack in _WHOLE))
        grown = server.resident(peak=True) - before
        assert grown <= BOUND, f"{grown / MIB:.0f} MiB"
        assert "Traceback" not in server.log()


_WHOLE = (pings, settings)
"""Attacks after which the connection is in order."""


async def test_silent_connections(tmp_path: Path) -> None:
    """Half of them say nothing, and half only that they are HTTP/2."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ServerProcess(tmp_path) as server:
            async with healthy(server):
                before = server.resident()
                writers = []
                for number in range(SILENT):
                    _reader, writer = await asyncio.open_unix_connection(str(server.socket))
                    if number % 2:
                        writer.write(PREFACE)
                    writers.append(writer)
                await until(lambda: _descriptors(server) >= SILENT)
            grown = server.resident(peak=True) - before
            for writer in writers:
                writer.transport.abort()
            await until(lambda: _descriptors(server) < SILENT // 10, within=40)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert grown <= 150 * MIB, f"{grown / MIB:.0f} MiB"


def _descriptors(server: ServerProcess) -> int:
    return sum(1 for _ in Path(f"/proc/{server.pid}/fd").iterdir())
