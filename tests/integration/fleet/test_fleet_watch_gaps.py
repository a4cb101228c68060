"""P11: a server that did not hear of every commit fills the gap, wherever it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longshore.server.engine.sessions.progress import ProgressBoard
from longshore.server.engine.watch import WatchHub
from longshore.server.model.task import Task
from longshore.server.model.values import Outcome
from longshore.server.store.protocol import Changes, TaskChange, Wants
from tests.support.stores.store import ManualClock, StoreFleet, opened_sqlite
from tests.support.stores.wrapped import Wrapped


class HardOfHearing(Wrapped):
    """A store that is read as ever, and whose commits are told by the test."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.tell: Callable[[Changes], None] = lambda _changes: None

    def subscribe(self, listener: Callable[[Changes], None], *, wants: Wants | None = None) -> Callable[[], None]:
        del wants
        self.tell = listener
        return lambda: None


@pytest.mark.parametrize("heard", [(2, 3, 4), (2, 4), (3, 4), (4,), (2, 2, 4), (4, 4)])
async def test_commits_that_were_not_heard_are_read(tmp_path: Path, heard: tuple[int, ...]) -> None:
    async with opened_sqlite(tmp_path / "db", ManualClock()) as store:
        fleet = StoreFleet(store, ManualClock())
        deaf = HardOfHearing(store)
        (task,) = await fleet.submit()
        watch = WatchHub(store=deaf, progress=ProgressBoard()).watch(task.id, after=0, creator=None)
        seen = [await anext(watch)]
        await fleet.session()
        running = await fleet.claim_one()
        assert (await fleet.grant(running)).granted
        assert await fleet.report(running, Outcome.OK)
        revisions = {one.status.revision: one for one in await store.history(task.id, after=0)}
        deaf.tell(Changes(tuple(TaskChange(revisions[number], None) for number in heard), claimable=False))
        async with asyncio.timeout(30):
            seen += [update async for update in watch]
    assert [update.status.revision for update in seen if isinstance(update, Task)] == [1, 2, 3, 4]
