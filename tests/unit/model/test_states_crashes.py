"""A crash counts for each task that the lost session held; only a begun attempt that ran alone counts against it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longshore.server.model import events
from longshore.server.model.events import Began, Claimed, Ending, GrantAsked, Reported, SessionLost, TimedOut, Verdict
from longshore.server.model.states import decide
from longshore.server.model.values import AttemptEnd, Outcome, State
from tests.support.stores.decisions import GRANT, HELD, NOW, TICKS, WORLD, task, unheld


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


@pytest.mark.parametrize("event", [SessionLost("s1", 2), SessionLost("s2", 3), TimedOut(2)])
@pytest.mark.parametrize("state", HELD, ids=lambda state: state.name)
def test_others_losses_change_nothing(state: State, event: events.Event) -> None:
    assert decide(task(state), event, WORLD).verdict is Verdict.UNCHANGED
