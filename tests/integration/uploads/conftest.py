"""The tests of uploads speak to a server's task service without a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.servers.rawgrpc import TaskServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TaskServer]:
    async with TaskServer(tmp_path) as server:
        yield server
