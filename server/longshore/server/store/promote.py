"""What follows from the changes of a batch: whose turn it is at a destination, and who is ready in an instance's queue.

A lane is one instance of one target. Only as many of its QUEUED tasks are `ready` as it has room, the best first;
claims look at ready tasks alone, so that neither a long queue nor a saturated instance makes a claim dearer.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from longshore.server.model.states import BecameHead
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
_BEST: Final = statement(
    sa.select(tasks.c.seq, tasks.c.ready)
    .where(tasks.c.lane == sa.bindparam("lane"), is_offered)
    .order_by(tasks.c.priority.desc(), tasks.c.seq)
    .limit(sa.bindparam("room"))
)
_READY: Final = statement(sa.select(tasks.c.seq).where(tasks.c.lane == sa.bindparam("lane"), is_ready))
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


def refill_lanes(unit: UnitOfWork) -> None:
    """Make the best QUEUED tasks of each lane that changed ready, as many as it has room for."""
    flips: list[dict[str, object]] = []
    for lane in sorted(unit.lanes):
        if not lane:
            continue
        room = max(0, unit.limits.instance - unit.ledger.value((LANE_RUNNING, lane)))
        best = unit.link.rows(_BEST, lane=lane, room=room) if room else []
        risen = {seq for seq, ready in best if not ready}
        if risen:
            unit.claimable = True
        if risen or len(best) >= room:
            keep = {seq for seq, _ in best}
            fallen = [seq for (seq,) in unit.link.rows(_READY, lane=lane) if seq not in keep]
            flips += ({"of_seq": seq, "is_ready": False} for seq in fallen)
        flips += ({"of_seq": seq, "is_ready": True} for seq in sorted(risen))
    unit.lanes.clear()
    unit.link.many(_SET_READY, flips)
