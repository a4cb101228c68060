"""Databases with the schemas right before and after this version's."""

from __future__ import annotations

from typing import Final

from longshore.server.store.tables.schema_version import OURS
from tests.support.stores.storekinds import StoreKind

BROUGHT: Final = (
    "DROP INDEX tasks_exclusive",
    "ALTER TABLE tasks DROP COLUMN exclusive",
    "ALTER TABLE tasks DROP COLUMN superseded_by",
    "ALTER TABLE sessions DROP COLUMN revision",
    "ALTER TABLE servers DROP COLUMN revision",
    "DROP TABLE dependencies",
    "DROP INDEX tasks_unmet",
    "ALTER TABLE tasks DROP COLUMN unmet",
    "ALTER TABLE tasks DROP COLUMN followed",
    "DROP INDEX tasks_live",
    "DROP INDEX tasks_ended",
    "DROP INDEX tasks_queue_ended",
    "DROP INDEX tasks_instance",
    "DROP INDEX tasks_on_target",
    "DROP INDEX tasks_kind",
    "DROP INDEX tasks_parked",
    "CREATE INDEX tasks_parked ON tasks (target, project, instance) WHERE state = 2 AND due_at IS NULL",
    "CREATE INDEX tasks_target ON tasks (target, instance, seq)",
)
"""The statements that take back the newest migration."""


def leave_at(kind: StoreKind, revision: int) -> None:
    """Turn a database with this version's schema into one of the version before, or as the next one may leave it."""
    if revision < OURS:
        for statement in BROUGHT:
            kind.execute(statement)
    if revision > OURS:
        kind.execute("ALTER TABLE tasks ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'")
        kind.execute("ALTER TABLE uploads ADD COLUMN colour TEXT")
        kind.execute("CREATE TABLE colours (name TEXT PRIMARY KEY)")
    kind.execute(f"UPDATE alembic_version SET version_num = '{revision:04}'")
