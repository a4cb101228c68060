"""A worker or an operator settles a task whose commit has an unknown end."""

from __future__ import annotations

import pytest

from longshore.server.model import events
from longshore.server.model.events import Claimed, Ending, Reported, SessionLost, SettledByHand, TimedOut, Verdict
from longshore.server.model.states import decide
from longshore.server.model.values import AttemptEnd, Outcome, Settlement, State, WaitReason
from tests.support.stores.decisions import GRANT, NOW, TICKS, WORLD, task, unheld


def test_a_settling_task_that_is_held_is_not_claimed() -> None:
    assert decide(task(State.SETTLING), Claimed("s9", "w9", TICKS), WORLD).verdict is Verdict.STALE


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
