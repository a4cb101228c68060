"""This module defines the tables, with every rule that the database can check by itself.

Enumerations are stored as their numbers, times as seconds in double precision. Two rules for changes to this page:
a query finds a partial index only when it repeats the index's condition word for word, with literals and not with
parameters, so conditions have names here; and each change needs a migration (see `migrations`).
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from longshore.server.model.values import State, UploadState

REVISION: Final = "0005"
"""The migration that makes this schema."""

SINCE: Final = "since"
"""The key in the `info` of a column or table for the revision that brought it, as long as servers work on the schema
before. A statement that names such a column runs there, too: see `SchemaState.adapted`."""

metadata: Final = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# SQLite makes a primary key its row id only when the type reads INTEGER.
_Seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _in(*states: State) -> str:
    return "(" + ", ".join(str(state.value) for state in states) + ")"


_HELD: Final = (State.RUNNING, State.COMMITTING, State.CANCELLING)
_FIRST_TERMINAL: Final = State.SUCCEEDED.value

tasks: Final = sa.Table(
    "tasks",
    metadata,
    # The columns of the submission that indexes and claims need.
    sa.Column("seq", _Seq, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("creator", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("instance", sa.Text, nullable=False),
    sa.Column("concurrency_key", sa.Text, nullable=False),  # the instance for limits; empty if there is none
    sa.Column(
        "destination_key", sa.LargeBinary
    ),  # digest of the destination's key: PostgreSQL indexes no 4 KiB and knows no NUL
    sa.Column("expires_at", sa.Double, nullable=False),
    # The status.
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("head", sa.Boolean, nullable=False),
    sa.Column("wait_reason", sa.SmallInteger, nullable=False),
    sa.Column("due_at", sa.Double),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("crashes", sa.Integer, nullable=False),
    sa.Column("solo_crashes", sa.Integer, nullable=False),
    sa.Column("alone", sa.Boolean, nullable=False),
    sa.Column("session_id", sa.Text),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("deadline_ticks", sa.Double),
    sa.Column("commit_grant", sa.Text),  # JSON
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("cancel_reason", sa.Text, nullable=False),
    sa.Column("error", sa.Text),  # JSON
    sa.Column("result_type", sa.Text),
    sa.Column("result", sa.LargeBinary),
    sa.Column("method", sa.SmallInteger, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.Column("retryable_until", sa.Double),
    # Columns for claims; they are no part of the status.
    sa.Column("live", sa.Boolean, nullable=False),  # apart from `state`, so that moving on touches fewer indexes
    sa.Column("taker", sa.Text, nullable=False),  # the kind of worker it waits for: see `rows.taker_of`
    sa.Column("ready", sa.Boolean, nullable=False),  # its instance has room for it
    sa.Column("paused", sa.Boolean, nullable=False),  # its queue was paused when it was QUEUED
    # The request's id, for lists. NULL in rows that were made before schema 0004.
    sa.Column("batch", sa.Text),
    # NULL in rows of schemas before, and in those of a server of the version before: not exclusive, not superseded.
    sa.Column("exclusive", sa.Boolean, info={SINCE: 5}),  # nothing of its instance may run beside it
    sa.Column("superseded_by", sa.Text, info={SINCE: 5}),  # the id of the later task
    # Parts of the status, NULL where they have their defaults.
    sa.Column("unmet", sa.Integer, info={SINCE: 5}),
    sa.Column("followed", sa.Boolean, info={SINCE: 5}),
    sa.CheckConstraint(f"state BETWEEN {State.BLOCKED.value} AND {State.EXPIRED.value}", name="state"),
    sa.CheckConstraint("revision >= 1", name="revision"),
    sa.CheckConstraint("attempt >= 0 AND tries >= 0 AND crashes >= 0 AND solo_crashes >= 0", name="counts"),
    sa.CheckConstraint(f"live = (state < {_FIRST_TERMINAL})", name="live"),
    sa.CheckConstraint(f"(state >= {_FIRST_TERMINAL}) = (finished_at IS NOT NULL)", name="finished"),
    sa.CheckConstraint(
        f"(state BETWEEN {State.FAILED.value} AND {State.EXPIRED.value}) = (retryable_until IS NOT NULL)",
        name="retryable",
    ),
    sa.CheckConstraint(f"state NOT IN {_in(*_HELD)} OR session_id IS NOT NULL", name="held"),
    sa.CheckConstraint(f"session_id IS NULL OR state IN {_in(*_HELD, State.SETTLING)}", name="holder"),
    sa.CheckConstraint("session_id IS NULL OR (session_id <> '' AND attempt >= 1)", name="holder_attempt"),
    sa.CheckConstraint("(session_id IS NULL) = (deadline_ticks IS NULL)", name="deadline"),
    sa.CheckConstraint(
        f"(state IN {_in(State.COMMITTING, State.SETTLING)}) = (commit_grant IS NOT NULL)", name="granted"
    ),
    sa.CheckConstraint(
        f"CASE WHEN state >= {_FIRST_TERMINAL} OR state = {State.BLOCKED.value} THEN NOT head "
        f"WHEN state = {State.SCHEDULED.value} THEN TRUE ELSE head END",
        name="head",
    ),
    sa.CheckConstraint(f"destination_key IS NOT NULL OR head OR state >= {_FIRST_TERMINAL}", name="headless"),
    sa.CheckConstraint(f"state <> {State.CANCELLING.value} OR cancel_requested", name="cancelling"),
    sa.CheckConstraint(f"NOT ready OR (state = {State.QUEUED.value} AND NOT paused)", name="ready"),
)

STATE: Final[dict[State, sa.ColumnElement[int]]] = {state: sa.literal_column(str(state.value)) for state in State}

is_waiting: Final = tasks.c.state <= STATE[State.QUEUED]

# Conditions of partial indexes. SQLite writes an index anew whenever a statement sets a column that the index or its
# condition names, changed or not: columns that seldom change (`live`, `head`) are set by statements of their own.
is_live: Final = tasks.c.live.is_(sa.true())
is_ended: Final = tasks.c.live.is_(sa.false())
is_head: Final = tasks.c.head.is_(sa.true())
is_ready: Final = tasks.c.ready.is_(sa.true())
is_queued: Final = tasks.c.state == STATE[State.QUEUED]
is_offered: Final = sa.and_(is_queued, tasks.c.paused.is_(sa.false()))
has_unmet: Final = tasks.c.unmet.is_not(None)
is_delivered: Final = tasks.c.state == STATE[State.SUCCEEDED]
is_timed: Final = sa.and_(tasks.c.state == STATE[State.SCHEDULED], tasks.c.due_at.is_not(None))
is_parked: Final = sa.and_(tasks.c.state == STATE[State.SCHEDULED], tasks.c.due_at.is_(None))
is_unsettled: Final = sa.and_(tasks.c.state == STATE[State.SETTLING], tasks.c.session_id.is_(None))


def _index(name: str, *columns: sa.ColumnElement[object], where: sa.ColumnElement[bool], unique: bool = False) -> None:
    sa.Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_has_destination: Final = tasks.c.destination_key.is_not(None)
_index("tasks_head", tasks.c.destination_key, where=sa.and_(is_head, _has_destination), unique=True)
_index("tasks_unmet", tasks.c.destination_key, where=has_unmet)
_index("tasks_order", tasks.c.destination_key, tasks.c.seq, where=sa.and_(is_live, _has_destination))
_index("tasks_delivered", tasks.c.destination_key, tasks.c.seq, where=sa.and_(is_delivered, _has_destination))
_index(
    "tasks_concurrency", tasks.c.concurrency_key, tasks.c.taker, tasks.c.priority.desc(), tasks.c.seq, where=is_offered
)
_index("tasks_concurrency_ready", tasks.c.concurrency_key, where=is_ready)
_index("tasks_ready", tasks.c.target, tasks.c.taker, tasks.c.priority.desc(), tasks.c.seq, where=is_ready)
_index("tasks_due", tasks.c.due_at, where=is_timed)
_index("tasks_expiry", tasks.c.expires_at, where=is_live)
_index("tasks_deadline", tasks.c.deadline_ticks, where=tasks.c.deadline_ticks.is_not(None))
_index("tasks_session", tasks.c.session_id, where=tasks.c.session_id.is_not(None))
_index("tasks_unsettled", tasks.c.target, tasks.c.kind, tasks.c.due_at, where=is_unsettled)
_index("tasks_parked", tasks.c.target, tasks.c.project, tasks.c.instance, tasks.c.seq, where=is_parked)
_index("tasks_queue", tasks.c.queue, tasks.c.seq, where=is_live)
# Exclusive tasks that may be offered, and few others: `head` and `exclusive` seldom change, as `state` does.
is_exclusive_head: Final = sa.and_(tasks.c.exclusive.is_(sa.true()), is_head)
_index("tasks_exclusive", tasks.c.concurrency_key, tasks.c.seq, where=is_exclusive_head)
_index("tasks_batch", tasks.c.batch, where=tasks.c.batch.is_not(None))
sa.Index("tasks_creator", tasks.c.creator, tasks.c.seq)
# Lists: see `reads.lists`. An index for ended tasks is written once for each. The one of live tasks has a condition
# that all fulfil and only lists repeat: PostgreSQL would take it for what the others of live tasks are for.
is_listed: Final = tasks.c.seq > sa.literal_column("0")
_index("tasks_live", tasks.c.seq, where=sa.and_(is_live, is_listed))
_index("tasks_ended", tasks.c.state, tasks.c.seq, where=is_ended)
_index("tasks_queue_ended", tasks.c.queue, tasks.c.seq, where=is_ended)
_index("tasks_instance", tasks.c.instance, tasks.c.seq, where=tasks.c.instance != sa.literal_column("''"))
sa.Index("tasks_on_target", tasks.c.target, tasks.c.seq)
sa.Index("tasks_kind", tasks.c.kind, tasks.c.seq)


def _task_key() -> sa.Column[int]:
    return sa.Column("seq", _Seq, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), nullable=False)


submissions: Final = sa.Table(
    "submissions",
    metadata,
    # The rest of the submission: apart, because a task's row is written anew at each change.
    sa.Column("seq", _Seq, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("work", sa.Text, nullable=False),  # JSON
    sa.Column("details", sa.Text, nullable=False),  # JSON: what no query looks at; see `rows.details_of`
    sa.Column("arguments_type", sa.Text),
    sa.Column("arguments", sa.LargeBinary),
    sa.Column("payload_id", sa.Text),
    sa.Column("payload_size", sa.BigInteger),
    sa.Column("payload_crc32c", sa.BigInteger),
    sa.Column("payload_sha256", sa.LargeBinary),
    sa.Column("run_timeout", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.CheckConstraint("(payload_id IS NULL) = (payload_size IS NULL)", name="payload"),
)
sa.Index(
    "submissions_payload",
    submissions.c.payload_id,
    sqlite_where=submissions.c.payload_id.is_not(None),
    postgresql_where=submissions.c.payload_id.is_not(None),
)

dependencies: Final = sa.Table(
    "dependencies",
    metadata,
    # A live task that another one waits for. The row goes when `after_seq` has ended and `seq` was told.
    sa.Column("after_seq", _Seq, primary_key=True, autoincrement=False),
    sa.Column("seq", _Seq, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    info={SINCE: 5},
    sqlite_with_rowid=False,
)
sa.Index("dependencies_task", dependencies.c.seq)

labels: Final = sa.Table(
    "labels",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, primary_key=True),
    sa.Column("seq", _Seq, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)
sa.Index("labels_task", labels.c.seq)

events: Final = sa.Table(
    "events",
    metadata,
    sa.Column("seq", _Seq, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("status", sa.Text, nullable=False),  # JSON
    sqlite_with_rowid=False,
)

attempts: Final = sa.Table(
    "attempts",
    metadata,
    sa.Column("seq", _Seq, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("settling", sa.Boolean, nullable=False),
    sa.Column("alone", sa.Boolean, nullable=False),
    sa.Column("granted_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("ending", sa.Text),
    sa.Column("error", sa.Text),  # JSON
    sa.CheckConstraint("number >= 1", name="number"),
    sa.CheckConstraint("(ended_at IS NULL) = (ending IS NULL)", name="ended"),
    sqlite_with_rowid=False,
)

requests: Final = sa.Table(
    "requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("upload_id", sa.Text),  # of requests that came with bytes
    # Its tasks are numbered without gaps: made in one transaction, in the order of the request.
    sa.Column("first_seq", sa.BigInteger),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("live", sa.Integer, nullable=False),
    sa.Column("ended_at", sa.Double),  # when the newest of the ended tasks ended
    sa.CheckConstraint("live >= 0 AND live <= count", name="live"),
    sa.CheckConstraint("(first_seq IS NULL) = (count = 0)", name="tasks"),
    sqlite_with_rowid=False,
)
sa.Index(
    "requests_ended",
    requests.c.ended_at,
    sqlite_where=sa.and_(requests.c.live == sa.literal_column("0"), requests.c.ended_at.is_not(None)),
    postgresql_where=sa.and_(requests.c.live == sa.literal_column("0"), requests.c.ended_at.is_not(None)),
)
is_over: Final = sa.and_(requests.c.live == sa.literal_column("0"), requests.c.ended_at.is_not(None))

uploads: Final = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("promised", sa.Integer, nullable=False),  # slots in the queue
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("crc32c", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("connection", sa.BigInteger, nullable=False),
    sa.Column("touched_at", sa.Double, nullable=False),
    sa.Column("payload_id", sa.Text),
    sa.Column("payload_size", sa.BigInteger),
    sa.Column("payload_crc32c", sa.BigInteger),
    sa.Column("payload_sha256", sa.LargeBinary),
    sa.CheckConstraint("state BETWEEN 1 AND 3", name="state"),
    sa.CheckConstraint('"offset" >= 0 AND reserved >= 0 AND promised >= 0', name="counts"),
    sa.CheckConstraint(f"(state = {UploadState.COMPLETE.value}) = (payload_id IS NOT NULL)", name="payload"),
)
is_open: Final = uploads.c.state == sa.literal_column(str(UploadState.OPEN.value))
is_abandoned: Final = uploads.c.state == sa.literal_column(str(UploadState.ABANDONED.value))
_kept: Final = uploads.c.state != sa.literal_column(str(UploadState.ABANDONED.value))
sa.Index(
    "uploads_request",
    uploads.c.request_id,
    uploads.c.principal,
    unique=True,
    sqlite_where=_kept,
    postgresql_where=_kept,
)
sa.Index("uploads_idle", uploads.c.touched_at, sqlite_where=is_open, postgresql_where=is_open)
sa.Index("uploads_abandoned", uploads.c.id, sqlite_where=is_abandoned, postgresql_where=is_abandoned)

payloads: Final = sa.Table(
    "payloads",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("crc32c", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("live", sa.Integer, nullable=False),  # live tasks that need it
    sa.Column("keep_until", sa.Double, nullable=False),  # for retries
    sa.Column("doomed", sa.Boolean, nullable=False),
    sa.CheckConstraint("size >= 0", name="size"),
    sa.CheckConstraint("live >= 0 AND (NOT doomed OR live = 0)", name="live"),
)
is_idle: Final = sa.and_(payloads.c.live == sa.literal_column("0"), payloads.c.doomed.is_(sa.false()))
is_doomed: Final = payloads.c.doomed.is_(sa.true())
sa.Index("payloads_idle", payloads.c.keep_until, sqlite_where=is_idle, postgresql_where=is_idle)
sa.Index("payloads_doomed", payloads.c.id, sqlite_where=is_doomed, postgresql_where=is_doomed)

inline_payloads: Final = sa.Table(
    "inline_payloads",
    metadata,
    sa.Column("payload_id", sa.Text, sa.ForeignKey("payloads.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

sessions: Final = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("targets", sa.Text, nullable=False),  # JSON
    sa.Column("kinds", sa.Text, nullable=False),  # JSON
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("lease_ticks", sa.Double, nullable=False),
    sa.Column("connected", sa.Boolean, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False),
    # An ended session stays a while: its epochs must not be counted from 1 again if its process comes back.
    sa.Column("ended_at", sa.Double),
    # The revision of the contract that the worker knows. NULL is 0: a server of the version before wrote the row.
    sa.Column("revision", sa.Integer, info={SINCE: 5}),
    sa.CheckConstraint("epoch >= 1", name="epoch"),
    sa.CheckConstraint("ended_at IS NULL OR NOT connected", name="ended"),
)
is_alive: Final = sessions.c.ended_at.is_(None)
sa.Index("sessions_lease", sessions.c.lease_ticks, sqlite_where=is_alive, postgresql_where=is_alive)

targets: Final = sa.Table(
    "targets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("identity", sa.Text, nullable=False),
)

queues: Final = sa.Table(
    "queues",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("paused", sa.Boolean, nullable=False),
)

debts: Final = sa.Table(
    "debts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("instance", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("task_id", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("temp", sa.Text, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Column("asked", sa.Integer, nullable=False),  # times it was paid already
)
sa.Index("debts_due", debts.c.target, debts.c.due_at)

counters: Final = sa.Table(
    "counters",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.CheckConstraint("value >= 0", name="value"),
    sqlite_with_rowid=False,
)

sequence: Final = sa.Table(
    "sequence",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
"""The row `tasks` has the last `seq` that was given away. `probe` is written to learn whether writing works. `database`
is the identity of the database, a random number, made when it is first asked for."""

# Several servers ----------------------------------------------------------------------------------------------------
# Tables of their own, so that a server of this version works on a database without them: see `migrate`.

homes: Final = sa.Table(
    "homes",
    metadata,
    # Uploads, and the payloads they become, that have a file in a spool; on databases of several servers only.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("spool", sa.Text, nullable=False),  # the spool's identity; empty while no spool has its file
    sa.Column("sender", sa.Text, nullable=False),  # the server whose connection sends it; empty if none does
    sa.Column("heard_at", sa.Double, nullable=False),  # when that server last heard from its connection
)
sa.Index("homes_spool", homes.c.spool, homes.c.id)

servers: Final = sa.Table(
    "servers",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("address", sa.Text, nullable=False),  # where workers reach this very server
    sa.Column("spool", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("seen_ticks", sa.Double, nullable=False),  # its last sign of life
    sa.Column("revision", sa.Integer, info={SINCE: 5}),  # of the contract that it knows; NULL: it is of before
)

tokens: Final = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),  # the principal; several tokens may have the same
    sa.Column("digest", sa.LargeBinary, nullable=False),  # SHA-256 of the secret
    sa.Column("roles", sa.Text, nullable=False),  # by name, with commas
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.CheckConstraint("name <> '' AND roles <> ''", name="given"),
)

# Remarks of workers, and workers that are gone ----------------------------------------------------------------------
# Tables of their own, for the same reason.

remarks: Final = sa.Table(
    "remarks",
    metadata,
    # What a session says of itself, and how it ended. No foreign key: a server of the version before drops sessions.
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("credits", sa.Integer),  # NULL if it has not said
    sa.Column("problems", sa.Text, nullable=False),  # JSON: targets that it cannot use
    sa.Column("ending", sa.SmallInteger, nullable=False),  # model.values.SessionEnd; 0 while it lives
    sa.CheckConstraint("ending BETWEEN 0 AND 3", name="ending"),
)

served: Final = sa.Table(
    "served",
    metadata,
    # The session that ended last among those that served a target.
    sa.Column("target", sa.Text, primary_key=True),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("until_at", sa.Double, nullable=False),
)
