"""The state table, cell by cell."""

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
    Claimed,
    Decision,
    DependencyEnded,
    Due,
    ExpiryReached,
    Followed,
    GrantAsked,
    SessionLost,
    SupersededBy,
    TimedOut,
    Verdict,
)
from longshore.server.model.states import decide
from longshore.server.model.task import Status, Task
from longshore.server.model.values import Outcome, State, WaitReason
from tests.support.stores.decisions import ERROR, GRANT, HELD, JOB, NOW, PUSH, TICKS, WORLD, report, task, unheld
from tests.support.stores.statetable import TABLE, Event, Facts, expected


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
