"""An attempt between its handler and the agent: stop, grant, and which of the two comes first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts.attempt import Attempt
from longshore.worker.errors import AttemptStopped, GrantRefused, StopReason


def made() -> tuple[Attempt, list[ws.GrantRequest]]:
    asked: list[ws.GrantRequest] = []
    assignment = ws.Assignment(task=task_pb2.Task(id="T"), attempt=1)
    return Attempt(assignment, ask=lambda _, request: asked.append(request), clock=lambda: 0.0), asked


def request(temp: str = "temp") -> ws.GrantRequest:
    return ws.GrantRequest(temp=temp)


def test_a_commit_is_asked_for_and_granted() -> None:
    attempt, asked = made()
    future = attempt.commit(request())
    assert asked == [request()]
    assert not future.done()
    assert attempt.grant()
    assert future.result(0) is None
    assert attempt.granted


def test_a_refusal_says_why() -> None:
    for reason, why in (("CANCELLED", StopReason.CANCELLED), ("STALE", StopReason.REVOKED), ("", StopReason.REVOKED)):
        attempt, _ = made()
        future = attempt.commit(request())
        attempt.refuse(reason)
        error = future.exception(0)
        assert isinstance(error, GrantRefused)
        assert error.why is why
        assert not attempt.granted


def test_a_stop_answers_a_waiting_commit_and_the_grant_then_comes_too_late() -> None:
    attempt, _ = made()
    future = attempt.commit(request())
    assert attempt.tell_stop(StopReason.TIMEOUT)
    assert isinstance(future.exception(0), AttemptStopped)
    assert not attempt.grant()
    assert not attempt.granted


def test_after_a_stop_no_commit_is_asked_for() -> None:
    attempt, asked = made()
    attempt.tell_stop(StopReason.CANCELLED)
    assert isinstance(attempt.commit(request()).exception(0), AttemptStopped)
    assert asked == []


def test_the_first_stop_counts() -> None:
    attempt, _ = made()
    assert attempt.tell_stop(StopReason.TIMEOUT, "STALLED")
    assert not attempt.tell_stop(StopReason.CANCELLED)
    with pytest.raises(AttemptStopped) as caught:
        attempt.check()
    assert caught.value.why is StopReason.TIMEOUT


def test_after_the_grant_only_a_time_out_or_a_revocation_stops() -> None:
    for why, stops in (
        (StopReason.CANCELLED, False),
        (StopReason.DRAIN, False),
        (StopReason.TIMEOUT, True),
        (StopReason.REVOKED, True),
    ):
        attempt, _ = made()
        attempt.commit(request())
        attempt.grant()
        assert attempt.tell_stop(why) is stops


def test_a_granted_commit_is_granted_again_but_not_another() -> None:
    attempt, asked = made()
    attempt.commit(request())
    attempt.grant()
    assert attempt.commit(request()).result(0) is None
    with pytest.raises(ValueError, match="another commit"):
        attempt.commit(request("other"))
    assert len(asked) == 1


def test_a_cancelled_wait_for_a_grant_may_be_repeated_and_the_answer_is_kept() -> None:
    attempt, asked = made()
    first = attempt.commit(request())
    assert not first.cancel()
    again = attempt.commit(request())
    with pytest.raises(ValueError, match="another commit"):
        attempt.commit(request("other"))
    assert attempt.grant()
    assert again.result(0) is first.result(0) is None
    assert len(asked) == 1


def test_a_stop_wakes_a_sleeping_handler() -> None:
    attempt, _ = made()
    raised = threading.Event()

    def sleep() -> None:
        try:
            attempt.wait(60)
        except AttemptStopped:
            raised.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    attempt.tell_stop(StopReason.CANCELLED)
    assert raised.wait(10)
    thread.join(10)


def test_a_stop_callback_runs_once_even_if_added_late_unless_withdrawn() -> None:
    attempt, _ = made()
    called: list[str] = []
    attempt.on_stop(lambda: called.append("early"))
    attempt.on_stop(lambda: called.append("taken back"))()
    attempt.tell_stop(StopReason.CANCELLED)
    attempt.tell_stop(StopReason.CANCELLED)
    attempt.on_stop(lambda: called.append("late"))
    assert called == ["early", "late"]


@given(st.lists(st.sampled_from(["commit", "grant", "refuse", "cancel", "drain", "timeout", "revoke"]), max_size=8))
def test_granted_means_that_exactly_one_handler_was_let_go_and_none_after_a_stop(events: list[str]) -> None:
    attempt, _ = made()
    waiting: list[Future[None]] = []
    stops: dict[str, Callable[[], bool]] = {
        "cancel": lambda: attempt.tell_stop(StopReason.CANCELLED),
        "drain": lambda: attempt.tell_stop(StopReason.DRAIN),
        "timeout": lambda: attempt.tell_stop(StopReason.TIMEOUT),
        "revoke": lambda: attempt.tell_stop(StopReason.REVOKED),
    }
    stopped_before_grant = False
    for event in events:
        if event == "commit":
            if not attempt.waiting:
                waiting.append(attempt.commit(request()))
        elif event == "grant":
            attempt.grant()
        elif event == "refuse":
            attempt.refuse("STALE")
        else:
            stops[event]()
        stopped_before_grant |= attempt.stop is not None and not attempt.granted
    let_go = [future for future in waiting if future.done() and future.exception() is None]
    assert attempt.granted == bool(let_go)
    assert not (attempt.granted and stopped_before_grant)
