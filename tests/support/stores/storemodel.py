"""A second, simple store in memory: what the real one must agree with after every step.

It knows the table (`statetable`), the order at a destination, who holds what, and the limits; it forgets nothing and
optimises nothing. What chance decides (back-off) it takes over from the real store after checking its bounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from longshore.server.model.task import Task
from longshore.server.model.values import State
from tests.support.stores.statetable import Event, Facts, expected

HELD = (State.RUNNING, State.COMMITTING, State.CANCELLING)


@dataclass(slots=True, eq=False)
class ModelTask:
    """A task as the model knows it."""

    id: str
    seq: int
    destination_key: bytes | None
    revision_needed: int
    exclusive: bool
    kind: str
    target: str
    concurrency_key: str
    queue: str
    priority: int
    limit: int
    expires_at: float
    run_timeout: float
    payload: str
    state: State
    head: bool
    due_at: float | None = None
    """SCHEDULED and SETTLING tasks have this time. None means that the task is parked."""
    revision: int = 1
    attempt: int = 0
    holder: str = ""
    granted: tuple[int, str] | None = None
    deadline: float | None = None
    cancelled: bool = False
    tries: int = 0
    crashes: int = 0
    solo_crashes: int = 0
    alone: bool = False
    begun: bool = True
    debts: int = 0
    unmet: set[str] = field(default_factory=set)
    any_end: bool = False
    after: tuple[str, ...] = ()
    superseded_by: str = ""

    @property
    def live(self) -> bool:
        return not self.state.terminal

    def seen(self) -> tuple[object, ...]:
        """Return the values that the model and the store must agree on."""
        return (
            self.state.name,
            self.head,
            self.revision,
            self.attempt,
            self.holder,
            self.cancelled,
            self.tries,
            self.crashes,
            self.solo_crashes,
            self.alone if self.live else None,
            self.begun if self.state is State.RUNNING else None,
            self.granted if self.state in (State.COMMITTING, State.SETTLING) else None,
            self.deadline,
            len(self.unmet),
            self.superseded_by,
        )


def seen(task: Task) -> tuple[object, ...]:
    status = task.status
    grant = status.grant
    return (
        status.state.name,
        status.head,
        status.revision,
        status.attempt,
        status.session_id,
        status.cancel_requested,
        status.tries,
        status.crashes,
        status.solo_crashes,
        status.alone if not status.state.terminal else None,
        status.started_at is not None if status.state is State.RUNNING else None,
        None if grant is None else (grant.attempt, grant.session_id),
        status.deadline_ticks,
        status.unmet,
        status.superseded_by,
    )


@dataclass(slots=True, eq=False)
class ModelSession:
    """A session."""

    id: str
    epoch: int
    targets: frozenset[str]
    kinds: dict[str, bool]
    lease: float
    alive: bool = True
    draining: bool = False
    revision: int = 0

    def serves(self, task: ModelTask) -> bool:
        there = not task.target or task.target in self.targets
        return there and task.kind in self.kinds and task.revision_needed <= self.revision

    def settles(self, task: ModelTask) -> bool:
        return self.serves(task) and (task.kind == "file_push" or self.kinds[task.kind])


@dataclass(slots=True)
class Model:
    """Every task and session, and the clock's two faces."""

    instance_limit: int
    target_limit: int
    solo_limit: int
    cancel_grace: float
    settle_timeout: float
    now: float = 0.0
    ticks: float = 0.0
    tasks: dict[str, ModelTask] = field(default_factory=dict)
    peers: dict[str, ModelSession] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)

    def add(self, task: Task, *, not_before: float) -> None:
        """A new task, born as the real store says it should be: earlier live tasks for its destination come first."""
        submission = task.submission
        work = submission.work
        destination_key = work.destination_key
        if not destination_key and submission.terms.after:
            destination_key = f"the own place of {task.id}".encode()
        # One that a later step of the same plan took the place of is heard of at the end of the transaction.
        any_end = submission.terms.after_any_end
        unmet = {
            each
            for each in submission.terms.after
            if self.tasks[each].live or not (any_end or self.tasks[each].state is State.SUCCEEDED)
        }
        if work.latest_wins and destination_key and all(self.tasks[each].live for each in unmet):
            kept = self.before(submission.terms.after)
            for other in sorted(self.at(destination_key), key=lambda each: each.seq):
                if other.live and other.id not in kept:
                    self.happen(other, "superseded", by=task.id)
        head = not unmet and (not destination_key or not any(other.live for other in self.at(destination_key)))
        state = State.SCHEDULED if not_before else State.QUEUED if head else State.BLOCKED
        self.tasks[task.id] = ModelTask(
            id=task.id,
            seq=submission.seq,
            destination_key=destination_key,
            revision_needed=work.needs_revision,
            exclusive=work.exclusive,
            kind=submission.kind,
            target=submission.target,
            concurrency_key=f"{work.target}/{work.instance}/{work.project}" if work.instance else "",
            queue=submission.terms.queue,
            priority=submission.terms.priority,
            limit=submission.terms.attempt_limit,
            expires_at=submission.expires_at,
            run_timeout=submission.terms.run_timeout,
            payload=submission.payload.id if submission.payload else "",
            state=state,
            head=head,
            due_at=self.now + not_before if not_before else None,
            unmet=unmet,
            any_end=submission.terms.after_any_end,
            after=submission.terms.after,
        )

    def before(self, after: Iterable[str]) -> set[str]:
        """What a task comes after that names `after`, directly or by way of other live tasks."""
        found = set(after)
        for each in tuple(found):
            if self.tasks[each].live:
                found |= self.before(self.tasks[each].after)
        return found

    def at(self, destination_key: bytes) -> list[ModelTask]:
        return [task for task in self.tasks.values() if task.destination_key == destination_key]

    def held_by(self, session: str) -> list[ModelTask]:
        return sorted((task for task in self.tasks.values() if task.holder == session), key=lambda task: task.seq)

    # Events -------------------------------------------------------------------------------------------------------

    def happen(
        self,
        task: ModelTask,
        event: Event,
        *,
        crash: bool = True,
        session: str = "",
        won: bool = False,
        begins: bool = False,
        by: str = "",
    ) -> bool:
        """Let `event` happen; answers whether it counted (it was not refused). `begins`: who claims says when it
        begins."""
        before = task.state
        last_crash = task.solo_crashes + (1 if task.alone and task.begun and crash else 0) >= self.solo_limit
        facts = Facts(
            state=before,
            head=task.head,
            must_commit=task.kind == "file_push",
            cancelled=task.cancelled,
            last_try=task.tries + 1 >= task.limit,
            last_crash=last_crash if event == "lost" else task.solo_crashes >= self.solo_limit,
            overdue=task.expires_at <= self.now,
            won=won,
            begun=task.begun,
            unmet=len(task.unmet),
        )
        after = expected(event, facts)
        match after:
            case "x":
                return False
            case "-" | "same" | "noted" | "count":
                return True
            case "quiet":
                task.head = True
                return True
            case "flag":
                task.cancelled = True
                task.superseded_by = by
                task.revision += 1
                return True
            case _:
                if event == "superseded":
                    task.superseded_by = by
                self._enter(task, event, before, after, crash=crash, session=session)
                if event == "claim":
                    task.begun = not (begins and task.alone and after is State.RUNNING)
                elif event in ("begin", "grant"):
                    task.begun = True
                return True

    def _enter(self, task: ModelTask, event: Event, before: State, after: State, *, crash: bool, session: str) -> None:
        task.revision += 1
        if event == "transient" and before is not State.CANCELLING:
            task.tries += 1
        if event == "timed_out" and before is State.RUNNING:
            task.tries += 1
        if event == "lost" and crash and before in (State.RUNNING, State.COMMITTING):
            task.crashes += 1
            task.solo_crashes += task.alone and task.begun
            task.alone = True
        if event in ("cancel", "superseded"):
            task.cancelled = True
        if event == "head":
            task.head = True
        if event == "claim":
            task.attempt += 1
            task.holder = session
            patience = task.run_timeout if after is State.RUNNING else self.settle_timeout
            task.deadline = self.ticks + patience
        elif after is State.CANCELLING:
            task.deadline = self.ticks + self.cancel_grace
        elif event not in ("begin", "grant"):
            task.holder = ""
            task.deadline = None
        if event == "grant":
            task.granted = (task.attempt, session)
        elif after not in (State.SETTLING,):
            task.granted = None
        if after.terminal:
            task.head = False
            task.unmet = set()
            if after is not State.CANCELLED:
                task.superseded_by = ""
        task.due_at = None
        task.state = after

    def settle_again(self, task: ModelTask) -> None:
        """Take the settling away from a worker that could not find out; another worker will look."""
        task.revision += 1
        task.holder = ""
        task.deadline = None

    def release(self) -> None:
        """Those that come after a task that has ended hear of it, and those that come after them in their turn."""
        told = True
        while told:
            told = False
            for task in self.tasks.values():
                for ended in [self.tasks[each] for each in sorted(task.unmet) if not self.tasks[each].live]:
                    told = True
                    met = task.any_end or ended.state is State.SUCCEEDED
                    assert self.happen(task, "met" if met else "failed")
                    task.unmet.discard(ended.id)

    def promote(self) -> None:
        """The earliest live task of each destination is its head, unless it comes after others that live."""
        self.release()
        for destination_key in {task.destination_key for task in self.tasks.values() if task.destination_key}:
            live = [task for task in self.at(destination_key) if task.live]
            if live and not any(task.head for task in live):
                self.happen(min(live, key=lambda task: task.seq), "head")

    # Room ---------------------------------------------------------------------------------------------------------

    def running(self, tasks: Iterable[ModelTask]) -> int:
        return sum(bool(task.holder) for task in tasks)

    def target_room(self, task: ModelTask) -> int:
        if not task.target:
            return 1
        return self.target_limit - self.running(each for each in self.tasks.values() if each.target == task.target)

    def room_at(self, task: ModelTask) -> int:
        if not task.concurrency_key:
            return 1
        return self.instance_limit - self.running(
            each for each in self.tasks.values() if each.concurrency_key == task.concurrency_key
        )

    def barred(self, task: ModelTask) -> bool:
        """Return whether an exclusive task of its instance, or being one itself, keeps a queued task from running."""
        if not task.concurrency_key:
            return False
        there = [each for each in self.tasks.values() if each.concurrency_key == task.concurrency_key]
        under_way = [each for each in there if each.state in (*HELD, State.SETTLING)]
        if any(each.exclusive for each in under_way):
            return True
        offered = [each for each in there if each.state is State.QUEUED and each.queue not in self.paused]
        first = min((each.seq for each in offered if each.exclusive), default=None)
        if first is None or task.seq < first:
            return False
        return task.seq > first or bool(under_way) or any(each.seq < first for each in offered)

    def claimable(self, task: ModelTask, peer: ModelSession, *, idle: bool) -> bool:
        """Return whether this session may take a task now."""
        if task.state is State.SETTLING:
            due = task.due_at is not None and task.due_at <= self.now
            return not task.holder and due and peer.settles(task) and self.target_room(task) > 0
        return (
            task.state is State.QUEUED
            and task.queue not in self.paused
            and peer.serves(task)
            and self.target_room(task) > 0
            and self.room_at(task) > 0
            and not self.barred(task)
            and (idle or not task.alone)
        )
