"""Brings a database to this version's schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from longshore.server.store.errors import SchemaMismatch
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import statement
from longshore.server.store.tables.schema import REVISION, metadata, sequence
from longshore.server.store.tables.schema_version import EMPTY, OURS, check

_MIGRATIONS: Final = Path(__file__).resolve().parent

# The table of Alembic, as Alembic makes it.
_versions: Final = sa.Table(
    "alembic_version",
    sa.MetaData(naming_convention={"pk": "%(table_name)s_pkc"}),
    sa.Column("version_num", sa.String(32), primary_key=True),
)
_STEPS: Final = sa.select(_versions.c.version_num)
_LATEST: Final = statement(_STEPS)


def prepare(dialect: Dialect) -> int:
    """Check the schema when a server opens its database, and answer with the revision that the server then works on.

    An empty database gets the schema. One that is this server's alone is upgraded; one that others share is left at
    the revision before this version's, because somebody has to say when all are ready. Raises SchemaMismatch.
    """
    with dialect.engine.connect() as connection:
        found = revision_of(connection)
    if found == EMPTY and not dialect.shared:
        found = _make(dialect.engine)
    if found == EMPTY or (not dialect.shared and found < OURS):
        _, found = migrate(dialect.engine)
    check(found)
    return found


def _make(engine: sa.Engine) -> int:
    """Make the tables as this version declares them in an empty database that no other server uses, and answer with the
    revision that the database has then.

    The steps make the same, which a test compares. But they need Alembic: 450 of the 3,050 million instructions of a
    first start, and 70 without.
    """
    with engine.begin() as connection:
        found = revision_of(connection)
        if found != EMPTY:
            return found
        metadata.create_all(connection)
        connection.execute(sequence.insert(), [{"name": "tasks", "value": 0}, {"name": "probe", "value": 0}])
        _versions.create(connection)
        connection.execute(_versions.insert().values(version_num=REVISION))
    return OURS


def migrate(engine: sa.Engine, *, to: str = REVISION) -> tuple[int, int]:
    """Make the schema or upgrade it, in one transaction; answers with the revisions before and after. One that is newer
    is left alone. Raises SchemaMismatch where it is too new for this version."""
    with engine.connect() as connection:
        found = revision_of(connection)
    if found >= int(to):
        check(max(found, OURS - 1))
        return found, found
    # Alembic is imported late: a server whose schema is current starts without it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        # The revision is read again, inside the transaction: another process may have been faster.
        found = revision_of(connection)
        if found >= int(to):
            return found, found
        config.attributes["connection"] = connection
        command.upgrade(config, to)
    return found, int(to)


def revision_of(connection: sa.Connection) -> int:
    """The newest step that was taken, or EMPTY. Raises SchemaMismatch if it is none of ours."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return EMPTY
    return _number(connection.execute(_STEPS).scalars().all())


def latest(link: Link) -> int:
    """The newest step of a database that has been opened, or EMPTY. Raises SchemaMismatch like `revision_of`."""
    return _number([row[0] for row in link.rows(_LATEST)])


def _number(steps: Sequence[str]) -> int:
    if not steps:
        return EMPTY
    if len(steps) > 1 or not steps[0].isdecimal():
        raise SchemaMismatch(
            f"The database has schema {', '.join(steps)}, which is not Longshore's: give it a database of its own."
        )
    return int(steps[0])
