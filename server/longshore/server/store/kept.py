"""Payloads coming to be kept, and the room that they need."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import SpoolFull
from longshore.server.model.task import Payload
from longshore.server.store.commands import Bounds
from longshore.server.store.counters import SPOOL
from longshore.server.store.link import statement
from longshore.server.store.schema import inline_payloads, payloads
from longshore.server.store.unit import UnitOfWork

_INSERT: Final = statement(
    payloads.insert().values(
        {name: sa.bindparam(name) for name in ("id", "size", "crc32c", "sha256", "live", "keep_until", "doomed")}
    )
)
_INSERT_INLINE: Final = statement(inline_payloads.insert())


def check_spool(unit: UnitOfWork, bounds: Bounds, more: int) -> None:
    """Raises SpoolFull where `more` bytes are too many."""
    if bounds.spool_bytes is None or more <= 0:
        return
    kept = unit.ledger.value(SPOOL)
    if kept + more > bounds.spool_bytes:
        raise SpoolFull(
            f"The spool holds {kept} of at most {bounds.spool_bytes} bytes and has no room for {more} more: "
            "try later with the same id.",
            subject="spool",
        )


def keep_payload(unit: UnitOfWork, payload: Payload, content: bytes | None) -> None:
    """Its row, for tasks that are made next. `content` None: it is in the spool."""
    unit.write(
        _INSERT,
        id=payload.id,
        size=payload.size,
        crc32c=payload.crc32c,
        sha256=payload.sha256,
        live=0,
        keep_until=0.0,
        doomed=False,
    )
    if content is not None:
        unit.write(_INSERT_INLINE, payload_id=payload.id, content=content)
