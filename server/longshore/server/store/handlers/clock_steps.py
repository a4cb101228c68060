"""This module tells steps of the wall clock from time that passes, so that durations are kept.

Due times, expiries and what is kept until when are stored in the wall clock's seconds, where people read them. A clock
that is set back by an hour would let a back-off of seconds wait for an hour, and one that is set forward would end
everything at once. So the wall clock is compared with CLOCK_BOOTTIME, which nobody sets: where the two have moved apart
by more than LEAST, the clock was set, and every stored time moves by as much.

Over a restart the last reading of both is in the database. After a reboot CLOCK_BOOTTIME begins anew: then the wall
clock is believed, but it is never taken to be earlier than the last reading.

The module is for a database of one server. Several servers on one database all use the database's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from longshore.server.model.clock import Clock
from longshore.server.store.commands.servers import NoteClock
from longshore.server.store.handlers.restores import DATA, NOTICED
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Statement, statement
from longshore.server.store.tables.schema import (
    attempts,
    debts,
    payloads,
    requests,
    sequence,
    served,
    sessions,
    submissions,
    tasks,
    uploads,
)
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork

LEAST: Final = 1.0
"""Seconds. Smaller differences come from reading two clocks one after the other on a busy machine, or from slewing."""
NOTE_EVERY: Final = 5.0
"""Seconds between readings that are written down. Between two of one boot it does not matter how old the first is."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_BOOT: Final = "clock_boot"
_TICKS: Final = "clock_ticks"
_WALL: Final = "clock_wall"

_READING: Final = statement(
    sa.select(sequence.c.name, sequence.c.value).where(
        sa.or_(sequence.c.name == _BOOT, sequence.c.name == _TICKS, sequence.c.name == _WALL)
    )
)
_MAKE: Final = Statement(
    lambda dialect: dialect.insert_missing(sequence).values(name=sa.bindparam("called"), value=sa.bindparam("number"))
)
_SET: Final = statement(
    sequence.update().where(sequence.c.name == sa.bindparam("called")).values(value=sa.bindparam("number"))
)


# A column without a time (NULL) stays without one. All times of a task move together, so that their differences hold:
# how long it may wait, which a retry takes over, and how long it ran.
MOVED: Final = (
    tasks.c.due_at,
    tasks.c.expires_at,
    tasks.c.started_at,
    tasks.c.updated_at,
    tasks.c.finished_at,
    tasks.c.retryable_until,
    submissions.c.created_at,
    attempts.c.started_at,
    attempts.c.granted_at,
    attempts.c.ended_at,
    requests.c.ended_at,
    uploads.c.touched_at,
    payloads.c.keep_until,
    debts.c.due_at,
    sessions.c.started_at,
    sessions.c.ended_at,
    served.c.until_at,
)
"""Every column that has a time, but those of databases of several servers and those of tokens: a token ends at the
moment that its maker has named."""


def _moves() -> tuple[Statement, ...]:
    """Build one statement for each table."""
    by = sa.bindparam("by", type_=sa.Double)
    tables: dict[sa.Table, dict[str, sa.ColumnElement[float]]] = {}
    for column in MOVED:
        tables.setdefault(column.table, {})[column.name] = column + by
    return tuple(statement(table.update().values(values)) for table, values in tables.items())


_MOVES: Final = _moves()
_MOVE_RESTORE: Final = statement(
    sequence.update()
    .where(
        sa.or_(sequence.c.name == NOTICED, sequence.c.name == DATA),
        sequence.c.value > sa.literal_column("0"),
    )
    .values(value=sequence.c.value + sa.bindparam("milliseconds", type_=sa.BigInteger))
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks at one moment, and a number of the boot."""

    boot: int
    ticks: float
    wall: float


def this_boot() -> int:
    """Return a number of 62 bits that no other boot of the machine has. 0 means that the boot cannot be told."""
    try:
        return int(_BOOT_ID.read_text("ascii").replace("-", "").strip(), 16) >> 66
    except (OSError, ValueError):
        return 0


class ClockSteps:
    """Notices steps of one server's wall clock. The object belongs to the writer's thread."""

    def __init__(self, clock: Clock, *, boot: int) -> None:
        self._clock = clock
        self._boot = boot
        self._known: Reading | None = None
        self._noted_at = float("-inf")

    def meet(self, link: Link) -> None:
        """Take over the reading that the database has."""
        found = {name: int(value) for name, value in link.rows(_READING)}
        if self._known is None and found.keys() == {_BOOT, _TICKS, _WALL}:
            self._known = Reading(found[_BOOT], found[_TICKS] / 1000, found[_WALL] / 1000)

    def due(self) -> NoteClock | None:
        """Return the command that must be carried out before anything else. None means that there is none."""
        now = Reading(self._boot, self._clock.ticks(), self._clock.now())
        step = self._step(now)
        if not step and now.ticks - self._noted_at < NOTE_EVERY:
            return None
        # Without a step the reading is what the clock should say, so that many small steps add up to one.
        wall = now.wall if step or not self._is_same_boot(now) else self._expected(now)
        return NoteClock(boot=now.boot, ticks=now.ticks, wall=wall, step=step)

    def noted(self, done: NoteClock) -> None:
        """Remember a reading that was committed."""
        self._known = Reading(done.boot, done.ticks, done.wall)
        self._noted_at = done.ticks

    def _step(self, now: Reading) -> float:
        if self._known is None:
            return 0.0
        # After a reboot only the wall clock can tell how long it took.
        expected = self._expected(now) if self._is_same_boot(now) else max(self._known.wall, now.wall)
        step = now.wall - expected
        return step if abs(step) > LEAST else 0.0

    def _is_same_boot(self, now: Reading) -> bool:
        before = self._known
        return before is not None and before.boot == now.boot != 0 and now.ticks >= before.ticks

    def _expected(self, now: Reading) -> float:
        """Return the time that the wall clock should say, in the same boot."""
        before = self._known
        return now.wall if before is None else before.wall + now.ticks - before.ticks


@handles(NoteClock, prefetch=None, keeps_memory=False)
def note_clock(unit: UnitOfWork, command: NoteClock) -> Callable[[], None]:
    """See NoteClock. This handler runs alone in its transaction."""
    if command.step:
        for move in _MOVES:
            unit.writes.tell(move, by=command.step)
        unit.writes.tell(_MOVE_RESTORE, milliseconds=round(command.step * 1000))
        unit.reads.tasks.reread()
    for called, number in (
        (_BOOT, command.boot),
        (_TICKS, round(command.ticks * 1000)),
        (_WALL, round(command.wall * 1000)),
    ):
        unit.writes.tell(_MAKE, called=called, number=number)
        unit.writes.tell(_SET, called=called, number=number)
    return lambda: None
