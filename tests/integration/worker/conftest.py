"""Each test of a worker has a scripted server, and starts workers in its own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.workers.working import Start, workers


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with workers(tmp_path) as begin:
        yield begin
