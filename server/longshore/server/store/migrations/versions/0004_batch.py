"""The request's id as a column of the tasks, so that a list of one request is an index search."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a nullable column: a server of the version before works on, and leaves it NULL. Rows that are there stay as
    they are, because to fill them in would lock a large table for minutes; a list finds them by their requests."""
    op.add_column("tasks", sa.Column("batch", sa.Text(), nullable=True))
    filled = sa.text("batch IS NOT NULL")
    op.create_index("tasks_batch", "tasks", ["batch"], sqlite_where=filled, postgresql_where=filled)
