"""The first schema."""

from __future__ import annotations

from alembic import op

from longshore.server.store.schema import metadata, sequence

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    metadata.create_all(op.get_bind())
    op.bulk_insert(sequence, [{"name": "tasks", "value": 0}, {"name": "probe", "value": 0}])
