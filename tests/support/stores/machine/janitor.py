"""The janitor ends late tasks and sessions as time passes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from longshore.server.model.values import State
from longshore.server.store.commands import Tick
from tests.support.stores.machine.sessions import SESSIONS, Sessions


class Janitor(Sessions):
    """A rule moves the clock and runs the janitor's commands."""

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
