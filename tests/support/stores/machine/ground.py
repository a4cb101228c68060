"""A store and a simple model of it stand side by side."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from longshore.server.model.events import Policy
from longshore.server.model.values import State
from longshore.server.store.commands import Command
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.stores.store import ManualClock, StoreFleet
from tests.support.stores.storekinds import StoreKind, new_database
from tests.support.stores.storemodel import Model, ModelTask

R = TypeVar("R")
POLICY = Policy(solo_limit=2, back_off_first=8.0, back_off_most=64.0, cancel_grace=20.0, settle_timeout=50.0)
picks = st.integers(0, 10_000)


class Ground(RuleBasedStateMachine):
    """A machine holds a store, its model and one clock for both.

    Rules pick tasks by number, so that a failing history shrinks well.
    """

    limits: ClassVar[ConcurrencyLimits] = ConcurrencyLimits(instance=2, target=3)
    make: str = "sqlite"

    def stand_up(self, seed: int) -> None:
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

    def count(self, event: str, task: ModelTask) -> None:
        self.hit[event, task.state.name] += 1
