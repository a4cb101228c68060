"""This module finds kept payloads, and checks the room that new ones need."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import PayloadGone, PayloadTooLarge, SpoolFull
from longshore.server.model.task import Payload
from longshore.server.store.commands import Bounds
from longshore.server.store.handlers import shares
from longshore.server.store.sql.statement import locking, statement
from longshore.server.store.tables.rows import PAYLOAD_COLUMNS, payload_of, upload_of
from longshore.server.store.tables.schema import payloads, submissions, tasks
from longshore.server.store.transaction.counters import ASKED_SPOOL, SPOOL
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.unit import UnitOfWork

_PAYLOAD: Final = locking(
    sa.select(*PAYLOAD_COLUMNS, payloads.c.doomed).where(payloads.c.id == sa.bindparam("payload_id"))
)


_USES_PAYLOAD: Final = statement(
    sa.select(sa.literal_column("1"))
    .join_from(submissions, tasks, tasks.c.seq == submissions.c.seq)
    .where(submissions.c.payload_id == sa.bindparam("payload_id"), tasks.c.creator == sa.bindparam("creator"))
    .limit(1)
)


def check_spool(unit: UnitOfWork, bounds: Bounds, more: int, *, size: int = 0, principal: str = "") -> None:
    """Raise SpoolFull if `more` bytes are too many, and PayloadTooLarge if `size` bytes in all, as far as known, could
    never be kept.

    `principal` wants the bytes: CallerShare is raised if it has reserved half and others wait. An empty one means that
    the upload has been let in already.
    """
    most = bounds.spool_bytes
    if most is None or more <= 0:
        return
    # With a bound of 0 the disk has no room at present, which may change.
    if size > most > 0:
        raise PayloadTooLarge(
            f"The file has {size} bytes or more, and the spool of this server holds {most} at most (--spool-limit): it "
            "cannot be taken, now or later.",
            limit=str(most),
        )
    kept = unit.reads.counters.value(SPOOL)
    if kept + more > most:
        if principal and shares.reserved_by(unit, principal) + more <= shares.half(most):
            shares.ask(unit.reads, ASKED_SPOOL)
        raise SpoolFull(
            f"The spool holds {kept} of at most {most} bytes and has no room for {more} more: try later with the same "
            "id.",
            subject="spool",
        )
    if principal and kept + more > shares.half(most) and shares.others_ask(unit.reads, ASKED_SPOOL):
        held = shares.reserved_by(unit, principal)
        shares.check_share(
            unit.reads, ASKED_SPOOL, principal=principal, holds=held, most=most, what="bytes of the spool", asks=more
        )


def kept_payload(reads: Reads, payload_id: str) -> Payload:
    """Return the payload, if tasks can still be made from it. Raises PayloadGone."""
    row = reads.link.row(_PAYLOAD, payload_id=payload_id)
    if row is None or row[-1]:
        raise PayloadGone(f"The payload {payload_id!r} is not kept any more: upload it again.", payload_id=payload_id)
    return payload_of(row)


def named_payload(reads: Reads, payload_id: str, *, principal: str, any_creator: bool) -> Payload:
    """Return a payload that a caller names: one that a task of the caller keeps, or that the caller has uploaded. With
    `any_creator` it may be anybody's. Raises PayloadGone."""
    payload = kept_payload(reads, payload_id)
    if any_creator:
        return payload
    # A payload has the id of its upload.
    row = reads.uploads.get(payload.id)
    if row is not None and upload_of(row).principal == principal:
        return payload
    uses = reads.link.row(_USES_PAYLOAD, payload_id=payload.id, creator=principal)
    mine = any(
        loaded.submission.creator == principal
        and loaded.submission.payload is not None
        and loaded.submission.payload.id == payload.id
        for loaded in reads.tasks.all()
    )
    if uses is None and not mine:
        raise PayloadGone(f"No task or upload of yours keeps the payload {payload.id!r}.", payload_id=payload.id)
    return payload
