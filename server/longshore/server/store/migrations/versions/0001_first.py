"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    _counters()
    _debts()
    _payloads()
    _queues()
    _requests()
    _sequence()
    _sessions()
    _targets()
    _tasks()
    _uploads()
    _attempts()
    _events()
    _inline_payloads()
    _labels()
    _submissions()
    if op.get_bind().dialect.name == "postgresql":
        # Several servers: see store/commit_log.py.
        _commits()
    rows = sa.table("sequence", sa.column("name", sa.Text), sa.column("value", sa.BigInteger))
    op.bulk_insert(rows, [{"name": "tasks", "value": 0}, {"name": "probe", "value": 0}])


def _seq() -> sa.types.TypeEngine[int]:
    """SQLite makes a primary key its row id only when the type reads INTEGER."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _where(condition: str) -> dict[str, Any]:
    """The condition of a partial index, in the words in which queries repeat it."""
    truth = condition.replace(" IS 1", " IS true").replace(" IS 0", " IS false")
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(truth)}


def _counters() -> None:
    op.create_table(
        "counters",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("value >= 0", name=op.f("ck_counters_value")),
        sa.PrimaryKeyConstraint("scope", "name", name=op.f("pk_counters")),
        sqlite_with_rowid=False,
    )


def _commits() -> None:
    op.create_table(
        "commits",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_commits")),
    )


def _debts() -> None:
    op.create_table(
        "debts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("temp", sa.Text(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_debts")),
    )
    op.create_index("debts_due", "debts", ["target", "due_at"], unique=False)


def _payloads() -> None:
    op.create_table(
        "payloads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("crc32c", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("live", sa.Integer(), nullable=False),
        sa.Column("keep_until", sa.Double(), nullable=False),
        sa.Column("doomed", sa.Boolean(), nullable=False),
        sa.CheckConstraint("live >= 0 AND (NOT doomed OR live = 0)", name=op.f("ck_payloads_live")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_payloads_size")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payloads")),
    )
    op.create_index("payloads_doomed", "payloads", ["id"], unique=False, **_where("doomed IS 1"))
    op.create_index("payloads_idle", "payloads", ["keep_until"], unique=False, **_where("live = 0 AND doomed IS 0"))


def _queues() -> None:
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_queues")),
    )


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=True),
        sa.Column("first_seq", sa.BigInteger(), nullable=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("live", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.CheckConstraint("(first_seq IS NULL) = (count = 0)", name=op.f("ck_requests_tasks")),
        sa.CheckConstraint("live >= 0 AND live <= count", name=op.f("ck_requests_live")),
        sa.PrimaryKeyConstraint("request_id", "principal", name=op.f("pk_requests")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "requests_ended", "requests", ["ended_at"], unique=False, **_where("live = 0 AND ended_at IS NOT NULL")
    )


def _sequence() -> None:
    op.create_table(
        "sequence",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sequence")),
    )


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("targets", sa.Text(), nullable=False),
        sa.Column("kinds", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("lease_ticks", sa.Double(), nullable=False),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.CheckConstraint("ended_at IS NULL OR NOT connected", name=op.f("ck_sessions_ended")),
        sa.CheckConstraint("epoch >= 1", name=op.f("ck_sessions_epoch")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index("sessions_lease", "sessions", ["lease_ticks"], unique=False, **_where("ended_at IS NULL"))


def _targets() -> None:
    op.create_table(
        "targets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_targets")),
    )


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("seq", _seq(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("creator", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("concurrency_key", sa.Text(), nullable=False),
        sa.Column("destination_key", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("head", sa.Boolean(), nullable=False),
        sa.Column("wait_reason", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("solo_crashes", sa.Integer(), nullable=False),
        sa.Column("alone", sa.Boolean(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("deadline_ticks", sa.Double(), nullable=True),
        sa.Column("commit_grant", sa.Text(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("cancel_reason", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("result_type", sa.Text(), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("method", sa.SmallInteger(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("retryable_until", sa.Double(), nullable=True),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("taker", sa.Text(), nullable=False),
        sa.Column("ready", sa.Boolean(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "session_id IS NULL OR (session_id <> '' AND attempt >= 1)", name=op.f("ck_tasks_holder_attempt")
        ),
        sa.CheckConstraint("(session_id IS NULL) = (deadline_ticks IS NULL)", name=op.f("ck_tasks_deadline")),
        sa.CheckConstraint("(state >= 8) = (finished_at IS NOT NULL)", name=op.f("ck_tasks_finished")),
        sa.CheckConstraint("(state BETWEEN 9 AND 11) = (retryable_until IS NOT NULL)", name=op.f("ck_tasks_retryable")),
        sa.CheckConstraint("(state IN (5, 7)) = (commit_grant IS NOT NULL)", name=op.f("ck_tasks_granted")),
        sa.CheckConstraint(
            "CASE WHEN state >= 8 OR state = 1 THEN NOT head WHEN state = 2 THEN TRUE ELSE head END",
            name=op.f("ck_tasks_head"),
        ),
        sa.CheckConstraint("NOT ready OR (state = 3 AND NOT paused)", name=op.f("ck_tasks_ready")),
        sa.CheckConstraint(
            "attempt >= 0 AND tries >= 0 AND crashes >= 0 AND solo_crashes >= 0", name=op.f("ck_tasks_counts")
        ),
        sa.CheckConstraint("live = (state < 8)", name=op.f("ck_tasks_live")),
        sa.CheckConstraint("destination_key IS NOT NULL OR head OR state >= 8", name=op.f("ck_tasks_headless")),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_tasks_revision")),
        sa.CheckConstraint("session_id IS NULL OR state IN (4, 5, 6, 7)", name=op.f("ck_tasks_holder")),
        sa.CheckConstraint("state <> 6 OR cancel_requested", name=op.f("ck_tasks_cancelling")),
        sa.CheckConstraint("state BETWEEN 1 AND 11", name=op.f("ck_tasks_state")),
        sa.CheckConstraint("state NOT IN (4, 5, 6) OR session_id IS NOT NULL", name=op.f("ck_tasks_held")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_tasks")),
    )
    op.create_index("tasks_creator", "tasks", ["creator", "seq"], unique=False)
    op.create_index("tasks_deadline", "tasks", ["deadline_ticks"], unique=False, **_where("deadline_ticks IS NOT NULL"))
    op.create_index(
        "tasks_delivered",
        "tasks",
        ["destination_key", "seq"],
        unique=False,
        **_where("state = 8 AND destination_key IS NOT NULL"),
    )
    op.create_index("tasks_due", "tasks", ["due_at"], unique=False, **_where("state = 2 AND due_at IS NOT NULL"))
    op.create_index("tasks_expiry", "tasks", ["expires_at"], unique=False, **_where("live IS 1"))
    op.create_index(
        "tasks_head",
        "tasks",
        ["destination_key"],
        unique=True,
        **_where("head IS 1 AND destination_key IS NOT NULL"),
    )
    op.create_index(
        "tasks_concurrency",
        "tasks",
        ["concurrency_key", "taker", sa.text("priority DESC"), "seq"],
        unique=False,
        **_where("state = 3 AND paused IS 0"),
    )
    op.create_index("tasks_concurrency_ready", "tasks", ["concurrency_key"], unique=False, **_where("ready IS 1"))
    op.create_index(
        "tasks_order",
        "tasks",
        ["destination_key", "seq"],
        unique=False,
        **_where("live IS 1 AND destination_key IS NOT NULL"),
    )
    op.create_index(
        "tasks_parked",
        "tasks",
        ["target", "project", "instance"],
        unique=False,
        **_where("state = 2 AND due_at IS NULL"),
    )
    op.create_index("tasks_queue", "tasks", ["queue", "seq"], unique=False, **_where("live IS 1"))
    op.create_index(
        "tasks_ready",
        "tasks",
        ["target", "taker", sa.text("priority DESC"), "seq"],
        unique=False,
        **_where("ready IS 1"),
    )
    op.create_index("tasks_session", "tasks", ["session_id"], unique=False, **_where("session_id IS NOT NULL"))
    op.create_index("tasks_target", "tasks", ["target", "instance", "seq"], unique=False)
    op.create_index(
        "tasks_unsettled",
        "tasks",
        ["target", "kind", "due_at"],
        unique=False,
        **_where("state = 7 AND session_id IS NULL"),
    )


def _uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("promised", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("crc32c", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("connection", sa.BigInteger(), nullable=False),
        sa.Column("touched_at", sa.Double(), nullable=False),
        sa.Column("payload_id", sa.Text(), nullable=True),
        sa.Column("payload_size", sa.BigInteger(), nullable=True),
        sa.Column("payload_crc32c", sa.BigInteger(), nullable=True),
        sa.Column("payload_sha256", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint('"offset" >= 0 AND reserved >= 0 AND promised >= 0', name=op.f("ck_uploads_counts")),
        sa.CheckConstraint("(state = 2) = (payload_id IS NOT NULL)", name=op.f("ck_uploads_payload")),
        sa.CheckConstraint("state BETWEEN 1 AND 3", name=op.f("ck_uploads_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index("uploads_abandoned", "uploads", ["id"], unique=False, **_where("state = 3"))
    op.create_index("uploads_idle", "uploads", ["touched_at"], unique=False, **_where("state = 1"))
    op.create_index("uploads_request", "uploads", ["request_id", "principal"], unique=True, **_where("state != 3"))


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("seq", _seq(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("settling", sa.Boolean(), nullable=False),
        sa.Column("alone", sa.Boolean(), nullable=False),
        sa.Column("granted_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("ending", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("(ended_at IS NULL) = (ending IS NULL)", name=op.f("ck_attempts_ended")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_attempts_number")),
        sa.ForeignKeyConstraint(["seq"], ["tasks.seq"], name=op.f("fk_attempts_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", "number", name=op.f("pk_attempts")),
        sqlite_with_rowid=False,
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", _seq(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["seq"], ["tasks.seq"], name=op.f("fk_events_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", "revision", name=op.f("pk_events")),
        sqlite_with_rowid=False,
    )


def _inline_payloads() -> None:
    op.create_table(
        "inline_payloads",
        sa.Column("payload_id", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["payload_id"], ["payloads.id"], name=op.f("fk_inline_payloads_payload_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("payload_id", name=op.f("pk_inline_payloads")),
    )


def _labels() -> None:
    op.create_table(
        "labels",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("seq", _seq(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["seq"], ["tasks.seq"], name=op.f("fk_labels_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("name", "value", "seq", name=op.f("pk_labels")),
        sqlite_with_rowid=False,
    )
    op.create_index("labels_task", "labels", ["seq"], unique=False)


def _submissions() -> None:
    op.create_table(
        "submissions",
        sa.Column("seq", _seq(), autoincrement=False, nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("work", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("arguments_type", sa.Text(), nullable=True),
        sa.Column("arguments", sa.LargeBinary(), nullable=True),
        sa.Column("payload_id", sa.Text(), nullable=True),
        sa.Column("payload_size", sa.BigInteger(), nullable=True),
        sa.Column("payload_crc32c", sa.BigInteger(), nullable=True),
        sa.Column("payload_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("run_timeout", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint("(payload_id IS NULL) = (payload_size IS NULL)", name=op.f("ck_submissions_payload")),
        sa.ForeignKeyConstraint(["seq"], ["tasks.seq"], name=op.f("fk_submissions_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_submissions")),
    )
    op.create_index(
        "submissions_payload", "submissions", ["payload_id"], unique=False, **_where("payload_id IS NOT NULL")
    )
