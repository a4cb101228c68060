"""Requests make a second call with the same id answer with the same tasks (P4)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import CallerShare, QueueFull, RequestIdReused
from longshore.server.model.task import Payload, Task, Upload
from longshore.server.model.values import UploadState
from longshore.server.store.commands import Bounds
from longshore.server.store.handlers import shares
from longshore.server.store.sql.statement import changing, inserting, statement, types_of
from longshore.server.store.tables.schema import requests, uploads
from longshore.server.store.transaction.counters import ASKED, CREATOR, CREATOR_PROMISED, QUEUE, QUEUE_PROMISED, Key
from longshore.server.store.transaction.loaded_tasks import LoadedTask
from longshore.server.store.transaction.reads import Reads, RequestRecord
from longshore.server.store.transaction.unit import UnitOfWork

_ZERO: Final[sa.ColumnElement[int]] = sa.literal_column("0")

_INSERT: Final = inserting(requests, "request_id", "principal", "fingerprint", "first_seq", "count", "live")
_INSERT_UPLOADED: Final = inserting(
    requests, "request_id", "principal", "fingerprint", "first_seq", "count", "live", "upload_id"
)
_INSERT_WHOLE: Final = inserting(uploads)
_INSERT_OPEN: Final = inserting(
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
_END_EMPTY: Final = changing(
    lambda given: (
        requests.update()
        .where(requests.c.request_id == given["of_request"], requests.c.principal == given["by"])
        .values(ended_at=given["at"])
    ),
    types_of(requests, of_request="request_id", by="principal", at="ended_at"),
)
_DROP: Final = statement(
    requests.delete().where(
        requests.c.request_id == sa.bindparam("request_id"), requests.c.principal == sa.bindparam("principal")
    )
)


def check_same(request: RequestRecord, fingerprint: str, *, request_id: str, upload: bool) -> None:
    """Raise RequestIdReused if the id was used for another request."""
    if request.fingerprint != fingerprint or (request.upload_id is not None) is not upload:
        raise RequestIdReused(
            f"The request id {request_id!r} came before with a different request: choose another id.",
            request_id=request_id,
        )


def check_same_bytes(kept: Payload | None, payload: Payload, *, request_id: str) -> None:
    """Raise RequestIdReused if the upload of the request was finished with other bytes. Another connection, at another
    server, may have done so meanwhile: the caller that sent these bytes must not be told that they were taken."""
    if kept is not None and (kept.size, kept.crc32c) != (payload.size, payload.crc32c):
        raise RequestIdReused(
            "Another connection has finished this upload with different content. Choose another id.",
            request_id=request_id,
        )


def tasks_of_request(reads: Reads, request: RequestRecord) -> tuple[Task, ...]:
    return tuple(loaded.task for loaded in reads.tasks.load(request.seqs))


def record_request(unit: UnitOfWork, *, principal: str, request_id: str, request: RequestRecord) -> None:
    """Record a new request. A request with an open upload gets its tasks later."""
    unit.reads.requests.put((principal, request_id), request)
    if request.first_seq is None:
        unit.writes.later(_INSERT_OPEN, (request_id, principal, request.fingerprint, request.upload_id))
        return
    row = (request_id, principal, request.fingerprint, request.first_seq, request.count, request.count)
    if request.upload_id is None:
        unit.writes.later(_INSERT, row)
    else:
        unit.writes.later(_INSERT_UPLOADED, (*row, request.upload_id))


def record_whole_upload(
    unit: UnitOfWork, payload: Payload, *, principal: str, request_id: str, fingerprint: str, queue: str
) -> None:
    """Record an upload that is complete at once.

    This version needs no such row. A server of the version before that gets the request again does: without the row it
    refuses the request for ever (P4). So the version after may leave it out.
    """
    size, crc32c, digest = payload.size, payload.crc32c, payload.sha256
    upload = (payload.id, principal, request_id, fingerprint, UploadState.COMPLETE.value, queue, 0, size, crc32c)
    row = (*upload, size, digest, 0, 1, unit.reads.now, payload.id, size, crc32c, digest)
    unit.writes.later(_INSERT_WHOLE, row)


def fill_request(unit: UnitOfWork, upload: Upload, made: list[LoadedTask]) -> None:
    """Give the request of the upload its tasks, now that the bytes are there."""
    if not made:
        # A request without tasks is over at once, and is remembered like the others.
        unit.writes.later(_END_EMPTY, (upload.request_id, upload.principal, unit.reads.now), last=True)
        return
    first, count = made[0].submission.seq, len(made)
    filled = RequestRecord(upload.fingerprint, upload.id, first, count)
    unit.reads.requests.put((upload.principal, upload.request_id), filled)
    unit.writes.later(_FILL, (upload.request_id, upload.principal, first, count), last=True)


def drop_request(unit: UnitOfWork, *, principal: str, request_id: str) -> None:
    """Drop a request whose upload was given up: the id is free again."""
    unit.writes.flush()
    unit.writes.tell(_DROP, principal=principal, request_id=request_id)
    unit.reads.requests.forget((principal, request_id))


def want_room(reads: Reads, bounds: Bounds, *, queue: str, principal: str) -> None:
    """Name the counters that `check_room` reads."""
    reads.counters.wanted.update(_room_counters(queue, principal, bounds.caller_tasks is not None))


@lru_cache(maxsize=1024)
def _room_counters(queue: str, principal: str, of_caller: bool) -> tuple[Key, ...]:  # noqa: FBT001  cached by position
    keys = ((QUEUE, queue), (QUEUE_PROMISED, queue))
    return (*keys, (CREATOR, principal), (CREATOR_PROMISED, principal)) if of_caller else keys


def check_room(reads: Reads, bounds: Bounds, *, queue: str, principal: str, tasks: int) -> None:
    """Raise QueueFull or CallerShare if `tasks` more are too many, promised ones included."""
    value = reads.counters.value
    in_queue = value((QUEUE, queue)) + value((QUEUE_PROMISED, queue))
    if in_queue + tasks > shares.half(bounds.queue_tasks):
        _check_half(reads, bounds, queue=queue, principal=principal, tasks=tasks, in_queue=in_queue)
    if bounds.caller_tasks is None:
        return
    of_caller = value((CREATOR, principal)) + value((CREATOR_PROMISED, principal))
    if of_caller + tasks > bounds.caller_tasks:
        raise CallerShare(
            f"{principal!r} has {of_caller} of at most {bounds.caller_tasks} live tasks: try later with the same id.",
            subject=f"principal:{principal}",
        )


def _check_half(reads: Reads, bounds: Bounds, *, queue: str, principal: str, tasks: int, in_queue: int) -> None:
    """Do the check of `check_room` for a queue of which more than half is in use."""
    most = bounds.queue_tasks
    asked = ASKED, queue
    if in_queue + tasks > most:
        mine = _held(reads, principal)
        if mine + tasks <= shares.half(most):
            shares.ask(reads, asked)
        raise QueueFull(
            f"The queue {queue!r} holds {in_queue} of at most {most} tasks, and {principal!r} has {mine} in all: try "
            "later with the same id.",
            subject=f"queue:{queue}",
        )
    if bounds.caller_tasks is None and shares.others_ask(reads, asked):
        shares.check_share(
            reads,
            asked,
            principal=principal,
            holds=_held(reads, principal),
            most=most,
            what=f"slots in the queue {queue!r}",
            asks=tasks,
        )


def _held(reads: Reads, principal: str) -> int:
    """Return about how many live tasks a caller has, promised ones included."""
    return reads.counters.peek((CREATOR, principal)) + reads.counters.peek((CREATOR_PROMISED, principal))
