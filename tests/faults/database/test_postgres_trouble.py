"""PostgreSQL in trouble: what was acknowledged stays, callers hear UNAVAILABLE and nothing false, all mends itself."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import psycopg
import pytest

from longshore.server.model.errors import StoreUnavailable
from longshore.server.store.errors import NotDurable
from longshore.server.store.postgres import connection as postgres_connection
from longshore.server.store.postgres import listener
from longshore.server.store.postgres.clock import DatabaseClock
from longshore.server.store.postgres.connection import PostgresConnection, connect, resolve
from longshore.server.store.postgres.dialect import PostgresStore
from longshore.server.store.postgres.link import PostgresLink
from longshore.server.store.protocol import TaskFilter
from longshore.server.store.writer import writer
from tests.support.stores.postgres import Cluster, backends, opened_postgres
from tests.support.stores.store import ManualClock, StoreFleet, plan, push
from tests.support.waiting import until

pytestmark = pytest.mark.faults

WITHIN = 60.0
"""Seconds after which what a test waits for is not going to come."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PROBE_BROKEN", 0.05)
    monkeypatch.setattr(listener, "RECONNECT", 0.05)


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
async def fleet(url: str, clock: ManualClock) -> AsyncIterator[StoreFleet]:
    async with opened_postgres(url, clock) as store:
        fleet = StoreFleet(store, clock)
        # The first commit is the writer's own.
        await until(lambda: store.writable_since is not None)
        yield fleet
        await fleet.whole()


async def submitted(fleet: StoreFleet, number: int) -> str:
    """Like a client: again with the same id until it is acknowledged."""
    async with asyncio.timeout(WITHIN):
        while True:
            try:
                (task,) = await fleet.submit(plan(push(f"/{number}")), request_id=f"r{number}")
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                return task.id


@pytest.mark.slow
async def test_immediate_restarts_in_mid_load_lose_nothing(own_postgres: Cluster, clock: ManualClock) -> None:
    with own_postgres.database() as url:
        async with opened_postgres(url, clock) as one, opened_postgres(url, clock) as two:
            fleets = (StoreFleet(one, clock), StoreFleet(two, clock))
            known: set[str] = set()

            async def client(first: int) -> None:
                for number in range(first, first + 100):
                    known.add(await submitted(fleets[number % 2], number))

            load = [asyncio.ensure_future(client(1000 * each)) for each in range(4)]
            for goal in (80, 240):
                await until(partial(enough, known, goal))
                await asyncio.to_thread(own_postgres.stop, immediate=True)
                await until(lambda: one.writable_since is None and two.writable_since is None)
                await asyncio.to_thread(own_postgres.start)
            await asyncio.gather(*load)
            stored = await one.list_tasks(TaskFilter(), before=None, limit=10_000)
            assert {task.id for task in stored} == known
            assert [task.submission.seq for task in stored] == list(range(400, 0, -1)), "once each"
            await until(lambda: all(len(told(fleet)) == 400 for fleet in fleets))
            assert told(fleets[0]) == told(fleets[1])
            assert one.writable_since is not None
            await fleets[0].whole()


def enough(known: set[str], goal: int) -> bool:
    return len(known) >= goal


def told(fleet: StoreFleet) -> list[str]:
    return [each.task.id for change in fleet.changes for each in change.tasks]


async def test_a_restart_while_idle_is_not_noticed(own_postgres: Cluster, clock: ManualClock) -> None:
    with own_postgres.database() as url:
        async with opened_postgres(url, clock) as store:
            fleet = StoreFleet(store, clock)
            (task,) = await fleet.submit()
            own_postgres.stop()
            own_postgres.start()
            assert await fleet.now(task) == task
            await fleet.submit(plan(push("/b")))


# A connection that is lost in COMMIT ----------------------------------------------------------------------------------


def once(monkeypatch: pytest.MonkeyPatch, what: Callable[[PostgresLink], None]) -> list[None]:
    """Let `what` happen to the connection when the next COMMIT is about to be sent. The answer fills when it has."""
    happened: list[None] = []
    commit = PostgresLink.commit

    def disturbed(self: PostgresLink) -> None:
        if not happened:
            happened.append(None)
            what(self)
        commit(self)

    monkeypatch.setattr(PostgresLink, "commit", disturbed)
    return happened


async def test_a_commit_that_was_not_carried_out_is_repeated(
    fleet: StoreFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = once(monkeypatch, lambda link: os.kill(link.connection.info.backend_pid, signal.SIGTERM))
    (task,) = await fleet.submit()
    assert happened
    assert (await fleet.now(task)).submission.seq == 1


def answer_lost(link: PostgresLink) -> None:
    """The database has committed, and the connection is gone before its answer."""
    link.sync()
    link._send("COMMIT").count()
    link.connection.close()


def all_answers_lost(link: PostgresLink) -> None:
    """The same, and what was sent along with the COMMIT is not answered either."""
    link._send("COMMIT")
    kept, link._kept = link._kept, []
    for execute in kept:
        execute()
    link.connection.close()


@pytest.mark.parametrize("lost", [answer_lost, all_answers_lost])
async def test_a_commit_whose_answer_was_lost_is_a_commit(
    fleet: StoreFleet, monkeypatch: pytest.MonkeyPatch, lost: Callable[[PostgresLink], None]
) -> None:
    happened = once(monkeypatch, lost)
    (task,) = await fleet.submit()
    assert happened
    assert len(await fleet.store.list_tasks(TaskFilter(), before=None, limit=9)) == 1
    assert await fleet.now(task) == task
    await until(lambda: told(fleet) == [task.id])


async def test_a_commit_of_unknown_fate_is_unavailable_and_safe_to_repeat(
    fleet: StoreFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed_over(link: PostgresLink) -> None:
        link.connection.timeline = "another"
        answer_lost(link)

    happened = once(monkeypatch, failed_over)
    with pytest.raises(StoreUnavailable, match="failed over"):
        await fleet.submit(request_id="r")
    assert happened
    (task,) = await fleet.submit(request_id="r")
    assert task.submission.seq == 1
    await until(lambda: told(fleet) == [task.id])


async def test_a_commit_that_the_database_carries_out_and_then_ends_is_not_repeated(
    own_postgres: Cluster, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server process that is told to end in the middle of a COMMIT finishes it first."""
    own_postgres.execute("ALTER SYSTEM SET commit_delay = 100000")  # µs, the most there may be
    own_postgres.execute("ALTER SYSTEM SET commit_siblings = 0")
    own_postgres.execute("SELECT pg_reload_conf()")
    with own_postgres.database() as url:
        async with opened_postgres(url, clock) as store:
            fleet = StoreFleet(store, clock)
            await fleet.session()
            await fleet.submit(*(plan(push(f"/{number}")) for number in range(3)))
            timers: list[threading.Timer] = []

            def ended_in_commit(link: PostgresLink) -> None:
                timers.append(threading.Timer(0.06, os.kill, (link.connection.info.backend_pid, signal.SIGTERM)))
                timers[0].start()

            once(monkeypatch, ended_in_commit)
            taken = await fleet.claim(room=1)
            timers[0].join()
            held = [task for task in await store.list_tasks(TaskFilter(), before=None, limit=9) if task.status.worker]
            assert [task.id for task in held] == [task.id for task in taken]
            assert len(taken) == 1
            await fleet.submit(plan(push("/after")))
            await fleet.whole()


def lost_in_a_crash(cluster: Cluster, url: str) -> PostgresConnection:
    """The connection of a transaction that had written, and perhaps sent its COMMIT, but left no trace on disk."""
    connection = connect(url)
    connection.execute("BEGIN")
    connection.execute("UPDATE sequence SET value = value + 1 WHERE name = 'probe'")
    ((connection.last_transaction,),) = connection.execute("SELECT pg_current_xact_id()::text").fetchall()
    cluster.kill()
    connection.close()
    cluster.start()
    return connection


def test_a_transaction_that_a_crash_left_no_trace_of_is_known_to_be_none(own_postgres: Cluster) -> None:
    """At once: its callers wait for that."""
    with own_postgres.database() as url:
        lost = lost_in_a_crash(own_postgres, url)
        assert not resolve(url, lost, None)


def test_another_transaction_with_the_number_of_a_lost_one_is_not_taken_for_it(own_postgres: Cluster) -> None:
    with own_postgres.database() as url:
        lost = lost_in_a_crash(own_postgres, url)
        with connect(url) as other:
            while int(other.execute("SELECT pg_current_xact_id()::text").fetchall()[0][0]) < int(lost.last_transaction):
                pass
            assert not resolve(url, lost, None)
            proof = "SELECT 1 FROM sequence WHERE name = %(name)s"
            assert not resolve(url, lost, (proof, {"name": "none"}))
            assert resolve(url, lost, (proof, {"name": "probe"}))


# Slow, full, misconfigured --------------------------------------------------------------------------------------------


async def test_without_a_free_connection_the_store_is_unavailable_until_one_is_free(
    own_postgres: Cluster, clock: ManualClock
) -> None:
    with own_postgres.database() as url:
        async with opened_postgres(url, clock) as store:
            fleet = StoreFleet(store, clock)
            (task,) = await fleet.submit()
            others: list[psycopg.Connection] = []
            killer = psycopg.connect(own_postgres.url("postgres"), autocommit=True)

            def starved() -> bool:
                """Take what is free, then what the store has."""
                while True:
                    try:
                        others.append(psycopg.connect(own_postgres.url("postgres")))
                    except psycopg.OperationalError:
                        break
                killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longshored'"
                )
                return store.writable_since is None

            try:
                await until(starved)
                with pytest.raises(StoreUnavailable):
                    await fleet.submit(plan(push("/b")), request_id="r")
            finally:
                for each in (*others, killer):
                    each.close()
            assert await submitted(fleet, 1)
            assert await fleet.now(task) == task
            await until(lambda: store.writable_since is not None)


async def test_a_hanging_database_counts_as_unavailable_and_nothing_is_lost(
    fleet: StoreFleet, postgres: Cluster, url: str, clock: ManualClock
) -> None:
    await fleet.submit()
    pids = backends(postgres, url)
    assert len(pids) >= 2
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        waiting = asyncio.ensure_future(fleet.submit(plan(push("/b"))))
        await until(lambda: fleet.store._writer._busy_since is not None)
        clock.advance(writer.STALL + 1)
        assert fleet.store.writable_since is None
        assert not waiting.done()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert len(await waiting) == 1
    await until(lambda: fleet.store.writable_since == clock.ticks())


async def test_a_silent_database_is_given_up(
    fleet: StoreFleet, postgres: Cluster, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.submit()
    monkeypatch.setattr(postgres_connection, "ANSWER", 0.3)
    monkeypatch.setattr(postgres_connection, "RESOLVE", 0.3)
    pids = backends(postgres, url)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            await fleet.submit(plan(push("/b")), request_id="r")
        assert fleet.store.writable_since is None
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    async with asyncio.timeout(WITHIN):
        while True:
            try:
                (task,) = await fleet.submit(plan(push("/b")), request_id="r")
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                break
    assert await fleet.now(task) == task
    assert len(await fleet.store.list_tasks(TaskFilter(), before=None, limit=9)) == 2


async def test_callers_do_not_wait_for_a_hanging_database(
    fleet: StoreFleet, postgres: Cluster, url: str, clock: ManualClock
) -> None:
    pids = backends(postgres, url)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        waiting = asyncio.ensure_future(fleet.submit(plan(push("/b"))))
        await until(lambda: fleet.store._writer._busy_since is not None)
        clock.advance(writer.STALL + 1)
        with pytest.raises(StoreUnavailable, match="has not answered"):
            await fleet.submit(plan(push("/c")))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert len(await waiting) == 1


def test_commits_are_durable_whatever_the_database_says(postgres: Cluster, url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit TO off")
    with connect(url) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("read committed",)


async def test_a_database_that_may_lose_commits_is_refused(own_postgres: Cluster, clock: ManualClock) -> None:
    own_postgres.execute("ALTER SYSTEM SET fsync TO off")
    own_postgres.stop()
    own_postgres.start()
    with own_postgres.database() as url, pytest.raises(NotDurable, match="fsync"):
        async with opened_postgres(url, clock):
            pass


# Time -----------------------------------------------------------------------------------------------------------------


async def test_time_comes_from_the_database(url: str) -> None:
    async with opened_postgres(url, None) as store:
        assert isinstance(store, PostgresStore)
        skewed = store.clock
        assert isinstance(skewed, DatabaseClock)
        skewed.heard(1.0)
        (task,) = await StoreFleet(store, ManualClock()).submit()
        assert abs(task.submission.created_at - time.time()) < 5.0
        assert abs(store.clock.now() - time.time()) < 5.0


def test_ticks_never_go_back() -> None:
    clock = DatabaseClock()
    clock.heard(1_000.0)
    before = clock.ticks()
    clock.heard(900.0)
    assert clock.now() < 950.0
    assert clock.ticks() >= before
    clock.heard(2_000.0)
    assert clock.ticks() >= 2_000.0
