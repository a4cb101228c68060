"""Exclusive tasks, tasks that a later one took the place of, tasks that come after others, the revision of the contract
that workers and servers know, and indexes for lists."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add indexes, nullable columns and a table: a server of the version before works on, and leaves them alone.

    The long work comes first. On PostgreSQL reads go on while these indexes are built, and writes wait; from the first
    new column on, reads wait as well, for three looks through the table.
    """
    _index_lists()
    op.add_column("tasks", sa.Column("exclusive", sa.Boolean(), nullable=True))
    op.add_column("tasks", sa.Column("superseded_by", sa.Text(), nullable=True))
    op.add_column("tasks", sa.Column("unmet", sa.Integer(), nullable=True))
    op.add_column("tasks", sa.Column("followed", sa.Boolean(), nullable=True))
    op.add_column("sessions", sa.Column("revision", sa.Integer(), nullable=True))
    op.add_column("servers", sa.Column("revision", sa.Integer(), nullable=True))
    exclusive, head = sa.column("exclusive", sa.Boolean), sa.column("head", sa.Boolean)
    heads = sa.and_(exclusive.is_(sa.true()), head.is_(sa.true()))
    op.create_index("tasks_exclusive", "tasks", ["concurrency_key", "seq"], sqlite_where=heads, postgresql_where=heads)
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


def _index_lists() -> None:
    """Add an index in the order of acceptance for each part of a filter, and give the one of parked tasks that order.
    The index of target and instance goes: two of the new ones do its work, also for a server of the version before."""
    yes, no = ("1", "0") if op.get_bind().dialect.name == "sqlite" else ("true", "false")
    live, ended = f"live IS {yes}", f"live IS {no}"
    for name, columns, where in (
        ("tasks_live", ["seq"], f"{live} AND seq > 0"),
        ("tasks_ended", ["state", "seq"], ended),
        ("tasks_queue_ended", ["queue", "seq"], ended),
        ("tasks_instance", ["instance", "seq"], "instance != ''"),
        ("tasks_on_target", ["target", "seq"], None),
        ("tasks_kind", ["kind", "seq"], None),
    ):
        condition = None if where is None else sa.text(where)
        op.create_index(name, "tasks", columns, sqlite_where=condition, postgresql_where=condition)
    op.drop_index("tasks_target", "tasks")
    op.drop_index("tasks_parked", "tasks")
    parked, columns = sa.text("state = 2 AND due_at IS NULL"), ["target", "project", "instance", "seq"]
    op.create_index("tasks_parked", "tasks", columns, sqlite_where=parked, postgresql_where=parked)
