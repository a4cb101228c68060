"""The stores that must pass: one parameter each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from longshore.server.store.sqlite import SQLiteStore
from tests.support.store import Fleet, ManualClock, opened_sqlite

OpenStore = Callable[..., AbstractAsyncContextManager[SQLiteStore]]
"""Opens the test's database: `async with open_store(clock) as store`. Twice in a test: a restart."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    assert request.param == "sqlite"
    return partial(opened_sqlite, tmp_path / "longshore.sqlite3")


@pytest.fixture
async def fleet(open_store: OpenStore, clock: ManualClock) -> AsyncIterator[Fleet]:
    """A store, and who talks to it. Sums are recounted at the end of each test."""
    async with open_store(clock) as store:
        fleet = Fleet(store, clock)
        yield fleet
        await fleet.whole()
