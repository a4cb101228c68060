"""Requests make a second call with the same id answer with the same tasks (P4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import CallerShare, PayloadGone, QueueFull, RequestIdReused
from longshore.server.model.task import Payload, Task
from longshore.server.store.commands import Bounds
from longshore.server.store.sql.statement import Among, changing, inserting, locking, statement, types_of
from longshore.server.store.tables.rows import PAYLOAD_COLUMNS, payload_of
from longshore.server.store.tables.schema import payloads, requests
from longshore.server.store.transaction import shares
from longshore.server.store.transaction.counters import ASKED, CREATOR, CREATOR_PROMISED, QUEUE, QUEUE_PROMISED, Key
from longshore.server.store.transaction.loaded_task import LoadedTask
from longshore.server.store.transaction.unit import RequestRecord, UnitOfWork

_ZERO: Final[sa.ColumnElement[int]] = sa.literal_column("0")

_FIND: Final = Among(
    lambda keys: (
        sa.select(
            requests.c.principal,
            requests.c.request_id,
            requests.c.fingerprint,
            requests.c.upload_id,
            requests.c.first_seq,
            requests.c.count,
        )
        .where(requests.c.request_id.in_(keys))
        .order_by(requests.c.request_id, requests.c.principal)
    ),
    lock=True,
)
_INSERT: Final = inserting(requests, "request_id", "principal", "fingerprint", "first_seq", "count", "live")
_INSERT_WITH_UPLOAD: Final = inserting(
    requests, "request_id", "principal", "fingerprint", "upload_id", fixed={"count": _ZERO, "live": _ZERO}
)
_FILL: Final = changing(
    lambda given: (
        requests.update()
        .where(requests.c.request_id == given["of_request"], requests.c.principal == given["by"])
        .values(first_seq=given["first"], count=given["made"], live=given["made"])
    ),
    types_of(requests, of_request="request_id", by="principal", first="first_seq", made="count"),
)
_DROP: Final = statement(
    requests.delete().where(
        requests.c.request_id == sa.bindparam("request_id"), requests.c.principal == sa.bindparam("principal")
    )
)
_PAYLOAD: Final = locking(
    sa.select(*PAYLOAD_COLUMNS, payloads.c.doomed).where(payloads.c.id == sa.bindparam("payload_id"))
)


def ask_requests(unit: UnitOfWork, keys: Iterable[tuple[str, str]]) -> Callable[[], None]:
    """Ask in one statement which of these (principal, request id) came before; known once what comes back is called."""
    wanted = set(keys)
    found = unit.link.ask_among(_FIND, sorted({request_id for _, request_id in wanted}))

    def take() -> None:
        unit.requests.update(dict.fromkeys(wanted))
        for principal, request_id, *rest in found.rows():
            if (principal, request_id) in wanted:
                unit.requests[principal, request_id] = RequestRecord(*rest)

    return take


def find_request(unit: UnitOfWork, principal: str, request_id: str) -> RequestRecord | None:
    if (principal, request_id) not in unit.requests:
        ask_requests(unit, ((principal, request_id),))()
    request = unit.requests[principal, request_id]
    made = unit.request_tasks.get((principal, request_id))
    if request is None or made is None:
        return request
    # The transaction writes these numbers at its end, so the row does not have them yet.
    return replace(request, first_seq=made[0], count=made[1])


def check_same(request: RequestRecord, fingerprint: str, *, request_id: str, upload: bool) -> None:
    """Raise RequestIdReused if the request is another one."""
    if request.fingerprint != fingerprint or (request.upload_id is not None) is not upload:
        raise RequestIdReused(
            f"The request id {request_id!r} came before with a different request: choose another id.",
            request_id=request_id,
        )


def tasks_of_request(unit: UnitOfWork, request: RequestRecord) -> tuple[Task, ...]:
    return tuple(loaded.task for loaded in unit.load(request.seqs))


def record_request(unit: UnitOfWork, *, principal: str, request_id: str, request: RequestRecord) -> None:
    """Record a request that did not come before. A request with an upload gets its tasks later."""
    unit.requests[principal, request_id] = request
    if request.upload_id is not None:
        unit.defer(_INSERT_WITH_UPLOAD, (request_id, principal, request.fingerprint, request.upload_id))
    else:
        row = (request_id, principal, request.fingerprint, request.first_seq, request.count, request.count)
        unit.defer(_INSERT, row)


def fill_request(unit: UnitOfWork, *, principal: str, request_id: str, made: list[LoadedTask]) -> None:
    """Give the request its tasks, now that the bytes of its upload are there."""
    unit.defer(_FILL, (request_id, principal, made[0].submission.seq, len(made)), late=True)
    unit.request_tasks[principal, request_id] = (made[0].submission.seq, len(made))


def drop_request(unit: UnitOfWork, *, principal: str, request_id: str) -> None:
    """Drop a request whose upload was given up: the id is free again."""
    unit.flush()
    unit.write(_DROP, principal=principal, request_id=request_id)
    unit.requests.pop((principal, request_id), None)


def room_counters(bounds: Bounds, *, queue: str, principal: str) -> list[Key]:
    """The counters that `check_room` reads."""
    keys = [(QUEUE, queue), (QUEUE_PROMISED, queue)]
    if bounds.caller_tasks is not None:
        keys += [(CREATOR, principal), (CREATOR_PROMISED, principal)]
    return keys


def check_room(unit: UnitOfWork, bounds: Bounds, *, queue: str, principal: str, tasks: int) -> None:
    """Raise QueueFull or CallerShare if `tasks` more are too many, promised ones included."""
    in_queue = unit.counters.value((QUEUE, queue)) + unit.counters.value((QUEUE_PROMISED, queue))
    if in_queue + tasks > shares.half(bounds.queue_tasks):
        _check_half(unit, bounds, queue=queue, principal=principal, tasks=tasks, in_queue=in_queue)
    if bounds.caller_tasks is None:
        return
    of_caller = unit.counters.value((CREATOR, principal)) + unit.counters.value((CREATOR_PROMISED, principal))
    if of_caller + tasks > bounds.caller_tasks:
        raise CallerShare(
            f"{principal!r} has {of_caller} of at most {bounds.caller_tasks} live tasks: try later with the same id.",
            subject=f"principal:{principal}",
        )


def _check_half(unit: UnitOfWork, bounds: Bounds, *, queue: str, principal: str, tasks: int, in_queue: int) -> None:
    """Do the check of `check_room` for a queue of which more than half is in use."""
    most = bounds.queue_tasks
    asked = ASKED, queue
    if in_queue + tasks > most:
        mine = _held(unit, principal)
        if mine + tasks <= shares.half(most):
            shares.ask(unit, asked)
        raise QueueFull(
            f"The queue {queue!r} holds {in_queue} of at most {most} tasks, and {principal!r} has {mine} in all: try "
            "later with the same id.",
            subject=f"queue:{queue}",
        )
    if bounds.caller_tasks is None and shares.others_ask(unit, asked):
        shares.check_share(
            unit,
            asked,
            principal=principal,
            holds=_held(unit, principal),
            most=most,
            what=f"slots in the queue {queue!r}",
            asks=tasks,
        )


def _held(unit: UnitOfWork, principal: str) -> int:
    """About how many live tasks a caller has, promised ones included."""
    return unit.counters.peek((CREATOR, principal)) + unit.counters.peek((CREATOR_PROMISED, principal))


def kept_payload(unit: UnitOfWork, payload_id: str) -> Payload:
    """The payload, if tasks can still be made from it. Raises PayloadGone."""
    row = unit.link.row(_PAYLOAD, payload_id=payload_id)
    if row is None or row[-1]:
        raise PayloadGone(f"The payload {payload_id!r} is not kept any more: upload it again.", payload_id=payload_id)
    return payload_of(row)
