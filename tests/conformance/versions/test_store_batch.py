"""The column `batch` (since schema 0004): the tasks of a request are found, whichever version made them."""

from __future__ import annotations

from longshore.server.model.task import Task
from longshore.server.store.protocol import TaskFilter
from longshore.server.store.store import SQLStore
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet, job, plan
from tests.support.stores.storekinds import StoreKind


async def submitted(store: SQLStore, clock: ManualClock, request_id: str, count: int = 2) -> list[Task]:
    made = await StoreFleet(store, clock).submit(*[plan(job())] * count, request_id=request_id)
    return list(made)


async def of_request(store: SQLStore, request_id: str) -> list[Task]:
    """The tasks that a list of this request has, the oldest first."""
    return list(await store.list_tasks(TaskFilter(request_id=request_id), before=None, limit=99))[::-1]


async def test_tasks_of_before_the_column_are_found_beside_those_of_after(
    open_store: OpenStore, clock: ManualClock, kind: StoreKind
) -> None:
    async with open_store(clock) as store:
        old = await submitted(store, clock, "old", 3)
    # A version before schema 0004 has filled in no batch, and the migration leaves the rows as they are.
    kind.execute("UPDATE tasks SET batch = NULL")
    async with open_store(clock) as store:
        new = await submitted(store, clock, "new")
        assert (await of_request(store, "old"), await of_request(store, "new")) == (old, new)
        assert await of_request(store, "none") == []
