"""The store agrees with the model after each step, and its history has no gap."""

from __future__ import annotations

from hypothesis.stateful import invariant

from longshore.server.model.task import Task
from longshore.server.model.values import State, WaitReason
from longshore.server.store.protocol import TaskFilter
from tests.support.stores.machine.ground import POLICY, Ground
from tests.support.stores.storemodel import ModelTask, seen


class Agreement(Ground):
    """Checks compare the store with the model."""

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
