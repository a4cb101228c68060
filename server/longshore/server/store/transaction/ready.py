"""Decides after a batch which task is the head of a destination, and which tasks are ready in an instance's queue.

A lane is one instance of one target. Of its QUEUED tasks only as many are `ready` as it has room, the best first,
counted for each kind of taker by itself; claims look at ready tasks alone, so that neither a long queue nor a saturated
instance makes a claim dearer.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.events import BecameHead
from longshore.server.model.values import State
from longshore.server.store.sql.statement import Each, Given, changing
from longshore.server.store.tables.rows import Row
from longshore.server.store.tables.schema import is_live, is_offered, is_ready, tasks
from longshore.server.store.transaction.counters import LANE_RUNNING
from longshore.server.store.transaction.loaded_task import LoadedTask
from longshore.server.store.transaction.unit import UnitOfWork

_FIRST: Final = Each(
    lambda given: (
        sa.select(tasks.c.seq, tasks.c.head)
        .where(tasks.c.destination_key == given["key"], is_live)
        .order_by(tasks.c.seq)
        .limit(sa.literal_column("1"))
    ),
    {"key": sa.LargeBinary},
)


def _takers(given: Given) -> sa.Select[Any]:
    """The kinds of takers that tasks of the lane wait for: a seek in the index for each, however long the queue.

    The lane is carried along, because what is given cannot be seen from inside; and a seek is the first of an order,
    because PostgreSQL reads all of a lane for a minimum there.
    """

    def least(lane: sa.ColumnElement[Any], *more: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
        found = sa.select(tasks.c.taker).where(tasks.c.lane == lane, is_offered, *more)
        return found.order_by(tasks.c.taker).limit(sa.literal_column("1")).scalar_subquery()

    lane = given["lane"]
    found = sa.select(sa.cast(lane, sa.Text).label("lane"), least(lane).label("taker")).cte(
        "takers", recursive=True, nesting=True
    )
    following = least(found.c.lane, tasks.c.taker > found.c.taker)
    found = found.union_all(sa.select(found.c.lane, following).where(found.c.taker.is_not(None)))
    return sa.select(found.c.taker).where(found.c.lane == lane, found.c.taker.is_not(None))


_TAKERS: Final = Each(_takers, {"lane": sa.Text})
_BEST: Final = Each(
    lambda given: (
        sa.select(tasks.c.priority, tasks.c.seq, tasks.c.ready)
        .where(tasks.c.lane == given["lane"], tasks.c.taker == given["taker"], is_offered)
        .order_by(tasks.c.priority.desc(), tasks.c.seq)
        .limit(given["room"])
    ),
    {"lane": sa.Text, "taker": sa.Text, "room": sa.Integer},
)
_READY: Final = Each(
    lambda given: sa.select(tasks.c.seq, tasks.c.taker).where(tasks.c.lane == given["lane"], is_ready),
    {"lane": sa.Text},
)
_SET_READY: Final = changing(
    lambda given: tasks.update().where(tasks.c.seq == given["of_seq"]).values(ready=given["is_ready"]),
    {"of_seq": sa.BigInteger, "is_ready": sa.Boolean},
)


def update_heads_and_ready(unit: UnitOfWork) -> None:
    """Make tasks heads and ready, as follows from what the batch has decided and written: heads first, then the lanes.

    The lanes are asked in the same round as the heads; those that a new head changes are asked again.
    """
    if not unit.destination_keys and not any(unit.lanes):
        unit.lanes.clear()
        return
    keys = sorted(unit.destination_keys)
    unit.destination_keys.clear()
    first = unit.link.ask_each(_FIRST, [(key,) for key in keys])
    early = _ReadyUpdate(unit, _changed(unit))
    _promote(unit, _next_heads(unit, keys, first()))
    again = {lane: early.also(lane, takers) for lane, takers in _changed(unit).items()}
    late = _ReadyUpdate(unit, again)
    early.decide(but=again)
    late.decide()
    _set_ready(unit, early.promoted + late.promoted, early.demoted + late.demoted)


def _next_heads(unit: UnitOfWork, keys: list[bytes], first: list[list[Row]]) -> list[int]:
    """Find the next head of each destination: a stored task, else a new one, because new ones were accepted later."""
    seqs = [rows[0][0] for rows in first if rows and not rows[0][1]]
    wanted = {key for key, rows in zip(keys, first, strict=True) if not rows}
    for loaded in unit.new_tasks() if wanted else ():
        if loaded.destination_key in wanted and not loaded.status.state.terminal:
            wanted.discard(loaded.destination_key)
            if not loaded.status.head:
                seqs.append(loaded.submission.seq)
    return seqs


def _promote(unit: UnitOfWork, seqs: list[int]) -> None:
    """The earliest live task of each destination that was left becomes its head."""
    for loaded in unit.load(seqs):
        unit.apply(loaded, BecameHead())
    unit.flush_stored()


def _changed(unit: UnitOfWork) -> dict[str, set[str] | None]:
    """Take the lanes that have changed since the last call."""
    lanes = {lane: takers for lane, takers in sorted(unit.lanes.items(), key=lambda item: item[0]) if lane}
    unit.lanes.clear()
    return lanes


def new_queued_tasks(unit: UnitOfWork, lanes: Container[str]) -> dict[str, list[LoadedTask]]:
    """New tasks that the database does not know yet and that are queued in these lanes, by lane."""
    found: dict[str, list[LoadedTask]] = {}
    for loaded in unit.new_tasks():
        if (
            loaded.lane
            and loaded.lane in lanes
            and loaded.status.state is State.QUEUED
            and not unit.is_paused(loaded.submission.queue)
        ):
            found.setdefault(loaded.lane, []).append(loaded)
    return found


def room_in(unit: UnitOfWork, lane: str) -> int:
    """How many more attempts the instance may run."""
    return max(0, unit.limits.instance - unit.counters.value((LANE_RUNNING, lane)))


class _ReadyUpdate:
    """Finds the best QUEUED tasks of some lanes, as many as each has room for, which are to be ready, and no others.

    `promoted` and `demoted` are the tasks that have to change for that. Everything is asked at the beginning, as far as
    room and takers are known then.
    """

    def __init__(self, unit: UnitOfWork, lanes: dict[str, set[str] | None]) -> None:
        self._unit = unit
        self._lanes = lanes
        self.promoted: list[int] = []
        self.demoted: list[int] = []
        link, counters = unit.link, unit.counters
        known = {lane for lane in lanes if counters.knows((LANE_RUNNING, lane))}
        self._counters = counters.ask((LANE_RUNNING, lane) for lane in lanes)
        self._open = [lane for lane, takers in lanes.items() if takers is None]
        self._takers = link.ask_each(_TAKERS, [(lane,) for lane in self._open])
        self._ready = link.ask_each(_READY, [(lane,) for lane in lanes])
        self._early = [(lane, taker) for lane in lanes if lane in known for taker in sorted(lanes[lane] or ())]
        self._best = self._ask_best(self._early)

    def also(self, lane: str, takers: set[str] | None) -> set[str] | None:
        """Join these takers with those that the lane is asked about already."""
        if lane not in self._lanes:
            return takers
        before = self._lanes[lane]
        return None if takers is None or before is None else takers | before

    def _ask_best(self, pairs: list[tuple[str, str]]) -> Callable[[], list[list[Row]]]:
        unit = self._unit
        return unit.link.ask_each(_BEST, [(lane, taker, room_in(unit, lane)) for lane, taker in pairs])

    def decide(self, but: Container[str] = ()) -> None:
        """Fill `promoted` and `demoted`, without the lanes of `but`."""
        unit, lanes = self._unit, self._lanes
        ready_counts: dict[str, int] = {}
        self._counters()
        new_tasks = new_queued_tasks(unit, lanes)
        waiting = {
            lane: {row[0] for row in rows} | {loaded.taker for loaded in new_tasks.get(lane, ())}
            for lane, rows in zip(self._open, self._takers(), strict=True)
        }
        early = set(self._early)
        pairs = [
            (lane, taker)
            for lane, takers in lanes.items()
            if lane not in but and room_in(unit, lane)
            for taker in sorted(waiting[lane] if takers is None else takers)
            if (lane, taker) not in early
        ]
        late = self._ask_best(pairs)
        keep: set[int] = set()
        for (lane, taker), rows in zip([*self._early, *pairs], [*self._best(), *late()], strict=True):
            room = room_in(unit, lane)
            if lane in but or not room:
                continue
            best = [(-priority, seq, ready) for priority, seq, ready in rows]
            best += [
                (-loaded.submission.priority, loaded.submission.seq, loaded.ready)
                for loaded in new_tasks.get(lane, ())
                if loaded.taker == taker
            ]
            for _, seq, ready in sorted(best)[:room]:
                keep.add(seq)
                if not ready:
                    self.promoted.append(seq)
                    ready_counts[lane] = ready_counts.get(lane, 0) + 1
        for (lane, takers), rows in zip(lanes.items(), self._ready(), strict=True):
            if lane in but:
                continue
            room = room_in(unit, lane)
            ready_now = [
                *rows,
                *((loaded.submission.seq, loaded.taker) for loaded in new_tasks.get(lane, ()) if loaded.ready),
            ]
            demoted = [
                seq for seq, taker in ready_now if seq not in keep and (takers is None or not room or taker in takers)
            ]
            self.demoted += demoted
            unit.ready_counts[lane] = ready_counts.get(lane, 0) + len(ready_now) - len(demoted)


def trim_lanes(unit: UnitOfWork, lanes: Iterable[str]) -> None:
    """Choose the ready tasks anew, after claims, in lanes where more tasks are ready than there is room left.

    Only a lane with several kinds of takers gets there; in any other a claim takes as much from ready as from room.
    """
    unknown = [lane for lane in lanes if lane and lane not in unit.ready_counts]
    ready = unit.link.ask_each(_READY, [(lane,) for lane in unknown])
    # For lanes with new tasks in them the number is known already.
    unit.ready_counts.update((lane, len(rows)) for lane, rows in zip(unknown, ready(), strict=True))
    for lane in lanes:
        if lane and unit.ready_counts[lane] > room_in(unit, lane):
            unit.lanes[lane] = None
    refill = _ReadyUpdate(unit, _changed(unit))
    refill.decide()
    _set_ready(unit, refill.promoted, refill.demoted)


def _set_ready(unit: UnitOfWork, promoted: list[int], demoted: list[int]) -> None:
    unit.newly_ready.update(promoted)
    unit.newly_ready.difference_update(demoted)
    ready = {loaded.submission.seq: loaded for loaded in unit.new_tasks()}
    values = [(seq, False) for seq in demoted] + [(seq, True) for seq in promoted]
    for seq, is_ready_now in values:
        if seq in ready:
            ready[seq].ready = is_ready_now
    unit.link.write(_SET_READY, sorted(value for value in values if value[0] not in ready))
