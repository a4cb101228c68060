"""Counters: sums over tasks, uploads and payloads, too dear to recount, kept in the transaction that moves them.

What a task counts for is a pure function of it (`task_counts`); a change of the task moves the counters by the
difference, and a recount is the same function summed over all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import sqlalchemy as sa

from longshore.server.model.task import Status, Submission
from longshore.server.model.values import WAITING, State
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Each, changing, inserting, statement
from longshore.server.store.tables.schema import counters
from longshore.server.store.transaction.known import Found, Known, Remembered

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
NEWER_QUEUED: Final = ("newer_queued", "")
"""Queued tasks that not every worker can do: their worker must know a later revision of the contract."""
TARGET_RUNNING: Final = "target_running"
"""Attempts that run on a target, settling ones included."""
KEY_RUNNING: Final = "concurrency_key_running"
"""Attempts that run on an instance, settling ones included."""
EXCLUSIVE: Final = ("exclusive", "")
"""Live exclusive tasks. Where there are none, no instance is asked for its own."""
KEY_EXCLUSIVE: Final = "concurrency_key_exclusive"
"""Live exclusive tasks of an instance."""
KEY_EXCLUSIVE_RUNNING: Final = "concurrency_key_exclusive_running"
"""Exclusive tasks of an instance that run, or whose outcome is not known."""
SPOOL: Final = ("spool", "")
"""Bytes of payloads kept and of room reserved for open and abandoned uploads."""
UPLOADS: Final = ("uploads", "")
"""Open uploads."""
UPLOADS_OF: Final = "uploads_of"
"""Open uploads of a principal."""
POSITION: Final = ("commits", "")
"""How many commits have moved tasks, where one server has the database: a number that only grows, and no sum."""
RESTORED: Final = "restored"
"""Queues that a restore paused and nobody has resumed: 1 each, and no sum either."""
ASKED: Final = "asked"
"""When a caller with less than its share last found no room, in seconds since the epoch: in a queue, by its name."""
ASKED_UPLOADS: Final = ("asked_uploads", "")
ASKED_SPOOL: Final = ("asked_spool", "")
_OF_INSTANCES: Final = (KEY_RUNNING, KEY_EXCLUSIVE, KEY_EXCLUSIVE_RUNNING)
"""Counters that there are as many of as instances. They are dropped when they are empty."""
NO_SUMS: Final = frozenset({POSITION[0], RESTORED, ASKED, ASKED_UPLOADS[0], ASKED_SPOOL[0]})


class Counted(NamedTuple):
    """The fields of a submission that counters depend on."""

    queue: str
    creator: str
    kind: str
    target: str
    revision: int
    """The revision of the contract that the worker must know."""
    exclusive: bool


def counted(submission: Submission) -> Counted:
    """Take the fields that counters depend on."""
    work = submission.work
    return Counted(
        submission.terms.queue, submission.creator, work.kind, work.target, work.needs_revision, work.exclusive
    )


def task_counts(submission: Counted, status: Status, concurrency_key: str) -> tuple[Key, ...]:
    """The counters that this task adds one to."""
    state = status.state
    if state.terminal:
        return ()
    keys = [
        (QUEUE, submission.queue),
        (CREATOR, submission.creator),
        (QUEUE_STATE[state], submission.queue),
    ]
    if state is State.QUEUED:
        keys.append((KIND_QUEUED, submission.kind))
        keys.append((TARGET_QUEUED, submission.target))
        if submission.revision:
            keys.append(NEWER_QUEUED)
    elif status.session_id:
        keys.append((TARGET_RUNNING, submission.target))
        if concurrency_key:
            keys.append((KEY_RUNNING, concurrency_key))
    if submission.exclusive:
        keys += [EXCLUSIVE, (KEY_EXCLUSIVE, concurrency_key)]
        if state not in WAITING:
            keys.append((KEY_EXCLUSIVE_RUNNING, concurrency_key))
    return tuple(keys)


Moves = tuple[tuple[Key, int], ...]


class Counts:
    """The counters of tasks that are alike, and by how much each of their steps moves them."""

    __slots__ = ("_concurrency_key", "_moves", "_submission")

    def __init__(self, submission: Counted, concurrency_key: str) -> None:
        self._submission = submission
        self._concurrency_key = concurrency_key
        self._moves: dict[tuple[int, int, bool, bool], Moves] = {}

    def moves(self, before: Status | None, after: Status) -> Moves:
        """The difference of `task_counts` between two statuses. `before` None means that the task was not there."""
        first = 0 if before is None else before.state._value_
        held = before is not None and before.session_id != ""
        key = (first, after.state._value_, held, after.session_id != "")
        found = self._moves.get(key)
        if found is None:
            moves = Counter(task_counts(self._submission, after, self._concurrency_key))
            moves.subtract(() if before is None else task_counts(self._submission, before, self._concurrency_key))
            found = self._moves[key] = tuple((key, by) for key, by in moves.items() if by)
        return found


@lru_cache(maxsize=16384)
def counts_of(
    queue: str,
    creator: str,
    kind: str,
    target: str,
    concurrency_key: str,
    revision: int,
    exclusive: bool,  # noqa: FBT001
) -> Counts:
    """The counts of tasks with these properties: such tasks count alike."""
    return Counts(Counted(queue, creator, kind, target, revision, exclusive), concurrency_key)


_READ: Final = Each(
    lambda given: sa.select(counters.c.value).where(
        counters.c.scope == given["of"], counters.c.name == given["called"]
    ),
    {"of": sa.Text, "called": sa.Text},
    lock="update",
)
_GLANCE: Final = statement(
    sa.select(counters.c.value).where(counters.c.scope == sa.bindparam("of"), counters.c.name == sa.bindparam("called"))
)
_MAKE: Final = inserting(counters, missing=True)
_MOVE: Final = changing(
    lambda given: (
        counters.update()
        .where(counters.c.scope == given["of"], counters.c.name == given["called"])
        .values(value=counters.c.value + given["by"])
    ),
    {"of": sa.Text, "called": sa.Text, "by": sa.BigInteger},
)
_DROP_EMPTY: Final = statement(
    counters.delete().where(counters.c.value == sa.literal_column("0"), counters.c.scope == sa.bindparam("scope"))
)


class Counters:
    """The counters as one transaction sees them: what is stored, and by how much it will move at the end.

    `counter_rows` are counters that have a row; kept from one transaction to the next, and forgotten after one that
    failed. `memory` has values that hold from the last transaction on, where nobody else writes.
    """

    def __init__(self, link: Link, counter_rows: set[Key], memory: Remembered[Key, int | None] | None = None) -> None:
        self._link = link
        self._counter_rows = counter_rows
        self._stored: Known[Key, int | None] = Known(self._question, absent=None, memory=memory)
        self.wanted: Final = self._stored.wanted
        """Counters for the next `ask`."""
        self._moves: dict[Key, int] = {}
        self._dropping = False

    def _question(self, keys: list[Key]) -> Found[Key, int | None]:
        found = self._link.ask_each(_READ, keys)
        return lambda: [(key, rows[0][0] if rows else None) for key, rows in zip(keys, found(), strict=True)]

    def ask(self, keys: Iterable[Key] | None = None) -> None:
        """Ask for these counters and for the wanted ones with one statement."""
        self._stored.ask(keys)

    def value(self, key: Key) -> int:
        return (self._stored.get(key) or 0) + self._moves.get(key, 0)

    def peek(self, key: Key) -> int:
        """About the value: it is read without a lock, for a caller that may not wait for others here."""
        if key in self._stored:
            return self.value(key)
        row = self._link.row(_GLANCE, of=key[0], called=key[1])
        return (row[0] if row is not None else 0) + self._moves.get(key, 0)

    def knows(self, key: Key) -> bool:
        """Whether the value is known, so that it costs no query."""
        return key in self._stored

    def learn(self, key: Key, value: int | None) -> None:
        """Take over a value that was read along with something else. None means that the counter has no row."""
        if key not in self._stored:
            self._stored.put(key, value)

    def move(self, key: Key, by: int) -> None:
        if by:
            self._moves[key] = self._moves.get(key, 0) + by

    def step(self, counts: Counts, before: Status | None, after: Status) -> None:
        """Count a step of a task: take back what counted before, and count what counts now."""
        moves = self._moves
        for key, by in counts.moves(before, after):
            moves[key] = moves.get(key, 0) + by

    def flush(self) -> None:
        """Write the moves, in one order for everybody. Called once, at the end: rows stay locked until the commit."""
        moved = sorted((key, by) for key, by in self._moves.items() if by)
        stored = self._stored
        # Answers that nobody has needed yet say what is stored before the moves.
        stored.take()
        known = {key: stored.get(key) for key, _ in moved if key in stored}
        missing = [key for key, _ in moved if known.get(key) is None and key not in self._counter_rows]
        self._link.write(_MAKE, [(*key, 0) for key in missing])
        self._link.write(_MOVE, [(*key, by) for key, by in moved], exactly=True)
        if self._dropping:
            for scope in _OF_INSTANCES:
                self._link.tell(_DROP_EMPTY, scope=scope)
        # Counters of concurrency keys are dropped when they are empty, so they are not remembered as made.
        self._counter_rows.update(key for key in missing if key[0] not in _OF_INSTANCES)
        for key, by in moved:
            # A counter that nobody asked for may have a row all the same, made before this server began.
            if key in known:
                stored.put(key, (known[key] or 0) + by)
        self._moves.clear()

    def remember(self) -> None:
        """Leave the values to the next transactions. This one is committed."""
        self._stored.remember()

    def drop_empty_keys(self) -> None:
        """Forget instances where nothing runs, at the end of the transaction."""
        self._dropping = True


def differences(stored: Mapping[Key, int], counted: Mapping[Key, int]) -> dict[Key, tuple[int, int]]:
    """The counters in which the two disagree: (stored, counted)."""
    return {
        key: (stored.get(key, 0), counted.get(key, 0))
        for key in stored.keys() | counted.keys()
        if stored.get(key, 0) != counted.get(key, 0)
    }
