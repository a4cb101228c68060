"""The janitor's commands act on due tasks, ended sessions, old history, and payloads that nothing needs any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa

from longshore.server.model.events import Due, ExpiryReached, TimedOut, Verdict
from longshore.server.model.values import SessionEnd, State
from longshore.server.store.commands import (
    DoomPayloads,
    ExtendLeases,
    ForgetPayloads,
    PayDebt,
    PurgeTasks,
    ReapSessions,
    Tick,
    Ticked,
)
from longshore.server.store.handlers.remarks import purge_remarks
from longshore.server.store.handlers.sessions import end_session
from longshore.server.store.handlers.upload_homes import drop_homes, is_here, reached_spools
from longshore.server.store.sql.statement import Among, Statement, locking, statement
from longshore.server.store.tables.rows import Row
from longshore.server.store.tables.schema import (
    STATE,
    debts,
    homes,
    is_alive,
    is_doomed,
    is_idle,
    is_live,
    is_over,
    is_timed,
    is_unsettled,
    is_waiting,
    payloads,
    requests,
    sessions,
    submissions,
    tasks,
    uploads,
)
from longshore.server.store.transaction.counters import SPOOL
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork
from longshore.server.store.transaction.writes import Writes

PUT_OFF: Final = 3600.0
"""Seconds until a payload that nothing needs is looked at again, when no living server has it."""

_DUE: Final = statement(
    sa.select(tasks.c.seq)
    .where(is_timed, tasks.c.due_at <= sa.bindparam("now"))
    .order_by(tasks.c.due_at, tasks.c.seq)
    .limit(sa.bindparam("most"))
)
_EXPIRED: Final = statement(
    sa.select(tasks.c.seq)
    .where(is_live, is_waiting, tasks.c.expires_at <= sa.bindparam("now"))
    .order_by(tasks.c.expires_at, tasks.c.seq)
    .limit(sa.bindparam("most"))
)
_OVERDUE: Final = statement(
    sa.select(tasks.c.seq)
    .where(tasks.c.deadline_ticks.is_not(None), tasks.c.deadline_ticks <= sa.bindparam("ticks"))
    .order_by(tasks.c.deadline_ticks, tasks.c.seq)
    .limit(sa.bindparam("most"))
)
_SETTLE_DUE: Final = statement(
    sa.select(sa.literal_column("1")).where(is_unsettled, tasks.c.due_at <= sa.bindparam("now")).limit(1)
)
_NEXT_DUE: Final = statement(sa.select(sa.func.min(tasks.c.due_at)).where(is_timed))
_NEXT_EXPIRY: Final = statement(
    sa.select(tasks.c.expires_at).where(is_live, is_waiting).order_by(tasks.c.expires_at).limit(1)
)
_NEXT_SETTLING: Final = statement(
    sa.select(sa.func.min(tasks.c.due_at)).where(is_unsettled, tasks.c.due_at > sa.bindparam("now"))
)
_NEXT_DEADLINE: Final = statement(
    sa.select(sa.func.min(tasks.c.deadline_ticks)).where(tasks.c.deadline_ticks.is_not(None))
)
_LEASES_OVER: Final = locking(
    sa.select(sessions.c.id)
    .where(is_alive, sessions.c.lease_ticks <= sa.bindparam("ticks"))
    .order_by(sessions.c.lease_ticks, sessions.c.id)
    .limit(sa.bindparam("most"))
)
_EXTEND_SESSIONS: Final = statement(
    sessions.update().where(is_alive).values(lease_ticks=sa.bindparam("until"), connected=sa.false())
)


def _extend(condition: sa.ColumnElement[bool], patience: sa.ColumnElement[float]) -> Statement:
    return statement(
        tasks.update()
        .where(tasks.c.deadline_ticks.is_not(None), condition)
        .values(deadline_ticks=sa.bindparam("ticks") + patience)
    )


_EXTEND_RUNNING: Final = _extend(
    tasks.c.state.in_((STATE[State.RUNNING], STATE[State.COMMITTING])),
    sa.select(submissions.c.run_timeout).where(submissions.c.seq == tasks.c.seq).scalar_subquery(),
)
_EXTEND_CANCELLING: Final = _extend(tasks.c.state == STATE[State.CANCELLING], sa.bindparam("patience", type_=sa.Double))
_EXTEND_SETTLING: Final = _extend(tasks.c.state == STATE[State.SETTLING], sa.bindparam("patience", type_=sa.Double))

_UNNEEDED: Final = locking(
    sa.select(payloads.c.id, payloads.c.size)
    .where(is_idle, payloads.c.keep_until <= sa.bindparam("now"))
    .order_by(payloads.c.keep_until, payloads.c.id)
    .limit(sa.bindparam("most"))
)
_OLDEST_KEPT: Final = locking(
    sa.select(payloads.c.id, payloads.c.size)
    .where(is_idle)
    .order_by(payloads.c.keep_until, payloads.c.id)
    .limit(sa.bindparam("most"))
)
_at_home: Final = sa.join(payloads, homes, homes.c.id == payloads.c.id, isouter=True)
_is_here: Final = is_here(sa.bindparam("spool", type_=sa.Text))
_UNNEEDED_AT: Final = locking(
    sa.select(payloads.c.id, payloads.c.size, homes.c.spool)
    .select_from(_at_home)
    .where(is_idle, payloads.c.keep_until <= sa.bindparam("now"))
    .order_by(payloads.c.keep_until, payloads.c.id)
    .limit(sa.bindparam("most"))
)
_LATER: Final = statement(
    payloads.update().where(payloads.c.id == sa.bindparam("of_id")).values(keep_until=sa.bindparam("until"))
)
_OLDEST_KEPT_HERE: Final = locking(
    sa.select(payloads.c.id, payloads.c.size)
    .select_from(_at_home)
    .where(is_idle, _is_here)
    .order_by(payloads.c.keep_until, payloads.c.id)
    .limit(sa.bindparam("most"))
)
_DOOM: Final = statement(payloads.update().where(payloads.c.id == sa.bindparam("of_id")).values(doomed=sa.true()))
_DOOMED: Final = statement(
    sa.select(payloads.c.id).where(is_doomed).order_by(payloads.c.id).limit(sa.bindparam("most"))
)
_DOOMED_HERE: Final = statement(
    sa.select(payloads.c.id)
    .select_from(_at_home)
    .where(is_doomed, _is_here)
    .order_by(payloads.c.id)
    .limit(sa.bindparam("most"))
)
_DOOMED_AMONG: Final = Among(
    lambda keys: (
        sa.select(payloads.c.id, payloads.c.size).where(payloads.c.id.in_(keys), is_doomed).order_by(payloads.c.id)
    ),
    lock=True,
)
_DROP_PAYLOAD: Final = statement(payloads.delete().where(payloads.c.id == sa.bindparam("of_id")))

_OVER: Final = locking(
    sa.select(requests.c.request_id, requests.c.principal, requests.c.upload_id, requests.c.first_seq, requests.c.count)
    .where(is_over, requests.c.ended_at <= sa.bindparam("before"))
    .order_by(requests.c.ended_at, requests.c.request_id, requests.c.principal)
    .limit(sa.bindparam("most"))
)
_DROP_TASKS: Final = statement(
    tasks.delete().where(tasks.c.seq >= sa.bindparam("first"), tasks.c.seq < sa.bindparam("beyond"))
)
_DROP_UPLOAD: Final = statement(uploads.delete().where(uploads.c.id == sa.bindparam("of_id")))
_DROP_REQUEST: Final = statement(
    requests.delete().where(
        requests.c.request_id == sa.bindparam("of_request"), requests.c.principal == sa.bindparam("by")
    )
)
_DROP_SESSIONS: Final = statement(
    sessions.delete().where(sessions.c.ended_at.is_not(None), sessions.c.ended_at <= sa.bindparam("before"))
)
_DEBT: Final = locking(
    sa.select(debts.c.temp, debts.c.asked, debts.c.due_at).where(debts.c.id == sa.bindparam("debt_id"))
)
_ASK_AGAIN: Final = statement(
    debts.update().where(debts.c.id == sa.bindparam("of_id")).values(asked=debts.c.asked + 1, due_at=sa.bindparam("at"))
)
_PUT_OFF: Final = statement(debts.update().where(debts.c.id == sa.bindparam("of_id")).values(due_at=sa.bindparam("at")))
_FORGET_DEBT: Final = statement(debts.delete().where(debts.c.id == sa.bindparam("of_id")))

_WORTH_ASKING_TWICE: Final = 1


@handles(Tick, prefetch=None, keeps_memory=False)
def tick(unit: UnitOfWork, command: Tick) -> Callable[[], Ticked]:
    """See Tick."""
    unit.writes.flush()
    reads, apply, link, most = unit.reads, unit.decisions.apply, unit.reads.link, command.limit
    expired = [row[0] for row in link.rows(_EXPIRED, now=reads.now, most=most)]
    due = [row[0] for row in link.rows(_DUE, now=reads.now, most=most)]
    overdue = [row[0] for row in link.rows(_OVERDUE, ticks=reads.ticks, most=most)]
    changed = 0
    for loaded in reads.tasks.load(expired):
        changed += apply(loaded, ExpiryReached()).verdict is Verdict.CHANGED
    for loaded in reads.tasks.load(due):
        changed += apply(loaded, Due()).verdict is Verdict.CHANGED
    for loaded in reads.tasks.load(overdue):
        changed += apply(loaded, TimedOut(loaded.status.attempt)).verdict is Verdict.CHANGED
    if link.row(_SETTLE_DUE, now=reads.now) is not None:
        unit.decisions.claimable = True
    more = max(len(expired), len(due), len(overdue)) >= most

    def answer() -> Ticked:
        times = [
            row[0]
            for row in (link.row(_NEXT_DUE), link.row(_NEXT_EXPIRY), link.row(_NEXT_SETTLING, now=reads.now))
            if row is not None and row[0] is not None
        ]
        deadline = link.row(_NEXT_DEADLINE)
        return Ticked(changed, more, min(times, default=None), None if deadline is None else deadline[0])

    return answer


@handles(ReapSessions, prefetch=None, keeps_memory=False)
def reap_sessions(unit: UnitOfWork, command: ReapSessions) -> Callable[[], tuple[str, ...]]:
    """See ReapSessions."""
    ticks = unit.reads.ticks if command.before is None else min(unit.reads.ticks, command.before)
    over = tuple(row[0] for row in unit.reads.link.rows(_LEASES_OVER, ticks=ticks, most=command.limit))
    for session_id in over:
        end_session(unit, session_id, SessionEnd.LOST)
    return lambda: over


@handles(ExtendLeases, prefetch=None, keeps_memory=False)
def extend_leases(unit: UnitOfWork, command: ExtendLeases) -> Callable[[], None]:
    """See ExtendLeases."""
    writes, policy, ticks = unit.writes, unit.decisions.policy, unit.reads.ticks
    writes.flush()
    writes.tell(_EXTEND_SESSIONS, until=ticks + command.lease)
    writes.tell(_EXTEND_RUNNING, ticks=ticks)
    writes.tell(_EXTEND_CANCELLING, ticks=ticks, patience=policy.cancel_grace)
    writes.tell(_EXTEND_SETTLING, ticks=ticks, patience=policy.settle_timeout)
    unit.reads.tasks.reread()
    unit.reads.sessions.clear()
    return lambda: None


@handles(DoomPayloads, prefetch=None, keeps_memory=False)
def doom_payloads(unit: UnitOfWork, command: DoomPayloads) -> Callable[[], tuple[str, ...]]:
    """See DoomPayloads."""
    unit.writes.flush()
    link = unit.reads.link
    spool = command.spool
    if spool is not None:
        return _doom_at(unit, command, spool)
    freed = 0
    for payload_id, size in link.rows(_UNNEEDED, now=unit.reads.now, most=command.limit):
        unit.writes.tell(_DOOM, of_id=payload_id)
        freed += size
    if freed < command.free:
        _evict(unit.writes, link.rows(_OLDEST_KEPT, most=command.limit), command.free - freed)
    doomed = tuple(row[0] for row in link.rows(_DOOMED, most=command.limit))
    return lambda: doomed


def _doom_at(unit: UnitOfWork, command: DoomPayloads, spool: str) -> Callable[[], tuple[str, ...]]:
    """Mark payloads that nothing needs, where several servers share the database. The server that has it removes it.

    A payload that no living server has is put off instead. If it were marked, every server would look at it after every
    task: 50,000 payloads of a lost server took 0.85 s each time.
    """
    link = unit.reads.link
    freed = 0
    reached: frozenset[str] | None = None
    for payload_id, size, home in link.rows(_UNNEEDED_AT, now=unit.reads.now, most=command.limit):
        if home in (None, "", spool):
            unit.writes.tell(_DOOM, of_id=payload_id)
            freed += size
            continue
        if reached is None:
            reached = reached_spools(unit.reads)
        if home in reached:
            unit.writes.tell(_DOOM, of_id=payload_id)
        else:
            unit.writes.tell(_LATER, of_id=payload_id, until=unit.reads.now + PUT_OFF)
    if freed < command.free:
        _evict(unit.writes, link.rows(_OLDEST_KEPT_HERE, most=command.limit, spool=spool), command.free - freed)
    doomed = tuple(row[0] for row in link.rows(_DOOMED_HERE, most=command.limit, spool=spool))
    return lambda: doomed


def _evict(writes: Writes, oldest: Sequence[Row], wanted: int) -> None:
    for payload_id, size in oldest:
        if wanted <= 0:
            break
        writes.tell(_DOOM, of_id=payload_id)
        wanted -= size


@handles(ForgetPayloads, prefetch=None, keeps_memory=False)
def forget_payloads(unit: UnitOfWork, command: ForgetPayloads) -> Callable[[], None]:
    """See ForgetPayloads."""
    forgotten = unit.reads.link.among(_DOOMED_AMONG, sorted(set(command.payload_ids)))
    for payload_id, size in forgotten:
        unit.writes.tell(_DROP_PAYLOAD, of_id=payload_id)
        unit.writes.move(SPOOL, -size)
    if command.homes:
        drop_homes(unit.writes, [row[0] for row in forgotten])
    return lambda: None


@handles(PurgeTasks, prefetch=None, keeps_memory=False)
def purge_tasks(unit: UnitOfWork, command: PurgeTasks) -> Callable[[], int]:
    """See PurgeTasks. Rows that refer to a task go with it (ON DELETE CASCADE)."""
    reads, writes = unit.reads, unit.writes
    writes.flush()
    before = reads.now - command.age
    purged = 0
    over = reads.link.rows(_OVER, before=before, most=command.limit)
    for request_id, principal, upload_id, first_seq, count in over:
        if (principal, request_id) in reads.requests:
            # A command of this batch has found the request, and answers with its tasks at the end: the next purge
            # takes them.
            continue
        if first_seq is not None:
            purged += writes.run(_DROP_TASKS, first=first_seq, beyond=first_seq + count)
        if upload_id is not None:
            reads.uploads.forget(upload_id)
            writes.tell(_DROP_UPLOAD, of_id=upload_id)
        reads.requests.forget((principal, request_id))
        writes.tell(_DROP_REQUEST, of_request=request_id, by=principal)
        if purged >= command.limit:
            break
    writes.tell(_DROP_SESSIONS, before=before)
    purge_remarks(unit, before)
    reads.sessions.clear()
    reads.counters.drop_empty_keys()
    return lambda: purged


@handles(PayDebt, prefetch=None, keeps_memory=False)
def pay_debt(unit: UnitOfWork, command: PayDebt) -> Callable[[], None]:
    """See PayDebt."""
    unit.writes.flush()
    row = unit.reads.link.row(_DEBT, debt_id=command.debt_id)
    if row is not None:
        temp, asked, due_at = row
        if not temp and due_at > unit.reads.now:
            pass  # Another server had the debt paid too, or put it off: the debt is asked for when it is due again.
        elif not command.paid:
            unit.writes.tell(_PUT_OFF, of_id=command.debt_id, at=unit.reads.now + command.again)
        elif not temp and asked < _WORTH_ASKING_TWICE:
            unit.writes.tell(_ASK_AGAIN, of_id=command.debt_id, at=unit.reads.now + command.again)
        else:
            unit.writes.tell(_FORGET_DEBT, of_id=command.debt_id)
    return lambda: None
