"""An entry of a server tells the other servers its address, its spool, and when it was last seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.servers import DEAD_AFTER, Server
from longshore.server.store.commands.servers import AnnounceServer, RetireServer
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Statement, statement
from longshore.server.store.tables.schema import homes, servers
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork

REMEMBERED: Final = 3600.0
"""Seconds after its last sign of life for which a dead server is remembered in any case."""

_COLUMNS: Final = (
    servers.c.id,
    servers.c.address,
    servers.c.spool,
    servers.c.version,
    servers.c.started_at,
    servers.c.seen_ticks,
)
_SEE: Final = statement(
    servers.update()
    .where(servers.c.id == sa.bindparam("of_id"))
    .values(address=sa.bindparam("at"), spool=sa.bindparam("has"), seen_ticks=sa.bindparam("ticks"))
)
_INSERT: Final = Statement(
    lambda dialect: dialect.insert_missing(servers).values(
        {column.name: sa.bindparam(column.name) for column in _COLUMNS}
    )
)
_other = servers.alias("other")


def _needless(since: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    """Build a condition for useless entries: the spool has no file, or a server seen after `since` has that spool."""
    files: sa.Select[Any] = sa.select(sa.literal_column("1")).where(homes.c.spool == servers.c.spool)
    others: sa.Select[Any] = sa.select(sa.literal_column("1")).where(
        _other.c.spool == servers.c.spool, _other.c.id != servers.c.id, _other.c.seen_ticks > since
    )
    return sa.or_(~files.exists(), others.exists())


_FORGET: Final = statement(
    servers.delete().where(servers.c.seen_ticks < sa.bindparam("before"), _needless(servers.c.seen_ticks))
)
_LEAVE: Final = statement(
    servers.delete().where(servers.c.id == sa.bindparam("of_id"), _needless(sa.bindparam("since", type_=sa.Double)))
)
_DIE: Final = statement(
    servers.update().where(servers.c.id == sa.bindparam("of_id")).values(seen_ticks=sa.bindparam("ticks"))
)
_ALL: Final = statement(sa.select(*_COLUMNS).order_by(servers.c.started_at, servers.c.id))
_FILES: Final = statement(sa.select(homes.c.spool, sa.func.count()).where(homes.c.spool != "").group_by(homes.c.spool))


@handles(AnnounceServer, prefetch=None, keeps_memory=False)
def announce_server(unit: UnitOfWork, command: AnnounceServer) -> Callable[[], None]:
    """See AnnounceServer."""
    here = command.here
    known = unit.writes.run(_SEE, of_id=here.server, at=command.address, has=here.spool, ticks=unit.reads.ticks)
    if not known:
        unit.writes.tell(
            _INSERT,
            id=here.server,
            address=command.address,
            spool=here.spool,
            version=command.version,
            started_at=unit.reads.now,
            seen_ticks=unit.reads.ticks,
        )
        unit.writes.tell(_FORGET, before=unit.reads.ticks - REMEMBERED)
    return lambda: None


@handles(RetireServer, prefetch=None, keeps_memory=False)
def retire_server(unit: UnitOfWork, command: RetireServer) -> Callable[[], None]:
    """See RetireServer."""
    dead = unit.reads.ticks - DEAD_AFTER
    if not unit.writes.run(_LEAVE, of_id=command.here.server, since=dead):
        unit.writes.tell(_DIE, of_id=command.here.server, ticks=dead)
    return lambda: None


def all_servers(link: Link) -> Sequence[Server]:
    return [Server(*row) for row in link.rows(_ALL)]


def files_by_spool(link: Link) -> Mapping[str, int]:
    """Count the uploads and payloads that have a file in each spool."""
    return dict(link.rows(_FILES))
