"""No statement of the store reads a table that grows as a whole, or sorts what may be many: on both databases.

Every statement that a module of the store keeps, and those of lists by each filter and each two of them, are planned by
the database itself: SQLite's plans depend on the schema alone, PostgreSQL's on statistics of 20,000 tasks, under the
settings of the servers' own connections, and for values that are not known. What is left is named here, with a reason.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Final

import pytest

from bench.rows.backlog import fill
from bench.rows.claim import PostgresMake
from longshore.server.store.postgres.dialect import PostgresDialect
from longshore.server.store.postgres.link import PLANNER
from longshore.server.store.sql.link import Link
from longshore.server.store.sqlite.dialect import SQLiteDialect
from tests.support.stores import statements
from tests.support.stores.postgres import Cluster
from tests.support.stores.statements import Finding
from tests.support.stores.store import ManualClock, opened_sqlite

GROWING: Final = frozenset(
    {"tasks", "submissions", "labels", "events", "attempts", "requests", "payloads", "inline_payloads", "uploads"}
    | {"homes", "counters", "debts", "remarks", "sessions", "commits"}
)

FEW: Final = {
    "tasks_session": "what sessions hold, bounded by their credits",
    "tasks_unsettled": "commits of lost workers",
    "uploads_idle": "open uploads, of which there are 64 by default",
    "uploads_abandoned": "uploads whose files are being removed",
    "payloads_doomed": "payloads whose files are being removed",
    "sessions_lease": "living sessions",
    "debts_due": "temps that lost workers left",
    "debts": "temps that lost workers left",
}
"""Indexes and tables that have few entries at any time."""

SESSIONS: Final = "one row for each session that lives or ended within the history: workers start seldom"
BY_HAND: Final = "an operator's own check"
CLOCK: Final = "moves all times after the clock was set"
RESTORE: Final = "once, after a restore from a backup"
PAUSE: Final = "changes all tasks of a queue when an operator pauses or resumes it"
FIRST: Final = "takes the first entry of the index that a condition leaves; those before it are held by workers"
COMMITS: Final = "the log of commits has those of the last minutes"
ONE_REQUEST: Final = "as many as one request made"

REASONS: Final[Mapping[str, str]] = {
    r"reads\.verify\..*": BY_HAND,
    r"handlers\.clock_steps\..*": CLOCK,
    r"handlers\.restores\..*": RESTORE,
    r"handlers\.tasks\._(PAUSED_KEYS|PAUSE_TASKS|RESUME_TASKS|READY_WITHOUT_KEY)": PAUSE,
    r"handlers\.janitor\._NEXT_\w+": FIRST,
    r"handlers\.(janitor\._DROP_SESSIONS|remarks\._\w+|sessions\._OTHERS)": SESSIONS,
    r"reads\.(conditions|queries)\._SESSIONS": SESSIONS,
    r"reads\.queries\._COUNTERS": "for the check by hand; figures read their scopes only",
    r"reads\.queries\._PARKED_COUNTS": "counts parked tasks in an index of them alone, for figures",
    r"reads\.queries\._(TASKS_OF_PAYLOAD|TASKS_BETWEEN)": ONE_REQUEST,
    r"reads\.queries\._PARKED": "distinct instances of parked tasks, in an index of them alone",
    r"(reads|handlers)\.(conditions|queries|sessions)\._(ALL_)?HELD": "sorts or groups what sessions hold",
    r"reads\.queries\._DEBTS": "sorts temps that lost workers left",
    r"reads\.request_summaries\._\w+": ONE_REQUEST,
    r"list all": "the walk along all tasks, as many as the page looks at",
    r"handlers\.janitor\._OLDEST_KEPT(_HERE)?": "takes the oldest payloads kept for a retry, as many as it frees",
    r"handlers\.janitor\._\w+_HERE": "takes the first payloads, where servers share a database",
    r"handlers\.(servers|tokens)\._\w+": "servers and tokens are few, and files are counted when an operator asks",
    r"handlers\.upload_homes\._ALIVE": "servers are few",
    r"commit_log\._(CHANGED_SINCE|ENDED_SINCE)": "after a gap in the log of commits, which is rare",
    r"commit_log\._\w+": COMMITS,
}
"""Why these statements, by their names, may do what they do."""


SORTS: Final = re.compile("list (request|running|settling) ")
"""Lists that sort the tasks of a request, or what sessions hold."""
SORT: Final = Finding("sorts")


def unexplained(found: Mapping[str, Iterable[Finding]]) -> list[str]:
    """Describe the findings that have no reason."""
    return [
        f"{name}: {', '.join(map(str, bad))}"
        for name, findings in found.items()
        if (bad := [one for one in findings if one.where not in FEW and not (SORTS.match(name) and one == SORT)])
        and not any(re.fullmatch(pattern, name) for pattern in REASONS)
    ]


def everything() -> dict[str, statements.What]:
    return {**statements.in_modules(), **statements.of_lists()}


def test_every_statement_is_found() -> None:
    """In a process of its own: other tests make statements too."""
    code = "from tests.support.stores import statements; print(statements.unknown())"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert len(statements.in_modules()) > 200


async def test_no_table_is_scanned_on_sqlite(tmp_path: Path, clock: ManualClock) -> None:
    async with opened_sqlite(tmp_path / "database", clock) as store:
        link = SQLiteDialect(store.path).link()
        found = {
            name: statements.on_sqlite(link, what, GROWING)
            for name, what in everything().items()
            if not name.startswith(ON_POSTGRES)
        }
        link.close()
    left = unexplained(found)
    assert not left, "\n".join(left)


ON_POSTGRES: Final = ("postgres.", "commit_log.")
"""Statements that no server runs on SQLite."""


UPLOADS: Final = """
INSERT INTO uploads SELECT 'u' || k, 'alice', 'r' || k, 'f', 2, 'default', 0, 1, 0, 1, '', 0, 0, 1.0, 'p' || k, 1, 0, ''
FROM generate_series(1, 20000) AS k
"""
HOMES: Final = "INSERT INTO homes SELECT 'p' || k, 'spool', '', 1.0 FROM generate_series(1, 20000) AS k"


@pytest.fixture
async def filled(postgres: Cluster) -> AsyncIterator[Link]:
    """A connection as a server has it, to a database with 10,000 live and 10,000 finished tasks, analyzed."""
    make = PostgresMake(postgres, name="scans")
    await fill(make, "filled", 10, 10)
    database = make.database("filled")
    for statement in (UPLOADS, HOMES):
        database.run(statement)
    database.finish()
    link = PostgresDialect(make.url("filled")).link()
    link.driver_connection.execute(PLANNER.encode())
    link.driver_connection.commit()
    yield link
    link.close()
    make.drop("filled")


INDEX_OF: Final = {
    "instance": {"tasks_instance"},
    "label": {"pk_labels"},
    "live": {"tasks_live"},
    "succeeded": {"tasks_ended"},
    "creator": {"tasks_creator"},
    "queue": {"tasks_queue", "tasks_queue_ended"},
    "target": {"tasks_on_target"},
    "kinds": {"tasks_kind"},
}


async def test_no_table_is_scanned_on_postgres(filled: Link) -> None:
    """A list walks along the index of its filter, too: PostgreSQL would walk along all tasks where most fulfil it."""
    lists = statements.of_lists()
    for name, indexes in INDEX_OF.items():
        for number in range(len(indexes)):
            for page in ("first", "next"):
                what = lists[f"list {name} {number}, {page} page, nothing"]
                assert indexes & statements.indexes_on_postgres(filled, what), name
    found = {
        name: statements.on_postgres(filled, what, GROWING)
        for name, what in everything().items()
        if not name.startswith("sqlite.")
    }
    left = unexplained(found)
    assert not left, "\n".join(left)
