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
from longshore.server.store.transaction.loaded_task import Entry
from longshore.server.store.transaction.unit import UnitOfWork

_FIRST: Final = Each(
    lambda given: (
        sa.select(tasks.c.seq, tasks.c.head)
        .where(tasks.c.place == given["place"], is_live)
        .order_by(tasks.c.seq)
        .limit(sa.literal_column("1"))
    ),
    {"place": sa.LargeBinary},
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


def follow(unit: UnitOfWork) -> None:
    """Make tasks heads and ready, as follows from what the batch has decided and written: heads first, then the lanes.

    The lanes are asked in the same round as the heads; those that a new head changes are asked again.
    """
    if not unit.places and not any(unit.lanes):
        unit.lanes.clear()
        return
    places = sorted(unit.places)
    unit.places.clear()
    first = unit.link.ask_each(_FIRST, [(place,) for place in places])
    early = _Refill(unit, _changed(unit))
    _promote(unit, _next_heads(unit, places, first()))
    again = {lane: early.also(lane, takers) for lane, takers in _changed(unit).items()}
    late = _Refill(unit, again)
    early.decide(but=again)
    late.decide()
    _set_ready(unit, early.rise + late.rise, early.fall + late.fall)


def _next_heads(unit: UnitOfWork, places: list[bytes], first: list[list[Row]]) -> list[int]:
    """Find the next head of each destination: a stored task, else a new one, because new ones were accepted later."""
    seqs = [rows[0][0] for rows in first if rows and not rows[0][1]]
    wanted = {place for place, rows in zip(places, first, strict=True) if not rows}
    for entry in unit.fresh() if wanted else ():
        if entry.place in wanted and not entry.status.state.terminal:
            wanted.discard(entry.place)
            if not entry.status.head:
                seqs.append(entry.order.seq)
    return seqs


def _promote(unit: UnitOfWork, seqs: list[int]) -> None:
    """The earliest live task of each destination that was left becomes its head."""
    for entry in unit.load(seqs):
        unit.apply(entry, BecameHead())
    unit.flush_stored()


def _changed(unit: UnitOfWork) -> dict[str, set[str] | None]:
    """Take the lanes that have changed since the last call."""
    lanes = {lane: takers for lane, takers in sorted(unit.lanes.items(), key=lambda item: item[0]) if lane}
    unit.lanes.clear()
    return lanes


def offered(unit: UnitOfWork, lanes: Container[str]) -> dict[str, list[Entry]]:
    """New tasks that the database does not know yet and that are queued in these lanes, by lane."""
    found: dict[str, list[Entry]] = {}
    for entry in unit.fresh():
        if (
            entry.lane
            and entry.lane in lanes
            and entry.status.state is State.QUEUED
            and not unit.is_paused(entry.order.queue)
        ):
            found.setdefault(entry.lane, []).append(entry)
    return found


def room_in(unit: UnitOfWork, lane: str) -> int:
    """How many more attempts the instance may run."""
    return max(0, unit.limits.instance - unit.ledger.value((LANE_RUNNING, lane)))


class _Refill:
    """Finds the best QUEUED tasks of some lanes, as many as each has room for, which are to be ready, and no others.

    `rise` and `fall` are the tasks that have to change for that. Everything is asked at the beginning, as far as room
    and takers are known then.
    """

    def __init__(self, unit: UnitOfWork, lanes: dict[str, set[str] | None]) -> None:
        self._unit = unit
        self._lanes = lanes
        self.rise: list[int] = []
        self.fall: list[int] = []
        link, ledger = unit.link, unit.ledger
        known = {lane for lane in lanes if ledger.knows((LANE_RUNNING, lane))}
        self._counters = ledger.ask((LANE_RUNNING, lane) for lane in lanes)
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
        """Fill `rise` and `fall`, without the lanes of `but`."""
        unit, lanes = self._unit, self._lanes
        ready_in: dict[str, int] = {}
        self._counters()
        fresh = offered(unit, lanes)
        waiting = {
            lane: {row[0] for row in rows} | {entry.taker for entry in fresh.get(lane, ())}
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
                (-entry.order.priority, entry.order.seq, entry.ready)
                for entry in fresh.get(lane, ())
                if entry.taker == taker
            ]
            for _, seq, ready in sorted(best)[:room]:
                keep.add(seq)
                if not ready:
                    self.rise.append(seq)
                    ready_in[lane] = ready_in.get(lane, 0) + 1
        for (lane, takers), rows in zip(lanes.items(), self._ready(), strict=True):
            if lane in but:
                continue
            room = room_in(unit, lane)
            ready_now = [*rows, *((entry.order.seq, entry.taker) for entry in fresh.get(lane, ()) if entry.ready)]
            fall = [
                seq for seq, taker in ready_now if seq not in keep and (takers is None or not room or taker in takers)
            ]
            self.fall += fall
            unit.ready_in[lane] = ready_in.get(lane, 0) + len(ready_now) - len(fall)


def trim_lanes(unit: UnitOfWork, lanes: Iterable[str]) -> None:
    """Choose the ready tasks anew, after claims, in lanes where more tasks are ready than there is room left.

    Only a lane with several kinds of takers gets there; in any other a claim takes as much from ready as from room.
    """
    unknown = [lane for lane in lanes if lane and lane not in unit.ready_in]
    ready = unit.link.ask_each(_READY, [(lane,) for lane in unknown])
    # For lanes with new tasks in them the number is known already.
    unit.ready_in.update((lane, len(rows)) for lane, rows in zip(unknown, ready(), strict=True))
    for lane in lanes:
        if lane and unit.ready_in[lane] > room_in(unit, lane):
            unit.lanes[lane] = None
    refill = _Refill(unit, _changed(unit))
    refill.decide()
    _set_ready(unit, refill.rise, refill.fall)


def _set_ready(unit: UnitOfWork, rise: list[int], fall: list[int]) -> None:
    unit.risen.update(rise)
    unit.risen.difference_update(fall)
    ready = {entry.order.seq: entry for entry in unit.fresh()}
    values = [(seq, False) for seq in fall] + [(seq, True) for seq in rise]
    for seq, is_ready_now in values:
        if seq in ready:
            ready[seq].ready = is_ready_now
    unit.link.write(_SET_READY, sorted(value for value in values if value[0] not in ready))
