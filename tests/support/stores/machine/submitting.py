"""Submitters send tasks, alone, after others or as plans, and cancel them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from longshore.server.model.errors import DependencyFailed, NotFound
from longshore.server.model.task import Task
from longshore.server.model.values import State
from longshore.server.store.commands import CancelBatch, CancelTask, StepPlan, SubmitPlan, SubmitTasks, TaskPlan
from longshore.server.store.protocol import TaskFilter
from tests.support.stores.machine.ground import Ground, picks
from tests.support.stores.store import job, plan, push

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
LIVE_FIRST = tuple(state for state in State if not state.terminal)


class Submitting(Ground):
    """Rules send tasks and cancel them."""

    def submission(self, *wanted: TaskPlan) -> SubmitTasks:
        self.requests += 1
        return SubmitTasks(principal="alice", request_id=f"r{self.requests}", fingerprint="f", plans=wanted)

    def took(self, tasks: tuple[Task, ...], wanted: list[TaskPlan]) -> None:
        if any(asked.work.latest_wins for asked in wanted):
            self.took_in_group(tasks, wanted)
            return
        for task, asked in zip(tasks, wanted, strict=True):
            self.model.add(task, not_before=asked.not_before)

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
