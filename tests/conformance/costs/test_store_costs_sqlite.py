"""These tests count the statements that tasks cost on SQLite. Their time is the machine's."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from longshore.server.model.events import Reported
from longshore.server.model.task import Job, Task
from longshore.server.model.values import Outcome
from longshore.server.store.commands import ClaimTasks, FileReports, SubmitTasks
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.stores.store import ManualClock, StoreFleet, opened_sqlite, plan, push

MANY = 64
LIMITS = ConcurrencyLimits(instance=200, target=1000)


@pytest.fixture
async def fleet(tmp_path: Path, clock: ManualClock) -> AsyncIterator[StoreFleet]:
    """A store that has done each of these things before, and a session."""
    async with opened_sqlite(tmp_path / "database", clock, limits=LIMITS) as store:
        fleet = StoreFleet(store, clock)
        await fleet.session(kinds={"file_push": True, "noop": False})
        for work in (Job("noop", None), push("/before")):
            await fleet.submit(plan(work))
            task = await fleet.claim_one()
            if not isinstance(work, Job):
                await fleet.grant(task)
            await fleet.report(task, Outcome.OK)
        yield fleet
        await fleet.whole()


async def counted(fleet: StoreFleet, what: Awaitable[Any]) -> Counter[str]:
    """Count how often each kind of statement ran, by its first words."""
    link = fleet.store._writer._link
    assert link is not None
    ran: Counter[str] = Counter()

    def count(sql: str) -> None:
        words = sql.replace("INSERT INTO", "INSERT").split()
        ran[" ".join(words[:2]) if words[0] in ("INSERT", "UPDATE") else words[0]] += 1

    connection = link.driver_connection
    connection.set_trace_callback(count)
    try:
        await what
    finally:
        connection.set_trace_callback(None)
    return ran


def submissions(count: int, made_of: Any, name: str) -> list[SubmitTasks]:
    return [
        SubmitTasks(principal="alice", request_id=f"{name}-{n}", fingerprint="f", plans=(plan(made_of(n)),))
        for n in range(count)
    ]


async def start(fleet: StoreFleet, count: int, made_of: Any, name: str) -> tuple[Counter[str], list[Task]]:
    """Submit so many tasks, claim them in the same transaction, and count its statements."""
    taken: list[Task] = []

    async def work() -> None:
        claim = ClaimTasks(offers=(fleet.offer(room=count, idle=False),))
        *_, claims = await fleet.together(*submissions(count, made_of, name), claim)
        taken.extend(task for _, task in claims.taken)

    ran = await counted(fleet, work())
    assert len(taken) == count
    return ran, taken


async def end(fleet: StoreFleet, taken: list[Task]) -> Counter[str]:
    reports = tuple((task.id, Reported("session-1", task.status.attempt, Outcome.OK)) for task in taken)
    return await counted(fleet, fleet.run(FileReports(session_id="session-1", epoch=1, reports=reports)))


def noop(_: int) -> Job:
    return Job("noop", None)


def file(number: int) -> Any:
    return push(f"/{number}", f"web{number}")


@pytest.mark.parametrize("made_of", [noop, file])
async def test_a_task_that_is_claimed_at_once_is_written_once(fleet: StoreFleet, made_of: Any) -> None:
    ran, _ = await start(fleet, MANY, made_of, "many")
    written = {name: count for name, count in ran.items() if name.split()[0] in ("INSERT", "UPDATE")}
    assert written.pop("UPDATE sequence") == 1
    assert (
        written.pop("UPDATE counters") + written.pop("INSERT OR", 0) + written.pop("INSERT counters", 0) <= 8 + 2 * MANY
    )
    assert written == {
        "INSERT tasks": MANY,
        "INSERT submissions": MANY,
        "INSERT events": 2 * MANY,
        "INSERT attempts": MANY,
        "INSERT requests": MANY,
    }


async def test_a_task_costs_ten_rows_and_no_question(fleet: StoreFleet) -> None:
    one, taken = await start(fleet, 1, noop, "one")
    one += await end(fleet, taken)
    many, taken = await start(fleet, MANY, noop, "many")
    many += await end(fleet, taken)
    assert many["SELECT"] == one["SELECT"]
    more = sum(many.values()) - sum(one.values())
    assert more <= 10 * (MANY - 1)


async def test_a_lone_task_starts_with_few_statements(fleet: StoreFleet) -> None:
    ran, taken = await start(fleet, 1, noop, "one")
    assert ran["BEGIN"] == ran["COMMIT"] == 1
    # Is the request known, what does the session hold, what is to be settled, and what else is ready: that twice for
    # each of three pairs of target and kind.
    assert ran["SELECT"] <= 9
    assert sum(ran.values()) <= 27
    assert sum((await end(fleet, taken)).values()) <= 14


@pytest.mark.parametrize("work", [Job("noop", None), push("/lone")])
async def test_the_end_of_a_task_calls_for_no_claim_unless_its_target_was_full(fleet: StoreFleet, work: Any) -> None:
    # A claim in vain is a transaction of nine statements, and each lone task had one.
    await fleet.submit(plan(work))
    task = await fleet.claim_one()
    if not isinstance(work, Job):
        await fleet.grant(task)
    fleet.changes.clear()
    await fleet.report(task, Outcome.OK)
    assert [change.claimable for change in fleet.changes] == [False]
