"""A store is driven through random histories beside a simple model.

After each step the store must agree with the model on every task (state, turn, holder, revision, counts), its sums must
stand up to a recount, and its history must have no gap.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from longshore.server.model.values import Outcome
from longshore.server.store.commands import CancelTask, Command, TaskPlan
from tests.support.stores.machine.agreement import Agreement
from tests.support.stores.machine.attempts import OUTCOMES, Attempts
from tests.support.stores.machine.ground import picks
from tests.support.stores.machine.janitor import Janitor
from tests.support.stores.machine.operating import Operating
from tests.support.stores.machine.sessions import SESSIONS
from tests.support.stores.machine.submitting import WORKS, plans
from tests.support.stores.store import plan
from tests.support.stores.storemodel import ModelTask


class StoreMachine(Attempts, Janitor, Operating, Agreement):
    """One history mixes the rules of submitters, workers, operators and time."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.stand_up(seed)
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
