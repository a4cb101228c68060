"""Exclusive tasks, tasks that a later one took the place of, and the revision of the contract that workers and servers
know."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add nullable columns: a server of the version before works on, and leaves them NULL."""
    op.add_column("tasks", sa.Column("exclusive", sa.Boolean(), nullable=True))
    op.add_column("tasks", sa.Column("superseded_by", sa.Text(), nullable=True))
    op.add_column("sessions", sa.Column("revision", sa.Integer(), nullable=True))
    op.add_column("servers", sa.Column("revision", sa.Integer(), nullable=True))
    exclusive, head = sa.column("exclusive", sa.Boolean), sa.column("head", sa.Boolean)
    heads = sa.and_(exclusive.is_(sa.true()), head.is_(sa.true()))
    op.create_index("tasks_exclusive", "tasks", ["concurrency_key", "seq"], sqlite_where=heads, postgresql_where=heads)
