"""Commands of uploads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.errors import TooManyUploads, UploadTakenOver
from longshore.server.model.servers import Home
from longshore.server.model.task import Upload
from longshore.server.model.values import UploadState
from longshore.server.store.commands import (
    AbandonIdleUploads,
    Bounds,
    Checkpoint,
    FinishUpload,
    ForgetUploads,
    OpenUpload,
    RejectUpload,
)
from longshore.server.store.handlers import shares
from longshore.server.store.handlers.payloads import check_spool
from longshore.server.store.handlers.requests import (
    check_room,
    check_same,
    check_same_bytes,
    drop_request,
    fill_request,
    record_request,
    tasks_of_request,
    want_room,
)
from longshore.server.store.handlers.servers import check_servers, require_new_servers
from longshore.server.store.handlers.upload_homes import (
    check_free,
    drop_homes,
    find_home,
    is_here,
    new_home,
    release_home,
    set_home,
)
from longshore.server.store.sql.statement import Among, Statement, locking, statement
from longshore.server.store.tables.rows import UPLOAD_COLUMNS, upload_of, whole_upload
from longshore.server.store.tables.schema import homes, is_abandoned, is_open, uploads
from longshore.server.store.transaction.counters import (
    CREATOR_PROMISED,
    QUEUE_PROMISED,
    SPOOL,
    UPLOADS,
    UPLOADS_OF,
)
from longshore.server.store.transaction.new_tasks import make_tasks, want_plans
from longshore.server.store.transaction.reads import Reads, RequestRecord
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork
from longshore.server.store.transaction.writes import Writes

_INSERT: Final = statement(
    uploads.insert().values(
        {
            name: sa.bindparam(name)
            for name in (
                "id", "principal", "request_id", "fingerprint", "state", "queue", "promised", "offset", "crc32c",
                "size", "sha256", "reserved", "connection", "touched_at",
            )
        }
    )
)  # fmt: skip
_CONNECT: Final = statement(
    uploads.update()
    .where(uploads.c.id == sa.bindparam("of_id"))
    .values(
        connection=sa.bindparam("number"),
        offset=sa.bindparam("to"),
        crc32c=sa.bindparam("crc"),
        touched_at=sa.bindparam("at"),
    )
)
_PROGRESS: Final = statement(
    uploads.update()
    .where(uploads.c.id == sa.bindparam("of_id"))
    .values(
        offset=sa.bindparam("to"),
        crc32c=sa.bindparam("crc"),
        reserved=sa.bindparam("room"),
        touched_at=sa.bindparam("at"),
    )
)
_TOUCH: Final = statement(
    uploads.update().where(uploads.c.id == sa.bindparam("of_id")).values(touched_at=sa.bindparam("at"))
)
_COMPLETE: Final = statement(
    uploads.update()
    .where(uploads.c.id == sa.bindparam("of_id"))
    .values(
        state=UploadState.COMPLETE.value,
        promised=0,
        reserved=0,
        offset=sa.bindparam("of_size"),
        crc32c=sa.bindparam("crc"),
        payload_id=sa.bindparam("payload"),
        payload_size=sa.bindparam("of_size"),
        payload_crc32c=sa.bindparam("crc"),
        payload_sha256=sa.bindparam("digest"),
        touched_at=sa.bindparam("at"),
    )
)
_ABANDON: Final = statement(
    uploads.update().where(uploads.c.id == sa.bindparam("of_id")).values(state=UploadState.ABANDONED.value, promised=0)
)
_IDLE: Final = locking(
    sa.select(*UPLOAD_COLUMNS)
    .where(is_open, uploads.c.touched_at <= sa.bindparam("before"))
    .order_by(uploads.c.touched_at)
    .limit(sa.bindparam("most"))
)
_ABANDONED: Final = statement(
    sa.select(uploads.c.id).where(is_abandoned).order_by(uploads.c.id).limit(sa.bindparam("most"))
)
_ABANDONED_HERE: Final = statement(
    sa.select(uploads.c.id)
    .join_from(uploads, homes, homes.c.id == uploads.c.id, isouter=True)
    .where(is_abandoned, is_here(sa.bindparam("spool", type_=sa.Text)))
    .order_by(uploads.c.id)
    .limit(sa.bindparam("most"))
)
_FORGETTABLE: Final = Among(
    lambda keys: (
        sa.select(uploads.c.id, uploads.c.reserved).where(uploads.c.id.in_(keys), is_abandoned).order_by(uploads.c.id)
    ),
    lock=True,
)
_DELETE: Final = statement(uploads.delete().where(uploads.c.id == sa.bindparam("of_id")))

_FoundUpload = tuple[Upload, str, int]
"""(upload, its queue, slots promised there)"""


def _find(reads: Reads, upload_id: str) -> _FoundUpload | None:
    row = reads.uploads.get(upload_id)
    return None if row is None else (upload_of(row), row[-2], row[-1])


def _change(unit: UnitOfWork, upload_id: str, what: Statement, **values: Any) -> None:
    """Write the row of an upload."""
    unit.reads.uploads.forget(upload_id)
    unit.writes.tell(what, of_id=upload_id, **values)


def _writable(reads: Reads, upload_id: str, connection: int) -> _FoundUpload:
    """Return the upload, if this connection may write it. Raises UploadTakenOver."""
    found = _find(reads, upload_id)
    if found is None or found[0].state is not UploadState.OPEN or found[0].connection != connection:
        raise UploadTakenOver(
            "This connection may not write the upload any more: another one continues it, or it is over.",
            upload_id=upload_id,
        )
    return found


def _want_opening(reads: Reads, command: OpenUpload) -> None:
    """Name the rows that `open_upload`, `check_room`, `check_uploads` and `check_spool` read."""
    bounds, principal = command.bounds, command.principal
    reads.requests.wanted.add((principal, command.request_id))
    want_room(reads, bounds, queue=command.queue, principal=principal)
    reads.counters.wanted.add(UPLOADS)
    if bounds.caller_uploads is not None:
        reads.counters.wanted.add((UPLOADS_OF, principal))
    if bounds.spool_bytes is not None:
        reads.counters.wanted.add(SPOOL)
    for task_id in () if command.terms is None else command.terms.after:
        reads.tasks.want(task_id)


@handles(OpenUpload, prefetch=_want_opening, keeps_memory=True)
def open_upload(unit: UnitOfWork, command: OpenUpload) -> Callable[[], Upload]:
    """See OpenUpload."""
    request = unit.reads.requests.get((command.principal, command.request_id))
    if request is None:
        return _new_upload(unit, command)
    check_same(request, command.fingerprint, request_id=command.request_id, upload=True)
    found = _find(unit.reads, request.upload_id or "")
    if found is None:
        if request.first_seq is None:
            # This cannot happen: an upload that is given up takes its request along.
            raise LookupError(f"the upload {request.upload_id!r} of a request is gone")
        upload_id, fingerprint = request.upload_id or "", request.fingerprint
        return lambda: whole_upload(
            command.principal, command.request_id, upload_id, fingerprint, tasks_of_request(unit.reads, request)
        )
    upload = found[0]
    if upload.state is UploadState.COMPLETE:
        return lambda: replace(upload, tasks=tasks_of_request(unit.reads, request))
    if command.connect:
        upload = _connected(unit, upload, command)
    return lambda: upload


def _check_slot(unit: UnitOfWork, upload: Upload, bounds: Bounds) -> None:
    """Raise TooManyUploads for an upload that no connection sends, if others have all the slots by now.

    A caller that asks again and again does not lose the durable part of its upload: asking is a sign of life, though
    the upload does not count as being sent.
    """
    reads = unit.reads
    waits = upload.connection == 0 or upload.touched_at <= reads.now - shares.SENT
    if waits and reads.counters.value(UPLOADS) > bounds.uploads and shares.uploads_sent(unit) >= bounds.uploads:
        alive = reads.now if upload.connection == 0 else max(upload.touched_at, reads.now - shares.SENT)
        reads.uploads.forget(upload.id)
        unit.writes.note(_TOUCH, of_id=upload.id, at=alive)
        raise TooManyUploads(
            f"{bounds.uploads} uploads are being sent, as many as may be. This one was idle, so another one has its "
            "slot: try later with the same id. What is kept of it stays.",
            subject="uploads",
        )


def _connected(unit: UnitOfWork, upload: Upload, command: OpenUpload) -> Upload:
    """Connect the upload to this server: it gets its next connection."""
    _check_slot(unit, upload, command.bounds)
    here = command.here
    if here is not None:
        home = find_home(unit.reads.link, upload.id)
        check_free(unit.reads, upload, home, command)
        if home is not None and home.away(here):
            upload = replace(upload, offset=0, crc32c=0)
        # Every connection after the first goes on in a file.
        if upload.connection or command.spooled:
            set_home(unit.writes, upload.id, Home(here.spool, here.server, unit.reads.now))
    now = unit.reads.now
    upload = replace(upload, connection=upload.connection + 1, touched_at=now)
    _change(unit, upload.id, _CONNECT, number=upload.connection, to=upload.offset, crc=upload.crc32c, at=now)
    return upload


def _new_upload(unit: UnitOfWork, command: OpenUpload) -> Callable[[], Upload]:
    bounds = command.bounds
    if command.needs_servers or command.terms is not None:
        require_new_servers(unit.reads)
    if command.terms is not None:
        unit.followers.check(command.terms, creator=None if command.any_creator else command.principal)
    if command.tasks:
        check_room(unit.reads, bounds, queue=command.queue, principal=command.principal, tasks=command.tasks)
    shares.check_uploads(unit, bounds, command.principal)
    check_spool(unit, bounds, command.reserve, size=command.size or 0, principal=command.principal)
    upload = Upload(
        id=command.upload_id,
        principal=command.principal,
        request_id=command.request_id,
        fingerprint=command.fingerprint,
        state=UploadState.OPEN,
        offset=0,
        crc32c=0,
        size=command.size,
        sha256=command.sha256,
        reserved=command.reserve,
        connection=1 if command.connect else 0,
        touched_at=unit.reads.now,
    )
    record_request(
        unit,
        principal=command.principal,
        request_id=command.request_id,
        request=RequestRecord(command.fingerprint, upload.id),
    )
    unit.reads.uploads.forget(upload.id)
    unit.writes.tell(
        _INSERT,
        id=upload.id,
        principal=upload.principal,
        request_id=upload.request_id,
        fingerprint=upload.fingerprint,
        state=upload.state.value,
        queue=command.queue,
        promised=command.tasks,
        offset=0,
        crc32c=0,
        size=upload.size,
        sha256=upload.sha256,
        reserved=upload.reserved,
        connection=upload.connection,
        touched_at=upload.touched_at,
    )
    _count_open(unit.writes, upload, command.queue, command.tasks, 1)
    unit.writes.move(SPOOL, upload.reserved)
    if command.here is not None and command.spooled and command.connect:
        new_home(unit, upload.id, command.here)
    return lambda: upload


def _count_open(writes: Writes, upload: Upload, queue: str, promised: int, sign: int) -> None:
    """Count an open upload (1), or count it no more (-1)."""
    writes.move(UPLOADS, sign)
    writes.move((UPLOADS_OF, upload.principal), sign)
    writes.move((QUEUE_PROMISED, queue), sign * promised)
    writes.move((CREATOR_PROMISED, upload.principal), sign * promised)


@handles(Checkpoint, prefetch=lambda reads, command: reads.uploads.wanted.add(command.upload_id), keeps_memory=True)
def checkpoint(unit: UnitOfWork, command: Checkpoint) -> Callable[[], Upload]:
    """See Checkpoint."""
    upload, _, _ = _writable(unit.reads, command.upload_id, command.connection)
    if command.offset is None:
        upload = replace(upload, touched_at=unit.reads.now)
    else:
        more = max(0, command.reserve - upload.reserved)
        check_spool(unit, command.bounds, more, size=command.offset)
        unit.writes.move(SPOOL, more)
        upload = replace(
            upload,
            offset=command.offset,
            crc32c=command.crc32c,
            reserved=upload.reserved + more,
            touched_at=unit.reads.now,
        )
    progress = {"to": upload.offset, "crc": upload.crc32c, "room": upload.reserved, "at": upload.touched_at}
    _change(unit, upload.id, _PROGRESS, **progress)
    if command.release:
        release_home(unit, upload.id)
    return lambda: upload


def _want_finish(reads: Reads, command: FinishUpload) -> None:
    reads.uploads.wanted.add(command.upload_id)
    want_plans(reads, command.plans)


@handles(FinishUpload, prefetch=_want_finish, keeps_memory=True)
def finish_upload(unit: UnitOfWork, command: FinishUpload) -> Callable[[], Upload]:
    """See FinishUpload."""
    done = _find(unit.reads, command.upload_id)
    if done is not None and done[0].state is UploadState.COMPLETE:
        upload = done[0]
        check_same_bytes(upload.payload, command.payload, request_id=upload.request_id)
        request = unit.reads.requests.get((upload.principal, upload.request_id))
        return lambda: replace(upload, tasks=() if request is None else tasks_of_request(unit.reads, request))
    upload, queue, promised = _writable(unit.reads, command.upload_id, command.connection)
    check_servers(unit.reads, command.plans)
    payload = command.payload
    # A payload without tasks is kept for plans and submissions, as one of a failed task is.
    until = 0.0 if command.plans else unit.reads.now + unit.decisions.policy.retention
    unit.writes.keep(payload, command.inline, until=until)
    if command.homed:
        drop_homes(unit.writes, (upload.id,))
    _change(
        unit,
        upload.id,
        _COMPLETE,
        of_size=payload.size,
        crc=payload.crc32c,
        payload=payload.id,
        digest=payload.sha256,
        at=unit.reads.now,
    )
    _count_open(unit.writes, upload, queue, promised, -1)
    unit.writes.move(SPOOL, payload.size - upload.reserved)
    made = make_tasks(unit, command.plans, creator=upload.principal, request_id=upload.request_id, payload=payload)
    fill_request(unit, upload, made)
    complete = replace(
        upload,
        state=UploadState.COMPLETE,
        offset=payload.size,
        crc32c=payload.crc32c,
        reserved=0,
        touched_at=unit.reads.now,
        payload=payload,
    )
    return lambda: replace(complete, tasks=tuple(loaded.task for loaded in made))


def _abandon(unit: UnitOfWork, upload: Upload, queue: str, promised: int) -> None:
    """Give an upload up. Its slots are free at once, its bytes when the file is gone."""
    _change(unit, upload.id, _ABANDON)
    drop_request(unit, principal=upload.principal, request_id=upload.request_id)
    _count_open(unit.writes, upload, queue, promised, -1)


@handles(RejectUpload, prefetch=None, keeps_memory=False)
def reject_upload(unit: UnitOfWork, command: RejectUpload) -> Callable[[], None]:
    """See RejectUpload."""
    found = _find(unit.reads, command.upload_id)
    if found is not None and found[0].state is UploadState.OPEN and found[0].connection == command.connection:
        _abandon(unit, *found)
    return lambda: None


@handles(AbandonIdleUploads, prefetch=None, keeps_memory=False)
def abandon_idle_uploads(unit: UnitOfWork, command: AbandonIdleUploads) -> Callable[[], tuple[str, ...]]:
    """See AbandonIdleUploads."""
    for row in unit.reads.link.rows(_IDLE, before=unit.reads.now - command.idle, most=command.limit):
        _abandon(unit, upload_of(row), row[-2], row[-1])
    spool = command.spool
    if spool is None:
        rows = unit.reads.link.rows(_ABANDONED, most=command.limit)
    else:
        rows = unit.reads.link.rows(_ABANDONED_HERE, spool=spool, most=command.limit)
    given_up = tuple(row[0] for row in rows)
    return lambda: given_up


@handles(ForgetUploads, prefetch=None, keeps_memory=False)
def forget_uploads(unit: UnitOfWork, command: ForgetUploads) -> Callable[[], None]:
    """See ForgetUploads."""
    forgotten = unit.reads.link.among(_FORGETTABLE, sorted(set(command.upload_ids)))
    for upload_id, reserved in forgotten:
        _change(unit, upload_id, _DELETE)
        unit.writes.move(SPOOL, -reserved)
    if command.homes:
        drop_homes(unit.writes, [row[0] for row in forgotten])
    return lambda: None
