"""This module chooses the ready tasks of an instance that has exclusive tasks.

While an exclusive task runs, or its outcome is not known, nothing of its instance is ready. Otherwise the earliest
exclusive task that is offered (QUEUED, and its queue is not paused) parts the others: tasks that were accepted before
it are ready, as many as there is room for, and later ones are not, whatever their priority. When none of those before
it is offered, and no attempt runs and no outcome is open, it is ready alone. So no task waits longer than for those
that were accepted earlier, and an exclusive task that is blocked, not due or parked bars no other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import sqlalchemy as sa

from longshore.server.store.sql.statement import Each
from longshore.server.store.tables.rows import Row
from longshore.server.store.tables.schema import is_exclusive_head, is_offered, is_unsettled, tasks
from longshore.server.store.transaction.counters import EXCLUSIVE, KEY_EXCLUSIVE, KEY_EXCLUSIVE_RUNNING, KEY_RUNNING
from longshore.server.store.transaction.decisions import Decisions
from longshore.server.store.transaction.loaded_tasks import LoadedTask
from longshore.server.store.transaction.reads import Reads

_ONE: Final[sa.ColumnElement[int]] = sa.literal_column("1")
_FIRST: Final = Each(
    lambda given: (
        sa.select(tasks.c.seq, tasks.c.ready)
        .where(tasks.c.concurrency_key == given["key"], is_exclusive_head, is_offered)
        .order_by(tasks.c.seq)
        .limit(_ONE)
    ),
    {"key": sa.Text},
)
"""Finds the earliest exclusive task that is offered. Those before it in the index are few: parked, or not due."""
_UNSETTLED: Final = Each(
    lambda given: (
        sa.select(tasks.c.seq)
        .where(is_unsettled, tasks.c.target == given["target"], tasks.c.concurrency_key == given["key"])
        .limit(_ONE)
    ),
    {"target": sa.Text, "key": sa.Text},
)
_NEXT_PRIORITY: Final = Each(
    lambda given: (
        sa.select(tasks.c.priority)
        .where(
            tasks.c.concurrency_key == given["key"],
            tasks.c.taker == given["taker"],
            tasks.c.priority < given["below"],
            is_offered,
        )
        .order_by(tasks.c.priority.desc())
        .limit(_ONE)
    ),
    {"key": sa.Text, "taker": sa.Text, "below": sa.Integer},
)
_BEFORE: Final = Each(
    lambda given: (
        sa.select(tasks.c.priority, tasks.c.seq, tasks.c.ready)
        .where(
            tasks.c.concurrency_key == given["key"],
            tasks.c.taker == given["taker"],
            tasks.c.priority == given["priority"],
            tasks.c.seq < given["before"],
            is_offered,
        )
        .order_by(tasks.c.seq)
        .limit(given["room"])
    ),
    {"key": sa.Text, "taker": sa.Text, "priority": sa.Integer, "before": sa.BigInteger, "room": sa.Integer},
)
_ABOVE_ALL: Final = 1_000
"""A priority that no task has."""
_AFTER_ALL: Final = 2**63 - 1


def with_exclusive(reads: Reads, keys: Collection[str]) -> list[str]:
    """Return those of the instances that have live exclusive tasks. Where there are none at all, none is asked."""
    counters = reads.counters
    if not counters.value(EXCLUSIVE):
        return []
    counters.ask((KEY_EXCLUSIVE, key) for key in keys)
    return [key for key in keys if counters.value((KEY_EXCLUSIVE, key))]


class ExclusiveChoice:
    """Chooses the ready tasks of the instances `keys`, which have exclusive tasks. `new_tasks` are queued tasks that
    the database does not know yet, by instance; `takers` has the takers of those that it knows."""

    def __init__(
        self,
        reads: Reads,
        decisions: Decisions,
        keys: Collection[str],
        *,
        new_tasks: Mapping[str, list[LoadedTask]],
        takers: Mapping[str, Collection[str]],
    ) -> None:
        self._reads = reads
        self._decisions = decisions
        self._new_tasks = new_tasks
        self._takers = takers
        reads.counters.ask((scope, key) for key in keys for scope in (KEY_EXCLUSIVE_RUNNING, KEY_RUNNING))
        first = reads.link.ask_each(_FIRST, [(key,) for key in keys])
        unsettled = reads.link.ask_each(_UNSETTLED, [(key.partition("/")[0], key) for key in keys])
        self.chosen: dict[str, list[tuple[int, bool]]] = {
            key: self._choose(key, rows, open_outcome=bool(open_ones))
            for key, rows, open_ones in zip(keys, first(), unsettled(), strict=True)
        }
        """The tasks that are to be ready, and whether they are, by instance."""

    def _choose(self, key: str, first: list[Row], *, open_outcome: bool) -> list[tuple[int, bool]]:
        counters = self._reads.counters
        if counters.value((KEY_EXCLUSIVE_RUNNING, key)):
            return []
        offered = [(seq, bool(ready)) for seq, ready in first]
        offered += [
            (loaded.submission.seq, loaded.ready)
            for loaded in self._new_tasks.get(key, ())
            if loaded.submission.work.exclusive
        ]
        exclusive = min(offered, default=None)
        earlier = self._earlier(key, _AFTER_ALL if exclusive is None else exclusive[0])
        if earlier is not None:
            return earlier
        if exclusive is None or open_outcome or counters.value((KEY_RUNNING, key)):
            return []
        return [exclusive]

    def _earlier(self, key: str, before: int) -> list[tuple[int, bool]] | None:
        """Return the best offered tasks that were accepted before that number, as many as there is room for. None means
        that none is offered."""
        room = self._decisions.room_in(key)
        found: list[tuple[int, bool]] = []
        some = False
        new = [loaded for loaded in self._new_tasks.get(key, ()) if loaded.submission.seq < before]
        for taker in sorted({*self._takers.get(key, ()), *(loaded.taker for loaded in new)}):
            best = self._stored(key, taker, before, max(room, 1))
            best += [
                (-loaded.submission.terms.priority, loaded.submission.seq, loaded.ready)
                for loaded in new
                if loaded.taker == taker
            ]
            some = some or bool(best)
            found += [(seq, bool(ready)) for _, seq, ready in sorted(best)[:room]]
        return found if some else None

    def _stored(self, key: str, taker: str, before: int, room: int) -> list[tuple[int, int, bool]]:
        """Find the best stored tasks of one taker. Each priority is one search in the index, so that a long queue of
        later tasks costs nothing."""
        found: list[tuple[int, int, bool]] = []
        link, priority = self._reads.link, _ABOVE_ALL
        while len(found) < room:
            (rows,) = link.ask_each(_NEXT_PRIORITY, [(key, taker, priority)])()
            if not rows:
                break
            priority = rows[0][0]
            (rows,) = link.ask_each(_BEFORE, [(key, taker, priority, before, room - len(found))])()
            found += [(-priority, seq, ready) for priority, seq, ready in rows]
        return found
