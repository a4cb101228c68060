"""The fault proxy does what the tests that stand behind it believe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.network.proxy import FaultProxy


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """Start a proxy in front of a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultProxy(upstream=server.sockets[0].getsockname()[:2]) as proxy:
        yield proxy
    server.close()


async def say(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"ping")
    return reader, writer


async def test_the_proxy_passes_and_counts_bytes(proxy: FaultProxy) -> None:
    reader, writer = await say(proxy)
    assert await asyncio.wait_for(reader.readexactly(4), 5) == b"ping"
    assert (proxy.sent_up, proxy.connections) == (4, 1)
    writer.close()


async def test_cut_resets(proxy: FaultProxy) -> None:
    reader, writer = await say(proxy)
    await reader.readexactly(4)
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()


async def test_a_connection_is_cut_after_so_many_bytes(proxy: FaultProxy) -> None:
    proxy.cut_after(6)
    reader, writer = await say(proxy)
    await reader.readexactly(4)
    writer.write(b"ping")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()


async def test_stall_and_release(proxy: FaultProxy) -> None:
    proxy.stall()
    reader, writer = await say(proxy)
    answer = asyncio.create_task(reader.readexactly(4))
    done, _ = await asyncio.wait({answer}, timeout=0.1)
    assert not done
    proxy.release()
    assert await asyncio.wait_for(answer, 5) == b"ping"
    writer.close()


async def test_refusing(proxy: FaultProxy) -> None:
    proxy.refusing = True
    reader, writer = await say(proxy)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    writer.close()
