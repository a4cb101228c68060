"""The unit of work: everything that one transaction has loaded, decided and will write.

Commands change tasks in memory, through `states.decide` and nothing else; `flush` writes what changed with one
statement for each kind of row. Rows are written on condition of the revision that was read, so that a writer that
should not be there cannot be overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.clock import Clock
from longshore.server.model.events import Decision, Event, Policy, Verdict
from longshore.server.model.records import record
from longshore.server.model.task import Session, Status, Submission, Task
from longshore.server.model.values import State
from longshore.server.store.errors import BatchConflict
from longshore.server.store.protocol import Changes, TaskChange
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among, Bulk, Statement, statement
from longshore.server.store.tables.ids import seq_of
from longshore.server.store.tables.rows import Row, taker_of, task_columns, task_of
from longshore.server.store.tables.schema import (
    is_head,
    is_live,
    queues,
    sequence,
    submissions,
    tasks,
)
from longshore.server.store.transaction.caches import ClaimPrecheck, Memory
from longshore.server.store.transaction.counters import POSITION, Counters, Key
from longshore.server.store.transaction.decisions import Decider
from longshore.server.store.transaction.event_log import EventLog
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.loaded_task import LoadedTask, first_status
from longshore.server.store.transaction.task_writes import write_changed, write_new

_LOAD: Final = Among(
    lambda keys: (
        sa.select(*task_columns())
        .join_from(tasks, submissions, tasks.c.seq == submissions.c.seq)
        .where(tasks.c.seq.in_(keys))
        .order_by(tasks.c.seq)
    ),
    lock=True,
)
_HEADED: Final = Among(
    lambda keys: sa.select(tasks.c.destination_key).where(
        tasks.c.destination_key.in_(keys), is_head, tasks.c.destination_key.is_not(None)
    )
)
_OCCUPIED: Final = statement(
    sa.select(sa.literal_column("1")).where(tasks.c.destination_key == sa.bindparam("key"), is_live).limit(1)
)
_PAUSED: Final = statement(sa.select(queues.c.name).where(queues.c.paused.is_(sa.true())))
_LAST_SEQ: Final = Statement(
    lambda dialect: dialect.for_update(sa.select(sequence.c.value).where(sequence.c.name == "tasks"))
)
_SET_LAST_SEQ: Final = statement(sequence.update().where(sequence.c.name == "tasks").values(value=sa.bindparam("last")))


@record
class RequestRecord:
    """A request that came before, and the numbers of its tasks."""

    fingerprint: str
    upload_id: str | None
    first_seq: int | None = None
    count: int = 0

    @property
    def seqs(self) -> range:
        return range(0) if self.first_seq is None else range(self.first_seq, self.first_seq + self.count)


def _nothing() -> None:
    """Do nothing, because all was known."""


class UnitOfWork:
    """The working set of one transaction. The clock is read once, when the transaction has its turn."""

    def __init__(
        self,
        *,
        link: Link,
        clock: Clock,
        policy: Policy,
        limits: ConcurrencyLimits,
        memory: Memory | None = None,
        counter_rows: set[Key] | None = None,
        precheck: ClaimPrecheck | None = None,
    ) -> None:
        self.link = link
        self.clock = clock
        self.policy = policy
        self.limits = limits
        self._time: tuple[float, float] | None = None
        self._decider: Decider | None = None
        self._first: dict[tuple[float, bool], Status] = {}
        self.memory = memory
        self.counters = Counters(
            link, set() if counter_rows is None else counter_rows, None if memory is None else memory.counters
        )
        self.destination_keys: set[bytes] = set()
        """Destinations that a task has left."""
        self.concurrency_keys: dict[str, set[str] | None] = {}
        """Maps the concurrency key of each instance whose ready tasks must be recomputed to the takers affected. None
        means all takers, because the free room of the instance changed."""
        self.requests: dict[tuple[str, str], RequestRecord | None] = {}
        """Requests by (principal, request id) as far as they were looked for. None means that there is none."""
        self.request_tasks: dict[tuple[str, str], tuple[int, int]] = {}
        """The first number and the count of tasks that requests with uploads got in this transaction."""
        self.ready_counts: dict[str, int] = {}
        """How many tasks are ready on an instance, by concurrency key, as far as that is known."""
        self.sessions: dict[str, tuple[Session, bool] | None] = {}
        """Sessions by id as far as they were looked for and not changed since, and whether they are alive."""
        self.uploads: dict[str, Row | None] = {}
        """Rows of uploads by id as far as they were looked for and not changed since."""
        self.sessions_ended: list[str] = []
        self.claimable = False
        self.newly_ready: set[int] = set()
        """Tasks that have become ready and are not claimed yet."""
        self.precheck = precheck
        self.position = 0
        """How far the database has come with this transaction. 0 means that no task moved, or that the log counts."""
        self.writes = 0
        """Counts what has been changed: a command that raises must not have moved it."""
        self._task_memory = None if memory is None else memory.tasks
        self._loaded: dict[int, LoadedTask] = {}
        self._new_tasks: list[LoadedTask] = []
        """Tasks that are not stored yet."""
        self._deferred: tuple[dict[Bulk, list[Row]], dict[Bulk, list[Row]]] = ({}, {})
        self._changes: list[TaskChange] = []
        self._event_log = EventLog(link=link, now=lambda: self.now)
        self._occupied: dict[bytes, bool] = {}
        self._paused: frozenset[str] | None = None if memory is None else memory.paused
        self._last_seq: int | None = None if memory is None else memory.last_seq
        self._first_seq = self._last_seq or 0

    @property
    def now(self) -> float:
        return (self._time or self._read_clock())[0]

    @property
    def ticks(self) -> float:
        return (self._time or self._read_clock())[1]

    def _read_clock(self) -> tuple[float, float]:
        if self._time is None:
            # The clock may be the database's, which tells the time when it gives the turn.
            self.link.sync()
            self._time = (self.clock.now(), self.clock.ticks())
        return self._time

    # Reading ------------------------------------------------------------------------------------------------------

    @property
    def remembers_tasks(self) -> bool:
        """Whether tasks that were written lately are remembered, so that they cost no query."""
        return self._task_memory is not None

    def load(self, seqs: Iterable[int]) -> list[LoadedTask]:
        """Load these tasks, in the order of acceptance; those that do not exist are left out."""
        wanted = sorted(set(seqs))
        self.ask_tasks(wanted)()
        return [self._loaded[seq] for seq in wanted if seq in self._loaded]

    def ask_tasks(self, seqs: Iterable[int]) -> Callable[[], None]:
        """Ask for these tasks; they are in the working set once what comes back is called."""
        missing = [seq for seq in sorted(set(seqs)) if seq not in self._loaded and not self._load_remembered(seq)]
        found = self.link.ask_among(_LOAD, missing)
        return lambda: self.load_rows(found.rows())

    def load_rows(self, rows: Iterable[Row]) -> None:
        """Take rows of `task_columns` into the working set, those that are not there."""
        for row in rows:
            task = task_of(row)
            if task.submission.seq not in self._loaded:
                self._loaded[task.submission.seq] = LoadedTask(task, stored=True)

    def _load_remembered(self, seq: int) -> bool:
        """Take the task from the cache of earlier transactions, if it is there."""
        loaded = None if self._task_memory is None else self._task_memory.get(seq)
        if loaded is None:
            return False
        self._loaded[seq] = loaded
        return True

    def find_task(self, task_id: str) -> LoadedTask | None:
        """The task of this id."""
        seq = seq_of(task_id)
        if seq is None:
            return None
        found = self._loaded.get(seq)
        if found is None:
            found = next(iter(self.load((seq,))), None)
        return found if found is not None and found.submission.id == task_id else None

    def loaded(self) -> Iterable[LoadedTask]:
        """The whole working set."""
        return self._loaded.values()

    def new_tasks(self) -> Sequence[LoadedTask]:
        """New tasks that the database does not know yet, in the order of acceptance. A caller that queries tasks must
        look at these too."""
        return self._new_tasks

    def ask_occupied(self, keys: Iterable[bytes]) -> Callable[[], None]:
        """Ask in one statement which of these destinations live tasks have; known once what comes back is called.

        At the start of a transaction only: each of those has a head then, which it may lose in between.
        """
        wanted = sorted(set(keys))
        found = self.link.ask_among(_HEADED, wanted)

        def take() -> None:
            taken = {bytes(row[0]) for row in found.rows()}
            self._occupied.update((key, key in taken) for key in wanted)

        return take

    def occupied(self, key: bytes) -> bool:
        """Whether a live task has the destination."""
        known = self._occupied.get(key)
        if known is None:
            known = self._occupied[key] = self.link.row(_OCCUPIED, key=key) is not None
        return known

    @property
    def paused(self) -> frozenset[str]:
        """The paused queues: none of their tasks starts."""
        if self._paused is None:
            self.ask_paused()()
        return self._paused or frozenset()

    def is_paused(self, queue: str) -> bool:
        """Whether the queue is paused."""
        return queue in self.paused

    def ask_paused(self) -> Callable[[], None]:
        """Ask which queues are paused, unless that is known."""
        if self._paused is not None:
            return _nothing
        found = self.link.ask(_PAUSED)

        def take() -> None:
            self._paused = frozenset(row[0] for row in found.rows())

        return take

    def forget_paused(self) -> None:
        self._paused = None

    # Deciding -----------------------------------------------------------------------------------------------------

    def new_seq(self) -> int:
        """Take the next number in the order of acceptance."""
        if self._last_seq is None:
            self.ask_last_seq()()
        if self._last_seq is None:
            raise BatchConflict("the row of the sequence is gone")
        self._last_seq += 1
        return self._last_seq

    def ask_last_seq(self) -> Callable[[], None]:
        """Ask for the last one that was given, unless that is known."""
        if self._last_seq is not None:
            return _nothing
        found = self.link.ask(_LAST_SEQ)

        def take() -> None:
            for row in found.rows():
                self._last_seq = self._first_seq = row[0]

        return take

    def skip_seqs(self, by: int, *, least: int) -> int:
        """Leave out numbers, up to the next multiple of `by` and up to `least`; answers the last one that was given."""
        last = self.new_seq() - 1
        self._last_seq = max((last // by + 1) * by, least)
        return last

    def random_bits(self) -> int:
        """80 random bits."""
        return int(self.clock.jitter() * (1 << 40)) << 40 | int(self.clock.jitter() * (1 << 40))

    def first_status(self, *, not_before: float, free: bool) -> Status:
        """The first status of a task. `not_before` is in seconds from now; `free`: no live task has its destination.

        Tasks that begin alike share it: what follows from it is decided and written down once.
        """
        found = self._first.get((not_before, free))
        if found is None:
            found = self._first[not_before, free] = first_status(now=self.now, not_before=not_before, free=free)
        return found

    def add(self, submission: Submission, status: Status) -> LoadedTask:
        """Add a new task."""
        self.writes += 1
        loaded = self._loaded[submission.seq] = LoadedTask(Task(submission, status), stored=False)
        self._new_tasks.append(loaded)
        if loaded.destination_key is not None:
            self._occupied[loaded.destination_key] = True
        if status.state is State.QUEUED:
            self._queue_changed(loaded, alone=status.alone)
        self.counters.step(loaded.counts, None, status)
        self._event_log.made(submission)
        self._record(loaded, None)
        return loaded

    def apply(self, loaded: LoadedTask, event: Event) -> Decision:
        """Apply the event to the task. No other place changes a status."""
        decider = self._decider
        if decider is None:
            decider = self._decider = Decider(now=self.now, policy=self.policy, draw=self.clock.jitter)
        decision = decider.decide(loaded, event)
        verdict = decision.verdict
        if verdict is Verdict.UNCHANGED or verdict is Verdict.STALE:
            return decision
        self.writes += 1
        before, after = loaded.status, decision.status
        submission = loaded.submission
        loaded.become(after)
        self._event_log.decided(submission, event, decision)
        self.counters.step(loaded.counts, before, after)
        self._note_room(loaded, before, after)
        if after.state.terminal and not before.state.terminal:
            self._event_log.ended(submission, after)
            if loaded.destination_key is not None:
                self.destination_keys.add(loaded.destination_key)
        if verdict is Verdict.CHANGED:
            self._record(loaded, (before.session_id, before.attempt) if before.session_id else None)
        return decision

    def _note_room(self, loaded: LoadedTask, before: Status, after: Status) -> None:
        if before.session_id and not after.session_id:
            self.concurrency_keys[loaded.concurrency_key] = None
            # Its target may have been full; whether it was is not worth a read.
            self.claimable = True
        if before.state is State.QUEUED and after.state is not State.RUNNING:
            self._queue_changed(loaded, alone=before.alone)
        if after.state is State.QUEUED and before.state is not State.QUEUED:
            self._queue_changed(loaded, alone=after.alone)
        if after.state is State.SETTLING and not after.session_id:
            self.claimable = True

    def _queue_changed(self, loaded: LoadedTask, *, alone: bool) -> None:
        """Note that the task has come into its instance's queue, or left it."""
        if not loaded.concurrency_key:
            self.newly_ready.add(loaded.submission.seq)
            return
        takers = self.concurrency_keys.setdefault(loaded.concurrency_key, set())
        if takers is not None:
            takers.add(taker_of(loaded.submission.kind, alone=alone))

    def _record(self, loaded: LoadedTask, holder: tuple[str, int] | None) -> None:
        self._changes.append(TaskChange(loaded.task, holder))
        self._event_log.record(loaded.submission, loaded.status)

    # Writing ------------------------------------------------------------------------------------------------------

    def write(self, what: Statement, **parameters: Any) -> None:
        """Change rows of other tables, before anything else is asked."""
        self.writes += 1
        self.link.tell(what, **parameters)

    def note(self, what: Statement, **parameters: Any) -> None:
        """Change rows of other tables, also where the command is then refused: what is noted is true all the same."""
        self.link.tell(what, **parameters)

    def change(self, what: Statement, **parameters: Any) -> int:
        """Change rows of other tables, and wait for the number of rows changed."""
        self.writes += 1
        return self.link.run(what, **parameters)

    def defer(self, what: Bulk, row: Row, *, late: bool = False) -> None:
        """Write a row with the next `flush`, together with others of its kind; `late`: behind the others."""
        self.writes += 1
        self._deferred[late].setdefault(what, []).append(row)

    def move(self, key: Key, by: int) -> None:
        """Move a counter."""
        self.writes += 1
        self.counters.move(key, by)

    def flush(self) -> None:
        """Write what has changed so far, counters excepted."""
        # Stored tasks come first, because they may leave destinations that new ones take.
        self.flush_stored()
        if self._new_tasks:
            write_new(self.link, self._new_tasks, self.is_paused)
            for loaded in self._new_tasks:
                loaded.is_written()
            self._new_tasks = []
        for rows in self._deferred:
            for what, each in rows.items():
                self.link.write(what, each)
            rows.clear()
        self._event_log.flush()

    def flush_stored(self) -> None:
        """Write the tasks that the database knows, so that it can be asked for them. New ones are written once, when it
        is known what the transaction makes of them: one that is claimed at once is never written as a queued one."""
        changed = [loaded for loaded in self._loaded.values() if loaded.changed and loaded.stored is not None]
        if changed:
            write_changed(self.link, changed, self.is_paused)
            for loaded in changed:
                loaded.is_written()

    def finish(self) -> None:
        """Write the rest, at the end."""
        self.flush()
        if self._last_seq is not None and self._last_seq != self._first_seq:
            self.link.tell(_SET_LAST_SEQ, last=self._last_seq)
        if self._changes and self.link.dialect.exclusive:
            self.counters.ask((POSITION,))()
            self.counters.move(POSITION, 1)
            self.position = self.counters.value(POSITION)
        self.counters.flush()

    def reread(self) -> None:
        """Take over what a statement has changed behind the back of the working set, which is flushed."""
        if self._task_memory is not None:
            self._task_memory.clear()
        for row in self.link.among(_LOAD, sorted(self._loaded)):
            task = task_of(row)
            loaded = self._loaded[task.submission.seq]
            loaded.become(task.status)
            loaded.is_written()

    def committed(self) -> None:
        """The transaction is committed: what it knows of tasks holds for the next one."""
        memory = self.memory
        if memory is not None:
            memory.tasks.committed(self._loaded.values())
            memory.paused, memory.last_seq = self._paused, self._last_seq
            self.counters.committed()
            memory.committed()

    def changes(self) -> Changes:
        """The changes to tell the engine after the commit."""
        return Changes(
            tasks=tuple(self._changes),
            claimable=self.claimable or bool(self.newly_ready),
            debts=self._event_log.makes_debts,
            sessions_ended=tuple(self.sessions_ended),
        )
