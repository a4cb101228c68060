"""Commands of submitters and operators: tasks and queues."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from longshore.server.model.records import record
from longshore.server.model.task import Payload, Task, Terms, Work
from longshore.server.model.values import Settlement
from longshore.server.store.commands.base import Command, Urgency


@record
class TaskPlan:
    """A task to be made. `not_before` is in seconds from acceptance."""

    work: Work
    terms: Terms
    not_before: float = 0.0

    @property
    def held_bytes(self) -> int:
        """About how much memory the plan holds while its command waits."""
        arguments = self.work.arguments
        return 1024 + (0 if arguments is None else len(arguments.value)) + 64 * len(self.terms.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits that are checked in the transaction that takes from them. None means that there is no limit."""

    queue_tasks: int = 100_000
    """Live tasks in one queue, promised ones of open uploads included."""
    caller_tasks: int | None = None
    """Live tasks of one creator."""
    uploads: int = 64
    """Open uploads in all."""
    caller_uploads: int | None = None
    spool_bytes: int | None = None
    """Payload bytes kept and reserved in all. What the disk has free is checked by the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitTasks(Command[tuple[Task, ...]]):
    """Make tasks at once; the same request id again answers the same tasks.

    `payload_id` names a payload that a task of `principal` keeps (any, if `any_creator`); or `payload` is a new one,
    small enough to be kept in the database, with its `content`. `uploaded` says that these came in an upload: it is
    complete with this command, and had no row before. The tasks come after tasks of `principal` (anybody's, if
    `any_creator`). Raises RequestIdReused, QueueFull, CallerShare, PayloadGone, SpoolFull, NotFound, DependencyFailed,
    OldServers, and UploadInProgress if the upload was opened before (it is to be opened again, and finished).
    """

    urgency: ClassVar[Urgency] = Urgency.SUBMIT
    principal: str
    request_id: str
    fingerprint: str
    plans: tuple[TaskPlan, ...]
    payload_id: str = ""
    payload: Payload | None = None
    content: bytes = b""
    uploaded: bool = False
    any_creator: bool = False
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def weight(self) -> int:
        return max(1, len(self.plans))

    @property
    def held_bytes(self) -> int:
        return 1024 + sum(plan.held_bytes for plan in self.plans) + len(self.content)

    @property
    def content_size(self) -> int:
        """Bytes that come along."""
        return len(self.content)


@record
class StepPlan:
    """A step of a plan, which makes one task. `after_steps` are indexes of earlier steps: the task comes after theirs,
    and after those that its terms name. The payload is given as in SubmitTasks."""

    plan: TaskPlan
    after_steps: tuple[int, ...] = ()
    payload_id: str = ""
    payload: Payload | None = None
    content: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitPlan(Command[tuple[Task, ...]]):
    """Make the tasks of all steps, or none; the same request id again answers the same tasks.

    With `dry_run` everything is checked, and nothing is made. Raises as SubmitTasks does.
    """

    urgency: ClassVar[Urgency] = Urgency.SUBMIT
    principal: str
    request_id: str
    fingerprint: str
    steps: tuple[StepPlan, ...]
    dry_run: bool = False
    any_creator: bool = False
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def weight(self) -> int:
        return max(1, len(self.steps))

    @property
    def held_bytes(self) -> int:
        return 1024 + sum(step.plan.held_bytes + len(step.content) + 64 for step in self.steps)

    @property
    def content_size(self) -> int:
        """Bytes that come along."""
        return sum(len(step.content) for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTask(Command[Task]):
    """Make a new task like an unsuccessful one, at the end of its destination's order.

    With `creator` None anybody's task may be retried. Raises NotFound, PayloadGone, NotRetryable, Superseded,
    RevisionMismatch, RequestIdReused, QueueFull, CallerShare, DependencyFailed, OldServers. The new
    task has the old one's creator, who sees and
    cancels it and whose share it takes, and its durations, counted anew; the request is the principal's.
    """

    urgency: ClassVar[Urgency] = Urgency.SUBMIT
    principal: str
    creator: str | None
    task_id: str
    request_id: str
    force: bool
    expected_revision: int | None
    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTask(Command[Task]):
    """Ask for a task to be cancelled; with `creator` None it may be anybody's. Raises NotFound, RevisionMismatch."""

    task_id: str
    creator: str | None
    reason: str
    expected_revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelBatch(Command[None]):
    """Ask for every task of a request to be cancelled. Raises NotFound."""

    principal: str
    request_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleTask(Command[Task]):
    """Settle a task as an operator says. Raises NotFound, NotSettling."""

    task_id: str
    settlement: Settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseQueue(Command[None]):
    """Start no tasks of `queue`, or start them again.

    With `create` false a queue that never held a task and was never paused is refused: raises QueueNotFound.
    """

    queue: str
    paused: bool
    create: bool = True


@dataclass(frozen=True, slots=True)
class Woken:
    """The answer to WakeParked: how many `tasks` were woken, and `more` if the limit was reached."""

    tasks: int
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeParked(Command[Woken]):
    """Wake up to `limit` tasks that are parked for this instance (for all of the target's if `instance` is empty).

    `running` false wakes only those that wait for the instance to exist. Run the command again while there are more:
    leases wait behind each transaction, and a hundred thousand tasks may be parked.
    """

    target: str
    project: str
    instance: str
    running: bool
    limit: int = 500
