"""Each test of a session has a server and a worker that speaks as the test tells it to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.servers.fleetserver import FleetServer, fleet_server
from tests.support.workers.fakeworker import FakeWorker


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FleetServer]:
    async with fleet_server(tmp_path) as running:
        yield running


@pytest.fixture
async def worker(server: FleetServer) -> AsyncIterator[FakeWorker]:
    async with server.worker() as one:
        yield one
