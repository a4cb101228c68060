"""Decides the steps of tasks in one transaction. Many tasks take the same step, and one decision holds for all.

A batch makes tasks with the same first status, claims them for the same session, and hears that they went well.
`decide` is a pure function, so tasks that have the very same status, and differ in nothing that it looks at, share the
decision and the status that comes of it. Nothing is drawn by chance for these steps: `_Certain` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import cast

from longshore.server.model.events import Circumstances, Claimed, Decision, Event, Policy, Reported
from longshore.server.model.states import decide
from longshore.server.model.task import Status
from longshore.server.model.values import Outcome, State
from longshore.server.store.transaction.loaded_tasks import LoadedTask


class _Certain:
    """Circumstances without a random draw: a step that asks for one is a defect."""

    __slots__ = ("now", "policy")

    def __init__(self, now: float, policy: Policy) -> None:
        self.now = now
        self.policy = policy

    @property
    def jitter(self) -> float:
        raise AssertionError("this step was not to be left to chance")


class Decider:
    """Decides for one transaction, whose time is `now`. `draw` is uniform in [0, 1)."""

    def __init__(self, *, now: float, policy: Policy, draw: Callable[[], float]) -> None:
        self._now = now
        self._policy = policy
        self._draw = draw
        self._certain = cast("Circumstances", _Certain(now, policy))
        self._known: dict[Hashable, tuple[Status, Event, Decision]] = {}
        """Decisions by what they depend on: statuses and claims by identity, and kept so that it stays theirs."""

    def decide(self, loaded: LoadedTask, event: Event) -> Decision:
        status = loaded.status
        key: Hashable
        if type(event) is Claimed:
            key = (id(status), id(event), loaded.submission.terms.run_timeout)
        elif (
            type(event) is Reported
            and event.outcome is Outcome.OK
            and (status.state is State.RUNNING or status.state is State.COMMITTING)
        ):
            if event.result is not None:
                return decide(loaded.task, event, self._certain)
            submission = loaded.submission
            key = (
                id(status), event.session_id, event.attempt, event.method, event.left_temps, event.error is None,
                submission.work.needs_commit, loaded.destination_key is None,
            )  # fmt: skip
        else:
            return decide(loaded.task, event, Circumstances(self._now, self._draw(), self._policy))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = (status, event, decide(loaded.task, event, self._certain))
        return found[2]
