"""The tests of order get a store with narrow limits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet


@pytest.fixture
async def narrow(open_store: OpenStore, clock: ManualClock) -> AsyncIterator[StoreFleet]:
    """Two attempts an instance, three a target."""
    async with open_store(clock, limits=ConcurrencyLimits(instance=2, target=3)) as store:
        fleet = StoreFleet(store, clock)
        yield fleet
        await fleet.whole()
