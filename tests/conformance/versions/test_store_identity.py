"""A database is known by a number that is made once."""

from __future__ import annotations

import asyncio

from longshore.server.store.commands import IdentifyDatabase
from tests.conformance.conftest import OpenStore
from tests.support.stores.postgres import Cluster, opened_postgres
from tests.support.stores.store import ManualClock


async def test_a_database_keeps_its_first_number(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        made = await asyncio.gather(*(store.run(IdentifyDatabase(candidate=number)) for number in (7, 8, 9)))
        assert len(set(made)) == 1
        assert made[0] in (7, 8, 9)
    async with open_store(clock) as store:
        assert await store.run(IdentifyDatabase(candidate=(1 << 62) - 1)) == made[0]
        assert await store.verify_counters() == []


async def test_servers_that_start_together_read_the_same_number(postgres: Cluster) -> None:
    with postgres.database() as url:
        async with opened_postgres(url, None) as one, opened_postgres(url, None) as two:
            made = await asyncio.gather(
                *(store.run(IdentifyDatabase(candidate=number)) for number, store in enumerate((one, two) * 5))
            )
    assert len(set(made)) == 1
