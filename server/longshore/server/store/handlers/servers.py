"""An entry of a server tells the other servers its address, its spool, and when it was last seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from longshore.contract.version import REVISION
from longshore.server.model.errors import OldServers
from longshore.server.model.servers import DEAD_AFTER, Server
from longshore.server.store.commands import TaskPlan
from longshore.server.store.commands.servers import AnnounceServer, RetireServer
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Statement, statement
from longshore.server.store.tables.schema import homes, servers
from longshore.server.store.transaction.reads import Reads
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


def _known(dialect: Dialect) -> dict[str, sa.ColumnElement[int]]:
    """Return the revision of the contract that this version knows, if the schema has a column for it."""
    return {} if dialect.schema.lacks(servers.c.revision) else {"revision": sa.literal_column(str(REVISION))}


_SEE: Final = Statement(
    lambda dialect: (
        servers.update()
        .where(servers.c.id == sa.bindparam("of_id"))
        .values(
            {"address": sa.bindparam("at"), "spool": sa.bindparam("has"), "seen_ticks": sa.bindparam("ticks")}
            | _known(dialect)
        )
    )
)
_INSERT: Final = Statement(
    lambda dialect: dialect.insert_missing(servers).values(
        {column.name: sa.bindparam(column.name) for column in _COLUMNS} | _known(dialect)
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
_OLD: Final = statement(
    sa.select(servers.c.version)
    .where(servers.c.revision.is_(None), servers.c.seen_ticks > sa.bindparam("since"))
    .limit(sa.literal_column("1"))
)
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


def check_servers(reads: Reads, plans: Iterable[TaskPlan]) -> None:
    """Raise OldServers if one of the plans asks for something that a server of the version before would do wrong, and
    such a server runs, or the schema is of before. Other plans cost no statement."""
    if any(plan.work.needs_servers or plan.terms.after for plan in plans):
        require_new_servers(reads)


def require_new_servers(reads: Reads) -> None:
    """Raise OldServers if a server of the version before runs, or the schema is of before."""
    if reads.link.dialect.schema.lacks(servers.c.revision):
        raise OldServers(
            "The task asks for something that the schema of the database does not know yet: upgrade all servers, run "
            "`longshored migrate`, and send it again."
        )
    found = reads.link.row(_OLD, since=reads.ticks - DEAD_AFTER)
    if found is not None:
        raise OldServers(
            f"The task asks for something that an older server on this database, version {found[0]}, would do wrong: "
            "upgrade all servers, and send it again.",
            version=found[0],
        )


def all_servers(link: Link) -> Sequence[Server]:
    return [Server(*row) for row in link.rows(_ALL)]


def files_by_spool(link: Link) -> Mapping[str, int]:
    """Count the uploads and payloads that have a file in each spool."""
    return dict(link.rows(_FILES))
