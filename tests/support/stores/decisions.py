"""A test makes a task in any state, and the report that may meet it there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longshore.server.model.events import Circumstances, Policy, Reported
from longshore.server.model.task import Destination, Failure, FilePush, Grant, Job, Status, Task, Terms
from longshore.server.model.values import DeliveryMethod, Outcome, State, WaitReason
from tests.support.stores.tasks import submission

NOW = 1_000.0
TICKS = 50.0
POLICY = Policy(solo_limit=2, retention=100.0)
WORLD = Circumstances(now=NOW, jitter=0.5, policy=POLICY)
GRANT = Grant(3, "s1", "/etc/.tmp", DeliveryMethod.SFTP, 990.0)
PUSH = FilePush(Destination("default", "", "web1", "/etc/motd"))
JOB = Job("report", None)
ERROR = Failure("BUSY", "busy", True)
HELD = (State.RUNNING, State.COMMITTING, State.CANCELLING)


def task(
    state: State, *, work: FilePush | Job = PUSH, expires_at: float = 2_000.0, limit: int = 5, **more: Any
) -> Task:
    """A task in `state` as it could be there: third attempt, by `s1`; SETTLING is claimed by `s2` as the fourth."""
    values: dict[str, Any] = {"revision": 7, "state": state, "head": state is not State.BLOCKED and not state.terminal}
    if state in HELD:
        values |= {"attempt": 3, "session_id": "s1", "worker": "w1", "deadline_ticks": 60.0, "started_at": 950.0}
    if state in (State.COMMITTING, State.SETTLING):
        values |= {"grant": GRANT}
    if state is State.SETTLING:
        values |= {"attempt": 4, "session_id": "s2", "worker": "w2", "deadline_ticks": 60.0}
    if state is State.CANCELLING:
        values |= {"cancel_requested": True}
    if state is State.SCHEDULED:
        values |= {"wait_reason": WaitReason.BACK_OFF, "due_at": 900.0}
    if state.terminal:
        values |= {"attempt": 3, "finished_at": 900.0}
    terms = Terms(run_timeout=60.0, attempt_limit=limit)
    return Task(submission(work, terms=terms, expires_at=expires_at, created_at=0.0), Status(**(values | more)))


def report(outcome: Outcome, subject: Task, **more: Any) -> Reported:
    """By the granted attempt where a task settles, else by the newest."""
    grant = subject.status.grant
    if subject.status.state is State.SETTLING and grant is not None and outcome < Outcome.SETTLED_REMOVED:
        return Reported(grant.session_id, grant.attempt, outcome, **more)
    return Reported(subject.status.session_id or "s1", subject.status.attempt, outcome, **more)


def unheld(subject: Task) -> Task:
    return replace(subject, status=replace(subject.status, session_id="", deadline_ticks=None, due_at=NOW))
