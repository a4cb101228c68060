"""Counters: sums over tasks, uploads and payloads, too dear to recount, kept in the transaction that moves them.

What a task counts for is a pure function of it (`task_counts`); a change of the task moves the counters by the
difference, and a recount is the same function summed over all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import sqlalchemy as sa

from longshore.server.model.task import Status, Submission
from longshore.server.model.values import State
from longshore.server.store.errors import BatchConflict
from longshore.server.store.link import Link, Statement, statement
from longshore.server.store.schema import counters

Key = tuple[str, str]
"""(scope, name)"""

QUEUE: Final = "queue"
"""Live tasks of a queue."""
QUEUE_PROMISED: Final = "queue_promised"
"""Tasks that open uploads will make in a queue."""
CREATOR: Final = "creator"
CREATOR_PROMISED: Final = "creator_promised"
QUEUE_STATE: Final = {state: f"queue_{state.name.lower()}" for state in State if not state.terminal}
"""Live tasks of a queue by state."""
KIND_QUEUED: Final = "kind_queued"
TARGET_QUEUED: Final = "target_queued"
TARGET_RUNNING: Final = "target_running"
"""Attempts that run on a target, settling ones included."""
LANE_RUNNING: Final = "lane_running"
"""Attempts that run on an instance, settling ones included."""
SPOOL: Final = ("spool", "")
"""Bytes of payloads kept and of room reserved for open and abandoned uploads."""
UPLOADS: Final = ("uploads", "")
"""Open uploads."""
UPLOADS_OF: Final = "uploads_of"
"""Open uploads of a principal."""


def task_counts(order: Submission, status: Status, lane: str) -> tuple[Key, ...]:
    """The counters that this task adds one to. `lane` as `rows.lane_of` has it."""
    state = status.state
    if state.terminal:
        return ()
    keys = [(QUEUE, order.queue), (CREATOR, order.creator), (QUEUE_STATE[state], order.queue)]
    if state is State.QUEUED:
        keys.append((KIND_QUEUED, order.kind))
        keys.append((TARGET_QUEUED, order.target))
    elif status.session_id:
        keys.append((TARGET_RUNNING, order.target))
        if lane:
            keys.append((LANE_RUNNING, lane))
    return tuple(keys)


_READ: Final = Statement(
    lambda dialect: dialect.for_update(
        sa.select(counters.c.value).where(
            counters.c.scope == sa.bindparam("scope"), counters.c.name == sa.bindparam("name")
        )
    )
)
_MAKE: Final = Statement(
    lambda dialect: dialect.insert_missing(counters).values(
        scope=sa.bindparam("scope"), name=sa.bindparam("name"), value=sa.literal_column("0")
    )
)
_MOVE: Final = statement(
    counters.update()
    .where(counters.c.scope == sa.bindparam("of"), counters.c.name == sa.bindparam("called"))
    .values(value=counters.c.value + sa.bindparam("by"))
)
_DROP_EMPTY: Final = statement(
    counters.delete().where(counters.c.value == sa.literal_column("0"), counters.c.scope == sa.bindparam("scope"))
)


class Ledger:
    """The counters as one transaction sees them: what is stored, and by how much it will move at the end."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._stored: dict[Key, int | None] = {}
        self._moves: dict[Key, int] = {}
        self._dropping = False

    def value(self, key: Key) -> int:
        return self._load(key) + self._moves.get(key, 0)

    def move(self, key: Key, by: int) -> None:
        if by:
            self._moves[key] = self._moves.get(key, 0) + by

    def exchange(self, before: Iterable[Key], after: Iterable[Key]) -> None:
        """Take back what counted before, and count what counts now."""
        moves = self._moves
        for key in before:
            moves[key] = moves.get(key, 0) - 1
        for key in after:
            moves[key] = moves.get(key, 0) + 1

    def flush(self) -> None:
        """Write the moves, in one order for everybody. Called once, at the end: rows stay locked until the commit."""
        moved = sorted((key, by) for key, by in self._moves.items() if by)
        missing = [key for key, _ in moved if self._stored.get(key) is None]
        self._link.many(_MAKE, [{"scope": scope, "name": name} for scope, name in missing])
        written = self._link.many(_MOVE, [{"of": scope, "called": name, "by": by} for (scope, name), by in moved])
        if written != len(moved):
            raise BatchConflict("a counter vanished")
        if self._dropping:
            self._link.run(_DROP_EMPTY, scope=LANE_RUNNING)
        self._moves.clear()
        self._stored.clear()

    def drop_empty_lanes(self) -> None:
        """At the end, forget instances where nothing runs."""
        self._dropping = True

    def _load(self, key: Key) -> int:
        if key not in self._stored:
            row = self._link.row(_READ, scope=key[0], name=key[1])
            self._stored[key] = None if row is None else row[0]
        return self._stored[key] or 0


def differences(stored: Mapping[Key, int], counted: Mapping[Key, int]) -> dict[Key, tuple[int, int]]:
    """Where the two disagree: (stored, counted)."""
    return {
        key: (stored.get(key, 0), counted.get(key, 0))
        for key in stored.keys() | counted.keys()
        if stored.get(key, 0) != counted.get(key, 0)
    }
