"""This module has the interface behind which databases differ. The rest of the store is the same for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from longshore.server.store.tables.schema_version import SchemaState


class Cursor(Protocol):
    """The part of a DB-API cursor that the store uses."""

    @property
    def rowcount(self) -> int: ...

    def execute(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ..., /) -> object: ...

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> object: ...

    def fetchall(self) -> Sequence[Any]: ...

    def close(self) -> object: ...


class Dialect(Protocol):
    """A dialect has the ways of one database. Everything else is written once for all databases."""

    @property
    def engine(self) -> sa.Engine:
        """Return the source of connections. Its parameter style is by name."""
        ...

    @property
    def schema(self) -> SchemaState:
        """Return the schema that the database is known to have, for all connections to it."""
        ...

    @property
    def shared(self) -> bool:
        """Tell whether other servers write to the database too, so that rows of the last commit may be out of date."""
        ...

    def insert_missing(self, table: sa.Table) -> sa.Insert:
        """Build an INSERT that leaves rows with an existing key alone."""
        ...

    def for_update(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        """Lock the rows for the transaction. Statements come ordered by key, so that two servers cannot deadlock."""
        ...

    def for_claim(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        """Like `for_update`, but leave out rows that somebody else has locked."""
        ...

    def is_unavailable(self, error: BaseException) -> bool:
        """Tell whether the database is locked, full, gone or broken, so that any other command would fail too."""
        ...

    def may_pass(self, error: BaseException) -> bool:
        """Tell whether nothing was committed, and the same transaction may well succeed in another try at once.

        That is so after a deadlock, a lock that took too long, or a lost connection.
        """
        ...
