"""These tests count the costs of commands on PostgreSQL: turns, round trips, statements. Time is the machine's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, NamedTuple

import pytest

from longshore.server.model.agenda import agenda_of
from longshore.server.model.values import Outcome
from longshore.server.store.commands import ClaimTasks
from longshore.server.store.commit_log import CHANNEL, CommitLog
from longshore.server.store.postgres.dialect import PostgresDialect
from longshore.server.store.postgres.link import PostgresLink
from longshore.server.store.protocol import Changes, nothing, what_targets_do
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.stores.postgres import Cluster, opened_postgres
from tests.support.stores.store import ManualClock, StoreFleet, plan, push, submit

LIMITS = ConcurrencyLimits(instance=200, target=200)


class Cost(NamedTuple):
    turns: int
    round_trips: int
    statements: int


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
async def fleet(url: str, clock: ManualClock) -> AsyncIterator[StoreFleet]:
    """A store that has done each of these things before, and a session."""
    async with opened_postgres(url, clock, limits=LIMITS) as store:
        fleet = StoreFleet(store, clock)
        await fleet.session()
        await fleet.submit(plan(push("/before")))
        taken = await fleet.claim_one()
        await fleet.grant(taken)
        await fleet.report(taken, Outcome.OK)
        yield fleet
        await fleet.whole()


def link_of(fleet: StoreFleet) -> PostgresLink:
    link = fleet.store._writer._link
    assert isinstance(link, PostgresLink)
    return link


async def cost(fleet: StoreFleet, what: Awaitable[Any]) -> Cost:
    link = link_of(fleet)
    before = Cost(link.turns, link.round_trips, link.statements)
    await what
    assert link_of(fleet) is link
    return Cost(
        *(now - then for now, then in zip((link.turns, link.round_trips, link.statements), before, strict=True))
    )


async def test_a_task_by_itself_costs_few_round_trips(fleet: StoreFleet) -> None:
    submitted = await cost(fleet, fleet.submit(plan(push("/a"))))
    assert submitted.turns == 1
    assert submitted.round_trips <= 3
    assert submitted.statements <= 19
    assert (await cost(fleet, fleet.submit(plan(push("/b"))))) == submitted
    taken: list[Any] = []

    async def claim() -> None:
        taken.extend(await fleet.claim(room=1))

    claimed = await cost(fleet, claim())
    assert len(taken) == 1
    assert claimed.turns == 1
    assert claimed.round_trips <= 3
    assert claimed.statements <= 16
    granted = await cost(fleet, fleet.grant(taken[0]))
    assert granted.turns == 1
    assert granted.round_trips <= 2
    assert granted.statements <= 12
    reported = await cost(fleet, fleet.report(taken[0], Outcome.OK))
    assert reported.turns == 1
    assert reported.round_trips <= 4
    assert reported.statements <= 18


async def test_a_hundred_concurrent_submissions_cost_as_much_as_one(fleet: StoreFleet) -> None:
    one = await cost(fleet, fleet.submit(plan(push("/a"))))
    before = len(fleet.changes)
    commands = [submit(plans=(plan(push(f"/{n}", instance=f"i{n}")),), request_id=f"at-once-{n}") for n in range(100)]
    hundred = await cost(fleet, fleet.together(*commands))
    assert len(fleet.changes) == before + 1, "one commit"
    assert len(fleet.changes[-1].tasks) == 100
    assert hundred.turns == 1
    assert hundred.round_trips == one.round_trips
    assert hundred.statements <= one.statements + 2
    claimed = await cost(fleet, fleet.claim(room=100))
    assert claimed.round_trips <= 3


async def test_a_claim_in_vain_is_repeated_without_the_turn_until_a_task_is_claimable(fleet: StoreFleet) -> None:
    assert await fleet.claim(room=1) == []
    assert await cost(fleet, fleet.claim(room=1)) == (0, 1, 3)
    (task,) = await fleet.submit(plan(push("/a")))
    assert [one.id for one in await fleet.claim(room=1)] == [task.id]


async def test_a_task_claimed_in_its_own_commit_notifies_no_server(fleet: StoreFleet) -> None:
    offer = ClaimTasks(offers=(fleet.offer(),))
    ((made,), claims) = await fleet.together(submit(plans=(plan(push("/a")),), request_id="r"), offer)
    assert [task.id for _, task in claims.taken] == [made.id]
    assert not fleet.changes[-1].claimable


async def test_reading_other_servers_commits_costs_two_statements_and_an_idle_look_one(
    fleet: StoreFleet, url: str
) -> None:
    heard: list[Changes] = []
    log = CommitLog(server="another", tell=heard.append)
    link = PostgresDialect(url).link()
    try:
        log.begin(link)
        for number in range(5):
            await fleet.submit(plan(push(f"/{number}")))
        before = link.statements
        log.catch_up(link)
        assert len(heard) == 5
        assert link.statements - before == 2
        log.catch_up(link)
        assert link.statements - before == 3
    finally:
        link.close()


async def test_a_server_reads_of_other_servers_tasks_what_its_listeners_want(fleet: StoreFleet, url: str) -> None:
    heard: list[Changes] = []
    deaf, targets = (
        CommitLog(server="another", tell=heard.append, wants=wants) for wants in (nothing, what_targets_do)
    )
    link = PostgresDialect(url).link()
    try:
        deaf.begin(link)
        targets.begin(link)
        told = len(fleet.changes)
        await fleet.submit(plan(push("/a")))
        taken = await fleet.claim_one()
        await fleet.grant(taken)
        await fleet.report(taken, Outcome.OK)
        before = link.statements
        deaf.catch_up(link)
        assert link.statements - before == 1, "the rows of the commits, and no task"
        own = fleet.changes[told:]
        assert [each.tasks for each in heard] == [()] * len(own)
        assert [each.agenda for each in heard] == [agenda_of(one.task for one in each.tasks) for each in own]
        assert [each.claimable for each in heard] == [each.claimable for each in own]
        heard.clear()
        targets.catch_up(link)
        (end,) = [one for each in heard for one in each.tasks]
        assert end == own[-1].tasks[0], "the attempt's end, and neither its claim nor its grant"
    finally:
        link.close()


async def test_a_commit_that_a_notification_tells_whole_costs_no_statement(fleet: StoreFleet, url: str) -> None:
    heard: list[Changes] = []
    log = CommitLog(server="another", tell=heard.append, wants=nothing)
    link = PostgresDialect(url).link()
    try:
        log.begin(link)
        link.driver_connection.execute(f"LISTEN {CHANNEL}")
        before = len(fleet.changes), link.statements
        for number in range(3):
            await fleet.submit(plan(push(f"/{number}")))
        many = tuple(plan(push(f"/many/{number}")) for number in range(1_000))
        await fleet.run(submit(plans=many, request_id="long"))
        notified = [each.payload for each in link.driver_connection.notifies(timeout=5, stop_after=4)]
        assert len(notified) == 4
        log.hear(link, notified[:1])
        log.hear(link, notified[:3])
        assert len(heard) == 3
        assert link.statements == before[1]
        log.hear(link, notified[3:])
        assert link.statements == before[1] + 1, "a long one is read"
        own = fleet.changes[before[0] :]
        assert [each.agenda for each in heard] == [agenda_of(one.task for one in each.tasks) for each in own]
        await fleet.submit(plan(push("/lost")))
        await fleet.submit(plan(push("/after")))
        _, after = (each.payload for each in link.driver_connection.notifies(timeout=5, stop_after=2))
        log.hear(link, [after])
        assert len(heard) == 6, "a notification that was lost is noticed at the next"
    finally:
        link.close()
