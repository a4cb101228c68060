"""A home records which spool has the file of an upload or payload, and which server receives it.

Homes are written only in databases of several servers (`Here`), as soon as they have the table. A payload that stays
in the database (inline) has no home, and an upload of a few seconds that never had a file has none either: its own row
then says when it was touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import UploadInProgress, UploadTakenOver
from longshore.server.model.servers import DEAD_AFTER, HEARD_EVERY, Here, Home
from longshore.server.model.task import Upload
from longshore.server.store.commands import OpenUpload
from longshore.server.store.commands.servers import HearUploads, RecordHome
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among, changing, inserting, locking, statement, types_of
from longshore.server.store.tables.schema import homes, is_open, servers, uploads
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork
from longshore.server.store.transaction.writes import Writes

_COLUMNS: Final = (homes.c.spool, homes.c.sender, homes.c.heard_at)
_FIND: Final = statement(sa.select(*_COLUMNS).where(homes.c.id == sa.bindparam("of_id")))
_ALIVE: Final = statement(
    sa.select(servers.c.spool).where(servers.c.seen_ticks > sa.bindparam("since", type_=sa.Double)).distinct()
)
_SEEN: Final = statement(sa.select(servers.c.seen_ticks).where(servers.c.id == sa.bindparam("of_id")))
_INSERT: Final = inserting(homes, missing=True)
_UPDATE: Final = statement(
    homes.update()
    .where(homes.c.id == sa.bindparam("of_id"))
    .values(spool=sa.bindparam("at"), sender=sa.bindparam("by"), heard_at=sa.bindparam("heard"))
)
_HEAR: Final = changing(
    lambda given: (
        homes.update().where(homes.c.id == given["of_id"]).values(sender=given["by"], heard_at=given["heard"])
    ),
    types_of(homes, of_id="id", by="sender", heard="heard_at"),
)
_RELEASE: Final = statement(homes.update().where(homes.c.id == sa.bindparam("of_id")).values(sender=""))
_DROP: Final = statement(homes.delete().where(homes.c.id == sa.bindparam("of_id")))
_CONNECTION: Final = locking(sa.select(uploads.c.connection).where(uploads.c.id == sa.bindparam("upload_id"), is_open))
_CONNECTIONS: Final = Among(
    lambda keys: (
        sa.select(uploads.c.id, uploads.c.connection).where(uploads.c.id.in_(keys), is_open).order_by(uploads.c.id)
    ),
    lock=True,
)


def is_here(identity: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Build a condition for rows left-joined with `homes`: this spool has the file, or there is no file."""
    return sa.or_(homes.c.spool.is_(None), homes.c.spool == "", homes.c.spool == identity)


def reached_spools(reads: Reads) -> frozenset[str]:
    """Return the spools of all servers that are alive."""
    return frozenset(row[0] for row in reads.link.rows(_ALIVE, since=reads.ticks - DEAD_AFTER))


def find_home(link: Link, upload_id: str) -> Home | None:
    row = link.row(_FIND, of_id=upload_id)
    return None if row is None else Home(*row)


def set_home(writes: Writes, upload_id: str, home: Home) -> None:
    writes.many(_INSERT, [(upload_id, home.spool, home.sender, home.heard_at)])
    writes.tell(_UPDATE, of_id=upload_id, at=home.spool, by=home.sender, heard=home.heard_at)


def new_home(unit: UnitOfWork, upload_id: str, here: Here) -> None:
    """Record the home of an upload that is new itself."""
    unit.writes.later(_INSERT, (upload_id, here.spool, here.server, unit.reads.now))


def release_home(unit: UnitOfWork, upload_id: str) -> None:
    """Record that the connection that sent the upload has ended."""
    unit.writes.many(_INSERT, [(upload_id, "", "", unit.reads.now)])
    unit.writes.tell(_RELEASE, of_id=upload_id)


def drop_homes(writes: Writes, ids: Iterable[str]) -> None:
    for one in ids:
        writes.tell(_DROP, of_id=one)


def check_free(reads: Reads, upload: Upload, home: Home | None, command: OpenUpload) -> None:
    """Raise UploadInProgress if another server's connection is sending the upload, and neither is silent for long
    enough nor is to be put aside."""
    here = command.here
    if here is None or command.take_over or not upload.connection:
        return
    if home is not None:
        if home.sender in ("", here.server) or not _alive(reads, home.sender):
            return
        heard_at = home.heard_at
    else:
        # The upload has no file and no recorded sender: it is seconds old, or its sender was killed in those seconds.
        heard_at = upload.touched_at
    silent = reads.now - heard_at
    if silent < command.silence + HEARD_EVERY:
        raise UploadInProgress(
            "Another server is being sent this upload. Wait for it, or set `take_over` if that connection is dead.",
            upload_id=upload.id,
        )


def _alive(reads: Reads, server: str) -> bool:
    row = reads.link.row(_SEEN, of_id=server)
    return row is not None and bool(reads.ticks - row[0] < DEAD_AFTER)


@handles(RecordHome, prefetch=None, keeps_memory=False)
def record_home(unit: UnitOfWork, command: RecordHome) -> Callable[[], None]:
    """See RecordHome."""
    row = unit.reads.link.row(_CONNECTION, upload_id=command.upload_id)
    if row is None or row[0] != command.connection:
        raise UploadTakenOver(
            "This connection may not write the upload any more: another one continues it, or it is over.",
            upload_id=command.upload_id,
        )
    set_home(unit.writes, command.upload_id, Home(command.here.spool, command.here.server, unit.reads.now))
    return lambda: None


@handles(HearUploads, prefetch=None, keeps_memory=False)
def hear_uploads(unit: UnitOfWork, command: HearUploads) -> Callable[[], frozenset[str]]:
    """See HearUploads."""
    heard = {one.upload_id: one for one in command.uploads}
    newest: dict[str, int] = dict(unit.reads.link.among(_CONNECTIONS, sorted(heard)))
    ours = [one for one in heard.values() if newest.get(one.upload_id) == one.connection]
    if ours:
        sender = command.here.server
        rows = [(one.upload_id, unit.reads.now - max(one.silent, 0.0)) for one in ours]
        unit.writes.many(_INSERT, [(one, "", sender, at) for one, at in rows])
        unit.writes.many(_HEAR, [(one, sender, at) for one, at in rows])
    lost = frozenset(heard) - {one.upload_id for one in ours}
    return lambda: lost
