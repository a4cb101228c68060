"""A task in the working set of a transaction."""

from __future__ import annotations

from longshore.server.model.task import Status, Task, concurrency_key_of
from longshore.server.model.values import State, WaitReason
from longshore.server.store.tables.rows import taker_of
from longshore.server.store.transaction.counters import counts_of


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
        self.destination_key = work.destination_key
        self.counts = counts_of(
            submission.terms.queue, submission.creator, work.kind, self.target, self.concurrency_key
        )
        self.stored = task.status if stored else None
        self.changed = not stored
        self.ready = False
        """Whether the instance of a task that is not stored has room for it. Without an instance no flag is needed."""

    @property
    def taker(self) -> str:
        return taker_of(self.submission.kind, alone=self.status.alone)

    def become(self, status: Status) -> None:
        self.status = status
        self.task = Task(self.submission, status)
        self.changed = True

    def is_written(self) -> None:
        """Note that the database now has the current status."""
        self.stored = self.status
        self.changed = False


def first_status(*, now: float, not_before: float, free: bool) -> Status:
    """The first status of a task. `not_before` is in seconds from `now`; `free`: no live task has its destination."""
    if not_before > 0:
        state, reason, due_at = State.SCHEDULED, WaitReason.NOT_BEFORE, now + not_before
    elif free:
        state, reason, due_at = State.QUEUED, WaitReason.NONE, None
    else:
        state, reason, due_at = State.BLOCKED, WaitReason.EARLIER_TASK, None
    return Status(revision=1, state=state, head=free, wait_reason=reason, due_at=due_at, updated_at=now)
