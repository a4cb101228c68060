"""Exclusive tasks, tasks that a later one took the place of, tasks that come after others, and the revision of the
contract that workers and servers know."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add nullable columns, a table, and indexes that are empty at first: a server of the version before works on, and
    leaves them alone."""
    op.add_column("tasks", sa.Column("exclusive", sa.Boolean(), nullable=True))
    op.add_column("tasks", sa.Column("superseded_by", sa.Text(), nullable=True))
    op.add_column("sessions", sa.Column("revision", sa.Integer(), nullable=True))
    op.add_column("servers", sa.Column("revision", sa.Integer(), nullable=True))
    exclusive, head = sa.column("exclusive", sa.Boolean), sa.column("head", sa.Boolean)
    heads = sa.and_(exclusive.is_(sa.true()), head.is_(sa.true()))
    op.create_index("tasks_exclusive", "tasks", ["concurrency_key", "seq"], sqlite_where=heads, postgresql_where=heads)
    op.add_column("tasks", sa.Column("unmet", sa.Integer(), nullable=True))
    op.add_column("tasks", sa.Column("followed", sa.Boolean(), nullable=True))
    unmet = sa.column("unmet", sa.Integer).is_not(None)
    op.create_index("tasks_unmet", "tasks", ["destination_key"], sqlite_where=unmet, postgresql_where=unmet)
    seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "dependencies",
        sa.Column("after_seq", seq, nullable=False, autoincrement=False),
        sa.Column("seq", seq, nullable=False, autoincrement=False),
        sa.ForeignKeyConstraint(["seq"], ["tasks.seq"], name="fk_dependencies_seq", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("after_seq", "seq", name="pk_dependencies"),
        sqlite_with_rowid=False,
    )
    op.create_index("dependencies_task", "dependencies", ["seq"])
