"""A decision says more than the new state of an attempt: its deadline, its error, its back-off, its debts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from longshore.server.model.events import CancelAsked, Claimed, GrantAsked, Reported, SessionLost, TimedOut, Verdict
from longshore.server.model.states import decide
from longshore.server.model.task import AnyValue
from longshore.server.model.values import AttemptEnd, Outcome, State, WaitReason
from tests.support.stores.decisions import ERROR, GRANT, HELD, JOB, NOW, POLICY, TICKS, WORLD, task, unheld


def test_a_claim_starts_an_attempt_with_a_deadline() -> None:
    status = decide(task(State.QUEUED, attempt=3), Claimed("s9", "w9", TICKS), WORLD).status
    assert (status.attempt, status.session_id, status.worker, status.started_at) == (4, "s9", "w9", NOW)
    assert status.deadline_ticks == TICKS + 60.0
    settling = decide(unheld(task(State.SETTLING)), Claimed("s9", "w9", TICKS), WORLD).status
    assert (settling.attempt, settling.state, settling.grant) == (5, State.SETTLING, GRANT)
    assert settling.deadline_ticks == TICKS + POLICY.settle_timeout


@pytest.mark.parametrize("wrong", [{"attempt": 2}, {"attempt": 4}, {"session_id": "s2"}])
@pytest.mark.parametrize("state", [State.RUNNING, State.COMMITTING])
def test_a_grant_is_for_attempt_and_session(state: State, wrong: dict[str, Any]) -> None:
    assert decide(task(state), GrantAsked(replace(GRANT, **wrong)), WORLD).verdict is Verdict.STALE


def test_another_temp_is_another_grant() -> None:
    assert decide(task(State.COMMITTING), GrantAsked(replace(GRANT, temp="/other")), WORLD).verdict is Verdict.STALE


@pytest.mark.parametrize("outcome", list(Outcome), ids=lambda outcome: outcome.name)
@pytest.mark.parametrize("state", HELD, ids=lambda state: state.name)
def test_others_reports_are_stale(state: State, outcome: Outcome) -> None:
    for session, attempt in (("s1", 2), ("s1", 4), ("s2", 3)):
        assert decide(task(state), Reported(session, attempt, outcome), WORLD).verdict is Verdict.STALE


def test_back_off_is_within_its_bounds_and_grows() -> None:
    for tries in range(1, 40):
        ceiling = min(POLICY.back_off_most, POLICY.back_off_first * 2 ** (tries - 1))
        assert POLICY.back_off(tries, 0.0) == ceiling / 2
        assert ceiling / 2 < POLICY.back_off(tries, 0.999) < ceiling


def test_a_transient_error_waits_its_time() -> None:
    subject = task(State.RUNNING, tries=2)
    status = decide(subject, Reported("s1", 3, Outcome.TRANSIENT, error=ERROR), WORLD).status
    assert (status.tries, status.error, status.wait_reason) == (3, ERROR, WaitReason.BACK_OFF)
    assert status.due_at == NOW + POLICY.back_off(3, 0.5)
    told = decide(subject, Reported("s1", 3, Outcome.TRANSIENT, error=ERROR, retry_after=7.0), WORLD).status
    assert told.due_at == NOW + 7.0


def test_parking_burns_nothing() -> None:
    for reason in (WaitReason.INSTANCE_STOPPED, WaitReason.INSTANCE_ABSENT):
        status = decide(task(State.RUNNING), Reported("s1", 3, Outcome.NOT_READY, wait_reason=reason), WORLD).status
        assert (status.wait_reason, status.due_at, status.tries, status.crashes) == (reason, None, 0, 0)
    for other in (WaitReason.NONE, WaitReason.BACK_OFF):
        status = decide(task(State.RUNNING), Reported("s1", 3, Outcome.NOT_READY, wait_reason=other), WORLD).status
        assert status.due_at is not None, "what nothing would wake is not parked"


def test_a_job_leaves_no_temps() -> None:
    assert decide(task(State.RUNNING, work=JOB), SessionLost("s1", 3), WORLD).debts == ()
    left = Reported("s1", 3, Outcome.PERMANENT, left_temps=True)
    assert decide(task(State.RUNNING, work=JOB), left, WORLD).debts == ()
    assert decide(task(State.RUNNING), left, WORLD).debts == ((3, ""),)


def test_cancel_gives_grace() -> None:
    status = decide(task(State.RUNNING), CancelAsked("enough", TICKS), WORLD).status
    assert (status.deadline_ticks, status.session_id) == (TICKS + POLICY.cancel_grace, "s1")


def test_the_unsuccessful_can_be_retried_for_a_while() -> None:
    failed = decide(task(State.RUNNING), Reported("s1", 3, Outcome.PERMANENT, error=ERROR), WORLD).status
    assert (failed.finished_at, failed.retryable_until, failed.error) == (NOW, NOW + 100.0, ERROR)
    done = decide(task(State.COMMITTING, error=ERROR), Reported("s1", 3, Outcome.OK), WORLD).status
    assert (done.finished_at, done.retryable_until, done.error) == (NOW, None, None)


def test_a_job_returns_its_result() -> None:
    result = AnyValue("type.example/Result", b"\x01")
    status = decide(task(State.RUNNING, work=JOB), Reported("s1", 3, Outcome.OK, result=result), WORLD).status
    assert (status.state, status.result) == (State.SUCCEEDED, result)


@pytest.mark.parametrize(
    ("state", "attempt", "words"),
    [
        (State.RUNNING, 3, "run_timeout"),
        (State.COMMITTING, 3, "run_timeout"),
        (State.CANCELLING, 3, "after its cancel"),
        (State.SETTLING, 4, "what became of the commit"),
    ],
)
def test_a_time_out_says_which_time_was_over(state: State, attempt: int, words: str) -> None:
    (ending,) = decide(task(state), TimedOut(attempt), WORLD).endings
    assert ending.end is AttemptEnd.TIMED_OUT
    assert ending.error is not None
    assert ending.error.reason == "TIMED_OUT"
    assert words in ending.error.message
    assert ("run_timeout" in ending.error.message) is (words == "run_timeout")
