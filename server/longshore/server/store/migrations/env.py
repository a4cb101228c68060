"""Alembic runs this file: the steps, on the connection and in the transaction of the store that opens."""

from __future__ import annotations

from alembic import context

from longshore.server.store.tables.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # The caller's transaction carries all steps: a data directory is migrated whole or not at all.
    transactional_ddl=True,
)
context.run_migrations()
