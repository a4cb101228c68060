"""The state table, driven: every event in every state, on purpose."""

from __future__ import annotations

import pytest

from longshore.server.model.values import Settlement, State
from longshore.server.store.commands import (
    CancelTask,
    OpenSession,
    TaskPlan,
)
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.stores.machine.attempts import OUTCOMES
from tests.support.stores.machine.sessions import KINDS
from tests.support.stores.machine.storemachine import StoreMachine
from tests.support.stores.statetable import TABLE
from tests.support.stores.store import LEASE, job, plan, push
from tests.support.stores.storemodel import ModelTask


class Parade(StoreMachine):
    """One task in each state."""

    limits = ConcurrencyLimits(instance=50, target=50)

    def under_way(self) -> None:
        return

    def line_up(self, *, is_job: bool) -> dict[str, ModelTask]:
        """A task for each state (two SETTLING ones: held, and waiting for somebody), each on an instance of its own."""
        names = ("RUNNING", "COMMITTING", "CANCELLING", "SETTLING", "UNSETTLED", "SUCCEEDED", "FAILED", "CANCELLED")
        tasks = {name: self.start(name, is_job=is_job) for name in names}
        for name in ("COMMITTING", "SETTLING", "UNSETTLED", "SUCCEEDED"):
            self.tell(tasks[name], "grant")
        self.tell(tasks["SUCCEEDED"], "ok")
        self.tell(tasks["FAILED"], "permanent")
        for name in ("CANCELLING", "CANCELLED"):
            self.do(CancelTask(task_id=tasks[name].id, creator=None, reason="enough"))
            self.model.happen(tasks[name], "cancel")
        self.tell(tasks["CANCELLED"], "permanent")
        for name in ("SETTLING", "UNSETTLED"):
            self.forget(tasks[name])
            if name == "SETTLING":
                self.claim("s2", room=1, idle=True)
        self.submit([self.wanted("EXPIRED", is_job=is_job, expire_after=1.0)])
        self.clock.advance(1.0)
        self.tick()
        tasks["EXPIRED"] = self.newest()
        if not is_job:
            self.submit([self.wanted("BLOCKED", is_job=False), self.wanted("BLOCKED", is_job=False)])
            tasks["BLOCKED"] = self.newest()
        self.submit([self.wanted("SCHEDULED", is_job=is_job, not_before=30.0)])
        tasks["SCHEDULED"] = self.newest()
        self.submit([self.wanted("QUEUED", is_job=is_job)])
        tasks["QUEUED"] = self.newest()
        self.they_agree()
        for name, task in tasks.items():
            assert task.state.name == ("SETTLING" if name == "UNSETTLED" else name)
        return tasks

    def wanted(self, name: str, *, is_job: bool, **more: float) -> TaskPlan:
        instance = name.lower()
        return plan(job(target="default", instance=instance) if is_job else push("/a", instance), **more)

    def newest(self) -> ModelTask:
        return max(self.model.tasks.values(), key=lambda task: task.seq)

    def start(self, name: str, *, is_job: bool) -> ModelTask:
        self.submit([self.wanted(name, is_job=is_job)])
        self.claim("s2", room=1, idle=True)
        return self.newest()

    def forget(self, task: ModelTask) -> None:
        """Connect again with everything but this."""
        held = tuple((each.id, each.attempt) for each in self.model.held_by("s2") if each is not task)
        epoch = self.fleet.epoch("s2") + 1
        opened = self.do(
            OpenSession(
                session_id="s2",
                worker="s2",
                principal="fleet",
                targets={"default": "daemon"},
                kinds=KINDS["s2"],
                version="1",
                held=held,
                dead_sessions=(),
                lease=LEASE,
            )
        ).session
        assert (opened.epoch, opened.held) == (epoch, held)
        self.fleet._epochs["s2"] = self.model.peers["s2"].epoch = epoch
        self.lose(task, crash=False)
        self.they_agree()

    def tell(self, task: ModelTask, event: str) -> None:
        """The holder, or who could have been, asks for a grant or reports."""
        session, attempt = task.holder or "s2", max(1, task.attempt)
        if event in ("ok", "transient", "permanent", "not_ready", "handed_back") and task.granted is not None:
            attempt, session = task.granted
        if event == "begin":
            (begun,) = self.do(self.beginning(task, session, attempt))
            self.began(task, session, attempt, begun=begun.begun)
            return
        if event == "grant":
            (answer,) = self.do(self.granting(task, session, attempt, "/tmp-1"))
            self.granted(task, session, attempt, granted=answer.granted)
            return
        outcome = next(outcome for outcome, name in OUTCOMES.items() if name == event)
        (counted,) = self.do(self.reporting(task, session, attempt, outcome))
        self.reported(task, session, attempt, outcome, counted=counted)
        self.model.promote()


BETWEEN_TASKS = ("followed", "met", "failed")
"""What happens to a task because of another one: the histories of the machine have these."""


def fire(parade: Parade, event: str, tasks: dict[str, ModelTask]) -> None:
    match event:
        case "head":
            key = tasks["BLOCKED"].destination_key
            assert key is not None
            (first,) = (task for task in parade.model.at(key) if task is not tasks["BLOCKED"])
            parade.do(CancelTask(task_id=first.id, creator=None, reason=""))
            parade.model.happen(first, "cancel")
            parade.model.promote()
            assert tasks["BLOCKED"].state is State.QUEUED
        case "due":
            parade.clock.advance(30.0)
            parade.tick()
            assert tasks["SCHEDULED"].state is State.QUEUED
        case "claim":
            parade.claim("s2", room=9, idle=True)
            assert tasks["QUEUED"].state is State.RUNNING
            assert tasks["UNSETTLED"].holder == "s2"
        case "lost":
            parade.clock.advance(LEASE)
            parade.renew({"s1"})
            parade.reap()
            assert tasks["RUNNING"].crashes == 1
        case "timed_out":
            parade.clock.advance(5_000.0)
            parade.clock.advance(5_000.0)
            parade.tick()
            assert tasks["CANCELLING"].state is State.CANCELLED
        case "expiry":
            parade.clock.advance(7 * 86400.0)
            parade.tick()
            assert tasks["QUEUED"].state is State.EXPIRED
        case "cancel":
            for task in tasks.values():
                parade.do(CancelTask(task_id=task.id, creator=None, reason="enough"))
                parade.model.happen(task, "cancel")
        case "superseded":
            for name in [name for name, task in tasks.items() if task.live]:
                parade.submit([plan(push("/a", name.lower(), latest_wins=True))])
        case "removed" | "landed" | "neither":
            for name, task in tasks.items():
                parade.tell(task, event)
                if name == "UNSETTLED":
                    parade.settle_by_hand(sorted(parade.model.tasks).index(task.id), Settlement[event.upper()])
        case _:
            for task in tasks.values():
                parade.tell(task, event)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("is_job", [False, True])
@pytest.mark.parametrize("event", [event for event in TABLE if event not in BETWEEN_TASKS])
@pytest.mark.parametrize("make", ["sqlite", "postgresql"])
def test_every_event_in_every_state(make: str, event: str, is_job: bool, cancelled: bool) -> None:
    if event in ("head", "superseded") and is_job:
        event = "claim"  # a job without a key is always its own head, and no other takes its place
    parade = Parade()
    parade.make = make
    parade.begin(seed=1)
    try:
        tasks = parade.line_up(is_job=is_job)
        if cancelled:
            for name in ("COMMITTING", "SETTLING", "UNSETTLED"):
                parade.do(CancelTask(task_id=tasks[name].id, creator=None, reason="enough"))
                parade.model.happen(tasks[name], "cancel")
        fire(parade, event, tasks)
        parade.they_agree()
        # And again: what counted once does not count twice.
        if event not in ("head", "due", "claim", "lost", "timed_out", "expiry"):
            fire(parade, event, tasks)
            parade.they_agree()
    finally:
        parade.teardown()
