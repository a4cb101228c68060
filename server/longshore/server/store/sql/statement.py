"""This module compiles each statement once for each database.

SQLAlchemy writes the SQL; running it goes straight to the driver. Measured with sqlite3 on one statement by primary
key: 2 µs in the driver, 11 to 63 µs through `Connection.execute`, and a transaction has twenty of them.

Many rows, and the values of many questions, are tuples in the order of the names that their statement has: the driver
binds 40 named values in 4 µs more than 40 numbered ones. It also looks for an adapter of each None, each bool and each
bytes, 0.25 µs a value: what is the same in all rows is better said in the statement (`fixed`).

`Each` and `Bulk` are statements for many sets of values: one each on a database that is at hand, one for all where it
is far.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.tables.rows import Row

_NAMED: Final = re.compile(r"(?<![:\w]):(\w+)")

_SIZES: Final = (1, 4, 16, 64, 256)
"""Lengths of IN lists: lists are padded to one of these, so that few statements are compiled and prepared."""


class Statement:
    """A statement that is compiled at its first use for each kind of database and each schema.

    `make` builds the statement, with the dialect as its argument if it needs that. A statement may name every
    column of this version: `SchemaState.adapted` puts NULL for a column that the database does not have yet.
    """

    __slots__ = ("_compiled", "_make", "_numbered", "_options")

    def __init__(
        self, make: Callable[[Dialect], sa.sql.ClauseElement], *, options: Mapping[str, Any] | None = None
    ) -> None:
        self._make = make
        self._options = options
        self._compiled: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._numbered: dict[str, tuple[str, Row]] = {}

    def numbered(self, dialect: Dialect, names: Iterable[str]) -> tuple[str, Row]:
        """Return the text with ?1 for the first of `names` and so on (SQLite's way), and the constants after them.
        Each call has the same names."""
        variant = dialect.schema.variant
        found = self._numbered.get(variant)
        if found is None:
            sql, constants = self.sql(dialect)
            places = {each: f"?{number}" for number, each in enumerate([*names, *constants], start=1)}
            found = (_NAMED.sub(lambda match: places[match[1]], sql), tuple(constants.values()))
            self._numbered[variant] = found
        return found

    def sql(self, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
        """Return the text, and the values of parameters that are constants of the statement."""
        variant = dialect.schema.variant
        found = self._compiled.get(variant)
        if found is None:
            clause = dialect.schema.adapted(self._make(dialect))
            compiled = clause.compile(dialect=dialect.engine.dialect, compile_kwargs=self._options or {})
            constants = {key: value for key, value in (compiled.params or {}).items() if value is not None}
            found = self._compiled[variant] = (str(compiled), constants)
        return found


def statement(clause: sa.sql.ClauseElement) -> Statement:
    """Make a statement that is the same for all databases."""
    return Statement(lambda _: clause)


def locking(select: sa.Select[Any]) -> Statement:
    """Make a SELECT that locks its rows if the database locks rows. The SELECT must be ordered by key."""
    return Statement(lambda dialect: dialect.for_update(select))


def claiming(select: sa.Select[Any]) -> Statement:
    """Make a SELECT that locks its rows if the database locks rows, and leaves out rows with another's lock."""
    return Statement(lambda dialect: dialect.for_claim(select))


_KEYS: Final = {size: tuple(f"key_{number}" for number in range(size)) for size in _SIZES}


class Among:
    """A SELECT with one IN list. `make` gets the list's parameters."""

    __slots__ = ("_statements", "any")

    def __init__(
        self,
        make: Callable[[list[sa.BindParameter[Any]]], sa.Select[Any] | sa.CompoundSelect[Any]],
        *,
        lock: bool = False,
    ) -> None:
        wrap: Callable[[Any], Statement] = locking if lock else statement
        self._statements = {size: wrap(make([sa.bindparam(name) for name in _KEYS[size]])) for size in _SIZES}
        self.any: Final = wrap(make([sa.bindparam("keys")]))
        """The statement with one parameter in the list, for a database that takes an array in its place."""

    def split(self, keys: Sequence[Any]) -> Iterator[tuple[Statement, tuple[str, ...], Row]]:
        """Return the statements that together cover `keys`, with the names and values of their parameters."""
        for start in range(0, len(keys), _SIZES[-1]):
            part = tuple(keys[start : start + _SIZES[-1]])
            size = next(size for size in _SIZES if size >= len(part))
            yield self._statements[size], _KEYS[size], part + part[-1:] * (size - len(part))


Given = Mapping[str, sa.ColumnElement[Any]]
"""The expressions for the values of one row: parameters, or the columns of a set of rows."""

Types = Mapping[str, type[sa.types.TypeEngine[Any]]]


def parameters(names: Iterable[str]) -> Given:
    return {name: sa.bindparam(name) for name in names}


class Each:
    """A SELECT for each of many sets of values: tuples in the order of `types`. `lock` is "update" or "claim": see the
    dialect."""

    __slots__ = ("_lock", "_make", "far", "one", "types")

    def __init__(self, make: Callable[[Given], sa.Select[Any]], types: Types, *, lock: str = "") -> None:
        self._make = make
        self._lock = lock
        self.types = types
        self.one: Final = Statement(lambda dialect: self.select(dialect, parameters(types)))
        """The statement for one set of values."""
        self.far: dict[str, tuple[str, Mapping[str, Any]]] = {}
        """The statement for all sets at once, by variant of the schema; kept here by the connections of a database that
        is far."""

    def select(self, dialect: Dialect, given: Given) -> sa.Select[Any]:
        select = dialect.schema.adapted(self._make(given))
        if self._lock == "update":
            return dialect.for_update(select)
        return dialect.for_claim(select) if self._lock == "claim" else select


class Bulk:
    """An INSERT, UPDATE or DELETE for each of many rows: tuples whose columns and types `types` names in their order.

    `make` gets the expressions for the values and, where these are columns, the set of rows that they are columns of.
    """

    __slots__ = ("far", "make", "one", "types")

    def __init__(
        self,
        make: Callable[[Dialect, Given, sa.FromClause | None], sa.Insert | sa.Update | sa.Delete],
        types: Types,
    ) -> None:
        self.make = make
        self.types = types
        self.one: Final = Statement(lambda dialect: make(dialect, parameters(types), None))
        self.far: dict[tuple[str, bool], tuple[str, Mapping[str, Any]]] = {}
        """The statement for all rows at once: by variant of the schema, and by whether it checks that each has changed
        one row."""


def inserting(
    table: sa.Table, *names: str, missing: bool = False, fixed: Mapping[str, sa.ColumnElement[Any]] | None = None
) -> Bulk:
    """Insert rows with these columns (all of them if none is named). `missing`: leave alone rows that are there
    already. `fixed`: further columns that are the same in all rows, as literals or as one of the given columns.

    A row has a value for each column all the same where the schema lacks one: that value is not stored."""
    wanted = [table.c[name] for name in names] if names else list(table.c)
    same = fixed or {}

    def make(dialect: Dialect, given: Given, rows: sa.FromClause | None) -> sa.Insert:
        insert = dialect.insert_missing(table) if missing else table.insert()
        columns = [column for column in wanted if not dialect.schema.lacks(column)]
        if rows is None:
            return insert.values({column.name: given[column.name] for column in columns} | dict(same))
        found = sa.select(
            *(rows.c[column.name] for column in columns), *(value.label(name) for name, value in same.items())
        )
        return insert.from_select([*(column.name for column in columns), *same], found)

    return Bulk(make, {column.name: _type(column) for column in wanted})


def changing(make: Callable[[Given], sa.Update | sa.Delete], types: Types) -> Bulk:
    """Change the row that each set of values names; no two of them name the same."""
    return Bulk(lambda _dialect, given, _rows: make(given), types)


def _type(column: sa.Column[Any]) -> type[sa.types.TypeEngine[Any]]:
    return type(column.type)


def types_of(table: sa.Table, *names: str, **named: str) -> Types:
    """Return the types of these columns. `named` gives some of them another name."""
    return {name: _type(table.c[column]) for name, column in {**dict(zip(names, names, strict=True)), **named}.items()}
