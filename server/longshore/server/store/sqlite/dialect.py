"""SQLite: one file, one server."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import NullPool

from longshore.server.model.clock import Clock
from longshore.server.model.events import Policy
from longshore.server.store.errors import DatabaseLost
from longshore.server.store.handlers.clock_steps import ClockSteps
from longshore.server.store.protocol import Generation
from longshore.server.store.sql.link import Link
from longshore.server.store.sqlite.database_file import DatabaseFile
from longshore.server.store.store import SQLStore
from longshore.server.store.tables.schema_version import SchemaState
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.memory import Memory

BUSY_TIMEOUT: Final = 2.0
"""Seconds to wait for somebody else's lock: a backup, or an operator's shell."""

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # FULL: the commit is on disk when it returns (P1). In WAL mode that is one fsync for each transaction.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -65536",  # 64 MiB
    "PRAGMA temp_store = MEMORY",
    # Pages between checkpoints. Each checkpoint stops the writer for as long as its pages take to reach the disk.
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
)


_READ: Final = "SELECT count(*) FROM sqlite_schema"


class SQLiteLink(Link):
    """See `Link`. Raises DatabaseLost where the file is not the one that was opened first, after a commit too."""

    def __init__(self, dialect: SQLiteDialect) -> None:
        self._file = dialect.file
        self._file.before_opening()
        super().__init__(dialect)
        # A connection has the write-ahead log open from its first read on.
        self._cursor.execute(_READ)
        self._cursor.fetchall()
        self._file.opened()

    def close(self) -> None:
        if self._file.closing(self._connection):
            super().close()

    def commit(self) -> None:
        super().commit()
        # The commit is durable in the file that is open. Nobody hears of it unless that is still the database.
        self._file.check()

    def failed(self, error: BaseException) -> None:
        self._file.failed(error)

    def rollback(self) -> None:
        try:
            super().rollback()
        except sqlite3.OperationalError as error:
            # Some errors, a full disk among them, have rolled back already.
            if "no transaction is active" not in str(error):
                raise


class SQLiteDialect:
    """The dialect of SQLite: a transaction that may write takes its lock at once, and rows need none."""

    def __init__(self, path: Path) -> None:
        self.schema = SchemaState("sqlite")
        self.file = DatabaseFile(path)
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)),
            paramstyle="named",
            poolclass=NullPool,
            connect_args={
                "timeout": BUSY_TIMEOUT,
                "isolation_level": None,  # the driver begins no transactions of its own
                "cached_statements": 512,
                "check_same_thread": False,  # each connection has one thread at a time, and is closed by another
            },
        )
        sa.event.listen(self._engine, "connect", _prepare)
        sa.event.listen(self._engine, "begin", _begin)

    @property
    def engine(self) -> sa.Engine:
        return self._engine

    @property
    def shared(self) -> bool:
        return False

    def link(self) -> Link:
        return SQLiteLink(self)

    def insert_missing(self, table: sa.Table) -> sa.Insert:
        return insert(table).on_conflict_do_nothing()

    def for_update(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        return statement

    def for_claim(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        return statement

    def may_pass(self, error: BaseException) -> bool:  # noqa: ARG002  the driver has waited for locks already
        return False

    def is_unavailable(self, error: BaseException) -> bool:
        # Locked, full, read-only, I/O error, cannot open: OperationalError. Damaged: DatabaseError itself. Its other
        # children (IntegrityError, ProgrammingError, ...) are somebody's mistake.
        return isinstance(error, (sqlite3.OperationalError, sa.exc.OperationalError, OSError, DatabaseLost)) or (
            type(error) is sqlite3.DatabaseError
        )


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(pragma).close()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class SQLiteStore(SQLStore):
    """The store in the file `path`, which is made at the first `open`."""

    def __init__(
        self,
        *,
        path: Path,
        clock: Clock,
        policy: Policy,
        limits: ConcurrencyLimits,
        generation: Generation | None = None,
        steps: ClockSteps | None = None,
        memory: Memory | None = None,
    ) -> None:
        super().__init__(
            dialect=SQLiteDialect(path),
            clock=clock,
            policy=policy,
            limits=limits,
            generation=generation,
            steps=steps,
            memory=memory,
        )
        self.path = path
