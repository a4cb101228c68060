"""A task follows others: its turn, its dependencies, and the task that takes its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longshore.server.model import events
from longshore.server.model.events import (
    BecameHead,
    CancelAsked,
    DependencyEnded,
    Due,
    SessionLost,
    SupersededBy,
    Verdict,
)
from longshore.server.model.states import decide
from longshore.server.model.task import Task
from longshore.server.model.values import Outcome, State, WaitReason
from tests.support.stores.decisions import ERROR, TICKS, WORLD, report, task


def test_a_quiet_turn_before_its_time() -> None:
    decision = decide(task(State.SCHEDULED, head=False), BecameHead(), WORLD)
    assert decision.verdict is Verdict.QUIET
    assert decision.status.head
    assert decision.status.revision == 7


def test_due_behind_another_is_blocked() -> None:
    decision = decide(task(State.SCHEDULED, head=False), Due(), WORLD)
    assert (decision.status.state, decision.status.wait_reason) == (State.BLOCKED, WaitReason.EARLIER_TASK)


def test_due_before_its_dependencies_have_ended_is_blocked_by_them() -> None:
    decision = decide(task(State.SCHEDULED, head=False, unmet=1), Due(), WORLD)
    assert (decision.status.state, decision.status.wait_reason) == (State.BLOCKED, WaitReason.AFTER)


@pytest.mark.parametrize("ended", [State.FAILED, State.CANCELLED, State.EXPIRED, None])
def test_a_dependency_that_ends_otherwise_ends_the_task_unless_any_end_will_do(ended: State | None) -> None:
    subject = task(State.BLOCKED, unmet=2, wait_reason=WaitReason.AFTER)
    status = decide(subject, DependencyEnded("task-0", ended), WORLD).status
    assert (status.state, status.unmet, status.wait_reason) == (State.CANCELLED, 0, WaitReason.NONE)
    assert not status.cancel_requested
    assert status.error is not None
    assert status.error.reason == "DEPENDENCY_FAILED"
    assert "task-0" in status.error.message
    terms = replace(subject.submission.terms, after=("task-0", "task-1"), after_any_end=True)
    patient = Task(replace(subject.submission, terms=terms), subject.status)
    decision = decide(patient, DependencyEnded("task-0", ended), WORLD)
    assert (decision.verdict, decision.status.unmet) == (Verdict.QUIET, 1)


@pytest.mark.parametrize("state", [State.BLOCKED, State.SCHEDULED, State.QUEUED])
def test_a_waiting_task_says_which_one_took_its_place(state: State) -> None:
    ended = decide(task(state), SupersededBy("task-9", TICKS), WORLD).status
    assert (ended.state, ended.superseded_by, ended.cancel_reason) == (State.CANCELLED, "task-9", "")
    assert ended.error is not None
    assert (ended.error.reason, "task-9" in ended.error.message) == ("SUPERSEDED", True)


@pytest.mark.parametrize("how", ["stopped", "lost", "transient"])
def test_a_running_task_is_asked_to_stop_and_then_says_so(how: str) -> None:
    asked = decide(task(State.RUNNING), SupersededBy("task-9", TICKS), WORLD).status
    assert (asked.state, asked.superseded_by, asked.error) == (State.CANCELLING, "task-9", None)
    subject = replace(task(State.RUNNING), status=asked)
    assert decide(subject, SupersededBy("task-10", TICKS), WORLD).status.superseded_by == "task-9", "the first counts"
    event: events.Event = SessionLost(asked.session_id, asked.attempt)
    if how != "lost":
        event = report(Outcome.STOPPED if how == "stopped" else Outcome.TRANSIENT, subject, error=ERROR)
    ended = decide(subject, event, WORLD).status
    assert (ended.state, ended.superseded_by) == (State.CANCELLED, "task-9")
    assert ended.error is not None
    assert ended.error.reason == "SUPERSEDED"


def test_a_granted_commit_that_lands_was_not_superseded() -> None:
    asked = decide(task(State.COMMITTING), SupersededBy("task-9", TICKS), WORLD).status
    assert (asked.state, asked.cancel_requested, asked.superseded_by) == (State.COMMITTING, True, "task-9")
    subject = replace(task(State.COMMITTING), status=asked)
    landed = decide(subject, report(Outcome.OK, subject), WORLD).status
    assert (landed.state, landed.superseded_by, landed.error) == (State.SUCCEEDED, "", None)
    failed = decide(subject, report(Outcome.TRANSIENT, subject, error=ERROR), WORLD).status
    assert (failed.state, failed.superseded_by) == (State.CANCELLED, "task-9")


def test_a_task_whose_cancel_was_asked_for_stays_the_callers() -> None:
    asked = decide(task(State.RUNNING), CancelAsked("enough", TICKS), WORLD).status
    subject = replace(task(State.RUNNING), status=asked)
    assert decide(subject, SupersededBy("task-9", TICKS), WORLD).verdict is Verdict.UNCHANGED
