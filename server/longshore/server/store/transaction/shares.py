"""Fair shares keep a caller from keeping the others out, and let a caller that is alone use everything.

A caller that found no room and holds less than half is remembered for `WAITING` seconds, in a counter that holds a
time. While one is, a caller that holds half or more gets nothing further. So what becomes free goes to those that have
less, and where nobody else asks, nothing is refused for the sake of shares.

Shares are looked at only where more than half is in use. They are read while the sum that the room is taken from is
locked, so that servers that share a database agree. The sums of what callers hold are read without a lock, because
other transactions lock them in another order.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import CallerShare
from longshore.server.store.sql.statement import statement
from longshore.server.store.tables.schema import is_open, uploads
from longshore.server.store.transaction.counters import Key
from longshore.server.store.transaction.unit import UnitOfWork

WAITING: Final = 30.0
"""Seconds for which a caller that was refused counts as waiting: clients ask again every few seconds."""
_NOTED: Final = 5.0
"""Seconds after which a wait is noted anew."""
SENT: Final = 120.0
"""Seconds since the last sign of life within which an upload counts as being sent. Slow ones give one that often: a
checkpoint is due with the first chunk that comes 60 s after the last, and a silent connection is ended after 60 s."""

_SENT: Final = statement(
    sa.select(sa.func.count()).where(
        is_open, uploads.c.connection > sa.literal_column("0"), uploads.c.touched_at > sa.bindparam("since")
    )
)
_RESERVED: Final = statement(
    sa.select(sa.func.coalesce(sa.func.sum(uploads.c.reserved), sa.literal_column("0"))).where(
        is_open, uploads.c.principal == sa.bindparam("principal")
    )
)


def half(most: int) -> int:
    """The share of a caller while others ask; 0 where nobody may have any."""
    return max(most // 2, min(most, 1))


def ask(unit: UnitOfWork, of: Key) -> None:
    """Note that a caller with less than its share waits. The note stays although the caller is refused."""
    noted = unit.counters.value(of)
    if abs(unit.now - noted) > _NOTED:
        unit.counters.move(of, int(unit.now) - noted)


def others_ask(unit: UnitOfWork, of: Key) -> bool:
    """Whether a caller with less than its share waits."""
    return abs(unit.now - unit.counters.value(of)) < WAITING


def check_share(unit: UnitOfWork, of: Key, *, principal: str, holds: int, most: int, what: str, asks: int = 1) -> None:
    """Raise CallerShare if this caller holds half or more of `what` and others wait for some."""
    if holds + asks > half(most) and others_ask(unit, of):
        raise CallerShare(
            f"{principal!r} holds {holds} of {most} {what}, and other callers wait for some: a caller gets at most "
            "half then. Try later with the same id.",
            subject=f"principal:{principal}",
        )


def uploads_sent(unit: UnitOfWork) -> int:
    """Open uploads that some connection sends, as far as is known. Nobody sends on the others."""
    unit.flush()
    row = unit.link.row(_SENT, since=unit.now - SENT)
    return 0 if row is None else int(row[0])


def reserved_by(unit: UnitOfWork, principal: str) -> int:
    """Bytes of the spool that open uploads of a caller have reserved."""
    unit.flush()
    row = unit.link.row(_RESERVED, principal=principal)
    return 0 if row is None else int(row[0])
