"""Sessions claim tasks, ask for grants and report."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from longshore.server.model.events import Reported
from longshore.server.model.task import Grant, Task
from longshore.server.model.values import DeliveryMethod, Outcome, State, WaitReason
from longshore.server.store.commands import BeginAttempts, ClaimTasks, FileReports, Offer, RequestGrants
from tests.support.stores.machine.ground import picks
from tests.support.stores.machine.sessions import KNOWS, SESSIONS, Sessions
from tests.support.stores.machine.submitting import Submitting
from tests.support.stores.statetable import Event
from tests.support.stores.storemodel import HELD, ModelTask

BEGINNERS = ("s2", "s3")
"""Sessions that say when an attempt begins that is to run alone."""
OUTCOMES: dict[Outcome, Event] = {
    Outcome.OK: "ok",
    Outcome.TRANSIENT: "transient",
    Outcome.PERMANENT: "permanent",
    Outcome.NOT_READY: "not_ready",
    Outcome.HANDED_BACK: "handed_back",
    Outcome.SETTLED_REMOVED: "removed",
    Outcome.SETTLED_LANDED: "landed",
    Outcome.SETTLED_NEITHER: "neither",
}
RETRY_AFTER = 5.0


class Attempts(Sessions, Submitting):
    """Rules start attempts, ask for grants and file reports."""

    @rule(session=st.sampled_from(SESSIONS), room=st.integers(1, 6), idle=st.booleans())
    def claim(self, session: str, room: int, idle: bool) -> None:
        """Twice, because one claim may leave a slot of an instance to the next."""
        peer = self.model.peers[session]
        command = ClaimTasks(offers=(self.offer(session, room, idle),))
        taken: list[Task] = []
        for _ in range(2):
            mine = self.model.held_by(session)
            busy = any(task.alone and task.state is not State.SETTLING for task in mine)
            idle = idle and not mine
            taken = [task for _, task in self.do(command).taken]
            assert len(taken) <= room
            if not peer.alive or peer.draining or busy:
                assert taken == []
                return
            last = None
            for task in taken:
                known = self.model.tasks[task.id]
                assert self.model.claimable(known, peer, idle=idle), known
                assert known.head
                if known.alone and known.state is State.QUEUED:
                    assert [each for each in taken if each.status.state is State.RUNNING] == [task]
                rank = (known.state is not State.SETTLING, -known.priority, known.seq)
                if last is not None and last[0] and rank[0]:
                    assert last < rank, "by priority, then by acceptance"
                last = rank
                self.count("claim", known)
                self.model.happen(known, "claim", session=session, begins=session in BEGINNERS)
            room -= len(taken)
            if room < 1 or any(task.status.alone and task.status.state is State.RUNNING for task in taken):
                return
            command = ClaimTasks(offers=(self.offer(session, room, idle),))
        if not taken:
            idle = idle and not self.model.held_by(session)
            left = [task for task in self.model.tasks.values() if self.model.claimable(task, peer, idle=idle)]
            assert left == [], "what could run, runs"

    def offer(self, session: str, room: int, idle: bool) -> Offer:
        revision = KNOWS.get(session, 0)
        return self.fleet.offer(session, room=room, idle=idle, begins=session in BEGINNERS, revision=revision)

    def beginning(self, task: ModelTask, session: str, attempt: int) -> BeginAttempts:
        return BeginAttempts(session_id=session, epoch=self.fleet.epoch(session), attempts=((task.id, attempt),))

    def began(self, task: ModelTask, session: str, attempt: int, *, begun: bool) -> None:
        self.count("begin", task)
        current = self.model.peers[session].alive and (task.holder, task.attempt) == (session, attempt)
        assert begun is (current and self.model.happen(task, "begin"))

    def granting(self, task: ModelTask, session: str, attempt: int, temp: str) -> RequestGrants:
        grant = Grant(attempt, session, temp, DeliveryMethod.SFTP, 0.0)
        return RequestGrants(session_id=session, epoch=self.fleet.epoch(session), requests=((task.id, grant),))

    def granted(self, task: ModelTask, session: str, attempt: int, *, granted: bool) -> None:
        self.count("grant", task)
        current = self.model.peers[session].alive and (task.holder, task.attempt) == (session, attempt)
        assert granted is (current and self.model.happen(task, "grant", session=session))

    def reporting(self, task: ModelTask, session: str, attempt: int, outcome: Outcome) -> FileReports:
        report = Reported(
            session,
            attempt,
            outcome,
            wait_reason=WaitReason.INSTANCE_STOPPED if outcome is Outcome.NOT_READY else WaitReason.NONE,
            retry_after=RETRY_AFTER,
        )
        return FileReports(session_id=session, epoch=self.fleet.epoch(session), reports=((task.id, report),))

    def reported(self, task: ModelTask, session: str, attempt: int, outcome: Outcome, *, counted: bool) -> None:
        event = OUTCOMES[outcome]
        self.count(event, task)
        if not self.model.peers[session].alive:
            assert not counted
            return
        settlement = outcome >= Outcome.SETTLED_REMOVED
        if task.state is State.SETTLING:
            if task.granted == (attempt, session) and not settlement:
                assert counted is self.model.happen(task, event)
            elif (task.attempt, task.holder) != (attempt, session):
                assert not counted
            elif settlement:
                assert counted
                self.model.happen(task, event)
            else:
                assert counted
                self.model.settle_again(task)
        elif task.state.terminal:
            won = task.state is State.SUCCEEDED and attempt == task.attempt
            assert counted is self.model.happen(task, event, won=won)
        elif (task.attempt, task.holder) == (attempt, session):
            assert counted is self.model.happen(task, event)
        else:
            assert not counted
        if outcome is Outcome.TRANSIENT and counted and task.state is State.SCHEDULED:
            task.due_at = self.clock.now() + RETRY_AFTER

    @rule(
        what=st.sampled_from(["begin", "grant", "grant", "report", "report", "cancel"]),
        number=picks,
        session=st.sampled_from(SESSIONS),
        who=st.integers(0, 5),
        outcome=st.sampled_from(list(OUTCOMES)),
    )
    def say(self, what: str, number: int, session: str, who: int, outcome: Outcome) -> None:
        """A grant is asked or an end reported, mostly by who may; or somebody cancels."""
        task, session, attempt = self.speaker(what, number, session, who, outcome)
        if what == "cancel":
            self.cancel(number)
        elif what == "begin":
            (begun,) = self.do(self.beginning(task, session, attempt))
            self.began(task, session, attempt, begun=begun.begun)
        elif what == "grant":
            (answer,) = self.do(self.granting(task, session, attempt, "/tmp-1"))
            self.granted(task, session, attempt, granted=answer.granted)
        else:
            (counted,) = self.do(self.reporting(task, session, attempt, outcome))
            self.reported(task, session, attempt, outcome, counted=counted)
            self.model.promote()

    def speaker(self, what: str, number: int, session: str, who: int, outcome: Outcome) -> tuple[ModelTask, str, int]:
        """Choose the task that a message is about, and the session and attempt that send it.

        With `who` 0 any session speaks of any task, with 1 the granted attempt speaks, else the holder.
        """
        states: tuple[State, ...] = tuple(State)
        if who and what in ("begin", "grant"):
            states = (State.RUNNING,)
        elif who and outcome >= Outcome.SETTLED_REMOVED:
            states = (State.SETTLING,)
        elif who:
            states = (*HELD, State.SETTLING)
        task = self.pick(number, *states)
        assert task is not None
        if who == 1 and task.granted is not None:
            return task, task.granted[1], task.granted[0]
        if who:
            return task, task.holder or session, max(1, task.attempt)
        return task, session, max(1, task.attempt - number % 2)
