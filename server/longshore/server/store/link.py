"""Statements that are compiled once, and a connection that runs them.

SQLAlchemy writes the SQL; running it goes straight to the driver. Measured with sqlite3 on one statement by primary
key: 2 µs in the driver, 11 to 63 µs through `Connection.execute`, and a transaction has twenty of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.store.dialect import Cursor, Dialect

Row = tuple[Any, ...]

_SIZES: Final = (1, 4, 16, 64, 256)
"""Lengths of IN lists: lists are padded to one of these, so that few statements are compiled and prepared."""


class Statement:
    """One statement, compiled at its first use for each database.

    `make` builds it; one that needs the dialect takes it as its argument.
    """

    __slots__ = ("_compiled", "_make", "_options")

    def __init__(
        self, make: Callable[[Dialect], sa.sql.ClauseElement], *, options: Mapping[str, Any] | None = None
    ) -> None:
        self._make = make
        self._options = options
        self._compiled: dict[str, tuple[str, Mapping[str, Any]]] = {}

    def sql(self, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
        """The text, and the values of parameters that are constants of the statement."""
        name = dialect.engine.dialect.name
        found = self._compiled.get(name)
        if found is None:
            compiled = self._make(dialect).compile(dialect=dialect.engine.dialect, compile_kwargs=self._options or {})
            constants = {key: value for key, value in (compiled.params or {}).items() if value is not None}
            found = self._compiled[name] = (str(compiled), constants)
        return found


def statement(clause: sa.sql.ClauseElement) -> Statement:
    """A statement that is the same for all databases."""
    return Statement(lambda _: clause)


def locking(select: sa.Select[Any]) -> Statement:
    """A SELECT whose rows are locked where the database locks rows. Order it by key."""
    return Statement(lambda dialect: dialect.for_update(select))


def claiming(select: sa.Select[Any]) -> Statement:
    """A SELECT whose rows are locked where the database locks rows, without those that somebody else has locked."""
    return Statement(lambda dialect: dialect.for_claim(select))


class Among:
    """A SELECT with one IN list. `make` gets the list's parameters."""

    __slots__ = ("_statements",)

    def __init__(self, make: Callable[[list[sa.BindParameter[Any]]], sa.Select[Any]], *, lock: bool = False) -> None:
        wrap = locking if lock else statement
        self._statements = {
            size: wrap(make([sa.bindparam(f"key_{number}") for number in range(size)])) for size in _SIZES
        }

    def split(self, keys: Sequence[Any]) -> Iterator[tuple[Statement, dict[str, Any]]]:
        """The statements and parameters that together cover `keys`."""
        for start in range(0, len(keys), _SIZES[-1]):
            part = keys[start : start + _SIZES[-1]]
            size = next(size for size in _SIZES if size >= len(part))
            parameters = {f"key_{number}": key for number, key in enumerate(part)}
            parameters.update((f"key_{number}", part[-1]) for number in range(len(part), size))
            yield self._statements[size], parameters


class Link:
    """A connection to the database. Belongs to one thread at a time."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._connection = dialect.engine.raw_connection()
        self._cursor: Cursor = self._connection.cursor()

    @property
    def dialect(self) -> Dialect:
        return self._dialect

    @property
    def driver_connection(self) -> Any:
        """The driver's own connection."""
        return self._connection.driver_connection

    def close(self) -> None:
        self._cursor.close()
        self._connection.close()

    def begin(self) -> None:
        self._dialect.begin(self._cursor)

    def begin_snapshot(self) -> None:
        self._dialect.begin_snapshot(self._cursor)

    def commit(self) -> None:
        self._dialect.commit(self._cursor)

    def rollback(self) -> None:
        self._dialect.rollback(self._cursor)

    def rows(self, what: Statement, **parameters: Any) -> list[Row]:
        sql, constants = what.sql(self._dialect)
        self._cursor.execute(sql, {**constants, **parameters} if constants else parameters)
        return list(self._cursor.fetchall())

    def row(self, what: Statement, **parameters: Any) -> Row | None:
        sql, constants = what.sql(self._dialect)
        self._cursor.execute(sql, {**constants, **parameters} if constants else parameters)
        found = self._cursor.fetchall()
        return found[0] if found else None

    def run(self, what: Statement, **parameters: Any) -> int:
        """Execute; answers how many rows changed."""
        sql, constants = what.sql(self._dialect)
        self._cursor.execute(sql, {**constants, **parameters} if constants else parameters)
        return self._cursor.rowcount

    def many(self, what: Statement, parameters: Sequence[Mapping[str, Any]]) -> int:
        """Execute once for each; answers how many rows changed in all."""
        if not parameters:
            return 0
        sql, constants = what.sql(self._dialect)
        if constants:
            parameters = [{**constants, **each} for each in parameters]
        self._cursor.executemany(sql, parameters)
        return self._cursor.rowcount

    def among(self, what: Among, keys: Iterable[Any], **parameters: Any) -> list[Row]:
        """The rows for all `keys`."""
        found: list[Row] = []
        for each, key_parameters in what.split(list(keys)):
            found += self.rows(each, **key_parameters, **parameters)
        return found
