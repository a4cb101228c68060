"""A store is driven through random histories beside a simple model.

After each step the store must agree with the model on every task (state, turn, holder, revision, counts), its sums must
stand up to a recount, and its history must have no gap.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from longshore.server.model.errors import DependencyFailed, NotFound, NotSettling
from longshore.server.model.events import Policy, Reported
from longshore.server.model.task import Grant, Task
from longshore.server.model.values import DeliveryMethod, Outcome, Settlement, State, WaitReason
from longshore.server.store.commands import (
    BeginAttempts,
    CancelBatch,
    CancelTask,
    ClaimTasks,
    Command,
    Disconnect,
    ExtendLeases,
    FileReports,
    Offer,
    OpenSession,
    PauseQueue,
    ReapSessions,
    RenewLeases,
    RequestGrants,
    SettleTask,
    StepPlan,
    SubmitPlan,
    SubmitTasks,
    TaskPlan,
    Tick,
    WakeParked,
    Woken,
)
from longshore.server.store.protocol import TaskFilter
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.stores.statetable import Event
from tests.support.stores.store import LEASE, ManualClock, StoreFleet, job, plan, push
from tests.support.stores.storekinds import StoreKind, new_database
from tests.support.stores.storemodel import HELD, Model, ModelSession, ModelTask, seen

R = TypeVar("R")

POLICY = Policy(solo_limit=2, back_off_first=8.0, back_off_most=64.0, cancel_grace=20.0, settle_timeout=50.0)
SESSIONS = ("s1", "s2", "s3")
KINDS: dict[str, dict[str, bool]] = {
    "s1": {"file_push": True, "report": False},
    "s2": {"file_push": True, "report": True},
    "s3": {"report": True},
}
BEGINNERS = ("s2", "s3")
"""Sessions that say when an attempt begins that is to run alone."""
WORKS = (
    push("/a", "web1"),
    push("/b", "web1"),
    push("/c", "web1"),
    push("/a", "web2"),
    push("/a", "web1", latest_wins=True),
    job("report", target="default", instance="web1"),
    job("report", target="default"),
    job("report"),
    job("report", target="default", instance="web1", key="reload"),
    job("report", target="default", instance="web1", project="shop", key="reload"),
    job("report", target="default", instance="web1", exclusive=True),
    job("report", target="default", instance="web1", exclusive=True, key="reload"),
    job("report", target="default", instance="web1", key="reload", latest_wins=True),
    job("report", target="default", instance="web1", project="shop", exclusive=True),
)
KNOWS = {"s2": 2}
"""The revision of the contract that the workers of these sessions know; those of the others know none."""
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

plans = st.builds(
    plan,
    st.sampled_from(WORKS),
    queue=st.sampled_from(["default", "default", "nightly"]),
    priority=st.sampled_from([0, 0, 0, 5, -5]),
    not_before=st.sampled_from([0.0, 0.0, 0.0, 30.0]),
    expire_after=st.sampled_from([10_000.0, 10_000.0, 60.0]),
    run_timeout=st.sampled_from([100.0, 10_000.0]),
    attempt_limit=st.sampled_from([1, 2, 5]),
)
picks = st.integers(0, 10_000)
LIVE_FIRST = tuple(state for state in State if not state.terminal)


class StoreMachine(RuleBasedStateMachine):
    """One history. Rules pick tasks by number, so that a failing history shrinks well."""

    limits: ClassVar[ConcurrencyLimits] = ConcurrencyLimits(instance=2, target=3)
    make: str = "sqlite"

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.stack = ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="longshore-machine-"))
        self.kind: StoreKind = self.stack.enter_context(new_database(self.make, Path(folder)))
        self.runner = asyncio.Runner()
        self.clock = ManualClock(seed=seed)
        self.model = Model(
            instance_limit=self.limits.instance,
            target_limit=self.limits.target,
            solo_limit=POLICY.solo_limit,
            cancel_grace=POLICY.cancel_grace,
            settle_timeout=POLICY.settle_timeout,
        )
        self.requests = 0
        self.hit: Counter[tuple[str, str]] = Counter()
        self._open()
        for session in SESSIONS:
            self.connect(session, keep=True)
        self.under_way()

    def under_way(self) -> None:
        """Begin with something that runs."""
        self.submit([plan(work) for work in WORKS])
        for session in SESSIONS:
            self.claim(session, room=2, idle=True)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.check_histories())
            self.run(self.store.close())
            self.runner.close()
            self.stack.close()

    def _open(self) -> None:
        self.store = self.kind.made(self.clock, POLICY, self.limits)
        self.run(self.store.open())
        self.fleet = StoreFleet(self.store, self.clock)

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return self.runner.run(coroutine)

    def do(self, command: Command[R]) -> R:
        """Run a command; the model's clock reads what the store's does."""
        self.model.now, self.model.ticks = self.clock.now(), self.clock.ticks()
        return self.run(self.store.run(command))

    def pick(self, number: int, *states: State) -> ModelTask | None:
        """Some task, in one of `states` if there is one."""
        tasks = sorted(self.model.tasks.values(), key=lambda task: task.seq)
        wanted = [task for task in tasks if task.state in states] or tasks
        return wanted[number % len(wanted)] if wanted else None

    # Submitters ---------------------------------------------------------------------------------------------------

    def submission(self, *wanted: TaskPlan) -> SubmitTasks:
        self.requests += 1
        return SubmitTasks(principal="alice", request_id=f"r{self.requests}", fingerprint="f", plans=wanted)

    def took(self, tasks: tuple[Task, ...], wanted: list[TaskPlan]) -> None:
        if any(asked.work.latest_wins for asked in wanted):
            self.took_in_group(tasks, wanted)
            return
        for task, asked in zip(tasks, wanted, strict=True):
            self.model.add(task, not_before=asked.not_before)

    @rule(wanted=st.lists(plans, min_size=1, max_size=4))
    def submit(self, wanted: list[TaskPlan]) -> None:
        self.took(self.do(self.submission(*wanted)), wanted)
        self.model.promote()

    @rule(wanted=plans, numbers=st.lists(picks, min_size=1, max_size=3), any_end=st.booleans())
    def follow(self, wanted: TaskPlan, numbers: list[int], any_end: bool) -> None:
        """A task that comes after others, which live or have ended well."""
        named = {task.id: task for number in numbers if (task := self.pick(number, *LIVE_FIRST)) is not None}
        terms = replace(wanted.terms, after=tuple(sorted(named)), after_any_end=any_end)
        plan_after = replace(wanted, terms=terms)
        self.model.now, self.model.ticks = self.clock.now(), self.clock.ticks()
        if any(not task.live and task.state is not State.SUCCEEDED and not any_end for task in named.values()):
            with pytest.raises(DependencyFailed):
                self.do(self.submission(plan_after))
            return
        self.took(self.do(self.submission(plan_after)), [plan_after])
        self.model.promote()

    @rule(wanted=st.lists(plans, min_size=2, max_size=4), after=st.lists(st.sets(st.integers(0, 2)), min_size=4))
    def plan_of_steps(self, wanted: list[TaskPlan], after: list[set[int]]) -> None:
        """Steps that come after earlier ones, in one transaction."""
        self.requests += 1
        steps = tuple(
            StepPlan(each, tuple(sorted(index for index in after[number] if index < number)))
            for number, each in enumerate(wanted)
        )
        command = SubmitPlan(principal="alice", request_id=f"r{self.requests}", fingerprint="f", steps=steps)
        self.took(self.do(command), wanted)
        self.model.promote()

    @rule(number=picks)
    def cancel_request(self, number: int) -> None:
        """All tasks of a request are cancelled in one transaction."""
        request_id = f"r{1 + number % self.requests}"
        stored = self.run(self.store.list_tasks(TaskFilter(request_id=request_id), before=None, limit=100))
        command = CancelBatch(principal="alice", request_id=request_id, reason="enough")
        if not stored:
            # It was refused, and is no request.
            with pytest.raises(NotFound):
                self.do(command)
            return
        self.do(command)
        for task in reversed(stored):
            self.model.happen(self.model.tasks[task.id], "cancel")
        self.model.promote()

    def cancel(self, number: int) -> None:
        task = self.pick(number)
        assert task is not None
        self.do(CancelTask(task_id=task.id, creator=None, reason="enough"))
        self.model.happen(task, "cancel")
        self.model.promote()

    # Workers ------------------------------------------------------------------------------------------------------

    def connect(self, session: str, keep: bool) -> None:
        """Connect anew, with everything that it holds or with nothing."""
        known = self.model.peers.get(session)
        mine = self.model.held_by(session)
        held = [(task.id, task.attempt) for task in mine] if keep else []
        opened = self.do(
            OpenSession(
                session_id=session,
                worker=session,
                principal="fleet",
                targets={"default": "daemon"},
                kinds=KINDS[session],
                version="1",
                held=(*held, ("0" * 26, 1)),
                dead_sessions=(),
                lease=LEASE,
                revision=KNOWS.get(session, 0),
            )
        ).session
        epoch = 1 if known is None else known.epoch + 1
        assert (opened.epoch, opened.held) == (epoch, tuple(held))
        self.fleet._epochs[session] = epoch
        self.model.peers[session] = ModelSession(
            session,
            epoch,
            frozenset({"default"}),
            KINDS[session],
            self.clock.ticks() + LEASE,
            revision=KNOWS.get(session, 0),
        )
        if not keep:
            for task in mine:
                self.lose(task, crash=False)
        self.model.promote()

    def lose(self, task: ModelTask, *, crash: bool) -> None:
        if task.state is State.SETTLING:
            self.model.settle_again(task)
        else:
            self.model.happen(task, "lost", crash=crash)

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

    @rule(
        wanted=st.lists(plans, max_size=2),
        steps=st.lists(
            st.tuples(
                st.sampled_from(["cancel", "begin", "grant", "report"]),
                picks,
                st.integers(0, 3),
                st.sampled_from(list(OUTCOMES)),
            ),
            min_size=1,
            max_size=4,
        ),
    )
    def group(self, wanted: list[TaskPlan], steps: list[tuple[str, int, int, Outcome]]) -> None:
        """Several commands in one transaction: each sees what those before it did, and turns pass at its end."""
        commands: list[Command[Any]] = []
        said: list[tuple[str, ModelTask, str, int, Outcome]] = []
        for what, number, own, outcome in steps:
            task, session, attempt = self.speaker(what, number, "s1", own, outcome)
            said.append((what, task, session, attempt, outcome))
            if what == "cancel":
                commands.append(CancelTask(task_id=task.id, creator=None, reason="enough"))
            elif what == "begin":
                commands.append(self.beginning(task, session, attempt))
            elif what == "grant":
                commands.append(self.granting(task, session, attempt, "/tmp-1"))
            else:
                commands.append(self.reporting(task, session, attempt, outcome))
        if wanted:
            commands.append(self.submission(*wanted))
        self.model.now, self.model.ticks = self.clock.now(), self.clock.ticks()
        answers = self.run(self.fleet.together(*commands))
        for (what, task, session, attempt, outcome), answer in zip(said, answers, strict=False):
            if what == "cancel":
                self.model.happen(task, "cancel")
            elif what == "begin":
                self.began(task, session, attempt, begun=answer[0].begun)
            elif what == "grant":
                self.granted(task, session, attempt, granted=answer[0].granted)
            else:
                self.reported(task, session, attempt, outcome, counted=answer[0])
        if wanted:
            self.took_in_group(answers[-1], wanted)
        self.model.promote()

    def took_in_group(self, tasks: tuple[Task, ...], wanted: list[TaskPlan]) -> None:
        """A destination that was left in the same transaction is taken at its end: one revision more."""
        for task, asked in zip(tasks, wanted, strict=True):
            self.model.add(task, not_before=asked.not_before)
            known = self.model.tasks[task.id]
            history = self.run(self.store.history(task.id, after=0))
            if known.state is State.QUEUED and history[0].status.state is State.BLOCKED:
                known.state, known.head = State.BLOCKED, False
            elif known.state is State.SCHEDULED and known.head and not history[0].status.head:
                known.head = False

    # Time ---------------------------------------------------------------------------------------------------------

    @rule(
        seconds=st.sampled_from([1.0, 5.0, 31.0, 120.0]),
        renew=st.sets(st.sampled_from(SESSIONS)),
        then=st.sampled_from(["tick", "reap", "both"]),
    )
    def time_passes(self, seconds: float, renew: set[str], then: str) -> None:
        self.clock.advance(seconds)
        self.renew(renew)
        if then != "reap":
            self.tick()
        if then != "tick":
            self.reap()

    def renew(self, renew: set[str]) -> None:
        asked = tuple((session, self.fleet.epoch(session)) for session in sorted(renew))
        renewed = self.do(RenewLeases(sessions=asked, lease=LEASE))
        assert renewed == {session for session in renew if self.model.peers[session].alive}
        for session in renewed:
            self.model.peers[session].lease = self.clock.ticks() + LEASE

    def tick(self) -> None:
        ticked = self.do(Tick())
        model = self.model
        changed = 0
        late = sorted(model.tasks.values(), key=lambda task: task.seq)
        for task in late:
            if task.expires_at <= model.now and task.state in (State.BLOCKED, State.SCHEDULED, State.QUEUED):
                changed += model.happen(task, "expiry")
        for task in late:
            if task.state is State.SCHEDULED and task.due_at is not None and task.due_at <= model.now:
                changed += model.happen(task, "due")
        for task in late:
            if task.deadline is not None and task.deadline <= model.ticks:
                changed += 1
                self.count("timed_out", task)
                if task.state is State.SETTLING:
                    model.settle_again(task)
                else:
                    model.happen(task, "timed_out")
        model.promote()
        assert (ticked.changed, ticked.more) == (changed, False)
        deadlines = [task.deadline for task in model.tasks.values() if task.deadline is not None]
        assert ticked.next_ticks == min(deadlines, default=None)

    def reap(self) -> None:
        reaped = self.do(ReapSessions())
        over = {peer.id for peer in self.model.peers.values() if peer.alive and peer.lease <= self.model.ticks}
        assert set(reaped) == over
        for session in over:
            self.end(session, crash=True)

    def end(self, session: str, *, crash: bool) -> None:
        for task in self.model.held_by(session):
            self.count("lost", task)
            self.lose(task, crash=crash)
        self.model.peers[session].alive = False
        self.model.promote()

    @rule(session=st.sampled_from(SESSIONS), what=st.sampled_from(["keep", "keep", "lose", "leave", "goodbye"]))
    def connection(self, session: str, what: str) -> None:
        if what in ("keep", "lose"):
            self.connect(session, keep=what == "keep")
        else:
            self.disconnect(session, goodbye=what == "goodbye")

    def disconnect(self, session: str, goodbye: bool) -> None:
        self.do(Disconnect(session_id=session, epoch=self.fleet.epoch(session), goodbye=goodbye))
        if goodbye and self.model.peers[session].alive:
            self.end(session, crash=False)

    # Operators ----------------------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["settle", "wake", "wake one", "pause", "resume", "restart"]),
        number=picks,
        settlement=st.sampled_from(list(Settlement)),
    )
    def operate(self, what: str, number: int, settlement: Settlement) -> None:
        match what:
            case "settle":
                self.settle_by_hand(number, settlement)
            case "wake":
                self.wake("")
            case "wake one":
                self.wake("web1")
            case "restart":
                self.restart()
            case _:
                self.pause(paused=what == "pause")

    def settle_by_hand(self, number: int, settlement: Settlement) -> None:
        task = self.pick(number, State.SETTLING)
        assert task is not None
        event: Event = {Settlement.REMOVED: "removed", Settlement.LANDED: "landed", Settlement.NEITHER: "neither"}[
            settlement
        ]  # type: ignore[assignment]  # literals are lost in the dictionary
        try:
            self.do(SettleTask(task_id=task.id, settlement=settlement))
        except NotSettling:
            assert task.state is not State.SETTLING
        else:
            assert task.state is State.SETTLING
            self.model.happen(task, event)
            self.model.promote()

    def wake(self, instance: str) -> None:
        woken = self.do(WakeParked(target="default", project="", instance=instance, running=True))
        parked = [
            task
            for task in self.model.tasks.values()
            if task.state is State.SCHEDULED
            and task.due_at is None
            and task.target == "default"
            and (not instance or task.concurrency_key == f"default/{instance}/")
        ]
        assert woken == Woken(len(parked), more=False)
        for task in parked:
            self.model.happen(task, "due")

    def pause(self, paused: bool) -> None:
        self.do(PauseQueue(queue="nightly", paused=paused))
        (self.model.paused.add if paused else self.model.paused.discard)("nightly")

    def restart(self) -> None:
        self.run(self.store.close())
        self._open()
        for session, peer in self.model.peers.items():
            self.fleet._epochs[session] = peer.epoch
        self.do(ExtendLeases(lease=LEASE))
        for peer in self.model.peers.values():
            peer.lease = self.clock.ticks() + LEASE
        for task in self.model.tasks.values():
            if task.deadline is not None:
                patience = {State.CANCELLING: POLICY.cancel_grace, State.SETTLING: POLICY.settle_timeout}
                task.deadline = self.clock.ticks() + patience.get(task.state, task.run_timeout)

    # What must always hold ----------------------------------------------------------------------------------------

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "runner"):
            return
        self.run(self.agree())

    async def agree(self) -> None:
        stored = await self.store.list_tasks(TaskFilter(), before=None, limit=100_000)
        assert [task.id for task in reversed(stored)] == sorted(self.model.tasks)
        for task in stored:
            known = self.model.tasks[task.id]
            assert seen(task) == known.seen(), (task, known)
            self.take_over_chance(task, known)
        assert await self.store.verify_counters() == []
        keys = {key for task in stored if (key := task.submission.work.destination_key) is not None}
        heads = await self.store.blocking(keys)
        first: dict[bytes, ModelTask] = {}
        for known in sorted(self.model.tasks.values(), key=lambda task: task.seq):
            if known.live and known.destination_key:
                first.setdefault(known.destination_key, known)
        assert heads == {key: task.id for key, task in first.items() if key in keys}
        assert await self.store.unmet([task.id for task in self.model.tasks.values() if task.live]) == {
            task.id: min(task.unmet) for task in self.model.tasks.values() if task.unmet
        }

    def take_over_chance(self, task: Task, known: ModelTask) -> None:
        due_at = task.status.due_at
        parked = task.status.wait_reason in (WaitReason.INSTANCE_STOPPED, WaitReason.INSTANCE_ABSENT)
        if known.state is State.SCHEDULED and known.due_at is None and not parked:
            # A time-out's back-off.
            assert due_at is not None
            assert due_at <= self.clock.now() + POLICY.back_off(known.tries, 1.0)
            known.due_at = due_at
        elif known.state is State.SETTLING and not known.holder:
            assert due_at is not None
            assert due_at <= self.clock.now() + POLICY.back_off_most
            known.due_at = due_at
        elif known.state is State.SCHEDULED:
            assert due_at == known.due_at

    async def check_histories(self) -> None:
        for known in self.model.tasks.values():
            history = await self.store.history(known.id, after=0)
            assert [task.status.revision for task in history] == list(range(1, known.revision + 1))
            assert history[-1].status.state is known.state
            attempts = await self.store.attempts(known.id)
            assert [attempt.number for attempt in attempts] == list(range(1, known.attempt + 1))
            open_ones = [attempt.number for attempt in attempts if attempt.ended_at is None]
            assert open_ones == ([known.attempt] if known.holder else [])

    def count(self, event: str, task: ModelTask) -> None:
        self.hit[event, task.state.name] += 1
