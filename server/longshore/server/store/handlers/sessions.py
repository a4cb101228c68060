"""Commands of sessions: registration, leases, grants, reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import EpochSuperseded, Forbidden, NotFound, TargetIdentity
from longshore.server.model.events import Began, Due, GrantAsked, SessionLost, Verdict
from longshore.server.model.records import changed
from longshore.server.model.task import Grant, Session, Status
from longshore.server.model.values import SessionEnd, State, WaitReason
from longshore.server.store.commands import (
    BeginAnswer,
    BeginAttempts,
    Disconnect,
    DrainSession,
    FileReports,
    GrantAnswer,
    NoteRemark,
    OpenSession,
    PayDebt,
    RenewLeases,
    RequestGrants,
    SessionOpened,
    WakeParked,
    Woken,
)
from longshore.server.store.handlers.remarks import forget_end, note_end, write_remark
from longshore.server.store.sql.statement import Among, Statement, locking, statement
from longshore.server.store.tables import codec
from longshore.server.store.tables.rows import SESSION_COLUMNS, session_of
from longshore.server.store.tables.schema import debts, is_alive, is_parked, sessions, targets, tasks
from longshore.server.store.transaction.loaded_task import LoadedTask
from longshore.server.store.transaction.unit import UnitOfWork

_FIND: Final = Among(
    lambda keys: (
        sa.select(*SESSION_COLUMNS, sessions.c.ended_at).where(sessions.c.id.in_(keys)).order_by(sessions.c.id)
    ),
    lock=True,
)
_OTHERS: Final = statement(
    sa.select(sessions.c.id, sessions.c.targets)
    .where(is_alive, sessions.c.id != sa.bindparam("but"))
    .order_by(sessions.c.id)
)
_HELD: Final = statement(
    sa.select(tasks.c.seq).where(tasks.c.session_id == sa.bindparam("session_id")).order_by(tasks.c.seq)
)
_INSERT: Final = statement(sessions.insert())
_REOPEN: Final = statement(
    sessions.update()
    .where(sessions.c.id == sa.bindparam("of_id"))
    .values(
        {
            name: sa.bindparam(name)
            for name in ("worker", "epoch", "targets", "kinds", "version", "started_at", "lease_ticks")
        }
        | {"connected": sa.true(), "ended_at": sa.null()}
    )
)
_RENEW: Final = statement(
    sessions.update()
    .where(sessions.c.id == sa.bindparam("of_id"), sessions.c.epoch == sa.bindparam("of_epoch"), is_alive)
    .values(lease_ticks=sa.bindparam("until"))
)
_DISCONNECT: Final = statement(
    sessions.update()
    .where(sessions.c.id == sa.bindparam("of_id"), sessions.c.epoch == sa.bindparam("of_epoch"))
    .values(connected=sa.false())
)
_END: Final = statement(
    sessions.update()
    .where(sessions.c.id == sa.bindparam("of_id"), is_alive)
    .values(connected=sa.false(), ended_at=sa.bindparam("at"))
)
_DRAIN: Final = statement(sessions.update().where(sessions.c.id == sa.bindparam("of_id")).values(draining=sa.true()))
_IDENTITY: Final = locking(sa.select(targets.c.identity).where(targets.c.name == sa.bindparam("target")))
_MAKE_TARGET: Final = Statement(
    lambda dialect: dialect.insert_missing(targets).values(name=sa.bindparam("called"), identity=sa.bindparam("is_now"))
)
_BIND_TARGET: Final = statement(
    targets.update().where(targets.c.name == sa.bindparam("called")).values(identity=sa.bindparam("is_now"))
)
_RAN_THERE: Final = statement(
    sa.select(sa.literal_column("1")).where(tasks.c.target == sa.bindparam("target"), tasks.c.attempt > 0).limit(1)
)
_waits_for: Final = tasks.c.wait_reason.in_((sa.bindparam("one"), sa.bindparam("other")))
_PARKED: Final = statement(
    sa.select(tasks.c.seq)
    .where(
        is_parked,
        tasks.c.target == sa.bindparam("target"),
        tasks.c.project == sa.bindparam("project"),
        tasks.c.instance == sa.bindparam("instance"),
        _waits_for,
    )
    .order_by(tasks.c.seq)
    .limit(sa.bindparam("most"))
)
_PARKED_ON_TARGET: Final = statement(
    sa.select(tasks.c.seq)
    .where(is_parked, tasks.c.target == sa.bindparam("target"), _waits_for)
    .order_by(tasks.c.project, tasks.c.instance, tasks.c.seq)
    .limit(sa.bindparam("most"))
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


def find_session(unit: UnitOfWork, session_id: str) -> tuple[Session, bool] | None:
    """The session without what it holds, and whether it is alive."""
    if session_id not in unit.sessions:
        ask_sessions(unit, (session_id,))()
    return unit.sessions[session_id]


def remembered_session(unit: UnitOfWork, session_id: str) -> tuple[Session, bool] | None:
    """Return the session as it is remembered, without a query. Its lease may have been renewed since."""
    return None if unit.memory is None else unit.memory.sessions.get(session_id)


def ask_sessions(unit: UnitOfWork, session_ids: Iterable[str]) -> Callable[[], None]:
    """Ask in one statement for these sessions; known once what comes back is called, until they are changed."""
    wanted = sorted(set(session_ids))
    found = unit.link.ask_among(_FIND, wanted)

    def take() -> None:
        unit.sessions.update(dict.fromkeys(wanted))
        for row in found.rows():
            session = session_of(row[:-1])
            unit.sessions[session.id] = (session, row[-1] is None)

    return take


def session_at(unit: UnitOfWork, session_id: str, epoch: int) -> Session | None:
    """The session, if it is alive and this is its newest connection."""
    found = remembered_session(unit, session_id)
    if found is None:
        found = find_session(unit, session_id)
        if found is not None and unit.memory is not None and unit.memory.keeps_memory:
            unit.memory.sessions[session_id] = found
    return found[0] if found is not None and found[1] and found[0].epoch == epoch else None


def held_by(unit: UnitOfWork, session_id: str) -> list[LoadedTask]:
    """The tasks that the session holds now."""
    known = {loaded.submission.seq for loaded in unit.loaded() if loaded.status.session_id == session_id}
    stored = {row[0] for row in unit.link.rows(_HELD, session_id=session_id)}
    return [loaded for loaded in unit.load(known | stored) if loaded.status.session_id == session_id]


def with_held(unit: UnitOfWork, session: Session) -> Session:
    held = tuple((loaded.submission.id, loaded.status.attempt) for loaded in held_by(unit, session.id))
    return replace(session, held=held)


def end_session(unit: UnitOfWork, session_id: str, how: SessionEnd) -> None:
    """End the session; the attempts that it holds are lost. A session that LEFT had handed back those it knew of."""
    for loaded in held_by(unit, session_id):
        unit.apply(loaded, SessionLost(session_id, loaded.status.attempt, crash=how is not SessionEnd.LEFT))
    found = find_session(unit, session_id)
    unit.sessions.pop(session_id, None)
    if unit.change(_END, of_id=session_id, at=unit.now):
        unit.sessions_ended.append(session_id)
        if found is not None:
            note_end(unit, found[0], how)


def open_session(unit: UnitOfWork, command: OpenSession) -> Callable[[], SessionOpened]:
    """See OpenSession."""
    found = find_session(unit, command.session_id)
    if found is not None and found[0].principal != command.principal:
        raise Forbidden("The session belongs to another principal.", session_id=command.session_id)
    newest = 0 if found is None else found[0].epoch
    if command.epoch and command.epoch <= newest:
        raise EpochSuperseded(
            "The session has connected anew; this hello came too late.", session_id=command.session_id
        )
    dead = _dead_sessions(unit, command)
    _check_identities(unit, command, dead)
    for session_id in dead:
        end_session(unit, session_id, SessionEnd.REPLACED)
    _bind_identities(unit, command)
    session = Session(
        id=command.session_id,
        worker=command.worker,
        principal=command.principal,
        epoch=command.epoch or newest + 1,
        targets=command.targets,
        kinds=command.kinds,
        version=command.version,
        started_at=found[0].started_at if found is not None and found[1] else unit.now,
        lease_ticks=unit.ticks + command.lease,
        draining=found is not None and found[0].draining,
    )
    values = {
        "worker": session.worker,
        "epoch": session.epoch,
        "targets": codec.encode_map(session.targets),
        "kinds": codec.encode_map(session.kinds),
        "version": session.version,
        "started_at": session.started_at,
        "lease_ticks": session.lease_ticks,
    }
    unit.sessions.pop(session.id, None)
    if found is None:
        unit.write(
            _INSERT, id=session.id, principal=session.principal, connected=True, draining=False, ended_at=None, **values
        )
    else:
        unit.write(_REOPEN, of_id=session.id, **values)
        forget_end(unit, session.id)
    named = set(command.held)
    for loaded in held_by(unit, session.id):
        if (loaded.submission.id, loaded.status.attempt) not in named:
            unit.apply(loaded, SessionLost(session.id, loaded.status.attempt, crash=False))
    opened = with_held(unit, session)
    return lambda: SessionOpened(opened)


def _dead_sessions(unit: UnitOfWork, command: OpenSession) -> list[str]:
    dead = []
    for session_id in sorted(set(command.dead_sessions) - {command.session_id}):
        found = find_session(unit, session_id)
        if found is not None and found[1] and found[0].principal == command.principal:
            dead.append(session_id)
    return dead


def _check_identities(unit: UnitOfWork, command: OpenSession, dead: list[str]) -> None:
    others: list[dict[str, str]] | None = None
    for name, identity in sorted(command.targets.items()):
        row = unit.link.row(_IDENTITY, target=name)
        if not identity or row is None or row[0] in ("", identity):
            continue
        if others is None:
            rows = unit.link.rows(_OTHERS, but=command.session_id)
            others = [codec.decode_map(text) for session_id, text in rows if session_id not in dead]
        alive = any(other.get(name, "") not in ("", identity) for other in others)
        if alive or unit.link.row(_RAN_THERE, target=name) is not None:
            raise TargetIdentity(
                f"The target {name!r} is bound to the daemon {row[0]!r}, not to {identity!r}: "
                "give one of the two another name.",
                target=name,
                bound=row[0],
                offered=identity,
            )


def _bind_identities(unit: UnitOfWork, command: OpenSession) -> None:
    for name, identity in sorted(command.targets.items()):
        if identity:
            unit.write(_MAKE_TARGET, called=name, is_now=identity)
            unit.write(_BIND_TARGET, called=name, is_now=identity)


def renew_leases(unit: UnitOfWork, command: RenewLeases) -> Callable[[], frozenset[str]]:
    """See RenewLeases."""
    until = unit.ticks + command.lease
    renewed = frozenset(
        session_id
        for session_id, epoch in sorted(command.sessions)
        if unit.change(_RENEW, of_id=session_id, of_epoch=epoch, until=until)
    )
    return lambda: renewed


def disconnect(unit: UnitOfWork, command: Disconnect) -> Callable[[], None]:
    """See Disconnect."""
    if session_at(unit, command.session_id, command.epoch) is not None:
        if command.goodbye:
            end_session(unit, command.session_id, SessionEnd.LEFT)
        else:
            unit.sessions.pop(command.session_id, None)
            unit.write(_DISCONNECT, of_id=command.session_id, of_epoch=command.epoch)
    return lambda: None


def note_remark(unit: UnitOfWork, command: NoteRemark) -> Callable[[], None]:
    """See NoteRemark."""
    if session_at(unit, command.session_id, command.epoch) is not None:
        write_remark(unit, command.session_id, command.remark)
    return lambda: None


def drain_session(unit: UnitOfWork, command: DrainSession) -> Callable[[], Session]:
    """See DrainSession."""
    found = find_session(unit, command.session_id)
    if found is None or not found[1]:
        raise NotFound(f"There is no session {command.session_id!r}.", session_id=command.session_id)
    unit.sessions.pop(command.session_id, None)
    unit.write(_DRAIN, of_id=command.session_id)
    session = replace(found[0], draining=True)
    return lambda: with_held(unit, session)


def begin_attempts(unit: UnitOfWork, command: BeginAttempts) -> Callable[[], tuple[BeginAnswer, ...]]:
    """See BeginAttempts."""
    alive = session_at(unit, command.session_id, command.epoch) is not None
    answers = tuple(_begin(unit, command, task_id, attempt, alive=alive) for task_id, attempt in command.attempts)
    return lambda: answers


def _begin(unit: UnitOfWork, command: BeginAttempts, task_id: str, attempt: int, *, alive: bool) -> BeginAnswer:
    if not alive:
        return BeginAnswer(task_id, attempt, False, "REVOKED")
    loaded = unit.find_task(task_id)
    if loaded is None:
        return BeginAnswer(task_id, attempt, False, "STALE")
    before = loaded.status
    if unit.apply(loaded, Began(command.session_id, attempt)).verdict is not Verdict.STALE:
        return BeginAnswer(task_id, attempt, True)
    return BeginAnswer(task_id, attempt, False, _why_not(before, command.session_id, attempt))


def request_grants(unit: UnitOfWork, command: RequestGrants) -> Callable[[], tuple[GrantAnswer, ...]]:
    """See RequestGrants."""
    alive = session_at(unit, command.session_id, command.epoch) is not None
    answers = tuple(_grant(unit, command, task_id, grant, alive=alive) for task_id, grant in command.requests)
    return lambda: answers


def _grant(unit: UnitOfWork, command: RequestGrants, task_id: str, grant: Grant, *, alive: bool) -> GrantAnswer:
    if not alive:
        return GrantAnswer(task_id, grant.attempt, False, "REVOKED")
    loaded = unit.find_task(task_id)
    if loaded is None:
        return GrantAnswer(task_id, grant.attempt, False, "STALE")
    before = loaded.status
    asked = changed(grant, session_id=command.session_id, granted_at=unit.now)
    if unit.apply(loaded, GrantAsked(asked)).verdict is not Verdict.STALE:
        return GrantAnswer(task_id, grant.attempt, True)
    return GrantAnswer(task_id, grant.attempt, False, _why_not(before, command.session_id, grant.attempt))


def _why_not(status: Status, session_id: str, attempt: int) -> str:
    """Say why an attempt may not go on."""
    if status.state in (State.CANCELLING, State.CANCELLED):
        return "CANCELLED"
    return "REVOKED" if (status.attempt, status.session_id) != (attempt, session_id) else "STALE"


def file_reports(unit: UnitOfWork, command: FileReports) -> Callable[[], tuple[bool, ...]]:
    """See FileReports."""
    if session_at(unit, command.session_id, command.epoch) is None:
        refused = (False,) * len(command.reports)
        return lambda: refused
    counted = []
    for task_id, report in command.reports:
        loaded = unit.find_task(task_id)
        mine = report if report.session_id == command.session_id else changed(report, session_id=command.session_id)
        counted.append(loaded is not None and unit.apply(loaded, mine).verdict is not Verdict.STALE)
    answers = tuple(counted)
    return lambda: answers


def wake_parked(unit: UnitOfWork, command: WakeParked) -> Callable[[], Woken]:
    """See WakeParked."""
    unit.flush()
    absent, stopped = WaitReason.INSTANCE_ABSENT.value, WaitReason.INSTANCE_STOPPED.value
    where = {
        "target": command.target,
        "one": absent,
        "other": stopped if command.running else absent,
        "most": command.limit,
    }
    if command.instance:
        rows = unit.link.rows(_PARKED, project=command.project, instance=command.instance, **where)
    else:
        rows = unit.link.rows(_PARKED_ON_TARGET, **where)
    count = 0
    for loaded in unit.load(row[0] for row in rows):
        count += unit.apply(loaded, Due()).verdict is Verdict.CHANGED
    woken = Woken(count, more=count >= command.limit)
    return lambda: woken


def pay_debt(unit: UnitOfWork, command: PayDebt) -> Callable[[], None]:
    """See PayDebt."""
    unit.flush()
    row = unit.link.row(_DEBT, debt_id=command.debt_id)
    if row is not None:
        temp, asked, due_at = row
        if not temp and due_at > unit.now:
            pass  # Another server had the debt paid too, or put it off: the debt is asked for when it is due again.
        elif not command.paid:
            unit.write(_PUT_OFF, of_id=command.debt_id, at=unit.now + command.again)
        elif not temp and asked < _WORTH_ASKING_TWICE:
            unit.write(_ASK_AGAIN, of_id=command.debt_id, at=unit.now + command.again)
        else:
            unit.write(_FORGET_DEBT, of_id=command.debt_id)
    return lambda: None
