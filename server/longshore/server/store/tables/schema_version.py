"""This version works on three schemas: its own, and those right before and after it, so that a fleet is upgraded one
server at a time. Revisions are numbers, one for each migration, counted without gaps.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.sql.visitors import replacement_traverse

from longshore.server.store.errors import SchemaMismatch
from longshore.server.store.tables.schema import REVISION, SINCE

OURS: Final = int(REVISION)
"""The revision of this version's schema."""

EMPTY: Final = 0
"""The revision of a database in which nothing was made yet."""


C = TypeVar("C", bound=sa.sql.ClauseElement)


class SchemaState:
    """The schema that the database has, as far as this process knows: one object for each store, at
    `Link.dialect.schema` for commands and queries, and at `SQLStore.schema` for the rest of the server.

    The schema changes under a running server, from any thread: upwards when somebody migrates the database, which is
    noticed within `health.LOOK` seconds, and, after the database was restored from a backup, downwards. So ask anew
    each time, and take rows that a server of the version before has left out for no error.
    """

    __slots__ = ("_database", "_revision", "variant")

    def __init__(self, database: str, revision: int = OURS) -> None:
        self._database = database
        self.revision = revision

    @property
    def revision(self) -> int:
        return self._revision

    @revision.setter
    def revision(self, revision: int) -> None:
        self._revision = revision
        self.variant = f"{self._database}/{min(revision, OURS)}"
        """A name that two schemas share if the same statements run on both."""

    def lacks(self, what: sa.Column[Any] | sa.Table) -> bool:
        """Tell whether the column or table is younger than the schema."""
        since: int = what.info.get(SINCE, 0)
        return since > self._revision

    def adapted(self, clause: C) -> C:
        """Return the clause as this schema can run it, with NULL for each column that the schema lacks."""
        if self._revision >= OURS:
            return clause

        def nulled(element: sa.ColumnElement[Any], **_: Any) -> sa.ColumnElement[Any] | None:
            if isinstance(element, sa.Column) and self.lacks(element):
                return sa.cast(sa.null(), element.type).label(element.name)
            return None

        return cast("C", replacement_traverse(clause, {}, nulled))


def check(revision: int) -> None:
    """Raise SchemaMismatch if this version cannot work on a database of that revision."""
    if revision < OURS - 1:
        raise SchemaMismatch(
            f"The database has schema {revision:04}, and this version of Longshore works on {OURS - 1:04} to "
            f"{OURS + 1:04}: stop its servers, run `longshored migrate` with this server's options, and start this "
            "version. Or upgrade by way of the versions between, one schema at a time, without stopping."
        )
    if revision > OURS + 1:
        raise SchemaMismatch(
            f"The database has schema {revision:04}, and this version of Longshore works on {OURS - 1:04} to "
            f"{OURS + 1:04}: start a newer version, such as the one that migrated it, or restore a backup from before."
        )
