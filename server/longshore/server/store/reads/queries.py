"""Reads. Each is a function of a connection; `readers` runs them off the loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from longshore.server.model.task import Attempt, Debt, Destination, Payload, Session, Task, Upload
from longshore.server.model.values import State
from longshore.server.store.protocol import Figures, QueueFigures, TargetFigures
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among, statement
from longshore.server.store.tables import codec
from longshore.server.store.tables.ids import seq_of
from longshore.server.store.tables.rows import (
    ATTEMPT_COLUMNS,
    DEBT_COLUMNS,
    PAYLOAD_COLUMNS,
    SESSION_COLUMNS,
    UPLOAD_COLUMNS,
    attempt_of,
    debt_of,
    payload_of,
    session_of,
    task_columns,
    task_of,
    upload_of,
    whole_upload,
)
from longshore.server.store.tables.schema import (
    attempts,
    counters,
    debts,
    dependencies,
    events,
    has_unmet,
    homes,
    inline_payloads,
    is_alive,
    is_head,
    is_idle,
    is_live,
    is_parked,
    is_queued,
    payloads,
    queues,
    requests,
    sessions,
    submissions,
    tasks,
    uploads,
)
from longshore.server.store.transaction.counters import (
    KIND_QUEUED,
    QUEUE_STATE,
    SPOOL,
    TARGET_QUEUED,
    TARGET_RUNNING,
    UPLOADS,
)

_TASKS: Final = sa.select(*task_columns()).join_from(tasks, submissions, tasks.c.seq == submissions.c.seq)
_TASK: Final = statement(_TASKS.where(tasks.c.seq == sa.bindparam("seq")))
_TASKS_OF_PAYLOAD: Final = statement(
    _TASKS.where(submissions.c.payload_id == sa.bindparam("payload_id")).order_by(tasks.c.seq)
)
_TASKS_BETWEEN: Final = statement(
    _TASKS.where(tasks.c.seq >= sa.bindparam("first"), tasks.c.seq < sa.bindparam("beyond")).order_by(tasks.c.seq)
)
_FIRST: Final = Among(
    lambda keys: sa.union_all(
        sa.select(tasks.c.destination_key, tasks.c.id).where(
            tasks.c.destination_key.in_(keys), is_head, tasks.c.destination_key.is_not(None)
        ),
        sa.select(tasks.c.destination_key, tasks.c.id).where(tasks.c.destination_key.in_(keys), has_unmet),
    )
)
"""Finds heads, and tasks that come after others: the earliest of these is the first of its destination. Ids sort by
acceptance."""
_UNMET: Final = Among(
    lambda keys: (
        sa.select(dependencies.c.seq, sa.func.min(tasks.c.id))
        .join_from(dependencies, tasks, tasks.c.seq == dependencies.c.after_seq)
        .where(dependencies.c.seq.in_(keys))
        .group_by(dependencies.c.seq)
    )
)
_LEFT: Final = statement(
    sa.select(dependencies.c.after_seq)
    .join_from(dependencies, tasks, tasks.c.seq == dependencies.c.after_seq, isouter=True)
    .where(sa.or_(tasks.c.seq.is_(None), tasks.c.live.is_(sa.false())))
    .distinct()
    .order_by(dependencies.c.after_seq)
    .limit(sa.bindparam("most"))
)
_ATTEMPTS: Final = statement(
    sa.select(*ATTEMPT_COLUMNS)
    .where(attempts.c.seq == sa.bindparam("seq"))
    .order_by(attempts.c.number.desc())
    .limit(sa.bindparam("most"))
)
_ATTEMPTS_AFTER: Final = statement(
    sa.select(*ATTEMPT_COLUMNS)
    .where(attempts.c.seq == sa.bindparam("seq"), attempts.c.number > sa.bindparam("after"))
    .order_by(attempts.c.number)
    .limit(sa.bindparam("most"))
)
_HISTORY: Final = statement(
    sa.select(events.c.status)
    .where(events.c.seq == sa.bindparam("seq"), events.c.revision > sa.bindparam("after"))
    .order_by(events.c.revision)
    .limit(sa.bindparam("most"))
)
_UPLOAD: Final = statement(
    sa.select(*UPLOAD_COLUMNS, requests.c.upload_id, requests.c.fingerprint, requests.c.first_seq, requests.c.count)
    .join_from(requests, uploads, uploads.c.id == requests.c.upload_id, isouter=True)
    .where(
        requests.c.request_id == sa.bindparam("request_id"),
        requests.c.principal == sa.bindparam("principal"),
        requests.c.upload_id.is_not(None),
    )
)
_PAYLOAD: Final = statement(sa.select(*PAYLOAD_COLUMNS).where(payloads.c.id == sa.bindparam("payload_id")))
_KEPT_UNTIL: Final = statement(
    sa.select(payloads.c.keep_until).where(payloads.c.id == sa.bindparam("payload_id"), is_idle)
)
_INLINE: Final = statement(
    sa.select(inline_payloads.c.content).where(inline_payloads.c.payload_id == sa.bindparam("payload_id"))
)
_SESSIONS: Final = statement(
    sa.select(*SESSION_COLUMNS).where(is_alive).order_by(sessions.c.worker, sessions.c.started_at, sessions.c.id)
)
_SESSION: Final = statement(sa.select(*SESSION_COLUMNS).where(is_alive, sessions.c.id == sa.bindparam("session_id")))
_ALL_HELD: Final = statement(
    sa.select(tasks.c.session_id, tasks.c.id, tasks.c.attempt)
    .where(tasks.c.session_id.is_not(None))
    # Sorted: by the numbers themselves, a database would look at each task that it remembers.
    .order_by(tasks.c.seq + sa.literal_column("0"))
)
_HELD: Final = statement(
    sa.select(tasks.c.session_id, tasks.c.id, tasks.c.attempt)
    .where(tasks.c.session_id == sa.bindparam("session_id"))
    .order_by(tasks.c.seq + sa.literal_column("0"))
)
_PARKED: Final = statement(
    sa.select(tasks.c.project, tasks.c.instance)
    .where(is_parked, tasks.c.target == sa.bindparam("target"))
    .distinct()
    .order_by(tasks.c.project, tasks.c.instance)
)
_DEBTS: Final = Among(
    lambda keys: (
        sa.select(*DEBT_COLUMNS)
        .where(debts.c.target.in_(keys), debts.c.due_at <= sa.bindparam("now"))
        .order_by(debts.c.due_at, debts.c.id)
        .limit(sa.bindparam("most"))
    )
)
_COUNTERS: Final = statement(sa.select(counters.c.scope, counters.c.name, counters.c.value))
_IN_FIGURES: Final = (*QUEUE_STATE.values(), TARGET_QUEUED, TARGET_RUNNING, KIND_QUEUED, SPOOL[0], UPLOADS[0])
_FIGURES: Final = statement(
    sa.select(counters.c.scope, counters.c.name, counters.c.value).where(
        counters.c.scope.in_([sa.literal_column(f"'{scope}'") for scope in _IN_FIGURES])
    )
)
"""The counters of figures. Others may be many: there is one for each caller, and for each instance that was in use."""
_QUEUES: Final = statement(sa.select(queues.c.name, queues.c.paused))
_OLDEST_QUEUED: Final = statement(
    sa.select(submissions.c.created_at)
    .join_from(tasks, submissions, tasks.c.seq == submissions.c.seq)
    .where(tasks.c.queue >= sa.bindparam("queue"), tasks.c.queue <= sa.bindparam("queue"), is_live, is_queued)
    # Only the index of the queue has this order.
    .order_by(tasks.c.queue, tasks.c.seq)
    .limit(1)
)
_PARKED_COUNTS: Final = statement(sa.select(tasks.c.target, sa.func.count()).where(is_parked).group_by(tasks.c.target))
_DEBT_COUNTS: Final = statement(sa.select(debts.c.target, sa.func.count()).group_by(debts.c.target))
_KNOWN_UPLOADS: Final = Among(
    lambda keys: sa.select(uploads.c.id).where(uploads.c.id.in_(keys), uploads.c.payload_id.is_(None))
)
_KNOWN_PAYLOADS: Final = Among(lambda keys: sa.select(payloads.c.id).where(payloads.c.id.in_(keys)))

_AWAY: Final = Among(
    lambda keys: sa.select(homes.c.id).where(
        homes.c.id.in_(keys), homes.c.spool != "", homes.c.spool != sa.bindparam("spool", type_=sa.Text)
    )
)

_ALL_ATTEMPTS: Final = 2**31 - 1


def task(link: Link, task_id: str, creator: str | None) -> Task | None:
    seq = seq_of(task_id)
    row = None if seq is None else link.row(_TASK, seq=seq)
    if row is None:
        return None
    found = task_of(row)
    mine = creator is None or found.submission.creator == creator
    return found if found.submission.id == task_id and mine else None


def tasks_of_payload(link: Link, payload_id: str) -> Sequence[Task]:
    return [task_of(row) for row in link.rows(_TASKS_OF_PAYLOAD, payload_id=payload_id)]


def blocking(link: Link, keys: Collection[bytes]) -> Mapping[bytes, str]:
    first: dict[bytes, str] = {}
    for digest, task_id in link.among(_FIRST, set(keys)):
        key = bytes(digest)
        first[key] = min(task_id, first.get(key, task_id))
    return first


def unmet(link: Link, task_ids: Sequence[str]) -> Mapping[str, str]:
    if link.dialect.schema.lacks(dependencies):
        return {}
    by_seq = {seq: task_id for task_id in task_ids if (seq := seq_of(task_id)) is not None}
    return {by_seq[seq]: first for seq, first in link.among(_UNMET, sorted(by_seq))}


def left_followers(link: Link, limit: int) -> Sequence[int]:
    if link.dialect.schema.lacks(dependencies):
        return ()
    return [row[0] for row in link.rows(_LEFT, most=limit)]


def attempts_of_task(link: Link, task_id: str, last: int | None) -> Sequence[Attempt]:
    seq = seq_of(task_id)
    if seq is None:
        return []
    rows = link.rows(_ATTEMPTS, seq=seq, most=_ALL_ATTEMPTS if last is None else last)
    return [attempt_of(row) for row in reversed(rows)]


def attempts_after(link: Link, task_id: str, number: int, limit: int) -> Sequence[Attempt]:
    seq = seq_of(task_id)
    if seq is None:
        return []
    return [attempt_of(row) for row in link.rows(_ATTEMPTS_AFTER, seq=seq, after=number, most=limit)]


def attempts_of(link: Link, task_ids: Sequence[str], last: int) -> Mapping[str, Sequence[Attempt]]:
    return {task_id: attempts_of_task(link, task_id, last) for task_id in task_ids}


def history(link: Link, task_id: str, after: int, limit: int) -> Sequence[Task]:
    current = task(link, task_id, None)
    if current is None:
        return []
    submission = current.submission
    rows = link.rows(_HISTORY, seq=submission.seq, after=after, most=limit)
    return [Task(submission, codec.decode_status(row[0])) for row in rows]


def upload(link: Link, principal: str, request_id: str) -> Upload | None:
    row = link.row(_UPLOAD, principal=principal, request_id=request_id)
    if row is None:
        return None
    upload_id, fingerprint, first_seq, count = row[-4:]
    if first_seq is None:
        return upload_of(row[:-4])
    made = tuple(task_of(each) for each in link.rows(_TASKS_BETWEEN, first=first_seq, beyond=first_seq + count))
    if row[0] is not None:
        return replace(upload_of(row[:-4]), tasks=made)
    # Between the two reads the history may be removed.
    return whole_upload(principal, request_id, upload_id, fingerprint, made) if made else None


def payload(link: Link, payload_id: str) -> Payload | None:
    row = link.row(_PAYLOAD, payload_id=payload_id)
    return None if row is None else payload_of(row)


def kept_until(link: Link, payload_id: str) -> float | None:
    row = link.row(_KEPT_UNTIL, payload_id=payload_id)
    return None if row is None else row[0]


def inline_payload(link: Link, payload_id: str) -> bytes | None:
    row = link.row(_INLINE, payload_id=payload_id)
    return None if row is None else bytes(row[0])


def all_sessions(link: Link) -> Sequence[Session]:
    held: dict[str, list[tuple[str, int]]] = {}
    for session_id, task_id, attempt in link.rows(_ALL_HELD):
        held.setdefault(session_id, []).append((task_id, attempt))
    return [session_of(row, tuple(held.get(row[0], ()))) for row in link.rows(_SESSIONS)]


def session(link: Link, session_id: str) -> Session | None:
    row = link.row(_SESSION, session_id=session_id)
    if row is None:
        return None
    held = tuple((task_id, attempt) for _, task_id, attempt in link.rows(_HELD, session_id=session_id))
    return session_of(row, held)


def parked(link: Link, target: str) -> Sequence[Destination]:
    return [Destination(target, project, instance, "") for project, instance in link.rows(_PARKED, target=target)]


def due_debts(link: Link, targets: Sequence[str], limit: int, now: float) -> Sequence[Debt]:
    rows = link.among(_DEBTS, sorted(set(targets)), now=now, most=limit)
    return [debt_of(row) for row in rows[:limit]]


def counted(link: Link) -> dict[tuple[str, str], int]:
    """All counters."""
    return {(scope, name): value for scope, name, value in link.rows(_COUNTERS)}


def figures(link: Link) -> Figures:
    counts = {(scope, name): value for scope, name, value in link.rows(_FIGURES)}
    paused = {name: bool(flag) for name, flag in link.rows(_QUEUES)}
    by_scope: dict[str, dict[str, int]] = {}
    for (scope, name), value in counts.items():
        if value:
            by_scope.setdefault(scope, {})[name] = value
    live: dict[str, dict[State, int]] = {name: {} for name in paused}
    for state, scope in QUEUE_STATE.items():
        for name, value in by_scope.get(scope, {}).items():
            live.setdefault(name, {})[state] = value
    queue_figures = []
    for name in sorted(live):
        oldest = link.row(_OLDEST_QUEUED, queue=name) if State.QUEUED in live[name] else None
        queue_figures.append(
            QueueFigures(name, paused.get(name, False), live[name], None if oldest is None else oldest[0])
        )
    queued, running = by_scope.get(TARGET_QUEUED, {}), by_scope.get(TARGET_RUNNING, {})
    waiting: dict[str, int] = dict(link.rows(_PARKED_COUNTS))
    owed: dict[str, int] = dict(link.rows(_DEBT_COUNTS))
    names = sorted((queued.keys() | running.keys() | waiting.keys() | owed.keys()) - {""})
    return Figures(
        queues=tuple(queue_figures),
        targets=tuple(
            TargetFigures(name, queued.get(name, 0), running.get(name, 0), waiting.get(name, 0), owed.get(name, 0))
            for name in names
        ),
        spool_bytes=counts.get(SPOOL, 0),
        open_uploads=counts.get(UPLOADS, 0),
        queued_kinds=frozenset(by_scope.get(KIND_QUEUED, {})),
    )


def known_files(link: Link, ids: Sequence[str], spool: str | None) -> frozenset[str]:
    wanted = sorted(set(ids))
    known = frozenset(row[0] for what in (_KNOWN_UPLOADS, _KNOWN_PAYLOADS) for row in link.among(what, wanted))
    if spool is None:
        return known
    return known - {row[0] for row in link.among(_AWAY, wanted, spool=spool)}
