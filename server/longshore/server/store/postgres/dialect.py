"""PostgreSQL: any number of servers on one database.

**The turn.** A transaction that writes first takes one lock of the whole database, the turn, and keeps it until its
end. So commits form one sequence, across all servers, in which each sees all before it (READ COMMITTED: a statement
sees what is committed when it begins), and everything that a batch decides from sets of rows (the head of a
destination, the room of an instance, the room of a queue, the next number) holds until its commit, as on SQLite.
Without it, almost every batch would meet the others anyway, at the row of the sequence or at the counters of a queue or
target, only later and ready to deadlock. Group commit carries the load: while others have the turn, the next batch
grows.

**Lock order.** The turn, then rows, those of one statement by key. Rows are locked although the turn is held, against
an operator's statements. Claims skip what is locked.

A server that stops in the middle of its turn (SIGSTOP, a lost host) is ended by the database after IDLE_TIMEOUT.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.pool import NullPool

from longshore.server.model.clock import Clock
from longshore.server.model.events import Policy
from longshore.server.store.commit_log import CommitLog
from longshore.server.store.errors import CommitUnknown
from longshore.server.store.postgres.clock import DatabaseClock
from longshore.server.store.postgres.connection import Silence, connect
from longshore.server.store.postgres.link import TURN, PostgresLink
from longshore.server.store.postgres.listener import Listener
from longshore.server.store.protocol import Changes, Generation
from longshore.server.store.store import SQLStore
from longshore.server.store.tables.schema_version import SchemaState
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.memory import Memory

_TRY_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available in time."""

_GONE: Final = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "25P03"})
"""The server ended the connection, which had not been in COMMIT."""

_BROKEN: Final = ("08", "25006", "53", "57", "58", "XX")
"""SQLSTATEs (beginnings) that no other command would mend: connection, read-only, resources, intervention, system."""


class PostgresDialect:
    """The dialect of PostgreSQL. With a `clock`, each transaction sets it."""

    def __init__(self, url: str, clock: DatabaseClock | None = None) -> None:
        self.schema = SchemaState("postgresql")
        self._url = url
        self._clock = clock
        self._engine = sa.create_engine(
            "postgresql+psycopg://", creator=lambda: connect(url), poolclass=NullPool, pool_reset_on_return=None
        )
        sa.event.listen(self._engine, "begin", _begin)

    @property
    def engine(self) -> sa.Engine:
        return self._engine

    @property
    def shared(self) -> bool:
        return True

    def link(self) -> PostgresLink:
        return PostgresLink(self, url=self._url, clock=self._clock)

    def insert_missing(self, table: sa.Table) -> sa.Insert:
        return insert(table).on_conflict_do_nothing()

    def for_update(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        return statement.with_for_update(of=_first_table(statement))

    def for_claim(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        return statement.with_for_update(of=_first_table(statement), skip_locked=True)

    def is_unavailable(self, error: BaseException) -> bool:
        if isinstance(error, CommitUnknown | sa.exc.OperationalError | OSError):
            return True
        if isinstance(error, psycopg.Error) and error.sqlstate is not None:
            return error.sqlstate in _TRY_AGAIN or error.sqlstate in _GONE or error.sqlstate.startswith(_BROKEN)
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)

    def may_pass(self, error: BaseException) -> bool:
        if isinstance(error, psycopg.Error) and error.sqlstate is not None:
            return error.sqlstate in _TRY_AGAIN or error.sqlstate in _GONE
        # An error without a state means that the connection broke under a statement. If no connection could be made,
        # the error comes wrapped.
        return isinstance(error, psycopg.OperationalError) and not isinstance(error, Silence)


def _first_table(statement: sa.Select[Any]) -> sa.FromClause:
    """Find the first table of a join. Only its rows are locked, because the other tables' rows depend on them."""
    for source in statement.get_final_froms():
        first = source
        while isinstance(first, sa.Join):
            first = first.left
        if isinstance(first, sa.Table):
            return first
    raise LookupError("no table to lock rows of")


def _begin(connection: sa.Connection) -> None:
    """Begin a migration's transaction: one server makes the schema, the others wait and find it made."""
    connection.exec_driver_sql("BEGIN")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({TURN})")


class PostgresStore(SQLStore):
    """The store in the database `url` (a libpq URL or connection string), which any number of servers may share.

    Holds four connections: the writer's, two for reads, one that listens. All must reach the same server directly or
    through a pooler in session mode. `clock` None means the database's clock, which is then at `clock`.
    """

    def __init__(
        self,
        *,
        url: str,
        clock: Clock | None = None,
        policy: Policy,
        limits: ConcurrencyLimits,
        generation: Generation | None = None,
        memory: Memory | None = None,
    ) -> None:
        own = DatabaseClock() if clock is None else None
        self.clock: Clock = clock or own or DatabaseClock()
        self._log = CommitLog(server=secrets.token_hex(8), tell=self._tell, wants=self._wants)
        dialect = PostgresDialect(url, own)
        super().__init__(
            dialect=dialect,
            clock=self.clock,
            policy=policy,
            limits=limits,
            log=self._log,
            generation=generation,
            memory=memory,
        )
        self._listener = Listener(connect=dialect.link, log=self._log, complain=self._complain)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._begin_log)
        await super().open()
        self._listener.start()

    async def close(self) -> None:
        await asyncio.to_thread(self._listener.close)
        await super().close()

    def _begin_log(self) -> None:
        self._prepare()
        link = self._dialect.link()
        try:
            self._log.begin(link)
        finally:
            link.close()

    def _tell(self, changes: Changes) -> None:
        """Hand changes to the loop, from any thread. The loop gets them in the order of the calls."""
        self._on_loop(self._deliver, changes)

    def _complain(self, error: Exception) -> None:
        loop = self._loop
        if loop is not None:
            what = {"message": "commits of other servers could not be read", "exception": error}
            self._on_loop(loop.call_exception_handler, what)

    def _on_loop(self, function: Callable[..., None], argument: object) -> None:
        loop = self._loop
        if loop is None:
            raise AssertionError("the store works only once opened")
        try:
            loop.call_soon_threadsafe(function, argument)
        except RuntimeError:
            # The loop is closed: nobody listens any more.
            return
