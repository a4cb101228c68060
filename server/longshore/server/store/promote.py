"""What follows from the changes of a batch: whose turn it is at a destination, and who is ready in an instance's queue.

A lane is one instance of one target. Of its QUEUED tasks only as many are `ready` as it has room, the best first,
counted for each kind of taker by itself; claims look at ready tasks alone, so that neither a long queue nor a saturated
instance makes a claim dearer.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.events import BecameHead
from longshore.server.store.counters import LANE_RUNNING
from longshore.server.store.link import Each, Given, Row, changing
from longshore.server.store.schema import is_live, is_offered, is_ready, tasks
from longshore.server.store.unit import UnitOfWork

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
        sa.select(tasks.c.seq, tasks.c.ready)
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
    """Whatever follows from what the batch has decided and written: heads first, then the lanes.

    What the lanes are asked goes along with the question for the heads; those that a new head changes are asked again.
    """
    places = sorted(unit.places)
    unit.places.clear()
    first = unit.link.ask_each(_FIRST, [{"place": place} for place in places])
    early = _Refill(unit, _changed(unit))
    _promote(unit, [rows[0][0] for rows in first() if rows and not rows[0][1]])
    again = {lane: early.also(lane, takers) for lane, takers in _changed(unit).items()}
    late = _Refill(unit, again)
    early.decide(but=again)
    late.decide()
    _set_ready(unit, early.rise + late.rise, early.fall + late.fall)


def _promote(unit: UnitOfWork, seqs: list[int]) -> None:
    """The earliest live task of each destination that was left becomes its head."""
    for entry in unit.load(seqs):
        unit.apply(entry, BecameHead())
    unit.flush()


def _changed(unit: UnitOfWork) -> dict[str, set[str] | None]:
    """The lanes that have changed since this was asked last."""
    lanes = {lane: takers for lane, takers in sorted(unit.lanes.items(), key=lambda item: item[0]) if lane}
    unit.lanes.clear()
    return lanes


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
        self._takers = link.ask_each(_TAKERS, [{"lane": lane} for lane in self._open])
        self._ready = link.ask_each(_READY, [{"lane": lane} for lane in lanes])
        self._early = [(lane, taker) for lane in lanes if lane in known for taker in sorted(lanes[lane] or ())]
        self._best = self._ask_best(self._early)

    def also(self, lane: str, takers: set[str] | None) -> set[str] | None:
        """These takers and those that the lane is asked about already."""
        if lane not in self._lanes:
            return takers
        before = self._lanes[lane]
        return None if takers is None or before is None else takers | before

    def _ask_best(self, pairs: list[tuple[str, str]]) -> Callable[[], list[list[Row]]]:
        unit = self._unit
        return unit.link.ask_each(
            _BEST, [{"lane": lane, "taker": taker, "room": room_in(unit, lane)} for lane, taker in pairs]
        )

    def decide(self, but: Container[str] = ()) -> None:
        """Fill `rise` and `fall`, without the lanes of `but`."""
        unit, lanes = self._unit, self._lanes
        self._counters()
        waiting = {lane: {row[0] for row in rows} for lane, rows in zip(self._open, self._takers(), strict=True)}
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
        for (lane, _), rows in zip([*self._early, *pairs], [*self._best(), *late()], strict=True):
            if lane in but or not room_in(unit, lane):
                continue
            keep.update(seq for seq, _ in rows)
            self.rise += [seq for seq, ready in rows if not ready]
        for (lane, takers), rows in zip(lanes.items(), self._ready(), strict=True):
            if lane in but:
                continue
            room = room_in(unit, lane)
            self.fall += [
                seq for seq, taker in rows if seq not in keep and (takers is None or not room or taker in takers)
            ]


def trim_lanes(unit: UnitOfWork, lanes: Iterable[str]) -> None:
    """After claims: where more are ready than there is room left, choose anew.

    Only lanes with several kinds of takers come to that; for the others a claim takes from ready and room alike.
    """
    wanted = [lane for lane in lanes if lane]
    ready = unit.link.ask_each(_READY, [{"lane": lane} for lane in wanted])
    for lane, rows in zip(wanted, ready(), strict=True):
        if len(rows) > room_in(unit, lane):
            unit.lanes[lane] = None
    refill = _Refill(unit, _changed(unit))
    refill.decide()
    _set_ready(unit, refill.rise, refill.fall)


def _set_ready(unit: UnitOfWork, rise: list[int], fall: list[int]) -> None:
    unit.risen.update(rise)
    unit.risen.difference_update(fall)
    values = [{"of_seq": seq, "is_ready": False} for seq in fall] + [{"of_seq": seq, "is_ready": True} for seq in rise]
    unit.link.write(_SET_READY, sorted(values, key=itemgetter("of_seq")))
