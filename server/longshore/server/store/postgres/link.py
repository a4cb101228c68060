"""This module connects to PostgreSQL, which is far away: statements whose answer is not needed yet are sent along with
the next wait.

The connection is in libpq's pipeline mode from its first transaction on. Statements are kept until an answer is wanted
(`sync`): that is one round trip for all of them, however many. It ends with a Sync, not with a mere Flush, and all is
sent in one go: only after a Sync does the database take the connection for idle and end a transaction whose server has
stopped (`IDLE_TIMEOUT`).

Writes are checked without waiting: one that has to change as many rows as it was given divides by zero where it has
not, so that the COMMIT behind it is not carried out.

Many rows, or many questions, travel as one JSON text (`json_to_recordset`): Python and PostgreSQL both handle it faster
than as many parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final, cast

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON

from longshore.server.store.errors import BatchConflict
from longshore.server.store.postgres import connection as postgres_connection
from longshore.server.store.postgres.clock import DatabaseClock
from longshore.server.store.postgres.connection import PostgresConnection
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sql.link import Link, Reply
from longshore.server.store.sql.statement import Among, Bulk, Each, Statement
from longshore.server.store.tables.rows import Row

TURN: Final = 0x4C6F6E6773686F72
"""The number of the lock: "Longshor"."""

_TAKE_TURN: Final = (
    f"WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({TURN})) "  # noqa: S608  a constant
    "SELECT extract(epoch FROM clock_timestamp())::float8, pg_current_xact_id()::text FROM turn"
)
"""The time is asked once the turn has come."""

_BEGIN_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

PLANNER: Final = """
    SELECT set_config('plan_cache_mode', 'force_generic_plan', false), set_config('jit', 'off', false),
           set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false),
           set_config('enable_sort', 'off', false), set_config('enable_hashjoin', 'off', false),
           set_config('enable_mergejoin', 'off', false)
"""
"""How statements are planned: once, and through the index that each has, in its order. Left to itself the
planner takes a small table as a whole, and keeps to that plan when the table has grown."""

_EXACTLY: Final = "WITH changed AS (THESE RETURNING 1) SELECT 1 / (count(*) = %(expected)s)::int FROM changed"

_NUL: Final = "\\u0000"


class _Coming:
    """The reply of a statement that is on its way."""

    __slots__ = ("_cursor", "_link", "_rows")

    def __init__(self, link: PostgresLink, cursor: psycopg.Cursor[Any]) -> None:
        self._link = link
        self._cursor = cursor
        self._rows: list[Row] | None = None

    def rows(self) -> list[Row]:
        if self._rows is None:
            self._link.sync()
            self._rows = self._cursor.fetchall()
        return self._rows

    def count(self) -> int:
        self._link.sync()
        return self._cursor.rowcount

    @property
    def heard(self) -> str | None:
        """Return the database's name for the statement, if it has answered so far. Does not wait."""
        return self._cursor.statusmessage


class _Several:
    """The replies of statements that together answer one question."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Reply]) -> None:
        self._parts = parts

    def rows(self) -> list[Row]:
        return [row for part in self._parts for row in part.rows()]


class PostgresLink(Link):
    """See `Link`. With a `clock`, each transaction sets it. Counts its `turns`, `statements` and `round_trips`."""

    def __init__(self, dialect: Dialect, *, url: str, clock: DatabaseClock | None) -> None:
        super().__init__(dialect)
        self._url = url
        self._clock = clock
        self._pipeline: psycopg.Pipeline | None = None
        self._exit = ExitStack()
        self._facts: _Coming | None = None
        self._proof: tuple[str, Mapping[str, Any]] | None = None
        self._kept: list[Callable[[], object]] = []
        self._planned = False
        self.turns = 0
        self.statements = 0
        self.round_trips = 0

    @property
    def connection(self) -> PostgresConnection:
        return cast("PostgresConnection", self.driver_connection)

    def close(self) -> None:
        # The connection is closed first: to leave the pipeline in good order is to wait for a database that may be
        # gone.
        self.connection.close()
        with suppress(psycopg.Error):
            self._exit.close()
        super().close()

    # Transactions -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._enter()
        if not self._planned:
            self._send(PLANNER)
            self._planned = True
        self._proof = None
        self.turns += 1
        self._send("BEGIN")
        self._facts = self._send(_TAKE_TURN)

    def begin_snapshot(self) -> None:
        self._enter()
        if not self._planned:
            self._send(PLANNER)
            # By itself: a transaction with an isolation of its own must be the first thing after a Sync.
            self.sync()
            self._planned = True
        self._send(_BEGIN_SNAPSHOT)

    def end_snapshot(self) -> None:
        # COMMIT is used because at a ROLLBACK the driver forgets all that is prepared.
        self._send("COMMIT")
        self.sync()

    def commit(self) -> None:
        """Commit. Raises CommitUnknown if the connection is lost and the database does not tell what became of it."""
        if self._facts is not None:
            # The transaction's number must be known before its COMMIT is sent.
            self.sync()
        heard: str | None = None
        lost: psycopg.Error | None = None
        try:
            end = self._send("COMMIT")
            try:
                self.sync()
            finally:
                heard = end.heard
        except psycopg.Error as error:
            lost = error
        if lost is None and heard is not None:
            if heard == "COMMIT":
                return
            # PostgreSQL answers a COMMIT in a failed transaction with ROLLBACK, and with no error.
            raise AssertionError(f"COMMIT was answered with {heard}")
        connection = self.connection
        if lost is not None and not connection.closed and lost.diag.severity_nonlocalized == "ERROR":
            # The database has said no, and goes on.
            raise lost
        # The connection is lost. A server process that is told to end in the middle of a COMMIT carries it out and then
        # says that it ended: no different from one that ended before.
        connection.close()
        if heard != "COMMIT" and not postgres_connection.resolve(self._url, connection, self._proof):
            raise lost or psycopg.OperationalError("COMMIT was not answered")

    def prove(self, what: Statement, **parameters: Any) -> None:
        sql, constants = what.sql(self._dialect)
        self._proof = (sql, {**constants, **parameters})

    def rollback(self) -> None:
        self._facts = None
        self._kept.clear()
        try:
            self._sync_pipeline()
        except psycopg.Error:
            # This is the error of a statement that was still on its way behind the failure.
            if self.connection.closed:
                raise
        self._send("ROLLBACK", prepare=False)
        self.sync()
        # At a ROLLBACK the driver forgets all that is prepared, and has the database forget it right behind the next
        # statement: that must be none which is prepared anew.
        self._send("SELECT", prepare=False)
        self.sync()

    def sync(self) -> None:
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        self.statements += len(kept)
        self.round_trips += 1
        try:
            for execute in kept:
                execute()
            self._sync_pipeline()
        except psycopg.errors.DivisionByZero as error:
            raise BatchConflict("rows changed meanwhile") from error
        facts, self._facts = self._facts, None
        if facts is not None:
            ((now, self.connection.last_transaction),) = facts.rows()
            if self._clock is not None:
                self._clock.heard(now)

    def _sync_pipeline(self) -> None:
        if self._pipeline is not None:
            self._pipeline.sync()

    def _enter(self) -> None:
        if self._pipeline is None:
            self._pipeline = self._exit.enter_context(self.connection.pipeline())

    # Statements -----------------------------------------------------------------------------------------------------

    def rows(self, what: Statement, **parameters: Any) -> list[Row]:
        return self.ask(what, **parameters).rows()

    def run(self, what: Statement, **parameters: Any) -> int:
        return self._ask(what, parameters).count()

    def ask(self, what: Statement, **parameters: Any) -> Reply:
        return self._ask(what, parameters)

    def tell(self, what: Statement, **parameters: Any) -> None:
        self._ask(what, parameters)

    def ask_among(self, what: Among, keys: Iterable[Any], **parameters: Any) -> Reply:
        wanted = list(keys)
        if not wanted:
            return _Several(())
        sql, constants = what.any.sql(self._dialect)
        return self._send(_with_array(sql), {**constants, **parameters, "keys": wanted})

    def ask_each(self, what: Each, sets: Sequence[Row]) -> Callable[[], list[list[Row]]]:
        if not sets:
            return list
        sql, constants = what.far.get(self._dialect.schema.variant) or compile_each(what, self._dialect)
        names = (*what.types, "nth")
        given = _encode([dict(zip(names, (*each, nth), strict=True)) for nth, each in enumerate(sets)])
        reply = self._send(sql, {**constants, "given": given})

        def answer() -> list[list[Row]]:
            found: list[list[Row]] = [[] for _ in sets]
            for nth, *row in reply.rows():
                found[nth].append(tuple(row))
            return found

        return answer

    def write(self, what: Bulk, rows: Sequence[Row], *, exactly: bool = False) -> None:
        if not rows:
            return
        sql, constants = what.far.get((self._dialect.schema.variant, exactly)) or _compile_bulk(
            what, self._dialect, exactly=exactly
        )
        names = tuple(what.types)
        parameters = {**constants, "given": _encode([dict(zip(names, each, strict=True)) for each in rows])}
        if exactly:
            parameters["expected"] = len(rows)
        self._send(sql, parameters)

    def _ask(self, what: Statement, parameters: Mapping[str, Any]) -> _Coming:
        sql, constants = what.sql(self._dialect)
        return self._send(sql, {**constants, **parameters} if constants else parameters)

    def _send(self, sql: str, parameters: Mapping[str, Any] | None = None, *, prepare: bool = True) -> _Coming:
        cursor = self.connection.cursor()
        self._kept.append(partial(cursor.execute, sql.encode(), parameters or None, prepare=prepare))
        return _Coming(self, cursor)


# Statements for many ------------------------------------------------------------------------------------------------


def _given(types: Mapping[str, Any]) -> sa.TableValuedAlias:
    columns = [sa.column(name, kind) for name, kind in types.items()]
    rows = sa.func.json_to_recordset(sa.cast(sa.bindparam("given", type_=sa.Text), JSON))
    return rows.table_valued(*columns).render_derived(name="given", with_types=True)


def compile_each(what: Each, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
    """Compile for all sets at once: `given` is a JSON text, a list of objects with the names of `types` and `nth`."""
    given = _given({**what.types, "nth": sa.Integer})
    found = what.select(dialect, dict(given.c)).correlate(given).lateral("found")
    both = sa.select(given.c.nth, *found.c).select_from(given.join(found, sa.true()))
    made = what.far[dialect.schema.variant] = Statement(lambda _: both).sql(dialect)
    return made


def _compile_bulk(what: Bulk, dialect: Dialect, *, exactly: bool) -> tuple[str, Mapping[str, Any]]:
    given = _given(what.types)
    sql, constants = Statement(lambda _: what.make(dialect, dict(given.c), given)).sql(dialect)
    if exactly:
        sql = _EXACTLY.replace("THESE", sql)
    made = what.far[dialect.schema.variant, exactly] = (sql, constants)
    return made


def _with_array(sql: str) -> str:
    """Put one array in the place of each list's only element."""
    return sql.replace("IN (%(keys)s)", "= ANY(%(keys)s)")


def _encode(rows: Sequence[Mapping[str, Any]]) -> str:
    text = _json(rows)
    if _NUL in text:
        # PostgreSQL refuses a NUL in texts: see `postgres_connection`.
        text = _json([{name: _without_nul(value) for name, value in row.items()} for row in rows])
    return text


def _without_nul(value: object) -> object:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _bytes(value: object) -> str:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    raise TypeError(f"no column holds {type(value).__name__}")


_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_bytes).encode
