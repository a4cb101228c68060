"""This module marks a database that was restored and so lacks newer commits, and tells its operators.

Every queue of such a database is paused: its live tasks may have run, and what they put in place may have been replaced
since. Numbers, attempts and sessions of the lost time are not used again, as far as they can be known:

- numbers of tasks and positions of commits jump ahead, further with each restore that is known (ids have 80 random bits
  besides);
- attempts of live tasks jump ahead to a multiple of ATTEMPTS_AHEAD, because the names of temps have the attempt's
  number, and a worker's delayed rename must never find another attempt's temp;
- every session ends, so that no attempt of before is believed. Granted ones are settled as after a lost worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from longshore.server.model.values import SessionEnd
from longshore.server.store.commands import IdentifyDatabase, PauseQueue
from longshore.server.store.commands.servers import MarkRestored, MeetDatabase, Met
from longshore.server.store.commit_log import newest, skip_to
from longshore.server.store.handlers import sessions as fleet
from longshore.server.store.handlers import tasks
from longshore.server.store.protocol import Restore
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Statement, inserting, statement
from longshore.server.store.tables.schema import counters, is_alive, is_live, queues, sequence, sessions
from longshore.server.store.tables.schema import tasks as task_table
from longshore.server.store.transaction.counters import POSITION, QUEUE, RESTORED
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork

ATTEMPTS_AHEAD: Final = 10_000
TASKS_AHEAD: Final = 1 << 30
POSITIONS_AHEAD: Final = 1 << 40

NOTICED: Final = "restore_noticed"
DATA: Final = "restore_data"
"""Rows of `sequence`: milliseconds of the wall clock. 0 means that the time is not known."""
_LAST: Final = "restore_last_task"

_IDENTITY: Final = "database"
_MAKE_IDENTITY: Final = Statement(
    lambda dialect: dialect.insert_missing(sequence).values(name=_IDENTITY, value=sa.bindparam("candidate"))
)
_FIND_IDENTITY: Final = statement(sa.select(sequence.c.value).where(sequence.c.name == _IDENTITY))
_SET: Final = Statement(
    lambda dialect: dialect.insert_missing(sequence).values(name=sa.bindparam("called"), value=sa.bindparam("number"))
)
_CHANGE: Final = statement(
    sequence.update().where(sequence.c.name == sa.bindparam("called")).values(value=sa.bindparam("number"))
)
_NUMBERS: Final = statement(
    sa.select(sequence.c.name, sequence.c.value).where(
        sa.or_(sequence.c.name == NOTICED, sequence.c.name == DATA, sequence.c.name == _LAST)
    )
)
_POSITION: Final = statement(
    sa.select(counters.c.value).where(counters.c.scope == POSITION[0], counters.c.name == POSITION[1])
)
_ALIVE: Final = statement(sa.select(sessions.c.id).where(is_alive).order_by(sessions.c.id))
_QUEUES: Final = statement(
    sa.union(
        sa.select(queues.c.name),
        sa.select(counters.c.name).where(counters.c.scope == QUEUE, counters.c.value > sa.literal_column("0")),
    )
)
_LATEST: Final = statement(sa.select(sa.func.max(task_table.c.updated_at)))
_AHEAD: Final[sa.ColumnElement[int]] = sa.literal_column(str(ATTEMPTS_AHEAD))
_SKIP_ATTEMPTS: Final = statement(
    task_table.update()
    .where(is_live)
    .values(
        attempt=sa.case(
            (task_table.c.attempt < sa.bindparam("least", type_=sa.Integer), sa.bindparam("least", type_=sa.Integer)),
            else_=(task_table.c.attempt // _AHEAD + sa.literal_column("1")) * _AHEAD,
        )
    )
)
_MARK: Final = inserting(counters, missing=True)
_PAUSED: Final = statement(
    sa.select(counters.c.name)
    .join_from(counters, queues, queues.c.name == counters.c.name)
    .where(counters.c.scope == RESTORED, queues.c.paused.is_(sa.true()))
    .order_by(counters.c.name)
)
_LIVE: Final = statement(
    sa.select(sa.func.count())
    .select_from(task_table)
    .where(task_table.c.queue == sa.bindparam("queue"), task_table.c.seq <= sa.bindparam("last"), is_live)
)


@handles(IdentifyDatabase, prefetch=None, keeps_memory=False)
def identify_database(unit: UnitOfWork, command: IdentifyDatabase) -> Callable[[], int]:
    """See IdentifyDatabase."""
    found = unit.reads.link.row(_FIND_IDENTITY)
    if found is None:
        unit.writes.tell(_MAKE_IDENTITY, candidate=command.candidate)
        found = unit.reads.link.row(_FIND_IDENTITY)
    if found is None:
        raise LookupError("the row of the database's identity is gone")
    number = int(found[0])
    return lambda: number


@handles(MeetDatabase, prefetch=None, keeps_memory=False)
def meet_database(unit: UnitOfWork, command: MeetDatabase) -> Callable[[], Met]:
    """See MeetDatabase."""
    database = identify_database(unit, IdentifyDatabase(candidate=command.candidate))
    position = _position(unit.reads.link)
    return lambda: Met(database(), position)


def _position(link: Link) -> int:
    """Return the newest commit that moved tasks: counted where one server has the database, else the commit log's."""
    if not link.dialect.shared:
        row = link.row(_POSITION)
        return 0 if row is None else int(row[0])
    return newest(link)[0]


@handles(MarkRestored, prefetch=None, keeps_memory=False)
def mark_restored(unit: UnitOfWork, command: MarkRestored) -> Callable[[], None]:
    """See MarkRestored. This handler runs alone in its transaction."""
    link = unit.reads.link
    nth = max(_position(link), command.known) // POSITIONS_AHEAD + 1
    latest = link.row(_LATEST)
    for (session_id,) in link.rows(_ALIVE):
        # The loss of its attempts is not counted as a crash.
        fleet.end_session(unit, session_id, SessionEnd.LEFT)
    unit.writes.flush()
    link.tell(_SKIP_ATTEMPTS, least=nth * ATTEMPTS_AHEAD)
    unit.reads.tasks.reread()
    names = sorted(row[0] for row in link.rows(_QUEUES))
    for name in names:
        tasks.pause_queue(unit, PauseQueue(queue=name, paused=True, create=True))
    link.write(_MARK, [(RESTORED, name, 1) for name in names])
    last = unit.decisions.skip_seqs(TASKS_AHEAD, least=nth * TASKS_AHEAD)
    for called, number in (
        (NOTICED, round(unit.reads.now * 1000)),
        (DATA, round((latest[0] if latest and latest[0] else 0.0) * 1000)),
        (_LAST, last),
    ):
        unit.writes.tell(_SET, called=called, number=number)
        unit.writes.tell(_CHANGE, called=called, number=number)
    _skip_positions(unit, nth * POSITIONS_AHEAD)
    return lambda: None


def _skip_positions(unit: UnitOfWork, ahead: int) -> None:
    if not unit.reads.link.dialect.shared:
        unit.writes.move(POSITION, ahead - unit.reads.counters.value(POSITION))
    else:
        skip_to(unit.reads.link, ahead, unit.reads.now)


def restored(link: Link) -> Restore | None:
    """Describe the restore that was noticed. None means that none was, or that no queue is paused for it any more."""
    names = [row[0] for row in link.rows(_PAUSED)]
    if not names:
        return None
    numbers = {name: int(value) for name, value in link.rows(_NUMBERS)}
    last = numbers.get(_LAST, 0)
    return Restore(
        noticed_at=numbers.get(NOTICED, 0) / 1000,
        data_at=numbers[DATA] / 1000 if numbers.get(DATA) else None,
        queues=tuple(names),
        live_tasks=sum(link.rows(_LIVE, queue=name, last=last)[0][0] for name in names),
    )
