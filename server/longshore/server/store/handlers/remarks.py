"""This module stores the remarks of sessions, their ends, and the session that served each target last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.remarks import EndedSession, Problem, Remark, Served
from longshore.server.model.task import Session
from longshore.server.model.values import SessionEnd
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among, Statement, statement
from longshore.server.store.tables.rows import SESSION_COLUMNS, session_of
from longshore.server.store.tables.schema import (
    counters,
    is_alive,
    is_parked,
    is_timed,
    is_unsettled,
    remarks,
    served,
    sessions,
    tasks,
)
from longshore.server.store.transaction.counters import TARGET_QUEUED, TARGET_RUNNING
from longshore.server.store.transaction.unit import UnitOfWork

MOST_ENDED: Final = 1000
"""Ended sessions in one answer, the newest: a worker that starts anew every second must not fill it."""

_MAKE: Final = Statement(
    lambda dialect: dialect.insert_missing(remarks).values(
        session_id=sa.bindparam("of_id"), credits=sa.null(), problems=sa.literal("{}"), ending=sa.literal(0)
    )
)
_SAY: Final = statement(
    remarks.update()
    .where(remarks.c.session_id == sa.bindparam("of_id"))
    .values(credits=sa.bindparam("said"), problems=sa.bindparam("of_targets"))
)
_END: Final = statement(
    remarks.update()
    .where(remarks.c.session_id == sa.bindparam("of_id"))
    .values(credits=sa.null(), problems=sa.literal("{}"), ending=sa.bindparam("how"))
)
_DROP: Final = statement(remarks.delete().where(remarks.c.session_id == sa.bindparam("of_id")))
_SERVE: Final = Statement(
    lambda dialect: dialect.insert_missing(served).values(
        target=sa.bindparam("of_target"),
        session_id=sa.bindparam("by_id"),
        worker=sa.bindparam("by"),
        until_at=sa.bindparam("at"),
    )
)
_SERVED: Final = statement(
    served.update()
    .where(served.c.target == sa.bindparam("of_target"))
    .values(session_id=sa.bindparam("by_id"), worker=sa.bindparam("by"), until_at=sa.bindparam("at"))
)
_DROP_ORPHANS: Final = statement(
    remarks.delete().where(~sa.select(sa.literal_column("1")).where(sessions.c.id == remarks.c.session_id).exists())
)


def _some(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.select(sa.literal_column("1")).where(*conditions).correlate(served).exists()


# Not all tasks of the target are searched: a million of them may be done. A BLOCKED task has a head, which is seen.
_names_it: Final = sa.or_(
    _some(
        counters.c.scope.in_((sa.literal_column(f"'{TARGET_QUEUED}'"), sa.literal_column(f"'{TARGET_RUNNING}'"))),
        counters.c.name == served.c.target,
        counters.c.value > sa.literal_column("0"),
    ),
    _some(is_parked, tasks.c.target == served.c.target),
    _some(is_unsettled, tasks.c.target == served.c.target),
    _some(is_timed, tasks.c.target == served.c.target),
)
_DROP_SERVED: Final = statement(served.delete().where(served.c.until_at <= sa.bindparam("before"), ~_names_it))
_ALIVE: Final = statement(
    sa.select(remarks.c.session_id, remarks.c.credits, remarks.c.problems)
    .join_from(remarks, sessions, sessions.c.id == remarks.c.session_id)
    .where(is_alive)
)
_ALL_SERVED: Final = statement(
    sa.select(served.c.target, served.c.session_id, served.c.worker, served.c.until_at).order_by(served.c.target)
)
_ALL_SERVED_NAMED: Final = statement(
    sa.select(served.c.target, served.c.session_id, served.c.worker, served.c.until_at, _names_it).order_by(
        served.c.target
    )
)
_ENDED: Final = statement(
    sa.select(*SESSION_COLUMNS, sessions.c.ended_at)
    .where(sessions.c.ended_at.is_not(None), sessions.c.ended_at >= sa.bindparam("since"))
    .order_by(sessions.c.ended_at.desc(), sessions.c.id)
    .limit(sa.bindparam("most"))
)
_ENDED_AMONG: Final = Among(
    lambda keys: sa.select(*SESSION_COLUMNS, sessions.c.ended_at).where(
        sessions.c.id.in_(keys), sessions.c.ended_at.is_not(None)
    )
)
_ENDINGS: Final = Among(
    lambda keys: sa.select(remarks.c.session_id, remarks.c.ending).where(remarks.c.session_id.in_(keys))
)


# Writes -------------------------------------------------------------------------------------------------------------


def write_remark(unit: UnitOfWork, session_id: str, remark: Remark) -> None:
    """Write the remark of a living session."""
    unit.writes.tell(_MAKE, of_id=session_id)
    unit.writes.tell(_SAY, of_id=session_id, said=remark.credits, of_targets=_encoded(remark.problems))


def note_end(unit: UnitOfWork, session: Session, how: SessionEnd) -> None:
    """Write how the session ended, and that it stopped to serve its targets."""
    unit.writes.tell(_MAKE, of_id=session.id)
    unit.writes.tell(_END, of_id=session.id, how=how.value)
    for target in sorted(session.targets):
        said: dict[str, Any] = {"of_target": target, "by_id": session.id, "by": session.worker, "at": unit.reads.now}
        unit.writes.tell(_SERVE, **said)
        unit.writes.tell(_SERVED, **said)


def forget_end(unit: UnitOfWork, session_id: str) -> None:
    """Drop the end of a session that is back. The session says its remark anew, or none."""
    unit.writes.tell(_DROP, of_id=session_id)


def purge_remarks(unit: UnitOfWork, before: float) -> None:
    """Forget sessions that were dropped, and targets not served since `before` that no live task names."""
    unit.writes.tell(_DROP_ORPHANS)
    unit.writes.tell(_DROP_SERVED, before=before)


# Reads --------------------------------------------------------------------------------------------------------------


def remarks_of_living(link: Link) -> Mapping[str, Remark]:
    """Return the remarks of living sessions, by their ids."""
    return {session_id: Remark(credits, _decoded(text)) for session_id, credits, text in link.rows(_ALIVE)}


def all_served(link: Link) -> Sequence[Served]:
    """Return targets that a session has stopped to serve, without a look whether live tasks name them."""
    return [Served(*row) for row in link.rows(_ALL_SERVED)]


def all_served_named(link: Link) -> Sequence[Served]:
    """Return targets that a session has stopped to serve, and whether live tasks name them."""
    rows = link.rows(_ALL_SERVED_NAMED)
    return [Served(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows]


def ended_sessions(link: Link, since: float, also: Iterable[str]) -> Sequence[EndedSession]:
    """Return sessions that ended at `since` or later, and those of `also` that have ended; the newest first."""
    found = {row[0]: row for row in link.rows(_ENDED, since=since, most=MOST_ENDED)}
    found.update((row[0], row) for row in link.among(_ENDED_AMONG, sorted(set(also) - found.keys())))
    endings: dict[str, int] = dict(link.among(_ENDINGS, sorted(found))) if found else {}
    ended = [
        EndedSession(session_of(row[:-1]), row[-1], SessionEnd(endings.get(session_id, 0)))
        for session_id, row in found.items()
    ]
    return sorted(ended, key=lambda one: (-one.at, one.session.id))


def _encoded(problems: Mapping[str, Problem]) -> str:
    found = {target: [one.reason, one.message, one.since] for target, one in sorted(problems.items())}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _decoded(text: str) -> dict[str, Problem]:
    return {target: Problem(*said) for target, said in json.loads(text).items()}
