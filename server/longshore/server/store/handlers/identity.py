"""The identity of the database. A spool remembers it, so that no other database's server takes its payloads for
leftovers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from longshore.server.store.commands import IdentifyDatabase
from longshore.server.store.sql.statement import Statement, statement
from longshore.server.store.tables.schema import sequence
from longshore.server.store.transaction.unit import UnitOfWork

_NAME: Final = "database"

_MAKE: Final = Statement(
    lambda dialect: dialect.insert_missing(sequence).values(name=_NAME, value=sa.bindparam("candidate"))
)
_FIND: Final = statement(sa.select(sequence.c.value).where(sequence.c.name == _NAME))


def identify_database(unit: UnitOfWork, command: IdentifyDatabase) -> Callable[[], int]:
    """See IdentifyDatabase."""
    found = unit.link.row(_FIND)
    if found is None:
        unit.write(_MAKE, candidate=command.candidate)
        found = unit.link.row(_FIND)
    if found is None:
        raise LookupError("the row of the database's identity is gone")
    number = int(found[0])
    return lambda: number
