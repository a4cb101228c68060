"""The working set: the tasks that a transaction has loaded, and those that it makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from longshore.server.model.task import Status, Task, concurrency_key_of
from longshore.server.model.values import State, WaitReason
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Among
from longshore.server.store.tables.ids import seq_of
from longshore.server.store.tables.rows import (
    Row,
    taker_of,
    task_columns,
    task_of,
)
from longshore.server.store.tables.schema import submissions, tasks
from longshore.server.store.transaction.counters import counts_of
from longshore.server.store.transaction.known import Found, Known, Remembered

_LOAD: Final = Among(
    lambda keys: (
        sa.select(*task_columns())
        .join_from(tasks, submissions, tasks.c.seq == submissions.c.seq)
        .where(tasks.c.seq.in_(keys))
        .order_by(tasks.c.seq)
    ),
    lock=True,
)


class LoadedTask:
    """One task in the working set. `stored` is the status that the database has; None means that the task is not in the
    database yet. `changed` says that the task has another status."""

    __slots__ = (
        "changed", "concurrency_key", "counts", "destination_key", "ready", "status", "stored", "submission", "target",
        "task",
    )  # fmt: skip

    def __init__(self, task: Task, *, stored: bool) -> None:
        submission = self.submission = task.submission
        work = submission.work
        self.task = task
        self.status = task.status
        self.concurrency_key = concurrency_key_of(work)
        self.target = work.target
        self.destination_key = submission.destination_key
        self.counts = counts_of(
            submission.terms.queue, submission.creator, work.kind, self.target, self.concurrency_key,
            work.needs_revision, work.exclusive,
        )  # fmt: skip
        self.stored = task.status if stored else None
        self.changed = not stored
        self.ready = False
        """Whether the instance of a task that is not stored has room for it. Without an instance no flag is needed."""

    @property
    def taker(self) -> str:
        return self.taker_when(alone=self.status.alone)

    def taker_when(self, *, alone: bool) -> str:
        """Return the taker that the task has if it must run alone, or need not."""
        work = self.submission.work
        return taker_of(work.kind, alone=alone, revision=work.needs_revision)

    def become(self, status: Status) -> None:
        self.status = status
        self.task = Task(self.submission, status)
        self.changed = True

    def is_written(self) -> None:
        """Note that the database now has the current status."""
        self.stored = self.status
        self.changed = False


def first_status(*, now: float, not_before: float, free: bool, unmet: int = 0) -> Status:
    """The first status of a task. `not_before` is in seconds from `now`; `free`: no live task has its destination;
    `unmet`: dependencies that have not ended."""
    free = free and not unmet
    if not_before > 0:
        state, reason, due_at = State.SCHEDULED, WaitReason.NOT_BEFORE, now + not_before
    elif free:
        state, reason, due_at = State.QUEUED, WaitReason.NONE, None
    else:
        state, reason, due_at = State.BLOCKED, WaitReason.AFTER if unmet else WaitReason.EARLIER_TASK, None
    return Status(revision=1, state=state, head=free, wait_reason=reason, due_at=due_at, updated_at=now, unmet=unmet)


class LoadedTasks:
    """The tasks of one transaction by their numbers, stored ones and new ones."""

    def __init__(self, link: Link, memory: Remembered[int, LoadedTask | None] | None) -> None:
        self._link = link
        self._known: Known[int, LoadedTask | None] = Known(self._question, absent=None, memory=memory)
        self.wanted: Final = self._known.wanted
        """Numbers of tasks for the next `ask`."""
        self.new: list[LoadedTask] = []
        """New tasks that the database does not know yet, in the order of acceptance. A caller that queries tasks must
        look at these too."""
        self.remembered: Final = memory is not None
        """Whether tasks that were written lately are remembered, so that they cost no query."""

    def _question(self, seqs: list[int]) -> Found[int, LoadedTask | None]:
        found = self._link.ask_among(_LOAD, seqs)
        return lambda: [(loaded.submission.seq, loaded) for loaded in map(_loaded, found.rows())]

    def want(self, task_id: str) -> None:
        """Name a task for the next `ask`."""
        seq = seq_of(task_id)
        if seq is not None:
            self.wanted.add(seq)

    def ask(self) -> None:
        """Ask for the wanted tasks."""
        self._known.ask()

    def find(self, task_id: str) -> LoadedTask | None:
        """The task of this id. None means that there is none."""
        seq = seq_of(task_id)
        found = None if seq is None else self._known.get(seq)
        return found if found is not None and found.submission.id == task_id else None

    def load(self, seqs: Iterable[int]) -> list[LoadedTask]:
        """Load these tasks, in the order of acceptance; those that do not exist are left out."""
        wanted = sorted(set(seqs))
        self._known.ask(wanted)
        get = self._known.get
        return [loaded for seq in wanted if (loaded := get(seq)) is not None]

    def load_row(self, row: Row) -> LoadedTask:
        """Take a row of `task_columns` into the working set, unless the task is there."""
        loaded = _loaded(row)
        seq = loaded.submission.seq
        known = self._known.get(seq) if seq in self._known else None
        if known is None:
            self._known.put(seq, loaded)
        return known or loaded

    def all(self) -> list[LoadedTask]:
        """The whole working set."""
        return [loaded for loaded in self._known.values() if loaded is not None]

    def add(self, loaded: LoadedTask) -> None:
        """Take a new task into the working set."""
        self._known.put(loaded.submission.seq, loaded)
        self.new.append(loaded)

    def changed(self) -> list[LoadedTask]:
        """The stored tasks whose status differs from what the database has."""
        return [
            loaded
            for loaded in self._known.values()
            if loaded is not None and loaded.changed and loaded.stored is not None
        ]

    def new_ones_are_stored(self) -> None:
        """Note that the new tasks have been written."""
        for loaded in self.new:
            loaded.is_written()
        self.new = []

    def reread(self) -> None:
        """Take over what a statement has changed behind the back of the working set, which is flushed."""
        loaded_tasks = {loaded.submission.seq: loaded for loaded in self.all()}
        self._known.clear()
        for row in self._link.among(_LOAD, sorted(loaded_tasks)):
            task = task_of(row)
            loaded = loaded_tasks[task.submission.seq]
            loaded.become(task.status)
            loaded.is_written()
            self._known.put(task.submission.seq, loaded)

    def remember(self) -> None:
        """Leave the tasks to the next transactions. This one is committed."""
        self._known.remember()


def _loaded(row: Row) -> LoadedTask:
    return LoadedTask(task_of(row), stored=True)
