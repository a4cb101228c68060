"""The state table, cell by cell, and what else a decision says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, get_args

import pytest

from longshore.server.model import events
from longshore.server.model.events import (
    BecameHead,
    Began,
    CancelAsked,
    Circumstances,
    Claimed,
    Decision,
    DependencyEnded,
    Due,
    Ending,
    ExpiryReached,
    Followed,
    GrantAsked,
    Policy,
    Reported,
    SessionLost,
    SettledByHand,
    SupersededBy,
    TimedOut,
    Verdict,
)
from longshore.server.model.states import decide
from longshore.server.model.task import (
    AnyValue,
    Destination,
    Failure,
    FilePush,
    Grant,
    Job,
    Status,
    Task,
    Terms,
)
from longshore.server.model.values import (
    AttemptEnd,
    DeliveryMethod,
    Outcome,
    Settlement,
    State,
    WaitReason,
)
from tests.support.stores.statetable import TABLE, Event, Facts, expected
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


def event_of(name: Event, subject: Task) -> events.Event:
    attempt, session = subject.status.attempt, subject.status.session_id
    match name:
        case "head":
            return BecameHead()
        case "followed":
            return Followed()
        case "met":
            return DependencyEnded("task-0", State.SUCCEEDED)
        case "failed":
            return DependencyEnded("task-0", State.FAILED)
        case "due":
            return Due()
        case "claim":
            return Claimed("s9", "w9", TICKS)
        case "begin":
            return Began(session or "s1", attempt)
        case "grant":
            return GrantAsked(replace(GRANT, attempt=attempt))
        case "ok":
            return report(Outcome.OK, subject)
        case "transient":
            return report(Outcome.TRANSIENT, subject, error=ERROR)
        case "permanent":
            return report(Outcome.PERMANENT, subject, error=replace(ERROR, transient=False))
        case "not_ready":
            return report(Outcome.NOT_READY, subject, wait_reason=WaitReason.INSTANCE_STOPPED)
        case "handed_back":
            return report(Outcome.HANDED_BACK, subject)
        case "lost":
            return SessionLost(session or "s1", attempt)
        case "timed_out":
            return TimedOut(attempt)
        case "cancel":
            return CancelAsked("enough", TICKS)
        case "superseded":
            return SupersededBy("task-9", TICKS)
        case "expiry":
            return ExpiryReached()
        case "removed":
            return report(Outcome.SETTLED_REMOVED, subject)
        case "landed":
            return report(Outcome.SETTLED_LANDED, subject)
        case "neither":
            return report(Outcome.SETTLED_NEITHER, subject)


def unheld(subject: Task) -> Task:
    return replace(subject, status=replace(subject.status, session_id="", deadline_ticks=None, due_at=NOW))


VARIANTS = [
    {"work": work, "cancelled": cancelled, "overdue": overdue, "last": last, "unmet": unmet}
    for work, cancelled, overdue, last, unmet in itertools.product(
        (PUSH, JOB), (False, True), (False, True), (False, True), (0, 1, 2)
    )
]
WITH_UNMET = (State.BLOCKED, State.SCHEDULED)


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
@pytest.mark.parametrize("name", get_args(Event))
def test_each_cell_of_the_table(name: Event, state: State) -> None:
    for variant in VARIANTS:
        cancelled = state is State.CANCELLING or (
            bool(variant["cancelled"]) and state in (State.COMMITTING, State.SETTLING)
        )
        more: dict[str, Any] = {}
        if state in WITH_UNMET and variant["unmet"]:
            more = {"unmet": variant["unmet"], "head": False}
        subject = task(
            state,
            work=variant["work"],  # type: ignore[arg-type]  # the product of several types
            expires_at=500.0 if variant["overdue"] else 2_000.0,
            limit=1 if variant["last"] else 5,
            solo_crashes=1 if variant["last"] else 0,
            alone=True,
            cancel_requested=cancelled,
            **more,
        )
        if name == "claim" and state is State.SETTLING:
            subject = unheld(subject)
        if name in ("removed", "neither") and variant["last"]:
            # The crash was counted when the granted attempt was lost.
            subject = replace(subject, status=replace(subject.status, solo_crashes=2))
        begun = not (name == "begin" and state is State.RUNNING and variant["last"])
        if not begun:
            subject = replace(subject, status=replace(subject.status, started_at=None))
        facts = Facts(
            state=state,
            begun=begun,
            head=subject.status.head,
            must_commit=variant["work"] is PUSH,
            cancelled=cancelled,
            overdue=bool(variant["overdue"]),
            last_try=bool(variant["last"]),
            last_crash=bool(variant["last"]),
            won=state is State.SUCCEEDED,
            unmet=subject.status.unmet,
        )
        decision = decide(subject, event_of(name, subject), WORLD)
        check(expected(name, facts), subject, decision)


def check(wanted: State | str, subject: Task, decision: Decision) -> None:
    before, after = subject.status, decision.status
    match wanted:
        case "x":
            assert decision.verdict is Verdict.STALE
            assert after == before
        case "-" | "same":
            assert decision.verdict is Verdict.UNCHANGED
            assert after == before
        case "quiet" if before.head:
            assert decision.verdict is Verdict.UNCHANGED
        case "quiet":
            assert decision.verdict is Verdict.QUIET
            assert after == replace(before, head=True)
        case "noted":
            assert decision.verdict is Verdict.QUIET
            assert after == replace(before, followed=True)
        case "count":
            assert decision.verdict is Verdict.QUIET
            last = before.unmet == 1 and before.state is State.BLOCKED
            reason = WaitReason.EARLIER_TASK if last else before.wait_reason
            assert after == replace(before, unmet=before.unmet - 1, wait_reason=reason)
        case "flag":
            assert decision.verdict is Verdict.CHANGED
            assert (after.state, after.cancel_requested) == (before.state, True)
            assert (after.cancel_reason, after.superseded_by) in {("enough", ""), ("", "task-9")}
        case _:
            assert decision.verdict is Verdict.CHANGED
            assert after.state is wanted
    if decision.verdict is Verdict.CHANGED:
        assert after.revision == before.revision + 1
        assert after.updated_at == NOW
    hold_together(after)


def hold_together(status: Status) -> None:
    """Check the rules of the database for a status."""
    state = status.state
    assert state.terminal == (status.finished_at is not None)
    assert (state in HELD) <= bool(status.session_id)
    assert bool(status.session_id) <= (state in (*HELD, State.SETTLING))
    assert bool(status.session_id) == (status.deadline_ticks is not None)
    assert (state in (State.COMMITTING, State.SETTLING)) == (status.grant is not None)
    if status.unmet:
        assert state in WITH_UNMET
        assert not status.head
    if state.terminal or state is State.BLOCKED:
        assert not status.head
    elif state is not State.SCHEDULED:
        assert status.head


def test_the_table_has_every_event_and_state() -> None:
    assert set(TABLE) == set(get_args(Event))
    columns = {state.name for state in State if not state.terminal} | {"ended"}
    assert all(set(row) == columns for row in TABLE.values())


# What else a decision says --------------------------------------------------------------------------------------------


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


def test_a_claim_starts_an_attempt_with_a_deadline() -> None:
    status = decide(task(State.QUEUED, attempt=3), Claimed("s9", "w9", TICKS), WORLD).status
    assert (status.attempt, status.session_id, status.worker, status.started_at) == (4, "s9", "w9", NOW)
    assert status.deadline_ticks == TICKS + 60.0
    settling = decide(unheld(task(State.SETTLING)), Claimed("s9", "w9", TICKS), WORLD).status
    assert (settling.attempt, settling.state, settling.grant) == (5, State.SETTLING, GRANT)
    assert settling.deadline_ticks == TICKS + POLICY.settle_timeout


def test_a_settling_task_that_is_held_is_not_claimed() -> None:
    assert decide(task(State.SETTLING), Claimed("s9", "w9", TICKS), WORLD).verdict is Verdict.STALE


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


@pytest.mark.parametrize("event", [SessionLost("s1", 2), SessionLost("s2", 3), TimedOut(2)])
@pytest.mark.parametrize("state", HELD, ids=lambda state: state.name)
def test_others_losses_change_nothing(state: State, event: events.Event) -> None:
    assert decide(task(state), event, WORLD).verdict is Verdict.UNCHANGED


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


def test_crashes_count_alone_only() -> None:
    first = decide(task(State.RUNNING), SessionLost("s1", 3), WORLD)
    assert (first.status.crashes, first.status.solo_crashes, first.status.alone) == (1, 0, True)
    assert first.endings == (Ending(3, AttemptEnd.LOST),)
    assert first.debts == ((3, ""),)
    alone = decide(task(State.RUNNING, alone=True), SessionLost("s1", 3), WORLD)
    assert (alone.status.crashes, alone.status.solo_crashes) == (1, 1)
    granted = decide(task(State.COMMITTING), SessionLost("s1", 3), WORLD)
    assert (granted.status.state, granted.status.crashes, granted.debts) == (State.SETTLING, 1, ())


def test_the_loss_of_an_attempt_before_begin_counts_no_crash() -> None:
    claimed = decide(task(State.QUEUED, alone=True), Claimed("s1", "w1", TICKS, begins=True), WORLD)
    assert claimed.status.started_at is None
    waiting = replace(task(State.QUEUED), status=claimed.status)
    lost = decide(waiting, SessionLost("s1", 1), WORLD).status
    assert (lost.state, lost.crashes, lost.solo_crashes, lost.alone) == (State.QUEUED, 1, 0, True)
    begun = decide(waiting, Began("s1", 1), WORLD)
    assert (begun.verdict, begun.status.started_at) == (Verdict.CHANGED, NOW)
    running = replace(waiting, status=begun.status)
    assert decide(running, Began("s1", 1), WORLD).verdict is Verdict.UNCHANGED
    assert decide(running, SessionLost("s1", 1), WORLD).status.solo_crashes == 1
    for wrong in (Began("s2", 1), Began("s1", 2)):
        assert decide(waiting, wrong, WORLD).verdict is Verdict.STALE


def test_an_end_that_is_heard_of_takes_the_suspicion_back() -> None:
    for outcome in (Outcome.TRANSIENT, Outcome.NOT_READY, Outcome.HANDED_BACK, Outcome.STOPPED):
        status = decide(task(State.RUNNING, alone=True, solo_crashes=1), Reported("s1", 3, outcome), WORLD).status
        assert (status.solo_crashes, status.state.terminal) == (1, False)
    assert decide(task(State.RUNNING, alone=True), TimedOut(3), WORLD).status.solo_crashes == 0


@pytest.mark.parametrize(
    ("alone", "begins"), [(False, False), (False, True), (True, False)], ids=["beside", "beside, says", "says nothing"]
)
def test_an_attempt_without_begin_counts_as_begun_when_claimed(alone: bool, begins: bool) -> None:
    claimed = decide(task(State.QUEUED, alone=alone), Claimed("s1", "w1", TICKS, begins=begins), WORLD).status
    assert claimed.started_at == NOW
    settling = decide(unheld(task(State.SETTLING, alone=True)), Claimed("s9", "w9", TICKS, begins=True), WORLD).status
    assert settling.started_at == NOW


def test_asking_for_a_grant_counts_as_begun() -> None:
    waiting = task(State.RUNNING, alone=True, started_at=None)
    granted = decide(waiting, GrantAsked(GRANT), WORLD).status
    assert granted.started_at == NOW
    assert decide(replace(waiting, status=granted), SessionLost("s1", 3), WORLD).status.solo_crashes == 1


def test_an_attempt_that_never_arrived_costs_nothing() -> None:
    decision = decide(task(State.RUNNING), SessionLost("s1", 3, crash=False), WORLD)
    assert (decision.status.state, decision.status.crashes, decision.status.alone) == (State.QUEUED, 0, False)
    assert decision.endings == (Ending(3, AttemptEnd.NEVER_ARRIVED),)
    assert decision.debts == ()


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


# Settling -------------------------------------------------------------------------------------------------------------


def test_an_unknown_outcome_after_a_grant_is_settled_by_a_worker() -> None:
    decision = decide(task(State.COMMITTING), Reported("s1", 3, Outcome.UNKNOWN), WORLD)
    status = decision.status
    assert (status.state, status.session_id, status.due_at, status.crashes) == (State.SETTLING, "", NOW, 0)
    assert status.wait_reason is WaitReason.SETTLING
    again = decide(task(State.SETTLING), Reported("s1", 3, Outcome.UNKNOWN), WORLD)
    assert again.verdict is Verdict.UNCHANGED


def test_the_granted_attempt_overtakes_the_settling_one() -> None:
    decision = decide(task(State.SETTLING), Reported("s1", 3, Outcome.OK), WORLD)
    assert decision.endings == (Ending(3, AttemptEnd.OK), Ending(4, AttemptEnd.OVERTAKEN))


@pytest.mark.parametrize(
    ("outcome", "waits"), [(Outcome.HANDED_BACK, False), (Outcome.TRANSIENT, True), (Outcome.PERMANENT, True)]
)
def test_a_settler_that_does_not_know_is_followed_by_another(outcome: Outcome, waits: bool) -> None:
    decision = decide(task(State.SETTLING), Reported("s2", 4, outcome), WORLD)
    status = decision.status
    assert (status.state, status.session_id, status.grant) == (State.SETTLING, "", GRANT)
    assert status.due_at is not None
    assert (status.due_at > NOW) is waits
    assert decision.endings == (Ending(4, AttemptEnd(outcome.name)),)


@pytest.mark.parametrize("event", [SessionLost("s2", 4), TimedOut(4)])
def test_no_loss_and_no_timer_leaves_settling(event: events.Event) -> None:
    status = decide(task(State.SETTLING), event, WORLD).status
    assert (status.state, status.session_id, status.crashes) == (State.SETTLING, "", 0)


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


@pytest.mark.parametrize("settlement", list(Settlement), ids=lambda settlement: settlement.name)
@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_by_hand_is_the_same_as_by_a_worker(settlement: Settlement, cancelled: bool, held: bool) -> None:
    subject = task(State.SETTLING, cancel_requested=cancelled)
    by_worker = decide(subject, Reported("s2", 4, Outcome[f"SETTLED_{settlement.name}"]), WORLD)
    by_hand = decide(subject if held else unheld(subject), SettledByHand(settlement), WORLD)
    assert by_hand.status == by_worker.status
    assert by_hand.endings == ((Ending(4, AttemptEnd.OVERTAKEN),) if held else ())


def test_a_settling_attempt_may_report_unknown() -> None:
    decision = decide(task(State.SETTLING, cancel_requested=True), SettledByHand(Settlement.NEITHER), WORLD)
    assert decision.status.error is not None
    assert decision.status.error.reason == "OUTCOME_UNKNOWN"


def test_only_settling_tasks_are_settled_by_hand() -> None:
    for state in set(State) - {State.SETTLING}:
        assert decide(task(state), SettledByHand(Settlement.LANDED), WORLD).verdict is Verdict.STALE


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
