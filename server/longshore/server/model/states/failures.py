"""The failures with which the state table ends tasks and attempts."""

from __future__ import annotations

from typing import Final

from longshore.server.model.task import Failure
from longshore.server.model.values import State

DEPENDENCY_FAILED: Final = "DEPENDENCY_FAILED"
"""The reason of tasks that were cancelled because one that they come after did not succeed."""

SUPERSEDED: Final = "SUPERSEDED"
"""The reason of tasks that were cancelled because a later one took their place."""

RAN_TOO_LONG: Final = Failure("TIMED_OUT", "The attempt took longer than its run_timeout and was given up.", True)
SETTLED_TOO_LONG: Final = Failure(
    "TIMED_OUT", "The worker did not find out in time what became of the commit; another worker is asked.", True
)
STOPPED_TOO_LONG: Final = Failure("TIMED_OUT", "The attempt did not stop within the grace after its cancel.", True)
CRASHED_TOO_OFTEN: Final = Failure(
    "WORKER_CRASHED",
    "Each worker that ran this task was lost, also when it ran alone; see the attempts and the logs.",
)
UNKNOWN_OUTCOME: Final = Failure(
    "OUTCOME_UNKNOWN",
    "The worker was lost after its commit was granted, and neither the temp nor the content was found: "
    "look at the destination; the cancel came too late to know.",
)


def dependency_failed(task_id: str, state: State | None) -> Failure:
    """Say that a dependency did not end well."""
    how = "is not known any more" if state is None else f"is {state.name}"
    return Failure(DEPENDENCY_FAILED, f"This task comes after task {task_id}, which {how}: nothing was done.")


def superseded(by: str) -> Failure:
    """Say that a later task took the place of this one."""
    return Failure(SUPERSEDED, f"The later task {by} took this one's place.")
