"""The unit of work: everything that one transaction has loaded, decided and will write.

Commands change tasks in memory, through `states.decide` and nothing else; `flush` writes what changed with one
statement for each kind of row. Rows are written on condition of the revision that was read, so that a writer that
should not be there cannot be overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.clock import Clock
from longshore.server.model.events import Circumstances, Decision, Event, Policy, Verdict
from longshore.server.model.states import decide
from longshore.server.model.task import Session, Status, Submission, Task
from longshore.server.model.values import State
from longshore.server.store.cache import TaskCache
from longshore.server.store.counters import Key, Ledger, task_counts
from longshore.server.store.errors import BatchConflict
from longshore.server.store.ids import seq_of
from longshore.server.store.journal import Journal
from longshore.server.store.limits import LaneLimits
from longshore.server.store.link import Among, Bulk, Link, Row, Statement, changing, inserting, statement, types_of
from longshore.server.store.lookout import Lookout
from longshore.server.store.protocol import Changes, TaskChange
from longshore.server.store.rows import (
    STATUS_COLUMNS,
    lane_of,
    order_values,
    place_of,
    status_values,
    taker_of,
    task_columns,
    task_of,
    task_values,
)
from longshore.server.store.schema import (
    is_head,
    is_live,
    labels,
    orders,
    queues,
    sequence,
    tasks,
)

_LOAD: Final = Among(
    lambda keys: (
        sa.select(*task_columns())
        .join_from(tasks, orders, tasks.c.seq == orders.c.seq)
        .where(tasks.c.seq.in_(keys))
        .order_by(tasks.c.seq)
    ),
    lock=True,
)
_HEADED: Final = Among(
    lambda keys: sa.select(tasks.c.place).where(tasks.c.place.in_(keys), is_head, tasks.c.place.is_not(None))
)
_OCCUPIED: Final = statement(
    sa.select(sa.literal_column("1")).where(tasks.c.place == sa.bindparam("place"), is_live).limit(1)
)
_PAUSED: Final = statement(sa.select(queues.c.name).where(queues.c.paused.is_(sa.true())))
_LAST_SEQ: Final = Statement(
    lambda dialect: dialect.for_update(sa.select(sequence.c.value).where(sequence.c.name == "tasks"))
)
_SET_LAST_SEQ: Final = statement(sequence.update().where(sequence.c.name == "tasks").values(value=sa.bindparam("last")))
_INSERT_TASK: Final = inserting(tasks)
_INSERT_ORDER: Final = inserting(orders)
_INSERT_LABEL: Final = inserting(labels)
_SELDOM: Final = ("head", "live")


def _update(columns: Iterable[str]) -> Bulk:
    names = tuple(columns)
    return changing(
        lambda given: (
            tasks.update()
            .where(tasks.c.seq == given["of_seq"], tasks.c.revision == given["of_revision"])
            .values({name: given[name] for name in names})
        ),
        types_of(tasks, *names, of_seq="seq", of_revision="revision"),
    )


_COLUMNS: Final = (*(column.name for column in STATUS_COLUMNS), "live", "taker", "ready", "paused")
_UPDATE_TASK: Final = _update(_COLUMNS)
_MOVE_TASK: Final = _update(name for name in _COLUMNS if name not in _SELDOM)
"""For tasks that stay live and keep or lack their turn as before."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that came before, and the numbers of its tasks."""

    fingerprint: str
    upload_id: str | None
    first_seq: int | None = None
    count: int = 0

    @property
    def seqs(self) -> range:
        return range(0) if self.first_seq is None else range(self.first_seq, self.first_seq + self.count)


class Entry:
    """A task in the working set. `stored` is the revision in the database; None: not there yet. `seldom`: it ended, or
    its turn came, since it was stored."""

    __slots__ = ("changed", "lane", "order", "seldom", "status", "stored")

    def __init__(self, order: Submission, status: Status, stored: int | None) -> None:
        self.order = order
        self.lane = lane_of(order)
        self.status = status
        self.stored = stored
        self.changed = stored is None
        self.seldom = False

    @property
    def task(self) -> Task:
        return Task(self.order, self.status)


class UnitOfWork:
    """One transaction's working set. Time is read once, when it has its turn."""

    def __init__(
        self,
        *,
        link: Link,
        clock: Clock,
        policy: Policy,
        limits: LaneLimits,
        cache: TaskCache | None = None,
        made: set[Key] | None = None,
        lookout: Lookout | None = None,
    ) -> None:
        self.link = link
        self.clock = clock
        self.policy = policy
        self.limits = limits
        self._time: tuple[float, float] | None = None
        self.ledger = Ledger(link, set() if made is None else made)
        self.places: set[bytes] = set()
        """Destinations that a task has left."""
        self.lanes: dict[str, set[str] | None] = {}
        """Instances whose queue has changed, with the kinds of takers it changed for; None: its room has."""
        self.requests: dict[tuple[str, str], Request | None] = {}
        """Requests by (principal, request id) as far as they were looked for; None: there is none."""
        self.sessions: dict[str, tuple[Session, bool] | None] = {}
        """Sessions by id as far as they were looked for and not changed since, and whether they are alive."""
        self.uploads: dict[str, Row | None] = {}
        """Rows of uploads by id as far as they were looked for and not changed since."""
        self.sessions_ended: list[str] = []
        self.claimable = False
        self.risen: set[int] = set()
        """Tasks that have become ready and are not claimed yet."""
        self.lookout = lookout
        self.writes = 0
        """Counts what has been changed: a command that raises must not have moved it."""
        self._cache = cache
        self._entries: dict[int, Entry] = {}
        self._deferred: dict[Bulk, list[dict[str, Any]]] = {}
        self._changes: list[TaskChange] = []
        self._journal = Journal(link=link, now=lambda: self.now)
        self._occupied: dict[bytes, bool] = {}
        self._paused: frozenset[str] | None = None
        self._last_seq: int | None = None
        self._first_seq = 0

    @property
    def now(self) -> float:
        return self._read_clock()[0]

    @property
    def ticks(self) -> float:
        return self._read_clock()[1]

    def _read_clock(self) -> tuple[float, float]:
        if self._time is None:
            # The clock may be the database's, which tells the time when it gives the turn.
            self.link.settle()
            self._time = (self.clock.now(), self.clock.ticks())
        return self._time

    # Reading ------------------------------------------------------------------------------------------------------

    @property
    def remembers(self) -> bool:
        """Tasks that were written lately cost no question."""
        return self._cache is not None

    def load(self, seqs: Iterable[int]) -> list[Entry]:
        """The entries of these tasks, in the order of acceptance; those that do not exist are left out."""
        wanted = sorted(set(seqs))
        self.ask_for(wanted)()
        return [self._entries[seq] for seq in wanted if seq in self._entries]

    def ask_for(self, seqs: Iterable[int]) -> Callable[[], None]:
        """Ask for these tasks; they are in the working set once what comes back is called."""
        missing = [seq for seq in sorted(set(seqs)) if seq not in self._entries and not self._recall(seq)]
        found = self.link.ask_among(_LOAD, missing)
        return lambda: self.adopt(found.rows())

    def adopt(self, rows: Iterable[Row]) -> None:
        """Take rows of `task_columns` into the working set, those that are not there."""
        for row in rows:
            task = task_of(row)
            if task.order.seq not in self._entries:
                self._entries[task.order.seq] = Entry(task.order, task.status, task.status.revision)

    def _recall(self, seq: int) -> bool:
        """Take the entry from what earlier transactions left, if it is there."""
        task = None if self._cache is None else self._cache.get(seq)
        if task is None:
            return False
        self._entries[seq] = Entry(task.order, task.status, task.status.revision)
        return True

    def entry(self, task_id: str) -> Entry | None:
        """The task of this id."""
        seq = seq_of(task_id)
        if seq is None:
            return None
        found = self._entries.get(seq)
        if found is None:
            loaded = self.load((seq,))
            found = loaded[0] if loaded else None
        return found if found is not None and found.order.id == task_id else None

    def entries(self) -> Iterable[Entry]:
        """The whole working set."""
        return self._entries.values()

    def look_at(self, places: Iterable[bytes]) -> Callable[[], None]:
        """Ask in one statement which of these destinations live tasks have; known once what comes back is called.

        At the start of a transaction only: each of those has a head then, which it may lose in between.
        """
        wanted = sorted(set(places))
        found = self.link.ask_among(_HEADED, wanted)

        def take() -> None:
            taken = {bytes(row[0]) for row in found.rows()}
            self._occupied.update((place, place in taken) for place in wanted)

        return take

    def occupied(self, place: bytes) -> bool:
        """Whether a live task has the destination."""
        known = self._occupied.get(place)
        if known is None:
            known = self._occupied[place] = self.link.row(_OCCUPIED, place=place) is not None
        return known

    @property
    def paused(self) -> frozenset[str]:
        """Queues of which nothing starts."""
        if self._paused is None:
            self.ask_paused()()
        return self._paused or frozenset()

    def ask_paused(self) -> Callable[[], None]:
        """Ask which queues are paused."""
        found = self.link.ask(_PAUSED)

        def take() -> None:
            self._paused = frozenset(row[0] for row in found.rows())

        return take

    def forget_paused(self) -> None:
        self._paused = None

    # Deciding -----------------------------------------------------------------------------------------------------

    def new_seq(self) -> int:
        """The next in the order of acceptance."""
        if self._last_seq is None:
            self.ask_last_seq()()
        if self._last_seq is None:
            raise BatchConflict("the row of the sequence is gone")
        self._last_seq += 1
        return self._last_seq

    def ask_last_seq(self) -> Callable[[], None]:
        """Ask for the last one that was given."""
        found = self.link.ask(_LAST_SEQ)

        def take() -> None:
            for row in found.rows():
                self._last_seq = self._first_seq = row[0]

        return take

    def random_bits(self) -> int:
        """80 random bits."""
        return int(self.clock.jitter() * (1 << 40)) << 40 | int(self.clock.jitter() * (1 << 40))

    def add(self, order: Submission, status: Status) -> Entry:
        """A new task."""
        self.writes += 1
        entry = self._entries[order.seq] = Entry(order, status, None)
        if order.destination is not None:
            self._occupied[place_of(order.destination)] = True
        if status.state is State.QUEUED:
            self._queue_changed(entry, status)
        self.ledger.exchange((), task_counts(order, status, entry.lane))
        self._journal.made(order)
        self._record(entry, None)
        return entry

    def apply(self, entry: Entry, event: Event) -> Decision:
        """What the event does to the task. The only place where a status changes."""
        world = Circumstances(now=self.now, jitter=self.clock.jitter(), policy=self.policy)
        decision = decide(entry.task, event, world)
        if decision.verdict in (Verdict.UNCHANGED, Verdict.STALE):
            return decision
        self.writes += 1
        before, after = entry.status, decision.status
        order = entry.order
        entry.status = after
        entry.changed = True
        entry.seldom |= before.head != after.head or after.state.terminal
        self._journal.decided(order, event, decision)
        self.ledger.exchange(task_counts(order, before, entry.lane), task_counts(order, after, entry.lane))
        self._note_room(entry, before, after)
        if after.state.terminal and not before.state.terminal:
            self._journal.ended(order, after)
            if order.destination is not None:
                self.places.add(place_of(order.destination))
        if decision.verdict is Verdict.CHANGED:
            self._record(entry, (before.session_id, before.attempt) if before.session_id else None)
        return decision

    def _note_room(self, entry: Entry, before: Status, after: Status) -> None:
        if before.session_id and not after.session_id:
            self.lanes[entry.lane] = None
            # Its target may have been full; whether it was is not worth a read.
            self.claimable = True
        if before.state is State.QUEUED and after.state is not State.RUNNING:
            self._queue_changed(entry, before)
        if after.state is State.QUEUED and before.state is not State.QUEUED:
            self._queue_changed(entry, after)
        if after.state is State.SETTLING and not after.session_id:
            self.claimable = True

    def _queue_changed(self, entry: Entry, status: Status) -> None:
        """It has come into its instance's queue, or left it."""
        if not entry.lane:
            self.risen.add(entry.order.seq)
            return
        takers = self.lanes.setdefault(entry.lane, set())
        if takers is not None:
            takers.add(taker_of(entry.order.kind, alone=status.alone))

    def _record(self, entry: Entry, holder: tuple[str, int] | None) -> None:
        self._changes.append(TaskChange(entry.task, holder))
        self._journal.record(entry.order, entry.status)

    # Writing ------------------------------------------------------------------------------------------------------

    def write(self, what: Statement, **parameters: Any) -> None:
        """Change rows of other tables, before anything else is asked."""
        self.writes += 1
        self.link.tell(what, **parameters)

    def change(self, what: Statement, **parameters: Any) -> int:
        """Change rows of other tables and wait for how many it were."""
        self.writes += 1
        return self.link.run(what, **parameters)

    def defer(self, what: Bulk, **parameters: Any) -> None:
        """Insert a row with the next `flush`, together with others of its kind."""
        self.writes += 1
        self._deferred.setdefault(what, []).append(parameters)

    def move(self, key: Key, by: int) -> None:
        """Move a counter."""
        self.writes += 1
        self.ledger.move(key, by)

    def flush(self) -> None:
        """Write what has changed so far, counters excepted."""
        new: list[Entry] = []
        old: list[Entry] = []
        for entry in self._entries.values():
            if entry.changed:
                (new if entry.stored is None else old).append(entry)
        link = self.link
        if old:
            # First, because they may leave destinations that new ones take.
            old.sort(key=lambda entry: entry.order.seq)
            for what, seldom in ((_UPDATE_TASK, True), (_MOVE_TASK, False)):
                rows = [
                    self._place_values(entry) | {"of_seq": entry.order.seq, "of_revision": entry.stored}
                    for entry in old
                    if entry.seldom is seldom
                ]
                link.write(what, rows, exactly=True)
        if new:
            link.write(_INSERT_TASK, [task_values(entry.order) | self._place_values(entry) for entry in new])
            link.write(_INSERT_ORDER, [order_values(entry.order) for entry in new])
            link.write(
                _INSERT_LABEL,
                [
                    {"name": name, "value": value, "seq": entry.order.seq}
                    for entry in new
                    for name, value in entry.order.labels.items()
                ],
            )
        for entry in (*old, *new):
            entry.stored = entry.status.revision
            entry.changed = entry.seldom = False
        for what, rows in self._deferred.items():
            link.write(what, rows)
        self._deferred.clear()
        self._journal.flush()

    def finish(self) -> None:
        """Write the rest, at the end."""
        self.flush()
        if self._last_seq is not None and self._last_seq != self._first_seq:
            self.link.tell(_SET_LAST_SEQ, last=self._last_seq)
        self.ledger.flush()

    def reread(self) -> None:
        """Take over what a statement has changed behind the back of the working set, which is flushed."""
        if self._cache is not None:
            self._cache.clear()
        for row in self.link.among(_LOAD, sorted(self._entries)):
            task = task_of(row)
            self._entries[task.order.seq].status = task.status

    def committed(self) -> None:
        """The transaction is: what it knows of tasks holds for the next one."""
        if self._cache is not None:
            self._cache.committed(entry.task for entry in self._entries.values())

    def changes(self) -> Changes:
        """What to tell the engine after the commit."""
        return Changes(
            tasks=tuple(self._changes),
            claimable=self.claimable or bool(self.risen),
            debts=self._journal.owes,
            sessions_ended=tuple(self.sessions_ended),
        )

    def _place_values(self, entry: Entry) -> dict[str, Any]:
        """The status, and where it stands for claims: what has no lane is ready at once, the rest is promoted."""
        values = status_values(entry.status)
        queued = entry.status.state is State.QUEUED
        paused = queued and entry.order.queue in self.paused
        values["live"] = not entry.status.state.terminal
        values["taker"] = taker_of(entry.order.kind, alone=entry.status.alone)
        values["paused"] = paused
        values["ready"] = queued and not paused and not entry.lane
        return values
