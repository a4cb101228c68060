"""Bringing a database to this version's schema."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa

from longshore.server.store.errors import SchemaMismatch
from longshore.server.store.schema import REVISION

_MIGRATIONS: Final = Path(__file__).resolve().parent / "migrations"


def migrate(engine: sa.Engine) -> None:
    """Make or upgrade the schema, in one transaction. Raises SchemaMismatch where a newer Longshore wrote it."""
    with engine.connect() as connection:
        if _revision(connection) == REVISION:
            return
    # Imported late: a server whose schema is current starts without it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.begin() as connection:
        # Read again, inside: another process may have been faster.
        current = _revision(connection)
        if current is not None and current not in known:
            raise SchemaMismatch(
                f"The database has schema {current!r}, which this version of Longshore (schema {REVISION!r}) does not "
                "know: start the newer version that wrote it, or restore a backup from before the upgrade."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(connection: sa.Connection) -> str | None:
    """The newest step that was taken; None for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return found
