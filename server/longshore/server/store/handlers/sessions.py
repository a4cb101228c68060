"""Commands of sessions: registration, leases, grants, reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.errors import EpochSuperseded, Forbidden, NotFound, TargetIdentity
from longshore.server.model.events import Began, GrantAsked, SessionLost, Verdict
from longshore.server.model.records import changed
from longshore.server.model.task import Grant, Session, Status
from longshore.server.model.values import SessionEnd, State
from longshore.server.store.commands import (
    BeginAnswer,
    BeginAttempts,
    Disconnect,
    DrainSession,
    FileReports,
    GrantAnswer,
    NoteRemark,
    OpenSession,
    RenewLeases,
    RequestGrants,
    SessionOpened,
)
from longshore.server.store.handlers.remarks import forget_end, note_end, write_remark
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Statement, locking, statement
from longshore.server.store.tables import codec
from longshore.server.store.tables.schema import is_alive, sessions, targets, tasks
from longshore.server.store.transaction.loaded_tasks import LoadedTask
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork
from longshore.server.store.transaction.writes import Writes

_OTHERS: Final = statement(
    sa.select(sessions.c.id, sessions.c.targets)
    .where(is_alive, sessions.c.id != sa.bindparam("but"))
    .order_by(sessions.c.id)
)
_HELD: Final = statement(
    # Sorted: by the numbers themselves, PostgreSQL would look at each task that it remembers.
    sa.select(tasks.c.seq)
    .where(tasks.c.session_id == sa.bindparam("session_id"))
    .order_by(tasks.c.seq + sa.literal_column("0"))
)
_SAID: Final = ("worker", "epoch", "targets", "kinds", "version", "started_at", "lease_ticks", "revision")


def _said(dialect: Dialect, *more: str) -> dict[str, Any]:
    """Return the values of a session that its hello gives, as far as the schema has columns for them."""
    return {name: sa.bindparam(name) for name in (*_SAID, *more) if not dialect.schema.lacks(sessions.c[name])}


_INSERT: Final = Statement(
    lambda dialect: sessions.insert().values(
        _said(dialect, "id", "principal") | {"connected": sa.true(), "draining": sa.false(), "ended_at": sa.null()}
    )
)
_REOPEN: Final = Statement(
    lambda dialect: (
        sessions.update()
        .where(sessions.c.id == sa.bindparam("of_id"))
        .values(_said(dialect) | {"connected": sa.true(), "ended_at": sa.null()})
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


def session_at(reads: Reads, session_id: str, epoch: int) -> Session | None:
    """Return the session, if it is alive and this is its newest connection."""
    found = reads.sessions.get(session_id)
    return found[0] if found is not None and found[1] and found[0].epoch == epoch else None


def _change(unit: UnitOfWork, session_id: str, what: Statement, **values: Any) -> None:
    """Write the row of a session."""
    unit.reads.sessions.forget(session_id)
    unit.writes.tell(what, **values)


def held_by(reads: Reads, session_id: str) -> list[LoadedTask]:
    """Return the tasks that the session holds now."""
    known = {loaded.submission.seq for loaded in reads.tasks.all() if loaded.status.session_id == session_id}
    stored = {row[0] for row in reads.link.rows(_HELD, session_id=session_id)}
    return [loaded for loaded in reads.tasks.load(known | stored) if loaded.status.session_id == session_id]


def with_held(reads: Reads, session: Session) -> Session:
    held = tuple((loaded.submission.id, loaded.status.attempt) for loaded in held_by(reads, session.id))
    return replace(session, held=held)


def end_session(unit: UnitOfWork, session_id: str, how: SessionEnd) -> None:
    """End the session; the attempts that it holds are lost. A session that LEFT had handed back those it knew of."""
    for loaded in held_by(unit.reads, session_id):
        unit.decisions.apply(loaded, SessionLost(session_id, loaded.status.attempt, crash=how is not SessionEnd.LEFT))
    found = unit.reads.sessions.get(session_id)
    unit.reads.sessions.forget(session_id)
    if unit.writes.run(_END, of_id=session_id, at=unit.reads.now):
        unit.decisions.sessions_ended.append(session_id)
        if found is not None:
            note_end(unit, found[0], how)


@handles(OpenSession, prefetch=None, keeps_memory=False)
def open_session(unit: UnitOfWork, command: OpenSession) -> Callable[[], SessionOpened]:
    """See OpenSession."""
    found = unit.reads.sessions.get(command.session_id)
    if found is not None and found[0].principal != command.principal:
        raise Forbidden("The session belongs to another principal.", session_id=command.session_id)
    newest = 0 if found is None else found[0].epoch
    if command.epoch and command.epoch <= newest:
        raise EpochSuperseded(
            "The session has connected anew; this hello came too late.", session_id=command.session_id
        )
    dead = _dead_sessions(unit.reads, command)
    _check_identities(unit.reads.link, command, dead)
    for session_id in dead:
        end_session(unit, session_id, SessionEnd.REPLACED)
    _bind_identities(unit.writes, command)
    session = Session(
        id=command.session_id,
        worker=command.worker,
        principal=command.principal,
        epoch=command.epoch or newest + 1,
        targets=command.targets,
        kinds=command.kinds,
        version=command.version,
        started_at=found[0].started_at if found is not None and found[1] else unit.reads.now,
        lease_ticks=unit.reads.ticks + command.lease,
        draining=found is not None and found[0].draining,
        revision=command.revision,
    )
    values = {
        "worker": session.worker,
        "epoch": session.epoch,
        "targets": codec.encode_map(session.targets),
        "kinds": codec.encode_map(session.kinds),
        "version": session.version,
        "started_at": session.started_at,
        "lease_ticks": session.lease_ticks,
        "revision": session.revision,
    }
    if found is None:
        _change(unit, session.id, _INSERT, id=session.id, principal=session.principal, **values)
    else:
        _change(unit, session.id, _REOPEN, of_id=session.id, **values)
        forget_end(unit, session.id)
    named = set(command.held)
    for loaded in held_by(unit.reads, session.id):
        if (loaded.submission.id, loaded.status.attempt) not in named:
            unit.decisions.apply(loaded, SessionLost(session.id, loaded.status.attempt, crash=False))
    opened = with_held(unit.reads, session)
    return lambda: SessionOpened(opened)


def _dead_sessions(reads: Reads, command: OpenSession) -> list[str]:
    dead = []
    for session_id in sorted(set(command.dead_sessions) - {command.session_id}):
        found = reads.sessions.get(session_id)
        if found is not None and found[1] and found[0].principal == command.principal:
            dead.append(session_id)
    return dead


def _check_identities(link: Link, command: OpenSession, dead: list[str]) -> None:
    others: list[dict[str, str]] | None = None
    for name, identity in sorted(command.targets.items()):
        row = link.row(_IDENTITY, target=name)
        if not identity or row is None or row[0] in ("", identity):
            continue
        if others is None:
            rows = link.rows(_OTHERS, but=command.session_id)
            others = [codec.decode_map(text) for session_id, text in rows if session_id not in dead]
        alive = any(other.get(name, "") not in ("", identity) for other in others)
        if alive or link.row(_RAN_THERE, target=name) is not None:
            raise TargetIdentity(
                f"The target {name!r} is bound to the daemon {row[0]!r}, not to {identity!r}: "
                "give one of the two another name.",
                target=name,
                bound=row[0],
                offered=identity,
            )


def _bind_identities(writes: Writes, command: OpenSession) -> None:
    for name, identity in sorted(command.targets.items()):
        if identity:
            writes.tell(_MAKE_TARGET, called=name, is_now=identity)
            writes.tell(_BIND_TARGET, called=name, is_now=identity)


@handles(RenewLeases, prefetch=None, keeps_memory=True)
def renew_leases(unit: UnitOfWork, command: RenewLeases) -> Callable[[], frozenset[str]]:
    """See RenewLeases."""
    until = unit.reads.ticks + command.lease
    renewed = frozenset(
        session_id
        for session_id, epoch in sorted(command.sessions)
        if unit.writes.run(_RENEW, of_id=session_id, of_epoch=epoch, until=until)
    )
    return lambda: renewed


@handles(Disconnect, prefetch=None, keeps_memory=False)
def disconnect(unit: UnitOfWork, command: Disconnect) -> Callable[[], None]:
    """See Disconnect."""
    if session_at(unit.reads, command.session_id, command.epoch) is not None:
        if command.goodbye:
            end_session(unit, command.session_id, SessionEnd.LEFT)
        else:
            session_id = command.session_id
            _change(unit, session_id, _DISCONNECT, of_id=session_id, of_epoch=command.epoch)
    return lambda: None


@handles(NoteRemark, prefetch=None, keeps_memory=False)
def note_remark(unit: UnitOfWork, command: NoteRemark) -> Callable[[], None]:
    """See NoteRemark."""
    if session_at(unit.reads, command.session_id, command.epoch) is not None:
        write_remark(unit, command.session_id, command.remark)
    return lambda: None


@handles(DrainSession, prefetch=None, keeps_memory=False)
def drain_session(unit: UnitOfWork, command: DrainSession) -> Callable[[], Session]:
    """See DrainSession."""
    found = unit.reads.sessions.get(command.session_id)
    if found is None or not found[1]:
        raise NotFound(f"There is no session {command.session_id!r}.", session_id=command.session_id)
    _change(unit, command.session_id, _DRAIN, of_id=command.session_id)
    session = replace(found[0], draining=True)
    return lambda: with_held(unit.reads, session)


def _want(reads: Reads, session_id: str, tasks: Iterable[tuple[str, object]]) -> None:
    """Name the session, and the tasks whose ids come first in `tasks`."""
    reads.sessions.wanted.add(session_id)
    for task_id, _ in tasks:
        reads.tasks.want(task_id)


@handles(
    BeginAttempts,
    prefetch=lambda reads, command: _want(reads, command.session_id, command.attempts),
    keeps_memory=True,
)
def begin_attempts(unit: UnitOfWork, command: BeginAttempts) -> Callable[[], tuple[BeginAnswer, ...]]:
    """See BeginAttempts."""
    alive = session_at(unit.reads, command.session_id, command.epoch) is not None
    answers = tuple(_begin(unit, command, task_id, attempt, alive=alive) for task_id, attempt in command.attempts)
    return lambda: answers


def _begin(unit: UnitOfWork, command: BeginAttempts, task_id: str, attempt: int, *, alive: bool) -> BeginAnswer:
    if not alive:
        return BeginAnswer(task_id, attempt, False, "REVOKED")
    loaded = unit.reads.tasks.find(task_id)
    if loaded is None:
        return BeginAnswer(task_id, attempt, False, "STALE")
    before = loaded.status
    if unit.decisions.apply(loaded, Began(command.session_id, attempt)).verdict is not Verdict.STALE:
        return BeginAnswer(task_id, attempt, True)
    return BeginAnswer(task_id, attempt, False, _why_not(before, command.session_id, attempt))


@handles(
    RequestGrants,
    prefetch=lambda reads, command: _want(reads, command.session_id, command.requests),
    keeps_memory=True,
)
def request_grants(unit: UnitOfWork, command: RequestGrants) -> Callable[[], tuple[GrantAnswer, ...]]:
    """See RequestGrants."""
    alive = session_at(unit.reads, command.session_id, command.epoch) is not None
    answers = tuple(_grant(unit, command, task_id, grant, alive=alive) for task_id, grant in command.requests)
    return lambda: answers


def _grant(unit: UnitOfWork, command: RequestGrants, task_id: str, grant: Grant, *, alive: bool) -> GrantAnswer:
    if not alive:
        return GrantAnswer(task_id, grant.attempt, False, "REVOKED")
    loaded = unit.reads.tasks.find(task_id)
    if loaded is None:
        return GrantAnswer(task_id, grant.attempt, False, "STALE")
    before = loaded.status
    asked = changed(grant, session_id=command.session_id, granted_at=unit.reads.now)
    if unit.decisions.apply(loaded, GrantAsked(asked)).verdict is not Verdict.STALE:
        return GrantAnswer(task_id, grant.attempt, True)
    return GrantAnswer(task_id, grant.attempt, False, _why_not(before, command.session_id, grant.attempt))


def _why_not(status: Status, session_id: str, attempt: int) -> str:
    """Say why an attempt may not go on."""
    if status.state in (State.CANCELLING, State.CANCELLED):
        return "CANCELLED"
    return "REVOKED" if (status.attempt, status.session_id) != (attempt, session_id) else "STALE"


@handles(
    FileReports,
    prefetch=lambda reads, command: _want(reads, command.session_id, command.reports),
    keeps_memory=True,
)
def file_reports(unit: UnitOfWork, command: FileReports) -> Callable[[], tuple[bool, ...]]:
    """See FileReports."""
    if session_at(unit.reads, command.session_id, command.epoch) is None:
        refused = (False,) * len(command.reports)
        return lambda: refused
    counted = []
    for task_id, report in command.reports:
        loaded = unit.reads.tasks.find(task_id)
        mine = report if report.session_id == command.session_id else changed(report, session_id=command.session_id)
        counted.append(loaded is not None and unit.decisions.apply(loaded, mine).verdict is not Verdict.STALE)
    answers = tuple(counted)
    return lambda: answers
