"""The stores that must pass: one parameter each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.stores.store import ManualClock, StoreFleet
from tests.support.stores.storekinds import OpenStore, StoreKind, new_database

__all__ = ["OpenStore"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreKind]:
    """The test's database, and what a test must know of its make."""
    with new_database(request.param, tmp_path) as kind:
        yield kind


@pytest.fixture
def open_store(kind: StoreKind) -> OpenStore:
    return kind.opened


@pytest.fixture
async def fleet(open_store: OpenStore, clock: ManualClock) -> AsyncIterator[StoreFleet]:
    """A store, and who talks to it. Sums are recounted at the end of each test."""
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        yield fleet
        await fleet.whole()
