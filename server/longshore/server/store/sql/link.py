"""This module runs statements on a connection.

Where the database is at the other end of a connection, the number of waits for it decides the cost. So there are two
ways to run a statement: to wait for its answer (`rows`, `row`, `run`), and to have it sent along with the next one
that a caller waits for (`ask`, `tell`, `write`). A caller that asks early and reads late saves round trips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from longshore.server.store.errors import BatchConflict
from longshore.server.store.sql.dialect import Cursor, Dialect
from longshore.server.store.sql.statement import Among, Bulk, Each, Statement
from longshore.server.store.tables.rows import Row


class Database(Dialect, Protocol):
    """A dialect that connects to its database."""

    def link(self) -> Link:
        """Open a new connection."""
        ...


class Reply(Protocol):
    """The answer of a statement; a call that reads it waits until it is there."""

    def rows(self) -> list[Row]: ...


class Answered:
    """A reply that has arrived already."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def rows(self) -> list[Row]:
        return self._rows


class Link:
    """A connection to a database in this process, which answers each question at once. It belongs to one thread at a
    time."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._connection = dialect.engine.raw_connection()
        self._cursor: Cursor = self._connection.cursor()

    @property
    def dialect(self) -> Dialect:
        return self._dialect

    @property
    def driver_connection(self) -> Any:
        """Return the driver's own connection."""
        return self._connection.driver_connection

    def close(self) -> None:
        self._cursor.close()
        self._connection.close()

    # Transactions -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a transaction that may write, or fail now rather than at its first write."""
        self._cursor.execute("BEGIN IMMEDIATE")

    def begin_snapshot(self) -> None:
        """Start a transaction that only reads and sees one state."""
        self._cursor.execute("BEGIN")

    def end_snapshot(self) -> None:
        self.rollback()

    def commit(self) -> None:
        self._cursor.execute("COMMIT")

    def prove(self, what: Statement, **parameters: Any) -> None:
        """Name a query that answers with a row if, and only if, this transaction is committed. The query is run
        if the answer to COMMIT is lost. A transaction without a proof then counts as not committed, and may be
        repeated."""

    def failed(self, error: BaseException) -> None:
        """Note that a statement failed with this error; after some errors nothing is believed any more."""

    def rollback(self) -> None:
        self._cursor.execute("ROLLBACK")

    def version(self) -> int:
        """Return a number that changes when another program writes to the database. Call it in a transaction."""
        self._cursor.execute("PRAGMA data_version")
        version: int = self._cursor.fetchall()[0][0]
        return version

    def sync(self) -> None:
        """Wait until everything that was sent is answered. Raises the error of a statement that failed."""

    # Statements whose answer is waited for ------------------------------------------------------------------------

    def rows(self, what: Statement, **parameters: Any) -> list[Row]:
        sql, constants = what.sql(self._dialect)
        self._cursor.execute(sql, {**constants, **parameters} if constants else parameters)
        return list(self._cursor.fetchall())

    def row(self, what: Statement, **parameters: Any) -> Row | None:
        found = self.rows(what, **parameters)
        return found[0] if found else None

    def run(self, what: Statement, **parameters: Any) -> int:
        """Execute the statement, and return the number of rows changed."""
        sql, constants = what.sql(self._dialect)
        self._cursor.execute(sql, {**constants, **parameters} if constants else parameters)
        return self._cursor.rowcount

    def among(self, what: Among, keys: Iterable[Any], **parameters: Any) -> list[Row]:
        """Read the rows for all `keys`."""
        return self.ask_among(what, keys, **parameters).rows()

    # Statements that go along with the next ------------------------------------------------------------------------

    def ask(self, what: Statement, **parameters: Any) -> Reply:
        return Answered(self.rows(what, **parameters))

    def ask_among(self, what: Among, keys: Iterable[Any], **parameters: Any) -> Reply:
        found: list[Row] = []
        for each, names, values in what.split(list(keys)):
            sql, constants = each.numbered(self._dialect, (*names, *parameters))
            self._cursor.execute(sql, (*values, *parameters.values(), *constants))
            found += self._cursor.fetchall()
        return Answered(found)

    def ask_each(self, what: Each, sets: Sequence[Row]) -> Callable[[], list[list[Row]]]:
        """Ask for the rows of each of `sets`, in their order."""
        found: list[list[Row]] = []
        if sets:
            sql, constants = what.one.numbered(self._dialect, what.types)
            for each in sets:
                self._cursor.execute(sql, each + constants)
                found.append(list(self._cursor.fetchall()))
        return lambda: found

    def tell(self, what: Statement, **parameters: Any) -> None:
        """Execute the statement, without asking for the number of rows changed."""
        self.run(what, **parameters)

    def write(self, what: Bulk, rows: Sequence[Row], *, exactly: bool = False) -> None:
        """Execute the statement for all `rows`. With `exactly` each must change one row. If not, the transaction must
        not be committed: BatchConflict is raised, here or by the next call that waits."""
        if not rows:
            return
        sql, constants = what.one.numbered(self._dialect, what.types)
        if constants:
            rows = [each + constants for each in rows]
        self._cursor.executemany(sql, rows)
        if exactly and self._cursor.rowcount != len(rows):
            raise BatchConflict(f"{len(rows) - self._cursor.rowcount} of {len(rows)} rows changed meanwhile")
