"""Reads the facts that decide whether tasks are claimed, at once for any number of tasks: see `model.waiting`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import sqlalchemy as sa

from longshore.server.model.task import concurrency_key_at
from longshore.server.model.values import State
from longshore.server.model.waiting import ExclusiveTasks
from longshore.server.store.handlers.remarks import all_served, remarks_of_living
from longshore.server.store.protocol import Conditions, Holdings, InstanceKey
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among, statement
from longshore.server.store.tables.rows import SESSION_COLUMNS, session_of
from longshore.server.store.tables.schema import (
    STATE,
    counters,
    is_alive,
    is_exclusive_head,
    is_offered,
    queues,
    sessions,
    tasks,
)
from longshore.server.store.transaction.counters import EXCLUSIVE, KEY_EXCLUSIVE, KEY_RUNNING, TARGET_RUNNING

_SESSIONS: Final = statement(sa.select(*SESSION_COLUMNS).where(is_alive).order_by(sessions.c.id))
_HELD: Final = Among(
    lambda keys: (
        sa.select(tasks.c.session_id, tasks.c.state, tasks.c.target, tasks.c.alone, sa.func.count())
        .where(tasks.c.session_id.in_(keys))
        .group_by(tasks.c.session_id, tasks.c.state, tasks.c.target, tasks.c.alone)
    )
)
_PAUSED: Final = statement(sa.select(queues.c.name).where(queues.c.paused.is_(sa.true())))
_ON_TARGETS: Final = statement(
    sa.select(counters.c.name, counters.c.value).where(counters.c.scope == sa.literal_column(f"'{TARGET_RUNNING}'"))
)
_RUNNING_AT: Final = Among(
    lambda keys: sa.select(counters.c.name, counters.c.value).where(
        counters.c.scope == sa.literal_column(f"'{KEY_RUNNING}'"), counters.c.name.in_(keys)
    )
)


_ANY_EXCLUSIVE: Final = statement(
    sa.select(counters.c.value).where(
        counters.c.scope == sa.literal_column(f"'{EXCLUSIVE[0]}'"), counters.c.value > sa.literal_column("0")
    )
)
_EXCLUSIVE_AT: Final = Among(
    lambda keys: sa.select(counters.c.name).where(
        counters.c.scope == sa.literal_column(f"'{KEY_EXCLUSIVE}'"),
        counters.c.name.in_(keys),
        counters.c.value > sa.literal_column("0"),
    )
)
_EXCLUSIVE_RUNNING: Final = statement(
    sa.select(tasks.c.id)
    .where(tasks.c.concurrency_key == sa.bindparam("key"), is_exclusive_head, tasks.c.state > STATE[State.QUEUED])
    .limit(1)
)
_EXCLUSIVE_FIRST: Final = statement(
    sa.select(tasks.c.id, tasks.c.seq, tasks.c.ready)
    .where(tasks.c.concurrency_key == sa.bindparam("key"), is_exclusive_head, is_offered)
    .order_by(tasks.c.seq)
    .limit(1)
)


def conditions(link: Link, instances: Collection[InstanceKey], but: Collection[str]) -> Conditions:
    """See Store.conditions. Six statements, and one for each 256 instances and sessions on other servers. Where there
    are exclusive tasks, one more for each 256 instances, and two for each instance that has them."""
    alive = tuple(session_of(row) for row in link.rows(_SESSIONS))
    keys = {concurrency_key_at(*key): key for key in instances if key.instance}
    running: dict[str, int] = dict(link.among(_RUNNING_AT, sorted(keys)))
    return Conditions(
        sessions=alive,
        held=_held(link, sorted(session.id for session in alive if session.id not in but)),
        remarks=remarks_of_living(link),
        paused=frozenset(row[0] for row in link.rows(_PAUSED)),
        on_target=dict(link.rows(_ON_TARGETS)),
        on_instance={key: running.get(concurrency_key_at(*key), 0) for key in instances},
        served={one.target: one for one in all_served(link)},
        exclusive=_exclusive(link, sorted(keys)),
    )


def _exclusive(link: Link, keys: list[str]) -> dict[str, ExclusiveTasks]:
    if not keys or link.row(_ANY_EXCLUSIVE) is None:
        return {}
    found = {}
    for (key,) in link.among(_EXCLUSIVE_AT, keys):
        running = link.row(_EXCLUSIVE_RUNNING, key=key)
        first_id, first_seq, first_ready = link.row(_EXCLUSIVE_FIRST, key=key) or ("", 0, False)
        found[key] = ExclusiveTasks(
            running="" if running is None else running[0],
            first=first_id,
            first_seq=first_seq,
            first_ready=bool(first_ready),
        )
    return found


def _held(link: Link, session_ids: list[str]) -> dict[str, Holdings]:
    found: dict[str, Holdings] = {}
    for session_id, state, target, alone, count in link.among(_HELD, session_ids):
        known = found.get(session_id, Holdings())
        found[session_id] = Holdings(
            known.held + count,
            known.targets | {target},
            known.alone or (bool(alone) and state != State.SETTLING),
        )
    return found
