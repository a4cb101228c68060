"""The tests of submissions speak to a server's task service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.servers.rawgrpc import TaskServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TaskServer]:
    async with TaskServer(tmp_path) as server, asyncio.timeout(90):
        yield server
