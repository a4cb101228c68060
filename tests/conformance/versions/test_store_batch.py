"""The column `batch` (schema 0004): the tasks of a request are found on the schemas before and after, whichever version
made them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from longshore.server.model.task import Task
from longshore.server.store.migrations.run import migrate
from longshore.server.store.protocol import TaskFilter
from longshore.server.store.store import SQLStore
from longshore.server.store.tables.schema import tasks
from longshore.server.store.tables.schema_version import OURS
from tests.support.stores.postgres import shared_cluster
from tests.support.stores.schemas import leave_at
from tests.support.stores.store import ManualClock, StoreFleet, job, plan
from tests.support.stores.storekinds import PostgresKind, SQLiteKind

BATCHES = sa.select(tasks.c.id, tasks.c.batch)


async def submitted(store: SQLStore, clock: ManualClock, request_id: str, count: int = 2) -> list[Task]:
    made = await StoreFleet(store, clock).submit(*[plan(job())] * count, request_id=request_id)
    return list(made)


async def of_request(store: SQLStore, request_id: str) -> list[Task]:
    """The tasks that a list of this request has, the oldest first."""
    return list(await store.list_tasks(TaskFilter(request_id=request_id), before=None, limit=99))[::-1]


def batches(kind: SQLiteKind | PostgresKind) -> dict[str, str | None]:
    with kind.dialect().engine.connect() as connection:
        return {row.id: row.batch for row in connection.execute(BATCHES)}


async def test_a_file_of_the_version_before_is_read_and_written_on(tmp_path: Path, clock: ManualClock) -> None:
    kind = SQLiteKind(tmp_path / "longshore.sqlite3")
    async with kind.opened(clock) as store:
        old = await submitted(store, clock, "old")
    leave_at(kind, OURS - 1)
    async with kind.opened(clock) as store:
        new = await submitted(store, clock, "new")
        assert batches(kind) == {**dict.fromkeys([one.id for one in old]), **{one.id: "new" for one in new}}
        assert (await of_request(store, "old"), await of_request(store, "new")) == (old, new)
        assert await of_request(store, "none") == []
    # The version before works on the schema after, and fills in no batch.
    kind.execute("UPDATE tasks SET batch = NULL")
    async with kind.opened(clock) as store:
        assert (await of_request(store, "old"), await of_request(store, "new")) == (old, new)


async def test_a_store_that_takes_the_schema_for_an_older_one_writes_no_batch(
    tmp_path: Path, clock: ManualClock
) -> None:
    kind = SQLiteKind(tmp_path / "longshore.sqlite3")
    async with kind.opened(clock) as store:
        store.schema.revision = OURS - 1
        made = await submitted(store, clock, "old")
        assert batches(kind) == dict.fromkeys([one.id for one in made])
        assert await of_request(store, "old") == made


@pytest.fixture
def before() -> Iterator[PostgresKind]:
    with shared_cluster().database() as url:
        found = PostgresKind(url)
        leave_at(found, OURS - 1)
        yield found


async def test_servers_before_and_after_a_migration_find_each_others_requests(
    before: PostgresKind, clock: ManualClock
) -> None:
    async with before.opened(clock) as late, before.opened(clock) as early:
        made = {"before": await submitted(late, clock, "before")}
        migrate(before.dialect().engine)
        await early.refresh_schema()
        assert (late.schema.revision, early.schema.revision) == (OURS - 1, OURS)
        # The late one writes as the version before does.
        made["late"] = await submitted(late, clock, "late", 3)
        made["early"] = await submitted(early, clock, "early")
        assert {one for one in batches(before).values() if one} == {"early"}
        for store in (late, early):
            for request_id, tasks_of_it in made.items():
                assert await of_request(store, request_id) == tasks_of_it
        await late.refresh_schema()
        made["last"] = await submitted(late, clock, "last")
        for store in (late, early):
            for request_id, tasks_of_it in made.items():
                assert await of_request(store, request_id) == tasks_of_it
            assert await store.verify_counters() == []
