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

from longshore.server.model.errors import CallerShare, TooManyUploads
from longshore.server.store.commands import Bounds
from longshore.server.store.sql.statement import statement
from longshore.server.store.tables.schema import is_open, uploads
from longshore.server.store.transaction.counters import ASKED_UPLOADS, UPLOADS, UPLOADS_OF, Key
from longshore.server.store.transaction.reads import Reads
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
    """Return the share of a caller while others ask. 0 means that no caller may have any."""
    return max(most // 2, min(most, 1))


def ask(reads: Reads, of: Key) -> None:
    """Note that a caller with less than its share waits. The note stays although the caller is refused."""
    noted = reads.counters.value(of)
    if abs(reads.now - noted) > _NOTED:
        reads.counters.move(of, int(reads.now) - noted)


def others_ask(reads: Reads, of: Key) -> bool:
    """Tell whether a caller with less than its share waits."""
    return abs(reads.now - reads.counters.value(of)) < WAITING


def check_share(reads: Reads, of: Key, *, principal: str, holds: int, most: int, what: str, asks: int = 1) -> None:
    """Raise CallerShare if this caller holds half or more of `what` and others wait for some."""
    if holds + asks > half(most) and others_ask(reads, of):
        raise CallerShare(
            f"{principal!r} holds {holds} of {most} {what}, and other callers wait for some: a caller gets at most "
            "half then. Try later with the same id.",
            subject=f"principal:{principal}",
        )


def uploads_sent(unit: UnitOfWork) -> int:
    """Count the open uploads that some connection sends, as far as is known. No connection sends the others."""
    unit.writes.flush()
    row = unit.reads.link.row(_SENT, since=unit.reads.now - SENT)
    return 0 if row is None else int(row[0])


def reserved_by(unit: UnitOfWork, principal: str) -> int:
    """Sum the bytes of the spool that open uploads of a caller have reserved."""
    unit.writes.flush()
    row = unit.reads.link.row(_RESERVED, principal=principal)
    return 0 if row is None else int(row[0])


def check_uploads(unit: UnitOfWork, bounds: Bounds, principal: str) -> None:
    """Raise TooManyUploads or CallerShare if the caller may not open another upload.

    Where all slots are taken, a caller with less than half of them gets the slot of an upload that nobody sends on.
    What was reserved and sent of that upload stays, and it takes a slot again when it is sent: see `uploads`.
    """
    counters = unit.reads.counters
    most, open_ones = bounds.uploads, counters.value(UPLOADS)
    if open_ones >= half(most):
        mine = counters.peek((UPLOADS_OF, principal))
        if open_ones < most:
            if bounds.caller_uploads is None:
                check_share(
                    unit.reads, ASKED_UPLOADS, principal=principal, holds=mine, most=most, what="slots for uploads"
                )
        elif mine >= half(most) or uploads_sent(unit) >= most:
            if mine < half(most):
                ask(unit.reads, ASKED_UPLOADS)
            raise TooManyUploads(
                f"{open_ones} uploads are open, {mine} of them of {principal!r}, and no more than {most} may be: try "
                "later with the same id.",
                subject="uploads",
            )
    if bounds.caller_uploads is not None and counters.value((UPLOADS_OF, principal)) >= bounds.caller_uploads:
        raise CallerShare(
            f"{principal!r} has {bounds.caller_uploads} uploads open, and no more may be: try later with the same id.",
            subject=f"principal:{principal}",
        )
