"""The makes of store that the conformance suite holds to one promise, and how a test disturbs each from outside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psycopg

from longshore.server.model.events import Policy
from longshore.server.store.postgres.dialect import PostgresDialect, PostgresStore
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sqlite.dialect import SQLiteDialect, SQLiteStore
from longshore.server.store.store import SQLStore
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.memory import Memory
from tests.support.stores.postgres import opened_postgres, shared_cluster
from tests.support.stores.store import ManualClock, opened_sqlite

OpenStore = Callable[..., AbstractAsyncContextManager[SQLStore]]
"""Opens the test's database: `async with open_store(clock) as store`. Twice in a test: a restart."""


class StoreKind(Protocol):
    """One database of one make."""

    @property
    def opened(self) -> OpenStore: ...

    def made(self, clock: ManualClock, policy: Policy, limits: ConcurrencyLimits) -> SQLStore:
        """The store, not opened."""
        ...

    def dialect(self) -> Dialect: ...

    def locked(self) -> AbstractContextManager[None]:
        """Nobody else can write meanwhile."""
        ...

    def execute(self, sql: str) -> None:
        """A statement from outside."""
        ...

    def described(self) -> list[Any]:
        """The schema, so that two can be compared."""
        ...


class SQLiteKind:
    def __init__(self, path: Path, *, memory: bool = True) -> None:
        """Without `memory` its stores remember nothing from one transaction to the next."""
        self.path = path
        self.opened: OpenStore = partial(opened_sqlite, path) if memory else partial(_forgetful, opened_sqlite, path)

    def made(self, clock: ManualClock, policy: Policy, limits: ConcurrencyLimits) -> SQLStore:
        return SQLiteStore(path=self.path, clock=clock, policy=policy, limits=limits)

    def dialect(self) -> Dialect:
        return SQLiteDialect(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        other = sqlite3.connect(self.path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        finally:
            other.close()

    def execute(self, sql: str) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute(sql)
        connection.close()

    def described(self) -> list[Any]:
        with sqlite3.connect(self.path) as connection:
            rows = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name <> ?", ("alembic_version",)
            ).fetchall()
        connection.close()
        return sorted((name, normal(sql)) for name, sql in rows)


_COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name <> 'alembic_version'
"""
_INDEXES = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 0
      AND conrelid::regclass::text <> 'alembic_version'
"""


class PostgresKind:
    def __init__(self, url: str, *, memory: bool = True) -> None:
        """Without `memory` its stores remember nothing from one transaction to the next."""
        self.url = url
        self.opened: OpenStore = partial(opened_postgres, url) if memory else partial(_forgetful, opened_postgres, url)

    def made(self, clock: ManualClock, policy: Policy, limits: ConcurrencyLimits) -> SQLStore:
        return PostgresStore(url=self.url, clock=clock, policy=policy, limits=limits)

    def dialect(self) -> Dialect:
        return PostgresDialect(self.url)

    @contextmanager
    def locked(self) -> Iterator[None]:
        with psycopg.connect(self.url) as other:
            other.execute("LOCK TABLE tasks, sequence IN EXCLUSIVE MODE")
            yield
            other.rollback()

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(sql.encode())

    def described(self) -> list[Any]:
        with psycopg.connect(self.url) as connection:
            return [sorted(connection.execute(sql).fetchall()) for sql in (_COLUMNS, _INDEXES, _CONSTRAINTS)]


@contextmanager
def new_database(make: str, folder: Path) -> Iterator[StoreKind]:
    """A new database: "sqlite" (its file is in the folder) or "postgresql"; "sqlite without memory" has stores that
    remember nothing from one transaction to the next."""
    make, _, lacks = make.partition(" without ")
    if make == "sqlite":
        yield SQLiteKind(folder / "longshore.sqlite3", memory=not lacks)
    else:
        with shared_cluster().database() as url:
            yield PostgresKind(url, memory=not lacks)


def _forgetful(opened: OpenStore, *arguments: Any, **named: Any) -> AbstractAsyncContextManager[SQLStore]:
    return opened(*arguments, **named, memory=Memory())


def normal(sql: str) -> str:
    """A statement without its line breaks and the order of its parts. An added column stands on the line of the one
    before it."""
    lines = [part for line in sql.splitlines() for part in ([line] if "(" in line else line.split(", "))]
    return " ".join(sorted(line.strip().removesuffix(",") for line in lines if line.strip()))
