"""The tests of the client speak to a scripted service. A module has its own client where its time-outs matter."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from longshore.client import AsyncClient
from tests.support.servers.fakeservice import FakeService, FakeTaskServer


@pytest.fixture
async def server() -> AsyncIterator[FakeTaskServer]:
    async with FakeTaskServer() as server:
        yield server


@pytest.fixture
def service(server: FakeTaskServer) -> FakeService:
    return server.service


@pytest.fixture
async def client(server: FakeTaskServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server=server.address, token="secret", patience=20) as client:
        yield client
