"""Several servers on one database: what one does, the others respect and hear of."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from longshore.server.model.errors import QueueFull
from longshore.server.model.task import Task
from longshore.server.model.values import Outcome, State
from longshore.server.store import commit_log
from longshore.server.store.commands import Bounds, CancelTask
from longshore.server.store.postgres import connection as postgres_connection
from longshore.server.store.postgres import listener
from longshore.server.store.postgres.dialect import PostgresStore
from longshore.server.store.protocol import Changes, TaskFilter
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.stores.postgres import Cluster, opened_postgres
from tests.support.stores.store import ManualClock, StoreFleet, plan, push, submit
from tests.support.waiting import until

LIMITS = ConcurrencyLimits(instance=2, target=8)


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
async def servers(url: str, clock: ManualClock) -> AsyncIterator[tuple[StoreFleet, StoreFleet]]:
    """Two servers, whose request ids do not meet. What both told their subscribers is the same in the end."""
    async with opened_postgres(url, clock, limits=LIMITS) as one, opened_postgres(url, clock, limits=LIMITS) as two:
        first, second = StoreFleet(one, clock), StoreFleet(two, clock)
        second._numbers = itertools.count(1_000_000)
        yield first, second
        await until(lambda: seen(one) == seen(two))
        await asyncio.sleep(0)
        await until(lambda: len(first.changes) == len(second.changes))
        assert first.changes == second.changes
        # Each commit is somebody's own, and nobody else's.
        assert all(here.own != there.own for here, there in zip(first.changes, second.changes, strict=True))
        await first.whole()


def seen(store: object) -> int | None:
    assert isinstance(store, PostgresStore)
    return store._log.seen


def revisions(changes: list[Changes]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for each in changes:
        for change in each.tasks:
            found.setdefault(change.task.id, []).append(change.task.status.revision)
    return found


async def work(fleet: StoreFleet, session: str, held: dict[str, str]) -> int:
    """Claim, grant and end until nothing is left; answers how many. `held` is who has what, over all servers."""
    done = 0
    while True:
        taken = await fleet.claim(session, room=4)
        if not taken:
            left = await fleet.store.list_tasks(TaskFilter(), before=None, limit=10_000)
            if all(task.status.state.terminal for task in left):
                return done
            await asyncio.sleep(0)
            continue
        for task in taken:
            assert task.id not in held, "claimed twice"
            held[task.id] = session
        destinations = Counter(destination_of(task) for task in taken)
        assert max(destinations.values()) == 1
        answers = await asyncio.gather(*(fleet.grant(task, session) for task in taken))
        assert all(answer.granted for answer in answers)
        assert all(await asyncio.gather(*(fleet.report(task, Outcome.OK, session) for task in taken)))
        done += len(taken)


def destination_of(task: Task) -> str:
    destination = task.submission.destination
    return "" if destination is None else destination.key


async def test_racing_servers_claim_each_task_once_and_in_order(servers: tuple[StoreFleet, StoreFleet]) -> None:
    first, second = servers
    await asyncio.gather(first.session("s1"), second.session("s2"))

    async def feed(fleet: StoreFleet) -> None:
        for number in range(40):
            await fleet.submit(*(plan(push(f"/{number % 5}", f"i{each}")) for each in range(3)))

    held: dict[str, str] = {}
    fed = asyncio.gather(feed(first), feed(second))
    working = [asyncio.ensure_future(work(first, "s1", held)), asyncio.ensure_future(work(second, "s2", held))]
    await fed
    done = list(await asyncio.gather(*working))
    # A worker that saw an empty queue early has left; the rest is done here.
    done.append(await work(first, "s1", held))
    assert sum(done) == len(held) == 240
    everything = await first.store.list_tasks(TaskFilter(), before=None, limit=1000)
    assert {task.status.state for task in everything} == {State.SUCCEEDED}
    assert {task.status.attempt for task in everything} == {1}
    for destination in {destination_of(task) for task in everything}:
        there = sorted(
            (task for task in everything if destination_of(task) == destination), key=lambda task: task.submission.seq
        )
        ends = [each.task.id for change in first.changes for each in change.tasks if each.task.status.state.terminal]
        assert [task.id for task in there] == [each for each in ends if each in {task.id for task in there}]
    assert all(told == [1, *told[1:]] and told == sorted(set(told)) for told in revisions(first.changes).values())


async def test_a_destination_has_one_head_across_servers(servers: tuple[StoreFleet, StoreFleet]) -> None:
    await asyncio.gather(*(fleet.submit() for fleet in servers for _ in range(20)))
    everything = await servers[0].store.list_tasks(TaskFilter(), before=None, limit=100)
    assert [task.submission.seq for task in everything] == list(range(40, 0, -1))
    assert [task.submission.seq for task in everything if task.status.head] == [1]


async def test_a_request_that_comes_to_two_servers_makes_its_tasks_once(servers: tuple[StoreFleet, StoreFleet]) -> None:
    for number in range(20):
        command = submit(request_id=f"same-{number}", plans=(plan(push(f"/{number}")), plan(push(f"/{number}/b"))))
        one, two = await asyncio.gather(*(fleet.run(command) for fleet in servers))
        assert one == two
    assert len(await servers[0].store.list_tasks(TaskFilter(), before=None, limit=100)) == 40


async def test_bounds_hold_over_all_servers(servers: tuple[StoreFleet, StoreFleet]) -> None:
    answers = await asyncio.gather(
        *(fleet.submit(bounds=Bounds(queue_tasks=15)) for fleet in servers for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(answer, QueueFull) for answer in answers) == 25
    assert sum(isinstance(answer, tuple) for answer in answers) == 15


async def test_limits_of_instances_and_targets_hold_over_all_servers(servers: tuple[StoreFleet, StoreFleet]) -> None:
    first, second = servers
    await first.submit(*(plan(push(f"/{number}", f"i{number % 6}")) for number in range(60)))
    await asyncio.gather(first.session("s1"), second.session("s2"))
    taken = await asyncio.gather(
        *(fleet.claim(name, room=3) for fleet, name in ((first, "s1"), (second, "s2")) for _ in range(5))
    )
    tasks = [task for some in taken for task in some]
    assert len(tasks) == len({task.id for task in tasks}) == LIMITS.target
    assert max(Counter(task.submission.work.instance for task in tasks).values()) <= LIMITS.instance


async def test_a_cancel_reaches_the_server_that_has_the_worker(servers: tuple[StoreFleet, StoreFleet]) -> None:
    first, second = servers
    await second.session()
    await first.submit()
    running = await second.claim_one()
    known = len(second.changes)
    await first.cancel(running)
    await until(lambda: any(each.task.status.cancel_requested for told in second.changes for each in told.tasks))
    (change,) = (each for told in second.changes[known:] for each in told.tasks if each.task.status.cancel_requested)
    assert change.holder == ("session-1", 1)
    assert change.task == await first.now(running)
    assert change.task.status.state is State.CANCELLING


async def test_either_the_cancel_or_the_grant_wins(servers: tuple[StoreFleet, StoreFleet]) -> None:
    first, second = servers
    await second.session()
    for number in range(30):
        await first.submit(plan(push(f"/{number}", f"i{number}")))
        running = await second.claim_one()
        cancelled, answer = await asyncio.gather(first.cancel(running), second.grant(running))
        assert answer.granted is (cancelled.status.state is State.COMMITTING)
        if not answer.granted:
            assert answer.reason == "CANCELLED"
        await second.report(running, Outcome.OK if answer.granted else Outcome.PERMANENT)
        final = await first.state(running)
        assert final is (State.SUCCEEDED if answer.granted else State.CANCELLED)


async def test_a_grant_is_given_once_across_servers(servers: tuple[StoreFleet, StoreFleet]) -> None:
    first, second = servers
    await first.session()
    second._epochs = first._epochs
    await first.submit()
    running = await first.claim_one()
    answers = await asyncio.gather(first.grant(running), second.grant(running), first.grant(running))
    assert [answer.granted for answer in answers] == [True] * 3, "the same grant, each time"
    history = await first.store.history(running.id, after=0)
    assert [task.status.state.name for task in history] == ["QUEUED", "RUNNING", "COMMITTING"]
    again = await first.session(held=[(running.id, 1)])
    assert again.held == ((running.id, 1),)


# Hearing of each other ------------------------------------------------------------------------------------------------


async def test_nothing_is_missed_when_the_listening_connection_breaks(
    servers: tuple[StoreFleet, StoreFleet], postgres: Cluster, url: str
) -> None:
    first, second = servers
    for number in range(30):
        await first.submit(plan(push(f"/{number}")))
        if number % 10 == 5:
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longshored' "
                "AND state = 'idle' AND (query LIKE 'LISTEN%' OR query LIKE '%ORDER BY commits.position%')"
            )
    await until(lambda: len(revisions(second.changes)) == 30)


async def test_commits_without_a_notification_are_found_by_polling(
    url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "POLL", 0.05)
    monkeypatch.setattr(listener, "CHANNEL", "somewhere_else")
    async with opened_postgres(url, clock) as one, opened_postgres(url, clock) as two:
        first, second = StoreFleet(one, clock), StoreFleet(two, clock)
        await first.submit()
        await until(lambda: second.changes)
        assert first.changes == second.changes


async def test_a_server_cut_off_for_too_long_reads_every_task_anew(
    url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "POLL", 3600.0)
    monkeypatch.setattr(listener, "CHANNEL", "somewhere_else")
    async with opened_postgres(url, clock) as one, opened_postgres(url, clock) as two:
        first, second = StoreFleet(one, clock), StoreFleet(two, clock)
        tasks = [(await first.submit(plan(push(f"/{number}"))))[0] for number in range(5)]
        cancelled = await first.cancel(tasks[2])
        clock.advance(commit_log.KEPT + 1)
        monkeypatch.setattr(commit_log, "TIDY_EVERY", 1)
        await first.submit(plan(push("/newest")), request_id="newest")
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM commits").fetchone() == (1,)
        await second.submit(plan(push("/own")), request_id="own")
        await until(lambda: len(revisions(second.changes)) == 7)
        told = {each.task.id: each.task for change in second.changes for each in change.tasks}
        assert told[cancelled.id] == cancelled
        assert any(change.debts and change.claimable for change in second.changes), "look again, everybody"


async def test_a_server_that_stops_in_its_turn_is_ended_by_the_database(
    url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_postgres(url, clock) as store:
        monkeypatch.setattr(postgres_connection, "IDLE_TIMEOUT", 0.5)
        async with opened_postgres(url, clock) as stopping:
            link = stopping._writer._connect()
            link.begin()
            link.sync()
            assert len(await StoreFleet(store, clock).submit()) == 1
            with pytest.raises(psycopg.Error):
                link.commit()
            link.close()


async def test_a_deadlock_with_an_operator_is_tried_again(servers: tuple[StoreFleet, StoreFleet], url: str) -> None:
    first, _ = servers
    one, two = await first.submit(plan(push("/a")), plan(push("/b")))
    with psycopg.connect(url) as operator:
        operator.execute("SELECT 1 FROM tasks WHERE seq = %s FOR UPDATE", (two.submission.seq,))
        cancels = (CancelTask(task_id=task.id, creator=None, reason="") for task in (one, two))
        both = asyncio.ensure_future(first.together(*cancels))
        await until(lambda: waiting_for_locks(url))
        # The batch holds one and waits for two: now each waits for the other. The batch notices first, and gives way.
        await asyncio.to_thread(_lock_all, operator)
        operator.rollback()
        answers = await both
    assert [task.status.state for task in answers] == [State.CANCELLED] * 2


def waiting_for_locks(url: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
    return bool(row and row[0])


def _lock_all(operator: psycopg.Connection) -> None:
    operator.execute("SET deadlock_timeout TO '1min'")
    operator.execute("SELECT 1 FROM tasks ORDER BY seq FOR UPDATE")


async def test_text_that_the_database_cannot_store_harms_no_other_command(
    servers: tuple[StoreFleet, StoreFleet],
) -> None:
    first, _ = servers
    (task,) = await first.submit()
    cancelled = await first.run(CancelTask(task_id=task.id, creator=None, reason="no\0 more"))
    assert cancelled.status.state is State.CANCELLED
    assert (await first.now(task)).status.cancel_reason == "no\ufffd more"


async def test_notifications_do_not_wait_for_the_next_look(
    url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nobody looking by himself, one server's commits reach the other, also those that come while it reads."""
    monkeypatch.setattr(listener, "POLL", 3600.0)
    async with opened_postgres(url, clock) as one, opened_postgres(url, clock) as two:
        first, second = StoreFleet(one, clock), StoreFleet(two, clock)
        for number in range(300):
            await first.submit(plan(push(f"/{number}")))
        await until(lambda: len(revisions(second.changes)) == 300)
        assert first.changes == second.changes
