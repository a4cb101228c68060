"""What became of the tasks of one request: counts by state, and one verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from longshore.server.model.task import Task
from longshore.server.model.values import State


class BatchVerdict(IntEnum):
    """The verdict on the tasks of a request; numbered as in the contract."""

    RUNNING = 1
    FAILING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """The tasks of one request. `principal` made the request. `failures` are the first tasks that FAILED or EXPIRED,
    and if there are none, the first CANCELLED ones. Times are wall-clock seconds; `finished_at` None means that a task
    lives."""

    principal: str
    request_id: str
    states: Mapping[State, int]
    failures: tuple[Task, ...]
    created_at: float
    finished_at: float | None

    @property
    def total(self) -> int:
        return sum(self.states.values())

    @property
    def done(self) -> bool:
        return all(state.terminal for state in self.states)

    @property
    def verdict(self) -> BatchVerdict:
        """Judge the tasks together."""
        well = self.states.keys() <= {State.SUCCEEDED}
        if not self.done:
            ended_well = all(state is State.SUCCEEDED for state in self.states if state.terminal)
            return BatchVerdict.RUNNING if ended_well else BatchVerdict.FAILING
        if well:
            return BatchVerdict.SUCCEEDED
        failed = State.FAILED in self.states or State.EXPIRED in self.states
        return BatchVerdict.FAILED if failed else BatchVerdict.CANCELLED
