"""A long queue, made fast: a thousand tasks through the store, then copies of their rows by SQL.

The thousand are of every shape that a claim meets: many instances with a few tasks each, some of them waiting for an
earlier one at their destination; one instance where everything runs that may, and a third of the queue waits for it;
one with room and a long queue; jobs without an instance, in ten priorities. Copies get numbers, ids, destinations and
instances of their own, but for the two crowded instances, which are the same in each.
"""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg

from longshore.server.model.task import AnyValue, Destination, FilePush, Job, Task, Terms, Work, concurrency_key_of
from longshore.server.model.values import State
from longshore.server.store.commands import Bounds, ClaimTasks, Offer, OpenSession, SubmitTasks, TaskPlan
from longshore.server.store.protocol import TaskFilter
from longshore.server.store.store import SQLStore
from longshore.server.store.transaction.counters import Key, counted, task_counts

BASE: Final = 1_000
"""Tasks that the store makes itself."""

TARGETS: Final = ("north", "east", "south", "west")
SATURATED: Final = "full"
BUSY: Final = "busy"
BOUNDS: Final = Bounds(queue_tasks=10**9)

_LIMIT: Final = 4
"""Attempts at once on one instance."""
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def plan(number: int) -> TaskPlan:
    """The plan of one task of the thousand, or of one that takes the place of a finished one."""
    target = TARGETS[number % len(TARGETS)]
    match number % 10:
        case 0 | 1 | 2:
            return _push("west", SATURATED, f"/srv/{number}", number)
        case 3:
            return _push("east", BUSY, f"/srv/{number}", number)
        case 4:
            return _plan(Job("report", AnyValue("type.example/Arguments", b"\x08\x01")), number)
        case 9:
            # The destination of the one before it, which goes first.
            return _push(TARGETS[(number - 1) % len(TARGETS)], f"i{number // 20}", f"/srv/{number - 1}", number)
        case _:
            return _push(target, f"i{number // 20}", f"/srv/{number}", number)


def _push(target: str, instance: str, path: str, number: int) -> TaskPlan:
    return _plan(FilePush(Destination(target, "", instance, path)), number)


def _plan(work: Work, number: int) -> TaskPlan:
    return TaskPlan(
        work,
        Terms(
            queue=("default", "nightly", "reports")[number % 3],
            priority=number % 10 if work.kind == "report" else number % 3,
            labels={"team": f"t{number % 7}"},
        ),
    )


class Fleet:
    """Sessions with room, as a server offers it for them."""

    def __init__(self, store: SQLStore) -> None:
        self.store = store
        self._epochs: dict[str, int] = {}

    async def connect(self, count: int) -> None:
        for number in range(count):
            opened = await self.store.run(
                OpenSession(
                    session_id=f"session-{number}",
                    worker=f"worker-{number}",
                    principal="fleet",
                    targets=dict.fromkeys(TARGETS, "daemon"),
                    kinds={"file_push": True, "report": False},
                    version="1",
                    held=(),
                    dead_sessions=(),
                    lease=1e9,
                )
            )
            self._epochs[opened.session.id] = opened.session.epoch

    def epoch(self, session: str) -> int:
        return self._epochs[session]

    def offers(self, room: int) -> ClaimTasks:
        """Make the claim of all sessions, each with room for `room` attempts."""
        offers = (
            Offer(session_id=name, epoch=epoch, room=room, idle=False, kept_for=frozenset())
            for name, epoch in self._epochs.items()
        )
        return ClaimTasks(offers=tuple(offers))


async def submit(store: SQLStore, plans: Sequence[TaskPlan], request_id: str) -> Sequence[Task]:
    """One request."""
    return await store.run(
        SubmitTasks(principal="alice", request_id=request_id, fingerprint="same", plans=tuple(plans), bounds=BOUNDS)
    )


async def make_base(store: SQLStore, fleet: Fleet) -> None:
    """Saturate one instance, then queue the thousand."""
    await fleet.connect(4)
    await submit(store, [_push("west", SATURATED, f"/first/{number}", 0) for number in range(_LIMIT)], "first")
    taken = await store.run(fleet.offers(1))
    if len(taken.taken) != _LIMIT:
        raise AssertionError(f"{len(taken.taken)} of {_LIMIT} attempts run on the instance that is to be full")
    for start in range(0, BASE, 20):
        await submit(store, [plan(number) for number in range(start, start + 20)], f"request-{start}")


# Copies ---------------------------------------------------------------------------------------------------------------


class Database(Protocol):
    """Rows are copied in a database. This protocol has the few words in which the two makes differ."""

    series: str
    """A table `copies(k)` with the numbers from 1 to `{copies}`."""
    destination_key: str
    """A digest of the row's destination key and `k`."""

    def run(self, sql: str) -> None: ...

    def rows(self, sql: str) -> Sequence[Any]: ...

    def columns(self, table: str) -> list[str]: ...

    def indexes(self) -> dict[str, str]:
        """The indexes that are no keys, each with the statement that makes it."""
        ...


@contextmanager
def without_indexes(database: Database) -> Iterator[None]:
    """Drop the indexes, and make them anew at the end: sorted, they take a fraction of the time."""
    indexes = database.indexes()
    for name in indexes:
        database.run(f"DROP INDEX {name}")
    yield
    for statement in indexes.values():
        database.run(statement)


@dataclass(slots=True)
class SQLiteFile:
    """Filled by a connection that does not sync."""

    connection: sqlite3.Connection
    series = "WITH RECURSIVE copies(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM copies WHERE k < {copies})"
    destination_key = "digest(t.destination_key, k)"

    @classmethod
    def open(cls, path: Path) -> SQLiteFile:
        connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("synchronous = OFF", "cache_size = -1000000", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.create_function("digest", 2, _digest, deterministic=True)
        return cls(connection)

    def run(self, sql: str) -> None:
        self.connection.execute(sql)

    def rows(self, sql: str) -> Sequence[Any]:
        return self.connection.execute(sql).fetchall()

    def indexes(self) -> dict[str, str]:
        found = self.rows("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
        return {name: sql for name, sql in found if not sql.startswith("CREATE UNIQUE")}

    def columns(self, table: str) -> list[str]:
        return [row[1] for row in self.connection.execute(f"PRAGMA table_info({table})")]

    def finish(self) -> None:
        """Do to the database what time does to a real one."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()


def _digest(key: bytes | None, copy: int) -> bytes | None:
    return None if key is None else hashlib.md5(key + b"%d" % copy, usedforsecurity=False).digest()


@dataclass(slots=True)
class PostgresDatabase:
    """Filled without looking at foreign keys, which takes a superuser."""

    connection: psycopg.Connection[Any]
    analyze: bool
    series = "WITH copies(k) AS (SELECT generate_series(1, {copies}))"
    destination_key = "decode(md5(encode(t.destination_key, 'hex') || '-' || k), 'hex')"

    @classmethod
    def open(cls, url: str, *, analyze: bool) -> PostgresDatabase:
        connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
        for setting in (
            "session_replication_role = replica",
            "synchronous_commit = off",
            "work_mem = '256MB'",
            "maintenance_work_mem = '1GB'",
        ):
            connection.execute(f"SET {setting}".encode())
        return cls(connection, analyze)

    def run(self, sql: str) -> None:
        self.connection.execute(sql.encode())

    def rows(self, sql: str) -> Sequence[Any]:
        return self.connection.execute(sql.encode()).fetchall()

    def indexes(self) -> dict[str, str]:
        found = self.rows("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
        return {name: sql for name, sql in found if not sql.startswith("CREATE UNIQUE")}

    def columns(self, table: str) -> list[str]:
        cursor = self.connection.execute(f'SELECT * FROM "{table}" LIMIT 0'.encode())
        return [column.name for column in cursor.description or ()]

    def finish(self) -> None:
        """Do to the database what time does to a real one."""
        if self.analyze:
            self.connection.execute("VACUUM ANALYZE")
        self.connection.execute("CHECKPOINT")
        self.connection.close()


def new_id(seq: str) -> str:
    """The SQL for the id of a copy `t` whose number is this SQL."""
    digits = (
        f"substr('{_ALPHABET}', CAST((({seq}) >> {shift}) & 31 AS INTEGER) + 1, 1)" for shift in range(45, -1, -5)
    )
    return " || ".join((*digits, "substr(t.id, 11)"))


def copy_rows(database: Database, copies: int, *, after: int = 0) -> None:
    """Each waiting task `copies` times more, with its submission, labels, events and requests. `after`: the number of
    the task before the first of them."""
    first, step = after + _LIMIT + 1, BASE
    moved = f"t.seq + k * {step}"
    crowded = f"t.instance IN ('{SATURATED}', '{BUSY}')"
    instance = f"CASE WHEN t.instance = '' OR {crowded} THEN t.instance ELSE t.instance || '-' || k END"
    new: dict[str, dict[str, str]] = {
        "tasks": {
            "seq": moved,
            "id": new_id(moved),
            "instance": instance,
            "concurrency_key": "CASE WHEN t.concurrency_key = '' THEN '' "
            f"ELSE t.target || '/' || {instance} || '/' END",
            "destination_key": f"CASE WHEN t.destination_key IS NULL THEN NULL ELSE {database.destination_key} END",
            # A crowded instance has room for no more of them; any other one is like the one it is a copy of.
            "ready": f"t.ready AND NOT ({crowded})",
        },
        "submissions": {
            "seq": moved,
            "request_id": "s.request_id || '-' || k",
            "work": f"replace(replace(s.work, '\"' || t.instance || '\"', '\"' || {instance} || '\"'), "
            "'\"/srv/', '\"/srv/' || k || '/')",
        },
        "labels": {"seq": moved},
        "events": {"seq": moved},
        "requests": {"request_id": "r.request_id || '-' || k", "first_seq": f"r.first_seq + k * {step}"},
    }
    sources = {
        "tasks": ("t", "tasks t"),
        "submissions": ("s", "submissions s JOIN tasks t ON t.seq = s.seq"),
        "labels": ("l", "labels l JOIN tasks t ON t.seq = l.seq"),
        "events": ("e", "events e JOIN tasks t ON t.seq = e.seq"),
        "requests": ("r", "requests r"),
    }
    series = database.series.format(copies=copies)
    for table in ("requests", "events", "labels", "submissions", "tasks"):
        alias, source = sources[table]
        columns = database.columns(table)
        values = ", ".join(new[table].get(name, f'{alias}."{name}"') for name in columns)
        names = ", ".join(f'"{name}"' for name in columns)
        own = "r.first_seq" if table == "requests" else "t.seq"
        database.run(
            f"INSERT INTO {table} ({names}) {series} SELECT {values} FROM copies CROSS JOIN {source} "
            f"WHERE {own} BETWEEN {first} AND {first + step - 1} ORDER BY k, {own}"
        )
    database.run(f"UPDATE sequence SET value = value + {copies * step} WHERE name = 'tasks'")


def count_copies(database: Database, waiting: Counter[Key], copies: int) -> None:
    """Move the counters by what the copies count for."""
    for (scope, name), count in waiting.items():
        more = copies * count
        database.run(f"UPDATE counters SET value = value + {more} WHERE scope = '{scope}' AND name = '{name}'")


async def counts_of_waiting(store: SQLStore) -> Counter[Key]:
    """Add up the counts of the thousand tasks that no session holds."""
    sums: Counter[Key] = Counter()
    for task in [task async for task in _live_tasks(store)]:
        if not task.status.session_id:
            sums.update(task_counts(counted(task.submission), task.status, concurrency_key_of(task.submission.work)))
    return sums


async def _live_tasks(store: SQLStore) -> Any:
    before: int | None = None
    live = TaskFilter(states=frozenset(state for state in State if not state.terminal))
    while found := await store.list_tasks(live, before=before, limit=500):
        for task in found:
            yield task
        before = found[-1].submission.seq


def numbers() -> Iterator[int]:
    """Yield numbers for tasks that replace finished ones: other numbers than the thousand's, and none for the saturated
    instance, whose tasks never finish."""
    return (number for number in itertools.count(10 * BASE) if number % 10 > 2)
