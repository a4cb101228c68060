"""What follows from the changes of a batch: whose turn it is at a destination, and who is ready in an instance's queue.

A lane is one instance of one target. Of its QUEUED tasks only as many are `ready` as it has room, the best first,
counted for each kind of taker by itself; claims look at ready tasks alone, so that neither a long queue nor a saturated
instance makes a claim dearer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import sqlalchemy as sa

from longshore.server.model.events import BecameHead
from longshore.server.store.counters import LANE_RUNNING
from longshore.server.store.link import statement
from longshore.server.store.schema import is_live, is_offered, is_ready, tasks
from longshore.server.store.unit import UnitOfWork

_FIRST: Final = statement(
    sa.select(tasks.c.seq, tasks.c.head)
    .where(tasks.c.place == sa.bindparam("place"), is_live)
    .order_by(tasks.c.seq)
    .limit(1)
)
_NEXT_TAKER: Final = statement(
    sa.select(sa.func.min(tasks.c.taker)).where(
        tasks.c.lane == sa.bindparam("lane"), tasks.c.taker > sa.bindparam("after"), is_offered
    )
)
_BEST: Final = statement(
    sa.select(tasks.c.seq, tasks.c.ready)
    .where(tasks.c.lane == sa.bindparam("lane"), tasks.c.taker == sa.bindparam("taker"), is_offered)
    .order_by(tasks.c.priority.desc(), tasks.c.seq)
    .limit(sa.bindparam("room"))
)
_READY: Final = statement(sa.select(tasks.c.seq, tasks.c.taker).where(tasks.c.lane == sa.bindparam("lane"), is_ready))
_SET_READY: Final = statement(
    tasks.update().where(tasks.c.seq == sa.bindparam("of_seq")).values(ready=sa.bindparam("is_ready"))
)


def promote_heads(unit: UnitOfWork) -> None:
    """The earliest live task of each destination that was left becomes its head."""
    seqs = []
    for place in sorted(unit.places):
        row = unit.link.row(_FIRST, place=place)
        if row is not None and not row[1]:
            seqs.append(row[0])
    unit.places.clear()
    for entry in unit.load(seqs):
        unit.apply(entry, BecameHead())
    unit.flush()


def room_in(unit: UnitOfWork, lane: str) -> int:
    """How many more attempts the instance may run."""
    return max(0, unit.limits.instance - unit.ledger.value((LANE_RUNNING, lane)))


def refill_lanes(unit: UnitOfWork) -> None:
    """Make the best QUEUED tasks of each lane that changed ready, as many as it has room for, and no others."""
    rise: list[int] = []
    fall: list[int] = []
    for lane, takers in sorted(unit.lanes.items(), key=lambda item: item[0]):
        if not lane:
            continue
        room = room_in(unit, lane)
        keep: set[int] = set()
        if room:
            for taker in _takers(unit, lane) if takers is None else sorted(takers):
                for seq, ready in unit.link.rows(_BEST, lane=lane, taker=taker, room=room):
                    keep.add(seq)
                    if not ready:
                        rise.append(seq)
        for seq, taker in unit.link.rows(_READY, lane=lane):
            if seq not in keep and (takers is None or not room or taker in takers):
                fall.append(seq)
    unit.lanes.clear()
    unit.claimable |= bool(rise)
    _set_ready(unit, fall, ready=False)
    _set_ready(unit, rise, ready=True)


def trim_lanes(unit: UnitOfWork, lanes: Iterable[str]) -> None:
    """After claims: where more are ready than there is room left, choose anew.

    Only lanes with several kinds of takers come to that; for the others a claim takes from ready and room alike.
    """
    for lane in lanes:
        if lane and len(unit.link.rows(_READY, lane=lane)) > room_in(unit, lane):
            unit.lanes[lane] = None
    refill_lanes(unit)


def _takers(unit: UnitOfWork, lane: str) -> Iterator[str]:
    """The kinds of takers that tasks of the lane wait for: a seek in the index for each, however long the queue."""
    after = ""
    while True:
        row = unit.link.row(_NEXT_TAKER, lane=lane, after=after)
        if row is None or row[0] is None:
            return
        after = row[0]
        yield after


def _set_ready(unit: UnitOfWork, seqs: list[int], *, ready: bool) -> None:
    unit.link.many(_SET_READY, [{"of_seq": seq, "is_ready": ready} for seq in sorted(seqs)])
