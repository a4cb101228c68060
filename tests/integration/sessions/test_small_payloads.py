"""A small payload reaches its worker with the assignment, from a real server."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from longshore.client import AsyncClient, push_spec
from longshore.server.engine.sessions.small_payloads import LARGEST
from longshore.v1 import worker_service_pb2 as ws
from longshore.v1 import worker_service_pb2_grpc
from tests.support.servers.processes import ServerProcess

PATIENCE = 30.0


async def assigned(server: ServerProcess, content: bytes, count: int = 1) -> list[ws.Assignment]:
    """Return the assignments that a worker gets for an upload to so many destinations."""
    token = (("authorization", f"Bearer {server.token}"),)
    async with asyncio.timeout(PATIENCE), grpc.aio.insecure_channel(server.address) as channel:
        call: Any = worker_service_pb2_grpc.WorkerServiceStub(channel).Work(metadata=token)
        hello = ws.Hello(
            protocol_version=1,
            session_id=f"small-{secrets.token_hex(8)}",
            worker="small",
            targets=[ws.ServedTarget(name="default", identity="one")],
            kinds=[ws.ServedKind(name="file_push")],
        )
        await call.write(ws.WorkRequest(hello=hello, credits=count))
        assert (await call.read()).HasField("welcome")
        async with AsyncClient(server=server.address, token_file=server.token_file) as client:
            await client.upload(content, spec=push_spec(*(f"web{number}/srv/file" for number in range(count))))
        found: list[ws.Assignment] = []
        while len(found) < count:
            found.extend((await call.read()).assignments)
        return found


@pytest.mark.parametrize("size", [1, LARGEST])
async def test_a_small_payload_travels_with_the_assignment(tmp_path: Path, size: int) -> None:
    content = secrets.token_bytes(size)
    with ServerProcess(tmp_path) as server:
        found = await assigned(server, content, count=3)
    assert [one.payload for one in found] == [content] * 3


async def test_a_large_payload_does_not_travel_with_the_assignment(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        (found,) = await assigned(server, secrets.token_bytes(LARGEST + 1))
    assert not found.payload
