"""Requests: what makes a second call with the same id answer with the same tasks (P4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import CallerShare, PayloadGone, QueueFull, RequestIdReused
from longshore.server.model.task import Payload, Task
from longshore.server.store.commands import Bounds
from longshore.server.store.counters import CREATOR, CREATOR_PROMISED, QUEUE, QUEUE_PROMISED
from longshore.server.store.link import locking, statement
from longshore.server.store.rows import PAYLOAD_COLUMNS, payload_of
from longshore.server.store.schema import payloads, requests
from longshore.server.store.unit import Entry, UnitOfWork

_FIND: Final = locking(
    sa.select(requests.c.fingerprint, requests.c.upload_id, requests.c.first_seq, requests.c.count).where(
        requests.c.request_id == sa.bindparam("request_id"), requests.c.principal == sa.bindparam("principal")
    )
)
_INSERT: Final = statement(
    requests.insert().values(
        {
            name: sa.bindparam(name)
            for name in ("request_id", "principal", "fingerprint", "upload_id", "first_seq", "count", "live")
        }
    )
)
_FILL: Final = statement(
    requests.update()
    .where(requests.c.request_id == sa.bindparam("of_request"), requests.c.principal == sa.bindparam("by"))
    .values(first_seq=sa.bindparam("first"), count=sa.bindparam("made"), live=sa.bindparam("made"))
)
_DROP: Final = statement(
    requests.delete().where(
        requests.c.request_id == sa.bindparam("request_id"), requests.c.principal == sa.bindparam("principal")
    )
)
_PAYLOAD: Final = locking(
    sa.select(*PAYLOAD_COLUMNS, payloads.c.doomed).where(payloads.c.id == sa.bindparam("payload_id"))
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that came before, and the numbers of its tasks."""

    fingerprint: str
    upload_id: str | None
    first_seq: int | None
    count: int

    @property
    def seqs(self) -> range:
        return range(0) if self.first_seq is None else range(self.first_seq, self.first_seq + self.count)


def find_request(unit: UnitOfWork, principal: str, request_id: str) -> Request | None:
    row = unit.link.row(_FIND, principal=principal, request_id=request_id)
    return None if row is None else Request(*row)


def check_same(request: Request, fingerprint: str, *, request_id: str, upload: bool) -> None:
    """Raises RequestIdReused where the request is another one."""
    if request.fingerprint != fingerprint or (request.upload_id is not None) is not upload:
        raise RequestIdReused(
            f"The request id {request_id!r} came before with a different request: choose another id.",
            request_id=request_id,
        )


def tasks_of_request(unit: UnitOfWork, request: Request) -> tuple[Task, ...]:
    return tuple(entry.task for entry in unit.load(request.seqs))


def record_upload_request(
    unit: UnitOfWork, *, principal: str, request_id: str, fingerprint: str, upload_id: str
) -> None:
    """A request whose tasks come later, with its bytes."""
    unit.write(
        _INSERT,
        request_id=request_id,
        principal=principal,
        fingerprint=fingerprint,
        upload_id=upload_id,
        first_seq=None,
        count=0,
        live=0,
    )


def fill_upload_request(unit: UnitOfWork, *, principal: str, request_id: str, made: list[Entry]) -> None:
    """The bytes are there: these are its tasks."""
    unit.write(_FILL, of_request=request_id, by=principal, first=made[0].order.seq, made=len(made))


def record_request(
    unit: UnitOfWork, *, principal: str, request_id: str, fingerprint: str, first_seq: int, count: int
) -> None:
    """A request without bytes."""
    unit.write(
        _INSERT,
        request_id=request_id,
        principal=principal,
        fingerprint=fingerprint,
        upload_id=None,
        first_seq=first_seq,
        count=count,
        live=count,
    )


def drop_request(unit: UnitOfWork, *, principal: str, request_id: str) -> None:
    """Its upload was given up: the id is free again."""
    unit.write(_DROP, principal=principal, request_id=request_id)


def check_room(unit: UnitOfWork, bounds: Bounds, *, queue: str, principal: str, tasks: int) -> None:
    """Raises QueueFull or CallerShare where `tasks` more are too many, promised ones included."""
    in_queue = unit.ledger.value((QUEUE, queue)) + unit.ledger.value((QUEUE_PROMISED, queue))
    if in_queue + tasks > bounds.queue_tasks:
        raise QueueFull(
            f"The queue {queue!r} holds {in_queue} of at most {bounds.queue_tasks} tasks: try later with the same id.",
            subject=f"queue:{queue}",
        )
    if bounds.caller_tasks is None:
        return
    of_caller = unit.ledger.value((CREATOR, principal)) + unit.ledger.value((CREATOR_PROMISED, principal))
    if of_caller + tasks > bounds.caller_tasks:
        raise CallerShare(
            f"{principal!r} has {of_caller} of at most {bounds.caller_tasks} live tasks: try later with the same id.",
            subject=f"principal:{principal}",
        )


def kept_payload(unit: UnitOfWork, payload_id: str) -> Payload:
    """The payload, if tasks can still be made from it. Raises PayloadGone."""
    row = unit.link.row(_PAYLOAD, payload_id=payload_id)
    if row is None or row[-1]:
        raise PayloadGone(f"The payload {payload_id!r} is not kept any more: upload it again.", payload_id=payload_id)
    return payload_of(row)
