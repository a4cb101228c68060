"""This migration adds tables for the remarks of sessions, their ends, and the last worker of each target."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """New tables only: a server of the version before works on beside them."""
    op.create_table(
        "remarks",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("credits", sa.Integer(), nullable=True),
        sa.Column("problems", sa.Text(), nullable=False),
        sa.Column("ending", sa.SmallInteger(), nullable=False),
        sa.CheckConstraint("ending BETWEEN 0 AND 3", name=op.f("ck_remarks_ending")),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_remarks")),
    )
    op.create_table(
        "served",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("until_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("target", name=op.f("pk_served")),
    )
