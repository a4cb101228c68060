"""The tests of the client speak to a scripted service. A module has its own client where its time-outs matter."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, which has no file with a name at any time."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
