"""Dependencies (schema 0005): the schema before refuses them and keeps everything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.server.model.errors import OldServers
from longshore.server.model.values import Outcome, State
from longshore.server.store.migrations.run import migrate
from longshore.server.store.tables.schema_version import OURS
from tests.support.stores.postgres import shared_cluster
from tests.support.stores.schemas import leave_at
from tests.support.stores.store import ManualClock, StoreFleet, job, plan, push
from tests.support.stores.storekinds import PostgresKind, SQLiteKind


@pytest.fixture
def before() -> Iterator[PostgresKind]:
    with shared_cluster().database() as url:
        found = PostgresKind(url)
        leave_at(found, OURS - 1)
        yield found


async def test_a_store_that_takes_the_schema_for_an_older_one_refuses_dependencies(
    tmp_path: Path, clock: ManualClock
) -> None:
    kind = SQLiteKind(tmp_path / "longshore.sqlite3")
    async with kind.opened(clock) as store:
        store.schema.revision = OURS - 1
        fleet = StoreFleet(store, clock)
        await fleet.session()
        (gate,) = await fleet.submit(plan())
        with pytest.raises(OldServers, match="migrate"):
            await fleet.submit(plan(job(), after=(gate.id,)))
        with pytest.raises(OldServers):
            await fleet.open_upload(terms=plan(after=(gate.id,)).terms)
        assert (await fleet.deliver(await fleet.claim_one())).status.state is State.SUCCEEDED
        assert (await store.unmet([gate.id]), await store.left_followers()) == ({}, ())


async def test_servers_before_and_after_a_migration_share_a_database(before: PostgresKind, clock: ManualClock) -> None:
    async with before.opened(clock) as late, before.opened(clock) as early:
        fleets = [StoreFleet(late, clock), StoreFleet(early, clock)]
        await fleets[0].session()
        fleets[1]._epochs = fleets[0]._epochs
        (gate,) = await fleets[0].submit(plan(push("/gate")))
        for number, fleet in enumerate(fleets):
            with pytest.raises(OldServers):
                await fleet.submit(plan(job(), after=(gate.id,)), request_id=f"refused-{number}")
        migrate(before.dialect().engine)
        await early.refresh_schema()
        assert (late.schema.revision, early.schema.revision) == (OURS - 1, OURS)
        (child,) = await fleets[1].submit(plan(push("/child"), after=(gate.id,)), request_id="child")
        # The late one refuses them still, and leaves them alone otherwise.
        with pytest.raises(OldServers):
            await fleets[0].submit(plan(job(), after=(gate.id,)))
        await fleets[0].submit(plan(push("/other")), request_id="other")
        assert await fleets[1].state(child) is State.BLOCKED
        await late.refresh_schema()
        taken = {task.id: task for task in await fleets[0].claim(room=9)}
        assert child.id not in taken
        await fleets[0].report(taken[gate.id], Outcome.PERMANENT)
        assert await fleets[0].state(child) is State.CANCELLED
        for store in (late, early):
            assert await store.verify_counters() == []
