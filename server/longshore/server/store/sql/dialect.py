"""What differs between databases, as the one seam that the rest of the store knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from longshore.server.store.tables.schema_version import SchemaState


class Cursor(Protocol):
    """What we use of a DB-API cursor."""

    @property
    def rowcount(self) -> int: ...

    def execute(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ..., /) -> object: ...

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> object: ...

    def fetchall(self) -> Sequence[Any]: ...

    def close(self) -> object: ...


class Dialect(Protocol):
    """A database's own ways. Implemented once per database; everything else is written for all of them."""

    @property
    def engine(self) -> sa.Engine:
        """Where connections come from. Its parameter style is by name."""
        ...

    @property
    def schema(self) -> SchemaState:
        """What the database is known to have, for all connections to it."""
        ...

    @property
    def exclusive(self) -> bool:
        """Nobody else writes to the database: what the last commit left still holds."""
        ...

    def insert_missing(self, table: sa.Table) -> sa.Insert:
        """An INSERT that leaves rows alone whose key exists."""
        ...

    def for_update(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        """Lock the rows for the transaction. Statements come ordered by key, so that two servers cannot deadlock."""
        ...

    def for_claim(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        """Like `for_update`, but leave out rows that somebody else has locked."""
        ...

    def is_unavailable(self, error: BaseException) -> bool:
        """The database is locked, full, gone or broken: nothing that a different command would mend."""
        ...

    def may_pass(self, error: BaseException) -> bool:
        """Nothing was committed, and the same transaction may well succeed when it is tried again at once: a deadlock,
        a lock that took too long, a connection that was lost."""
        ...
