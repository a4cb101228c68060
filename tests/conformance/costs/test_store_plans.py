"""A command costs the same however much is stored: hot statements find their rows through an index, in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.server.store.commands import PauseQueue
from longshore.server.store.handlers import janitor, payloads, tasks, uploads
from longshore.server.store.handlers import sessions as fleet
from longshore.server.store.handlers.order import claims, exclusive
from longshore.server.store.handlers.order import ready as promote
from longshore.server.store.postgres.dialect import PostgresDialect
from longshore.server.store.protocol import TaskFilter
from longshore.server.store.reads import lists, queries, request_summaries
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Each, Statement
from longshore.server.store.sqlite.dialect import SQLiteDialect
from longshore.server.store.tables.ids import id_ranges
from longshore.server.store.transaction import followers, new_tasks, reads
from tests.support.stores.postgres import Cluster
from tests.support.stores.store import ManualClock, StoreFleet, opened_sqlite, plan, push

_BEGINS = lists.weighed(lists.Walk(), (), next(id_ranges("D3T8")), None, 11)

(_OF_ONE_REQUEST,) = lists.parts_of(TaskFilter(request_id="r"))
_OF_REQUEST = lists.weighed(_OF_ONE_REQUEST.walks[0], (), None, None, 11)

HOT: dict[str, tuple[Statement | Each, str]] = {
    "claim": (claims._READY, "tasks_ready"),
    "claim of settling ones": (claims._UNSETTLED, "tasks_unsettled"),
    "what a session holds": (reads._HELD, "tasks_session"),
    "head of a destination": (promote._FIRST, "tasks_order"),
    "best of an instance": (promote._BEST, "tasks_concurrency"),
    "takers of an instance": (promote._TAKERS, "tasks_concurrency"),
    "ready of an instance": (promote._READY, "tasks_concurrency_ready"),
    "first exclusive of an instance": (exclusive._FIRST, "tasks_exclusive"),
    "open outcomes of an instance": (exclusive._UNSETTLED, "tasks_unsettled"),
    "next priority of an instance": (exclusive._NEXT_PRIORITY, "tasks_concurrency"),
    "before an exclusive one": (exclusive._BEFORE, "tasks_concurrency"),
    "live at a destination": (reads._OCCUPIED, "tasks_"),
    "live ones at a destination": (new_tasks._LIVE_AT, "tasks_order"),
    "waiting at a destination": (reads._HEADED.any, "tasks_unmet"),
    "followers of a task": (followers._FOLLOWERS.any, "PRIMARY KEY (after_seq=?)"),
    "dependencies of a task": (queries._UNMET.any, "dependencies_task"),
    "tasks of a request by state": (request_summaries._COUNTS, "PRIMARY KEY"),
    "superseded": (tasks._DELIVERED_SINCE, "tasks_delivered"),
    "use of a payload": (payloads._USES_PAYLOAD, "submissions_payload"),
    "parked": (tasks._PARKED, "tasks_parked"),
    "parked on a target": (tasks._PARKED_ON_TARGET, "tasks_parked"),
    "bound target": (fleet._RAN_THERE, "tasks_on_target"),
    "due": (janitor._DUE, "tasks_due"),
    "expired": (janitor._EXPIRED, "tasks_expiry"),
    "over the deadline": (janitor._OVERDUE, "tasks_deadline"),
    "settling and due": (janitor._SETTLE_DUE, "tasks_unsettled"),
    "next due": (janitor._NEXT_DUE, "tasks_due"),
    "next expiry": (janitor._NEXT_EXPIRY, "tasks_expiry"),
    "next deadline": (janitor._NEXT_DEADLINE, "tasks_deadline"),
    "leases over": (janitor._LEASES_OVER, "sessions_lease"),
    "payloads not needed": (janitor._UNNEEDED, "payloads_idle"),
    "payloads to remove": (janitor._DOOMED, "payloads_doomed"),
    "requests over": (janitor._OVER, "requests_ended"),
    "idle uploads": (uploads._IDLE, "uploads_idle"),
    "abandoned uploads": (uploads._ABANDONED, "uploads_abandoned"),
    "payload": (payloads._PAYLOAD, "sqlite_autoindex_payloads"),
    "oldest of a queue": (queries._OLDEST_QUEUED, "tasks_queue"),
    "tasks of a payload": (queries._TASKS_OF_PAYLOAD, "submissions_payload"),
    "history": (queries._HISTORY, "PRIMARY KEY"),
    "attempts": (queries._ATTEMPTS, "PRIMARY KEY"),
    "beginning of an id": (_BEGINS, "PRIMARY KEY"),
    "tasks of a request": (_OF_REQUEST, "tasks_batch"),
    "tasks of a request without a batch": (_OF_REQUEST, "requests USING PRIMARY KEY"),
}
FEW = {"tasks of a payload", "tasks of a request by state", "tasks of a request", "tasks of a request without a batch"}
"""As many rows as one request makes tasks: they may be sorted."""


ON_POSTGRES = {
    "followers of a task": "pk_dependencies",
    "tasks of a request by state": "pk_tasks",
    "tasks of a request without a batch": "pk_requests",
    "beginning of an id": "pk_tasks",
    "payload": "pk_payloads",
    "history": "pk_events",
    "attempts": "pk_attempts",
}
"""Indexes that have another name there."""


@pytest.mark.parametrize("name", list(HOT))
async def test_hot_statements_use_their_index(name: str, tmp_path: Path, clock: ManualClock) -> None:
    async with opened_sqlite(tmp_path / "database", clock) as store:
        link = SQLiteDialect(store.path).link()
        what, index = HOT[name]
        sql, constants = (what.one if isinstance(what, Each) else what).sql(link.dialect)
        names = [word.strip("(),") for word in sql.replace("(", " (").split() if word.strip("(),").startswith(":")]
        parameters = {word[1:]: 1 for word in names} | dict(constants)
        link._cursor.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
        steps = [row[-1] for row in link._cursor.fetchall()]
        link.close()
    assert any(index in step for step in steps), steps
    for step in steps:
        # No table: the takers found so far, and one row of what was given.
        assert not step.startswith("SCAN") or "INDEX" in step or step in ("SCAN takers", "SCAN CONSTANT ROW"), steps
        # "RIGHT PART": ties only.
        assert name in FEW or "TEMP B-TREE" not in step or "RIGHT PART" in step, steps


@pytest.fixture
def planner(postgres: Cluster) -> Iterator[Link]:
    """A connection whose planner takes an index wherever one would do. The tables are empty: left to itself, it would
    read them whole."""
    with postgres.database() as url:
        link = PostgresDialect(url).link()
        for kind in ("seqscan", "bitmapscan", "sort"):
            link.driver_connection.execute(f"SET enable_{kind} TO off")
        yield link
        link.close()


@pytest.mark.parametrize("name", list(HOT))
def test_hot_statements_use_their_index_on_postgres(name: str, planner: Link) -> None:
    what, index = HOT[name]
    index = ON_POSTGRES.get(name, index)
    sql, constants = (what.one if isinstance(what, Each) else what).sql(planner.dialect)
    # Texts of no type: they fit each column.
    parameters = dict.fromkeys(re.findall(r"%\((\w+)\)s", sql), "1") | dict(constants)
    planner._cursor.execute(f"EXPLAIN {sql}", parameters)
    steps = [row[0] for row in planner._cursor.fetchall()]
    assert any(index in step for step in steps), steps
    assert not any("Seq Scan" in step for step in steps), steps
    # "Incremental Sort": ties only.
    sorts = [step for step in steps if re.match(r"\W*Sort  ", step)]
    assert not sorts or name in FEW, steps


def test_claims_skip_locked_rows(planner: Link) -> None:
    for what in (claims._READY, claims._UNSETTLED):
        assert what.one.sql(planner.dialect)[0].endswith("FOR UPDATE OF tasks SKIP LOCKED")


async def test_a_claim_reads_no_more_when_more_is_queued(tmp_path: Path, clock: ManualClock) -> None:
    """Counted in steps of SQLite's virtual machine, which no load on this machine disturbs."""
    async with opened_sqlite(tmp_path / "database", clock) as store:
        await claim_among_many(StoreFleet(store, clock))


async def claim_among_many(fleet: StoreFleet) -> None:
    await fleet.session(lease=1e9)
    costs = []
    for many in (20, 2_000):
        await fleet.submit(*(plan(push(f"/{many}/{number}", f"i{number % 7}")) for number in range(many)))
        link = fleet.store._writer._link
        assert link is not None
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        connection = link._connection.dbapi_connection
        connection.set_progress_handler(count, 1)  # type: ignore[union-attr]  # SQLite's own
        (task,) = await fleet.claim()
        connection.set_progress_handler(None, 0)  # type: ignore[union-attr]  # SQLite's own
        costs.append(counted)
        await fleet.deliver(task)
    assert costs[1] <= 1.2 * costs[0], costs


async def test_a_queue_is_paused_and_resumed_by_as_many_statements_however_much_is_queued(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Leases wait behind it: 50,000 tasks of a thousand instances take 0.15 s, of an instance each 0.9 s. Counted on
    SQLite; the statements are the same ones elsewhere."""
    async with opened_sqlite(tmp_path / "database", clock) as store:
        await pause_among_many(StoreFleet(store, clock))


async def pause_among_many(fleet: StoreFleet) -> None:
    counts = []
    for many in (20, 2_000):
        await fleet.submit(*(plan(push(f"/{many}/{number}", f"i{number % 7}"), queue="q") for number in range(many)))
        link = fleet.store._writer._link
        assert link is not None
        ran: list[str] = []
        connection = link._connection.dbapi_connection
        connection.set_trace_callback(ran.append)  # type: ignore[union-attr]  # SQLite's own
        await fleet.run(PauseQueue(queue="q", paused=True))
        await fleet.run(PauseQueue(queue="q", paused=False))
        connection.set_trace_callback(None)  # type: ignore[union-attr]  # SQLite's own
        counts.append(len(ran))
    assert counts[1] <= counts[0] + 28, "four more of each of seven instances become ready, and none other"
